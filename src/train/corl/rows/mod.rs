//! Training data from a file: JSON Lines with CoRL's fields, pictures beside it. A bad row is named, counted and passed over, up to a
//! share of all. The order is a function of the seed. Knows nothing of how rows are learned from.
//!
//! Fields (reference: `mm-vl/x2x_rft_22k`): `prompt`, `real_image` (a path from the file's folder), `qa_problem` (with its template),
//! `qa_solution` (`<answer>…</answer>`; may be absent for work without labels) and `qa_type` (`MC` or `OE`).

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rand::seq::SliceRandom;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::super::TrainError;
use super::exercise::{Exercise, Practice};
use crate::picture::decode::{self, MAX_PIXELS};
use crate::reward::answer::QaType;
use crate::reward::{Asked, Wanted};
use crate::world::dice;

/// Longest line of the file, in bytes.
const MAX_LINE: u64 = 1 << 20;
/// Largest picture file, in bytes.
const MAX_FILE: u64 = 64 << 20;
/// Rows that may be bad, of a hundred.
const BAD: usize = 5;
/// Bad rows that are named one by one.
const NAMED: usize = 10;

/// Rows of a file that a stage can practise.
#[derive(Debug)]
pub struct Rows {
    folder: PathBuf,
    rows: Vec<(usize, Row)>,
    practice: Practice,
    /// What the file holds, and what it was read for.
    digest: String,
}

#[derive(Clone, Debug, Deserialize)]
struct Row {
    prompt: Option<String>,
    real_image: Option<PathBuf>,
    qa_problem: Option<String>,
    qa_solution: Option<String>,
    qa_type: Option<String>,
}

impl Row {
    /// The parts that `practice` needs, or why they are not there.
    fn check(&self, practice: Practice) -> Result<(), String> {
        let there = |name: &str, field: &Option<String>| match field {
            Some(text) if !text.trim().is_empty() => Ok(()),
            _ => Err(format!("`{name}` is missing or empty")),
        };
        if practice == Practice::Unified || practice == Practice::Drawing {
            there("prompt", &self.prompt)?;
        }
        if practice != Practice::Drawing {
            there("qa_problem", &self.qa_problem)?;
            self.kind()?;
            if self.real_image.is_none() {
                return Err("`real_image` is missing".into());
            }
        }
        Ok(())
    }

    fn kind(&self) -> Result<QaType, String> {
        match self.qa_type.as_deref() {
            Some("MC") => Ok(QaType::Choice),
            Some("OE") => Ok(QaType::Open),
            other => Err(format!("`qa_type` is {other:?}, neither MC nor OE")),
        }
    }
}

impl Rows {
    /// Reads the rows of `file` that `practice` needs; rows for other practice are left out without a word.
    ///
    /// # Errors
    /// When the file cannot be read, too many of its rows are bad, or none is left; the message names the first bad ones.
    pub fn read(file: &Path, practice: Practice) -> Result<Self, TrainError> {
        let at = |what: &dyn std::fmt::Display| TrainError::State(format!("`{}`: {what}", file.display()));
        let mut reader = BufReader::new(File::open(file).map_err(|e| at(&e))?);
        let folder = file.parent().unwrap_or(Path::new(".")).to_owned();
        let (mut rows, mut bad, mut hash) = (Vec::new(), Vec::new(), Sha256::new());
        let mut line = Vec::new();
        let mut number = 0;
        loop {
            line.clear();
            let read = std::io::Read::take(&mut reader, MAX_LINE).read_until(b'\n', &mut line).map_err(|e| at(&e))?;
            if read == 0 {
                break;
            }
            number += 1;
            if read as u64 == MAX_LINE {
                return Err(at(&format!("line {number} is longer than {MAX_LINE} bytes")));
            }
            hash.update(&line);
            if line.trim_ascii().is_empty() {
                continue;
            }
            let row = serde_json::from_slice::<Row>(&line).map_err(|e| e.to_string());
            match row.and_then(|row| row.check(practice).map(|()| row)) {
                Ok(row) if !fits(&row, practice) => {}
                Ok(row) => rows.push((number, row)),
                Err(why) => bad.push(format!("line {number}: {why}")),
            }
        }
        let named = bad.iter().take(NAMED).cloned().collect::<Vec<_>>().join("; ");
        if bad.len() * 100 > BAD * number {
            return Err(at(&format!("{} of {number} rows are bad, more than {BAD} %: {named}", bad.len())));
        }
        if rows.is_empty() {
            return Err(at(&"no row is left to practise"));
        }
        if !bad.is_empty() {
            tracing::warn!(file = %file.display(), bad = bad.len(), of = number, named, "bad rows are passed over");
        }
        let digest = hash.finalize().iter().take(8).map(|b| format!("{b:02x}")).collect();
        Ok(Self { folder, rows, practice, digest })
    }

