//! Training data from files: rows with CoRL's fields, as JSON Lines or Parquet. A bad row is named, counted and passed over, up to a
//! share of all. The order is a function of the seed. Knows nothing of how rows are learned from.
//!
//! Fields (reference: `mm-vl/x2x_rft_22k`): `prompt`, `real_image` (a path from the file's folder, or the picture itself), `qa_problem`
//! (with its template), `qa_solution` (`<answer>…</answer>`; may be absent for work without labels) and `qa_type` (`MC` or `OE`).

mod held;
pub mod items;
mod jsonl;
mod parquet;
mod picture;
mod shards;
mod sieve;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;

use rand::seq::SliceRandom;

use super::super::TrainError;
use super::exercise::{Exercise, Practice};
use crate::domain::picture::Picture;
use crate::reward::answer::QaType;
use crate::reward::{Asked, Wanted};
use crate::train::pretrain::asked as about;
use crate::world::dice;
use jsonl::Lines;
use shards::Shards;
use sieve::{Row, Sieve};

/// Longest line of a JSON Lines file, or text in a Parquet file, in bytes.
const MAX_TEXT: u64 = 1 << 20;
/// Pictures among which rows are shuffled, in bytes of their files. Two courses hold a window each, and both fit in what `shards` holds.
const WINDOW: u64 = 256 << 20;

/// What a format of files knows of rows that it has read.
trait Format: std::fmt::Debug + Send + Sync {
    /// What row `number` is called in messages.
    fn name(&self, number: usize) -> String;

    /// The picture of a row, if it has one; otherwise why it cannot be read.
    fn picture(&self, row: &Row) -> Result<Option<Picture>, String>;

    /// The group of row `number`. Rows of a group are consecutive.
    fn group(&self, number: usize) -> Group;
}

/// Rows whose pictures are read together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Group {
    /// Number of its first row.
    first: usize,
    /// What the pictures of all its rows take in memory, about.
    bytes: u64,
}

/// Rows of a set that a stage can practise.
#[derive(Debug)]
pub struct Rows {
    format: Box<dyn Format>,
    rows: Vec<Row>,
    practice: Practice,
    digest: String,
}

impl Rows {
    /// Reads the rows of `path` that `practice` needs; rows for other practice are left out without a word. A folder, or a file whose
    /// name ends in `.parquet`, is Parquet; any other file is JSON Lines.
    ///
    /// # Errors
    /// When a file cannot be read, too many of the rows are bad, or none is left; the message names the first bad ones.
    pub fn read(path: &Path, practice: Practice) -> Result<Self, TrainError> {
        let at = |what: String| TrainError::State(format!("`{}`: {what}", path.display()));
        let mut sieve = Sieve::new(practice);
        let format: Box<dyn Format> = if shards::are_at(path) {
            Box::new(Shards::read(path, &mut sieve).map_err(at)?)
        } else {
            Box::new(Lines::read(path, &mut sieve).map_err(at)?)
        };
        let (rows, digest) = sieve.finish().map_err(at)?;
        Ok(Self { format, rows, practice, digest })
    }

    /// Content hash of the set: of all lines, or of texts and footers; without the pixels of its pictures.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The rows of a round of the course, in its order. Groups come in random order, are laid together up to a window of pictures, and
    /// the rows of a window are shuffled. So a step reads the pictures of a few groups, where a shuffle of all would read
    /// a whole group for nearly every picture. A set of one group, as JSON Lines always is, is shuffled whole.
    fn order(&self, round: u64, seed: u64) -> Vec<usize> {
        let mut dice = dice(seed ^ round.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut first = 0;
        let mut groups: Vec<_> = self
            .rows
            .chunk_by(|a, b| self.format.group(a.number) == self.format.group(b.number))
            .map(|rows| {
                let range = first..first + rows.len();
                first = range.end;
                (range, rows.first().map_or(0, |row| self.format.group(row.number).bytes))
            })
            .collect();
        groups.shuffle(&mut dice);
        let (mut order, mut window, mut bytes) = (Vec::with_capacity(self.rows.len()), Vec::new(), 0_u64);
        for (range, weight) in groups {
            bytes = bytes.saturating_add(weight);
            if bytes > WINDOW {
                window.shuffle(&mut dice);
                order.append(&mut window);
                bytes = weight;
            }
            window.extend(range);
        }
        window.shuffle(&mut dice);
        order.append(&mut window);
        order
    }

    /// The rows `from .. from + n` of an endless course that shuffles them anew for every round. A row whose picture cannot be read
    /// gives way to the next.
    ///
    /// # Errors
    /// When one row after another cannot be used.
    pub fn exercises(&self, from: u64, n: usize, seed: u64) -> Result<Vec<Exercise>, TrainError> {
        let count = self.rows.len() as u64;
        let mut shuffled: Option<(u64, Vec<usize>)> = None;
        let mut at = |place: u64| -> usize {
            let round = place / count;
            if shuffled.as_ref().is_none_or(|(of, _)| *of != round) {
                shuffled = Some((round, self.order(round, seed)));
            }
            let order = shuffled.as_ref().map(|(_, order)| order.as_slice()).unwrap_or_default();
            usize::try_from(place % count).ok().and_then(|at| order.get(at).copied()).unwrap_or(0)
        };
        let mut exercises = Vec::with_capacity(n);
        for place in from..from + n as u64 {
            let first = at(place);
            let mut last = None;
            for row in self.rows.iter().cycle().skip(first).take(self.rows.len().min(100)) {
                match self.exercise(row) {
                    Ok(exercise) => {
                        exercises.push(exercise);
                        last = None;
                        break;
                    }
                    Err(why) => {
                        let row = self.format.name(row.number);
                        tracing::warn!(row, why, "a row is passed over");
                        last = Some(format!("{row}: {why}"));
                    }
                }
            }
            if let Some(last) = last {
                return Err(TrainError::State(format!("one row after another cannot be used; {last}")));
            }
        }
        Ok(exercises)
    }

    fn exercise(&self, row: &Row) -> Result<Exercise, String> {
        let picture = self.format.picture(row)?.map(Arc::new);
        if picture.is_none() && self.practice != Practice::Drawing {
            return Err("`real_image` is missing".into());
        }
        let asked = match (&picture, &row.problem) {
            (Some(picture), Some(problem)) => Some(Asked {
                conversation: about(picture, problem),
                problem: problem.clone(),
                solution: row.solution.clone(),
                kind: row.kind().unwrap_or(QaType::Open),
                item: None,
            }),
            _ => None,
        };
        let draw = row.prompt.as_ref().map(|prompt| Wanted {
            real: picture.clone(),
            question: asked.clone(),
            ..Wanted::of(prompt.trim().to_owned())
        });
        Ok(match self.practice {
            Practice::Unified => Exercise { draw, ask: asked },
            Practice::Drawing => Exercise { draw, ask: None },
            Practice::Answering(_) => Exercise { draw: None, ask: asked },
        })
    }
}
