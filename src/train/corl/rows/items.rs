//! Rows that clients sent, with the keys that their graders name, as exercises. Pictures are unpacked when a step asks for them, so that
//! memory holds the file and no more. Knows no grader.

use std::sync::Arc;

use rand::seq::SliceRandom;

use super::Exercise;
use crate::domain::task::Part;
use crate::reward::answer::QaType;
use crate::reward::grader::row::{Row, Task, shown};
use crate::reward::{Asked, Wanted};
use crate::train::TrainError;
use crate::world::dice;

/// See the module text.
#[derive(Debug)]
pub struct Items {
    /// Each with its line.
    rows: Vec<(usize, Row)>,
    digest: String,
}

impl Items {
    /// At least one row, each with its line; `digest` stands for them.
    #[must_use]
    pub fn new(rows: Vec<(usize, Row)>, digest: String) -> Self {
        Self { rows, digest }
    }

    /// What stands for all of them.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The rows `from .. from + n` of an endless course that shuffles them anew for every round.
    ///
    /// # Errors
    /// When a picture cannot be read; the message names the line.
    pub fn exercises(&self, from: u64, n: usize, seed: u64) -> Result<Vec<Exercise>, TrainError> {
        let count = self.rows.len().max(1) as u64;
        let mut order: (Option<u64>, Vec<usize>) = (None, Vec::new());
        let mut exercises = Vec::with_capacity(n);
        for place in from..from.saturating_add(n as u64) {
            let (round, at) = (place / count, place % count);
            if order.0 != Some(round) {
                let mut all: Vec<usize> = (0..self.rows.len()).collect();
                all.shuffle(&mut dice(seed ^ round.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
                order = (Some(round), all);
            }
            let at = usize::try_from(at).ok().and_then(|at| order.1.get(at));
            if let Some((line, row)) = at.and_then(|&at| self.rows.get(at)) {
                exercises.push(exercise(row).map_err(|what| TrainError::State(format!("line {line} {what}")))?);
            }
        }
        Ok(exercises)
    }
}

fn exercise(row: &Row) -> Result<Exercise, String> {
    let item = Some(Arc::clone(&row.item));
    match &row.task {
        Task::Draw(prompt) => Ok(Exercise { draw: Some(Wanted { item, ..Wanted::of(prompt.clone()) }), ask: None }),
        Task::Ask(asked) => {
            let words = asked.turns.iter().rev().take(1).flat_map(|turn| &turn.parts);
            let words = words.filter_map(|part| if let Part::Text(text) = part { Some(text.as_str()) } else { None });
            let problem = words.collect::<Vec<_>>().join("\n");
            let conversation = shown(asked)?;
            Ok(Exercise {
                draw: None,
                ask: Some(Asked { conversation, problem, solution: None, kind: QaType::Open, item }),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_round_has_every_row_once_in_an_order_of_its_own() {
        let file: String = (0..20).map(|n| format!("{{\"prompt\": \"{n}\", \"n\": {n}}}\n")).collect();
        let items = Items::new(Row::all(file.as_bytes()).unwrap(), "d".into());
        let prompts = |from, n| -> Vec<String> {
            items.exercises(from, n, 7).unwrap().into_iter().map(|one| one.draw.unwrap().prompt).collect()
        };
        let rounds = [prompts(0, 20), prompts(20, 20)];
        assert_ne!(rounds[0], rounds[1]);
        for mut round in rounds.clone() {
            round.sort();
            round.dedup();
            assert_eq!(round.len(), 20);
        }
        assert_eq!(prompts(15, 10), [&rounds[0][15..], &rounds[1][..5]].concat(), "a function of the place alone");
        let one = items.exercises(0, 1, 7).unwrap().remove(0).draw.unwrap();
        assert_eq!(one.item.unwrap()["n"].to_string(), one.prompt);
    }

    #[test]
    fn a_picture_that_cannot_be_read_is_told_by_its_line() {
        let bad = br#"{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}]}"#;
        let file = [b"\n", bad.as_slice()].concat();
        let error = Items::new(Row::all(&file).unwrap(), "d".into()).exercises(0, 1, 7).unwrap_err().to_string();
        assert!(error.contains("line 2 has a picture that"), "{error}");
    }
}