    /// Content hash of the file.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
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
                let mut order: Vec<usize> = (0..self.rows.len()).collect();
                order.shuffle(&mut dice(seed ^ round.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
                shuffled = Some((round, order));
            }
            let order = shuffled.as_ref().map(|(_, order)| order.as_slice()).unwrap_or_default();
            usize::try_from(place % count).ok().and_then(|at| order.get(at).copied()).unwrap_or(0)
        };
        let mut exercises = Vec::with_capacity(n);
        for place in from..from + n as u64 {
            let first = at(place);
            let mut last = None;
            for step in 0..self.rows.len().min(100) {
                let (number, row) = &self.rows[(first + step) % self.rows.len()];
                match self.exercise(row) {
                    Ok(exercise) => {
                        exercises.push(exercise);
                        last = None;
                        break;
                    }
                    Err(why) => {
                        tracing::warn!(line = number, why, "a row is passed over");
                        last = Some(format!("line {number}: {why}"));
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
        let picture = row.real_image.as_ref().map(|path| self.picture(path)).transpose()?.map(Arc::new);
        let asked = match (&picture, &row.qa_problem) {
            (Some(picture), Some(problem)) => Some(Asked {
                picture: Arc::clone(picture),
                problem: problem.clone(),
                solution: row.qa_solution.clone(),
                kind: row.kind().unwrap_or(QaType::Open),
            }),
            _ => None,
        };
        let draw = row.prompt.as_ref().map(|prompt| Wanted {
            prompt: prompt.trim().to_owned(),
            real: picture.clone(),
            requirement: None,
            question: asked.clone(),
        });
        Ok(match self.practice {
            Practice::Unified => Exercise { draw, ask: asked },
            Practice::Drawing => Exercise { draw, ask: None },
            Practice::Answering(_) => Exercise { draw: None, ask: asked },
        })
    }

    fn picture(&self, path: &Path) -> Result<crate::domain::picture::Picture, String> {
        let path = self.folder.join(path);
        let at = |what: &dyn std::fmt::Display| format!("`{}`: {what}", path.display());
        let bytes = std::fs::metadata(&path).map_err(|e| at(&e))?.len();
        if bytes > MAX_FILE {
            return Err(at(&format!("{bytes} bytes, more than {MAX_FILE}")));
        }
        let file = std::fs::read(&path).map_err(|e| at(&e))?;
        decode::picture(&file, MAX_PIXELS).map_err(|e| at(&e))
    }
}

/// Whether a sound row is one that `practice` is about.
fn fits(row: &Row, practice: Practice) -> bool {
    match practice {
        Practice::Answering(kind) => row.kind() == Ok(kind),
        Practice::Unified | Practice::Drawing => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::picture::Picture;

    fn row(n: usize, image: &str) -> String {
        format!(
            r#"{{"prompt": " a star {n} ", "real_image": "{image}", "qa_problem": "Question: {n}?", "qa_solution": "<answer>A</answer>", "qa_type": "{}"}}"#,
            if n.is_multiple_of(2) { "MC" } else { "OE" }
        )
    }

    /// A file of these lines, with a picture `p.png` beside it.
    fn file(lines: &[String]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let picture = Picture::filled(3, 3, [1, 2, 3]);
        image::save_buffer(dir.path().join("p.png"), picture.rgb(), 3, 3, image::ColorType::Rgb8).unwrap();
        std::fs::write(dir.path().join("bad.png"), b"no picture").unwrap();
        let path = dir.path().join("data.jsonl");
        std::fs::write(&path, lines.join("\n")).unwrap();
        (dir, path)
    }

    fn prompts(rows: &Rows, from: u64, n: usize) -> Vec<String> {
        rows.exercises(from, n, 7).unwrap().into_iter().map(|exercise| exercise.draw.unwrap().prompt).collect()
    }

    #[test]
    fn every_round_has_every_row_once_in_another_order() {
        let lines: Vec<String> = (0..20).map(|n| row(n, "p.png")).collect();
        let (_dir, path) = file(&lines);
        let rows = Rows::read(&path, Practice::Unified).unwrap();
        let rounds = [prompts(&rows, 0, 20), prompts(&rows, 20, 20)];
        assert_ne!(rounds[0], rounds[1]);
        for mut round in rounds.clone() {
            round.sort();
            round.dedup();
            assert_eq!(round.len(), 20);
        }
        assert_eq!(
            prompts(&rows, 15, 10),
            [&rounds[0][15..], &rounds[1][..5]].concat(),
            "a function of the place alone"
        );
        let one = &rows.exercises(0, 1, 7).unwrap()[0];
        assert_eq!(one.ask.as_ref().unwrap().picture.pixel(0, 0), Some([1, 2, 3]));
        assert_eq!(one.ask.as_ref().unwrap().solution.as_deref(), Some("<answer>A</answer>"));
    }

    #[test]
    fn rows_of_one_kind_are_chosen() {
        let lines: Vec<String> = (0..6).map(|n| row(n, "p.png")).collect();
        let (_dir, path) = file(&lines);
        let rows = Rows::read(&path, Practice::Answering(QaType::Choice)).unwrap();
        let exercises = rows.exercises(0, 3, 1).unwrap();
        assert!(exercises.iter().all(|exercise| exercise.ask.as_ref().unwrap().kind == QaType::Choice));
        assert!(exercises.iter().all(|exercise| exercise.draw.is_none()));
    }

    #[test]
    fn bad_rows_are_named_and_passed_over_up_to_a_limit() {
        let mut lines: Vec<String> = (0..39).map(|n| row(n, "p.png")).collect();
        lines.push("{\"prompt\": \"\"}".into());
        let (_dir, path) = file(&lines);
        assert_eq!(Rows::read(&path, Practice::Unified).unwrap().rows.len(), 39);
        lines.truncate(5);
        lines.push("{".into());
        let (_dir, path) = file(&lines);
        let error = Rows::read(&path, Practice::Unified).unwrap_err().to_string();
        assert!(error.contains("1 of 6") && error.contains("line 6"), "{error}");
        let (_dir, path) = file(&[]);
        assert!(Rows::read(&path, Practice::Unified).unwrap_err().to_string().contains("no row"));
        assert!(
            Rows::read(Path::new("/nowhere.jsonl"), Practice::Unified).unwrap_err().to_string().contains("nowhere")
        );
    }

    #[test]
    fn a_picture_that_cannot_be_read_gives_way_to_the_next_row() {
        let (_dir, path) = file(&[row(0, "bad.png"), row(1, "p.png")]);
        let rows = Rows::read(&path, Practice::Unified).unwrap();
        assert_eq!(prompts(&rows, 0, 2), ["a star 1", "a star 1"]);
        let (_dir, path) = file(&[row(0, "bad.png"), row(1, "none.png")]);
        let error = Rows::read(&path, Practice::Unified).unwrap().exercises(0, 1, 1).unwrap_err().to_string();
        assert!(error.contains("cannot be used"), "{error}");
    }
}
