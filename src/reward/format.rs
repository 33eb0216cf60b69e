//! Whether a completion keeps to the asked form, thinking and then an answer, each in its tags (CoRL reference, 4.2).
//! Knows nothing of what is in them.

use super::similarity::space;

/// 1 when the whole completion is `<think>…</think>` and `<answer>…</answer>` with only whitespace and full stops between,
/// else 0: a full match of `<think>.*?</think>[.\s]*<answer>.*?</answer>` in which the dot matches newlines.
///
/// The dots swallow tags as well, so any `</think>` that an `<answer>` follows will do. One pass over the text.
#[must_use]
pub fn format(completion: &str) -> f64 {
    let inner = completion.strip_prefix("<think>").and_then(|rest| rest.strip_suffix("</answer>"));
    let gap = |c: char| c == '.' || space(c);
    let opens_answer = |after: &str| after.trim_start_matches(gap).starts_with("<answer>");
    f64::from(inner.is_some_and(|inner| inner.split("</think>").skip(1).any(opens_answer)))
}

/// An eighth for each of the four tags that is there exactly once: 0 to 0.5.
#[must_use]
pub fn format_tag(completion: &str) -> f64 {
    let once = |tag: &&str| completion.matches(*tag).count() == 1;
    ["<think>", "</think>", "<answer>", "</answer>"].iter().filter(|tag| once(tag)).count() as f64 / 8.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worked_table() {
        for (completion, expected) in [
            ("<think>a</think><answer>B</answer>", 1.0),
            ("<think>a</think>\n<answer>B</answer>", 1.0),
            ("<think>a</think>. \n<answer>B</answer>", 1.0),
            ("<think></think><answer></answer>", 1.0),
            ("<think>a</think><answer>B</answer><answer>C</answer>", 1.0),
            (" <think>a</think><answer>B</answer>", 0.0),
            ("<think>a</think><answer>B</answer>\n", 0.0),
            ("<think>a</think> so <answer>B</answer>", 0.0),
            ("<answer>B</answer><think>a</think>", 0.0),
            ("<think>a</think>x</think><answer>B</answer>", 1.0),
            ("", 0.0),
            ("<think></answer>", 0.0),
        ] {
            assert_eq!(format(completion), expected, "{completion:?}");
        }
    }

    /// Made at random, with what Python's `re` and `str.count` say of them.
    #[test]
    fn random_texts_as_in_python() {
        for (whole, tags, completion) in [
            (1.0, 0.375, "<think>a</think><answer><answer>B</answer>"),
            (1.0, 0.5, "<think>a</think>\u{1d}<answer>B\u{1d}</answer>"),
            (1.0, 0.375, "<think>a</think><answer>\nB</answer></answer>"),
            (1.0, 0.5, "<think>\u{1d}a</think><answer>B</answer>"),
            (1.0, 0.375, "<think><think>a</think><answer>\nB</answer>"),
            (1.0, 0.375, "<think>a</think>.</think>\u{1d}<answer>B</answer>"),
            (1.0, 0.375, "<think>a</think><answer>.<think>B</answer>"),
            (1.0, 0.25, "<think>a</think><answer></answer></answer>B<answer></answer>"),
            (0.0, 0.25, "x<think>a</think></answer></think><answer></answer>"),
            (0.0, 0.375, "<think>a</think><answer><answer>B</answer><answer>x"),
            (0.0, 0.25, ".<think><answer>a</think><think><answer>B</answer>"),
            (0.0, 0.25, "<answer><think>a</think><answer><answer></think>B</answer>"),
            (0.0, 0.375, "<think>a</think>x<answer>B"),
            (0.0, 0.25, "<think><think>a</think><answer>B</answer></think>"),
            (0.0, 0.5, "<think>a</think><answer>B</answer>\u{1d}"),
            (0.0, 0.375, "<think>a<answer>\nBx</answer>"),
        ] {
            assert_eq!((format(completion), format_tag(completion)), (whole, tags), "{completion:?}");
        }
    }

    #[test]
    fn a_hostile_text_is_read_in_one_pass() {
        for piece in ["<think>", "</think>", "</think>.", "<answer>", "</answer>", "</think><answer", ". \n"] {
            let text = format!("<think>{}</answer>", piece.repeat(100_000 / piece.len()));
            assert_eq!(format(&text), 0.0, "{piece:?}");
        }
    }
}
