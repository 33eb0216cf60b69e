//! How much of what a completion thinks is what its solution thinks. Knows no answers, no groups and no weights.

use super::answer::between;
use super::similarity::space;

/// What stands between the first think tags.
#[must_use]
pub fn thinking(text: &str) -> Option<&str> {
    between(text, "<think>", "</think>").map(|(_, body, _)| body)
}

/// The share of clauses, which end with a comma, a semicolon, a full stop or a line, that are those of `taught` at the same place: 0 to 1,
/// of as many as the longer one has. 0 without a thought.
#[must_use]
pub fn alike(completion: &str, taught: &str) -> f64 {
    let clauses = |thought| -> Vec<String> {
        let clause = |clause: &str| clause.trim_matches(space).to_lowercase();
        str::split(thought, [',', ';', '.', '\n']).map(clause).filter(|clause| !clause.is_empty()).collect()
    };
    let (said, taught) = (clauses(thinking(completion).unwrap_or_default()), clauses(taught));
    let same = said.iter().zip(&taught).filter(|(said, taught)| said == taught).count();
    same as f64 / said.len().max(taught.len()).max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clauses_count_at_their_place() {
        let taught = "red star no, blue heart yes; any yes";
        for (said, expected) in [
            ("<think>red star no, blue heart yes; any yes</think><answer>yes</answer>", 1.0),
            ("<think> Red star no,blue heart yes.\nany yes;</think>", 1.0),
            ("<think>red star no, blue heart no; any no</think><answer>no</answer>", 1.0 / 3.0),
            ("<think>red star no; any yes</think>", 1.0 / 3.0),
            ("<think>red star no, blue heart yes; any yes, any yes</think>", 3.0 / 4.0),
            ("<think>blue heart yes, red star no; any yes</think>", 1.0 / 3.0),
            ("<think>, ; .</think>", 0.0),
            ("red star no, blue heart yes; any yes", 0.0),
            ("<think>red star no, blue heart yes; any yes", 0.0),
            ("", 0.0),
        ] {
            assert_eq!(alike(said, taught), expected, "{said}");
        }
        assert_eq!(alike("<think></think>", ""), 0.0);
    }
}
