//! What becomes of a row that was read: kept, left out because other practice needs it, or bad. Knows of no format.

use std::path::PathBuf;

use sha2::{Digest as _, Sha256};

use super::super::exercise::Practice;
use crate::reward::answer::QaType;

/// Rows that may be bad, of a hundred.
const BAD: usize = 5;
/// Bad rows that are named one by one.
const NAMED: usize = 10;

/// A row as the file has it.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// Place in the set, which its format knows it by.
    pub number: usize,
    /// To draw.
    pub prompt: Option<String>,
    /// Whether the row may hold a picture itself; whether it does shows when it is read.
    pub holds: bool,
    /// A picture file, from the set's folder.
    pub path: Option<PathBuf>,
    pub problem: Option<String>,
    pub solution: Option<String>,
    /// `MC` or `OE`.
    pub kind: Option<String>,
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
            there("qa_problem", &self.problem)?;
            self.kind()?;
            if !self.holds && self.path.is_none() {
                return Err("`real_image` is missing".into());
            }
        }
        Ok(())
    }

    /// How the question is to be answered.
    pub fn kind(&self) -> Result<QaType, String> {
        match self.kind.as_deref() {
            Some("MC") => Ok(QaType::Choice),
            Some("OE") => Ok(QaType::Open),
            other => Err(format!("`qa_type` is {other:?}, neither MC nor OE")),
        }
    }

    /// Whether a sound row is one that `practice` is about.
    fn fits(&self, practice: Practice) -> bool {
        match practice {
            Practice::Answering(kind) => self.kind().is_ok_and(|of| kind.is_none_or(|kind| kind == of)),
            Practice::Unified | Practice::Drawing => true,
        }
    }
}

/// Takes all rows of a set, one after another.
pub struct Sieve {
    practice: Practice,
    rows: Vec<Row>,
    seen: usize,
    bad: usize,
    named: Vec<String>,
    /// Of all that the set holds, as far as its format reads it.
    pub hash: Sha256,
}

impl Sieve {
    pub fn new(practice: Practice) -> Self {
        Self { practice, rows: Vec::new(), seen: 0, bad: 0, named: Vec::new(), hash: Sha256::new() }
    }

    /// Takes the next row, which messages call `name`, or why it cannot be one.
    pub fn take(&mut self, row: Result<Row, String>, name: impl FnOnce() -> String) {
        self.seen += 1;
        match row.and_then(|row| row.check(self.practice).map(|()| row)) {
            Ok(row) if !row.fits(self.practice) => {}
            Ok(row) => self.rows.push(row),
            Err(why) => {
                self.bad += 1;
                if self.named.len() < NAMED {
                    self.named.push(format!("{}: {why}", name()));
                }
            }
        }
    }

    /// The rows to practise, and the hash of all as text.
    ///
    /// # Errors
    /// When too many are bad or none is left; the message names the first bad ones.
    pub fn finish(self) -> Result<(Vec<Row>, String), String> {
        let (bad, seen, named) = (self.bad, self.seen, self.named.join("; "));
        if bad * 100 > BAD * seen {
            return Err(format!("{bad} of {seen} rows are bad, more than {BAD} %: {named}"));
        }
        if self.rows.is_empty() {
            return Err("no row is left to practise".into());
        }
        if bad > 0 {
            tracing::warn!(bad, of = seen, named, "bad rows are passed over");
        }
        let digest = self.hash.finalize().iter().take(8).map(|b| format!("{b:02x}")).collect();
        Ok((self.rows, digest))
    }
}
