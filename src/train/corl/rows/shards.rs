//! Rows of Parquet files as they lie on the Hugging Face hub: texts are read once, pictures when they are asked for, by row groups of which
//! a few are held. Knows nothing of what is practised, nor how a file is laid out.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use sha2::Digest as _;

use super::held::{Cell, Held, Pictures};
use super::parquet::{Parquet, fingerprint};
use super::picture::{self, MAX_FILE};
use super::sieve::{Row, Sieve};
use super::{Format, Group, MAX_TEXT};
use crate::domain::picture::Picture;

/// Most rows of a set. A few bytes of a file can claim any number of empty ones.
const MAX_ROWS: usize = 1 << 22;
/// Most bytes of all texts, which are held in memory.
const MAX_TEXTS: u64 = 2 << 30;
/// Most bytes of pictures that are held, as files.
const HELD: u64 = 512 << 20;

/// Makes a text part of a row.
type Set = fn(&mut Row, String);

/// Columns with texts, and what each becomes of a row.
const TEXTS: [(&[&str], Set); 5] = [
    (&["prompt"], |row, text| row.prompt = Some(text)),
    (&["qa_problem"], |row, text| row.problem = Some(text)),
    (&["qa_solution"], |row, text| row.solution = Some(text)),
    (&["qa_type"], |row, text| row.kind = Some(text)),
    (&["real_image", "path"], |row, text| row.path = Some(text.into())),
];
/// Columns that may hold the picture: the hub's feature, or bytes alone.
const PICTURES: [&[&str]; 2] = [&["real_image", "bytes"], &["real_image"]];

/// Files whose texts were read.
#[derive(Debug)]
pub struct Shards {
    folder: PathBuf,
    files: Vec<Shard>,
    parts: Vec<Part>,
    pub(super) held: Mutex<Held>,
}

#[derive(Debug)]
struct Shard {
    path: PathBuf,
    /// Number of its first row.
    first: usize,
}

/// A row group.
#[derive(Debug)]
struct Part {
    /// Which it is in its file.
    group: usize,
    /// Number of its first row.
    first: usize,
    rows: usize,
    /// What its pictures take in memory, as the footer says.
    bytes: u64,
}

/// Whether `path` is a folder or a file with Parquet's name.
pub fn are_at(path: &Path) -> bool {
    path.is_dir() || named(path)
}

fn named(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "parquet")
}

/// The files of a set in the order of their names: `path` itself, or those in the folder and in its folder `data`.
fn files(path: &Path) -> Result<Vec<PathBuf>, String> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for folder in [path.to_owned(), path.join("data")].iter().filter(|folder| folder.is_dir()) {
        for entry in fs::read_dir(folder).map_err(|e| e.to_string())? {
            files.push(entry.map_err(|e| e.to_string())?.path());
        }
    }
    files.retain(|file| named(file) && file.is_file());
    files.sort();
    if files.is_empty() { Err("no `.parquet` file is here or in `data`".into()) } else { Ok(files) }
}

/// The column of `file` that has its pictures.
fn column(file: &Parquet) -> Option<&'static [&'static str]> {
    PICTURES.into_iter().find(|path| file.has(path))
}

