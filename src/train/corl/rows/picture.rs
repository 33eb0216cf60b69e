//! Pictures of rows, from a file or from the bytes of one, in bounded memory. Knows nothing of rows.

use std::path::Path;

use crate::domain::picture::Picture;
use crate::picture::decode::{self, MAX_PIXELS};

/// Largest picture file, in bytes.
pub const MAX_FILE: u64 = 64 << 20;

/// The picture in the file `path`.
///
/// # Errors
/// When it is no file, too large, or no picture; the message names it.
pub fn file(path: &Path) -> Result<Picture, String> {
    let at = |what: &dyn std::fmt::Display| format!("`{}`: {what}", path.display());
    let about = std::fs::metadata(path).map_err(|e| at(&e))?;
    // A device or a pipe has no length, and may have no end.
    if !about.is_file() {
        return Err(at(&"is no file"));
    }
    if about.len() > MAX_FILE {
        return Err(at(&format!("{} bytes, more than {MAX_FILE}", about.len())));
    }
    bytes(&std::fs::read(path).map_err(|e| at(&e))?).map_err(|e| at(&e))
}

/// The picture in the bytes of a file.
///
/// # Errors
/// When they are no picture, or one of too many pixels.
pub fn bytes(file: &[u8]) -> Result<Picture, String> {
    decode::picture(file, MAX_PIXELS).map_err(|e| e.to_string())
}
