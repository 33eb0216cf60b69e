//! Rows of a JSON Lines file: a line each, its picture a file beside it. Knows nothing of what is practised.

use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::Digest as _;

use super::sieve::{Row, Sieve};
use super::{Format, Group, MAX_TEXT, picture};
use crate::domain::picture::Picture;

/// A file whose lines were read.
#[derive(Debug)]
pub struct Lines {
    folder: PathBuf,
}

#[derive(Deserialize)]
struct Line {
    prompt: Option<String>,
    real_image: Option<PathBuf>,
    qa_problem: Option<String>,
    qa_solution: Option<String>,
    qa_type: Option<String>,
}

impl Lines {
    /// Gives all rows of `file` to `sieve`; its hash covers every line, and no picture.
    ///
    /// # Errors
    /// When the file cannot be read or a line is too long.
    pub fn read(file: &Path, sieve: &mut Sieve) -> Result<Self, String> {
        let mut reader = BufReader::new(File::open(file).map_err(|e| e.to_string())?);
        let lines = Self { folder: file.parent().unwrap_or(Path::new(".")).to_owned() };
        let mut text = Vec::new();
        for number in 0.. {
            text.clear();
            let read = reader.by_ref().take(MAX_TEXT).read_until(b'\n', &mut text).map_err(|e| e.to_string())?;
            if read == 0 {
                break;
            }
            if read as u64 == MAX_TEXT {
                return Err(format!("{} is longer than {MAX_TEXT} bytes", lines.name(number)));
            }
            sieve.hash.update(&text);
            if text.trim_ascii().is_empty() {
                continue;
            }
            let row = serde_json::from_slice::<Line>(&text).map_err(|e| e.to_string()).map(|line| Row {
                number,
                prompt: line.prompt,
                holds: false,
                path: line.real_image,
                problem: line.qa_problem,
                solution: line.qa_solution,
                kind: line.qa_type,
            });
            sieve.take(row, || lines.name(number));
        }
        Ok(lines)
    }
}

impl Format for Lines {
    fn name(&self, number: usize) -> String {
        format!("line {}", number + 1)
    }

    fn picture(&self, row: &Row) -> Result<Option<Picture>, String> {
        row.path.as_ref().map(|path| picture::file(&self.folder.join(path))).transpose()
    }

    /// Every picture is a file of its own: all rows are one group that weighs nothing.
    fn group(&self, _: usize) -> Group {
        Group { first: 0, bytes: 0 }
    }
}