impl Shards {
    /// Gives all rows of the files at `path` to `sieve`. Its hash covers the texts, and of every file the length and the footer, which has
    /// place and size of all columns of pictures; pixels are not read.
    ///
    /// # Errors
    /// When a file cannot be read or is not sound, or there is too much of it.
    pub fn read(path: &Path, sieve: &mut Sieve) -> Result<Self, String> {
        let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new(".")) };
        let held = Mutex::new(Held::new(HELD));
        let mut shards = Self { folder: folder.to_owned(), files: Vec::new(), parts: Vec::new(), held };
        let (mut rows, mut left) = (0_usize, MAX_TEXTS);
        for path in files(path)? {
            let at = |what: String| format!("`{}`: {what}", path.display());
            fingerprint(&path, &mut sieve.hash).map_err(at)?;
            let file = Parquet::open(&path).map_err(at)?;
            shards.files.push(Shard { path: path.clone(), first: rows });
            for (group, about) in file.groups(column(&file).unwrap_or_default()).map_err(at)?.into_iter().enumerate() {
                let first = rows;
                rows = rows.saturating_add(about.rows);
                if rows > MAX_ROWS {
                    return Err(at(format!("has row {rows} of the set; at most {MAX_ROWS} are read")));
                }
                shards.parts.push(Part { group, first, rows: about.rows, bytes: about.bytes });
                shards.texts(&file, group, first..rows, &mut left, sieve).map_err(at)?;
            }
        }
        Ok(shards)
    }

    /// Gives the rows of a row group to `sieve`; `left` is how many bytes of text may still come.
    fn texts(
        &self,
        file: &Parquet,
        group: usize,
        numbers: Range<usize>,
        left: &mut u64,
        sieve: &mut Sieve,
    ) -> Result<(), String> {
        let (holds, count) = (column(file).is_some(), numbers.len());
        let mut rows: Vec<_> = numbers.clone().map(|number| Ok(Row { number, holds, ..Row::default() })).collect();
        for (path, set) in TEXTS {
            let mut row = rows.iter_mut();
            file.values(group, path, 0, count, |value| {
                // Each value with its length, and a null as a length that none has, so that no two sets of rows hash alike.
                sieve.hash.update(value.map_or(u64::MAX, |value| value.len() as u64).to_le_bytes());
                sieve.hash.update(value.unwrap_or_default());
                let bytes = value.map_or(0, |value| value.len() as u64);
                *left = left.checked_sub(bytes).ok_or_else(|| format!("more than {MAX_TEXTS} bytes of text"))?;
                if let (Some(row), Some(value)) = (row.next(), value) {
                    fill(row, path, set, value);
                }
                Ok(())
            })?;
        }
        for (row, number) in rows.into_iter().zip(numbers) {
            sieve.take(row, || self.name(number));
        }
        Ok(())
    }

    /// The bytes of the picture in row `number`, if there is one.
    fn cell(&self, number: usize) -> Cell {
        let part = self.part(number).ok_or("is in no row group")?;
        let mut held = self.held.lock();
        let most = held.most;
        match held.get(part.first, part.bytes, || self.whole(part, most)) {
            Some(Pictures::Held(cells)) => cells.get(number - part.first).cloned().unwrap_or(Ok(None)),
            Some(Pictures::Broken(why)) => Err(why.clone()),
            Some(Pictures::Large) | None => {
                let mut only = Ok(None);
                self.values(part, number - part.first, 1, |value| {
                    only = bounded(value);
                    Ok(())
                })?;
                only
            }
        }
    }

    /// All pictures of a row group, if they take at most `most` bytes.
    fn whole(&self, part: &Part, most: u64) -> Pictures {
        if part.bytes > most {
            return Pictures::Large;
        }
        let (mut cells, mut bytes) = (Vec::new(), 0_u64);
        let read = self.values(part, 0, part.rows, |value| {
            bytes += value.map_or(0, |value| value.len() as u64);
            // The footer may lie, and a picture that many rows share is there only once.
            if bytes > most {
                return Err("too large".into());
            }
            cells.push(bounded(value));
            Ok(())
        });
        match read {
            Ok(()) => Pictures::Held(cells),
            Err(_) if bytes > most => Pictures::Large,
            Err(why) => Pictures::Broken(why),
        }
    }

    /// Gives the pictures of rows `from .. from + n` of a row group to `each`. The file is opened anew, so that no set holds hundreds open.
    fn values(
        &self,
        part: &Part,
        from: usize,
        n: usize,
        each: impl FnMut(Option<&[u8]>) -> Result<(), String>,
    ) -> Result<(), String> {
        let path = &self.shard(part.first).ok_or("is in no file")?.path;
        let at = |what: String| format!("`{}`: {what}", path.display());
        let file = Parquet::open(path).map_err(at)?;
        file.values(part.group, column(&file).unwrap_or_default(), from, n, each).map_err(at)
    }

    /// The file of row `number`: the last that begins before or with it, because empty ones begin with the next.
    fn shard(&self, number: usize) -> Option<&Shard> {
        self.files.get(self.files.partition_point(|shard| shard.first <= number).checked_sub(1)?)
    }

    /// The row group of row `number`.
    fn part(&self, number: usize) -> Option<&Part> {
        self.parts.get(self.parts.partition_point(|part| part.first <= number).checked_sub(1)?)
    }
}

impl Format for Shards {
    fn name(&self, number: usize) -> String {
        let shard = self.shard(number);
        let file = shard.and_then(|shard| shard.path.file_name()).unwrap_or_default().to_string_lossy();
        format!("row {} of `{file}`", number - shard.map_or(0, |shard| shard.first) + 1)
    }

    fn picture(&self, row: &Row) -> Result<Option<Picture>, String> {
        let inside = if row.holds { self.cell(row.number)? } else { None };
        match (inside, &row.path) {
            (Some(bytes), _) => picture::bytes(&bytes).map(Some),
            (None, Some(path)) => picture::file(&self.folder.join(path)).map(Some),
            (None, None) => Ok(None),
        }
    }

    fn group(&self, number: usize) -> Group {
        self.part(number).map_or(Group { first: 0, bytes: 0 }, |part| Group { first: part.first, bytes: part.bytes })
    }
}

/// Sets a text of a row that is sound so far, or why the row is bad.
fn fill(row: &mut Result<Row, String>, path: &[&str], set: Set, value: &[u8]) {
    let bad = if value.len() as u64 > MAX_TEXT { "is too long" } else { "is no UTF-8" };
    match (&mut *row, std::str::from_utf8(value)) {
        (Ok(row), Ok(text)) if value.len() as u64 <= MAX_TEXT => set(row, text.to_owned()),
        (Ok(_), _) => *row = Err(format!("`{}` {bad}", path.join("."))),
        (Err(_), _) => {}
    }
}

/// A picture's bytes, unless they are too many.
fn bounded(value: Option<&[u8]>) -> Cell {
    match value {
        Some(bytes) if bytes.len() as u64 > MAX_FILE => Err(format!("{} bytes, more than {MAX_FILE}", bytes.len())),
        value => Ok(value.map(<[u8]>::to_vec)),
    }
}
