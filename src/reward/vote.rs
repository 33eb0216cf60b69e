//! A group's own majority in place of a known answer, for work without labels (TTRL; CoRL reference, 4.9). One group at a time,
//! and a group in which nobody answered has no majority and no votes (12, defect 19). Knows no texts.

/// The most frequent answer; of equally frequent ones the first seen. `None` when nobody answered.
#[must_use]
pub fn majority(answers: &[Option<char>]) -> Option<char> {
    most_frequent(answers.iter().copied().flatten())
}

/// 1 for every answer that is the majority's, else 0; the order is that of the answers.
#[must_use]
pub fn votes(answers: &[Option<char>]) -> Vec<f64> {
    let majority = majority(answers);
    answers.iter().map(|&answer| f64::from(answer.is_some() && answer == majority)).collect()
}

/// The most frequent letter; of equally frequent ones the first seen.
pub(super) fn most_frequent(letters: impl Iterator<Item = char>) -> Option<char> {
    let mut counts: Vec<(char, usize)> = Vec::new();
    for letter in letters {
        match counts.iter_mut().find(|(seen, _)| *seen == letter) {
            Some((_, count)) => *count += 1,
            None => counts.push((letter, 1)),
        }
    }
    let most = counts.into_iter().reduce(|best, next| if next.1 > best.1 { next } else { best });
    most.map(|(letter, _)| letter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_frequent_answer_wins_and_the_first_seen_of_equals() {
        for (answers, most, rewards) in [
            (vec![], None, vec![]),
            (vec![None, None], None, vec![0.0, 0.0]),
            (vec![Some('B')], Some('B'), vec![1.0]),
            (vec![None, Some('A'), Some('B'), Some('B'), None], Some('B'), vec![0.0, 0.0, 1.0, 1.0, 0.0]),
            (vec![Some('C'), Some('A'), Some('A'), Some('C')], Some('C'), vec![1.0, 0.0, 0.0, 1.0]),
            (vec![None, None, None, Some('D')], Some('D'), vec![0.0, 0.0, 0.0, 1.0]),
        ] {
            assert_eq!(majority(&answers), most, "{answers:?}");
            assert_eq!(votes(&answers), rewards, "{answers:?}");
        }
    }
}
