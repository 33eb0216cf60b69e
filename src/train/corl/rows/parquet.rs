//! One Parquet file: its row groups, and the values of a column of one. The only place that knows the library; knows nothing of rows.
//!
//! The library gives errors for most of what a broken file can hold and panics on some of it, as on a column that begins before
//! the file. So every call is made in `guarded`, the one place where a panic becomes an error.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use parquet::basic::{Compression, Type};
use parquet::column::reader::ColumnReader;
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use sha2::{Digest as _, Sha256};

/// Longest footer, in bytes. The hub's take some kilobytes for a hundred row groups.
const MAX_FOOTER: u64 = 64 << 20;
/// The footer's length and the mark, which end the file.
const END: u64 = 8;
/// Values that are read at once.
const BATCH: usize = 64;

/// A file whose footer was read.
pub struct Parquet(SerializedFileReader<File>);

/// A row group, as the footer describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowGroup {
    pub rows: usize,
    /// What the asked column takes in memory, in bytes; 0 where it is not there.
    pub bytes: u64,
}

impl Parquet {
    /// # Errors
    /// When the file cannot be read or its footer is not sound.
    pub fn open(path: &Path) -> Result<Self, String> {
        let file = File::open(path).map_err(|e| e.to_string())?;
        footer(&file)?;
        guarded(|| Ok(Self(SerializedFileReader::new(file).map_err(text)?)))
    }

    /// All row groups, with the size of the column at `path`.
    ///
    /// # Errors
    /// When a group's length is no number of rows.
    pub fn groups(&self, path: &[&str]) -> Result<Vec<RowGroup>, String> {
        guarded(|| {
            let leaf = self.leaf(path);
            let groups = self.0.metadata().row_groups().iter().map(|group| {
                let bytes = leaf.and_then(|leaf| group.columns().get(leaf)).map_or(0, |c| c.uncompressed_size());
                let rows = usize::try_from(group.num_rows()).map_err(|e| format!("length of a row group: {e}"))?;
                Ok(RowGroup { rows, bytes: u64::try_from(bytes).unwrap_or(0) })
            });
            groups.collect()
        })
    }

    /// Whether there is a column of texts or bytes, one a row, at `path`.
    #[must_use]
    pub fn has(&self, path: &[&str]) -> bool {
        guarded(|| Ok(self.leaf(path).is_some())).unwrap_or(false)
    }

    /// Gives the values of rows `from .. from + n` of a row group to `each`, a null as `None`; all nulls where there is no such column.
    /// Nothing of other columns is read, and of the pages before `from` nothing but their headers.
    ///
    /// # Errors
    /// When what is read is not sound or shorter than it says, or `each` fails.
    pub fn values(
        &self,
        group: usize,
        path: &[&str],
        from: usize,
        n: usize,
        mut each: impl FnMut(Option<&[u8]>) -> Result<(), String>,
    ) -> Result<(), String> {
        guarded(|| {
            let Some(leaf) = self.leaf(path) else { return (0..n).try_for_each(|_| each(None)) };
            let name = path.join(".");
            let about = self.0.metadata().row_groups().get(group).and_then(|group| group.columns().get(leaf));
            let about = about.ok_or_else(|| format!("has no row group {group} with `{name}`"))?;
            if !matches!(about.compression(), Compression::UNCOMPRESSED | Compression::SNAPPY) {
                return Err(format!("`{name}` is packed as {}; Snappy alone is unpacked", about.compression()));
            }
            let reader = self.0.get_row_group(group).map_err(text)?.get_column_reader(leaf).map_err(text)?;
            let ColumnReader::ByteArrayColumnReader(mut reader) = reader else {
                return Err(format!("`{name}` holds no bytes"));
            };
            let full = about.column_descr().max_def_level();
            let short = || format!("`{name}` is shorter than its row group");
            if reader.skip_records(from).map_err(text)? != from {
                return Err(short());
            }
            let mut left = n;
            while left > 0 {
                let (mut levels, mut values) = (Vec::new(), Vec::new());
                let (read, ..) =
                    reader.read_records(left.min(BATCH), Some(&mut levels), None, &mut values).map_err(text)?;
                if read == 0 {
                    return Err(short());
                }
                let mut values = values.iter();
                // A column without nulls has no levels.
                for row in 0..read {
                    let there = full == 0 || levels.get(row) == Some(&full);
                    each(if there { Some(values.next().ok_or_else(short)?.data()) } else { None })?;
                }
                left -= read;
            }
            Ok(())
        })
    }

    /// The column at `path` that has texts or bytes, at most one a row.
    fn leaf(&self, path: &[&str]) -> Option<usize> {
        self.0.metadata().file_metadata().schema_descr().columns().iter().position(|column| {
            column.physical_type() == Type::BYTE_ARRAY
                && column.max_rep_level() == 0
                && column.path().parts().iter().map(String::as_str).eq(path.iter().copied())
        })
    }
}

/// Hashes the length of a file and its footer, which has place, size and statistics of every column of every row group.
///
/// # Errors
/// When the file cannot be read or ends in no footer.
pub fn fingerprint(path: &Path, hash: &mut Sha256) -> Result<(), String> {
    let mut file = File::open(path).map_err(|e| e.to_string())?;
    let (bytes, footer) = footer(&file)?;
    let mut end = Vec::new();
    file.seek(SeekFrom::Start(bytes - footer)).and_then(|_| file.read_to_end(&mut end)).map_err(|e| e.to_string())?;
    hash.update(bytes.to_le_bytes());
    hash.update(&end);
    Ok(())
}

/// Lengths of a file and of its footer.
fn footer(mut file: &File) -> Result<(u64, u64), String> {
    let bytes = file.metadata().map_err(|e| e.to_string())?.len();
    let start = bytes.checked_sub(END).ok_or("is too short for a Parquet file")?;
    let mut length = [0; 4];
    file.seek(SeekFrom::Start(start)).and_then(|_| file.read_exact(&mut length)).map_err(|e| e.to_string())?;
    let footer = u64::from(u32::from_le_bytes(length)) + END;
    if footer > bytes.min(MAX_FOOTER) {
        return Err(format!("the footer says it has {footer} bytes, of {bytes}; at most {MAX_FOOTER} are read"));
    }
    Ok((bytes, footer))
}

fn text(error: ParquetError) -> String {
    error.to_string()
}

/// Does `work`, which calls the library. Whatever it was changing is dropped with the error.
fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err("is broken in a way that cannot be read".into()))
}
