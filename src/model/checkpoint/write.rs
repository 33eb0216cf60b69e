//! Writes checkpoints too large for memory: a safetensors file tensor by tensor, and a folder that appears whole under its name or not at
//! all. Knows no network.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use safetensors::View as _;
use safetensors::tensor::{Metadata, TensorInfo};

use crate::model::weights::{WeightsError, bad, failed, write_error};

/// A tensor to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    pub shape: Vec<usize>,
    pub dtype: DType,
}

/// Takes numbers of a tensor, in order.
pub type Sink<'s> = dyn FnMut(&[f32]) -> Result<(), WeightsError> + 's;

/// Writes a safetensors file and puts it on the disk: `fill` gives the numbers of each entry in turn. Entries are put in the order that
/// the format likes, the widest types first, then by name.
///
/// # Errors
/// When `fill` fails or gives too many or too few numbers, one is not finite as its type, or the file cannot be written.
pub fn safetensors(
    path: &Path,
    entries: &mut [Entry],
    mut fill: impl FnMut(&Entry, &mut Sink<'_>) -> Result<(), WeightsError>,
) -> Result<(), WeightsError> {
    let width = |entry: &Entry| entry.dtype.size_in_bytes();
    entries.sort_by(|one, other| width(other).cmp(&width(one)).then_with(|| one.name.cmp(&other.name)));
    let mut end = 0;
    let info = |entry: &Entry| {
        let start = end;
        end += entry.shape.iter().product::<usize>() * width(entry);
        let dtype = entry.dtype.into();
        Ok((entry.name.clone(), TensorInfo { dtype, shape: entry.shape.clone(), data_offsets: (start, end) }))
    };
    let list = entries.iter().map(info).collect::<Result<Vec<_>, WeightsError>>()?;
    let list = Metadata::new(Some([("format".to_owned(), "pt".to_owned())].into()), list);
    let list = list.map_err(WeightsError::Format)?;
    let mut head = serde_json::to_vec(&list).map_err(std::io::Error::other).map_err(write_error(path))?;
    head.resize(head.len().next_multiple_of(8), b' ');

    let mut file = BufWriter::with_capacity(1 << 20, File::create(path).map_err(write_error(path))?);
    file.write_all(&(head.len() as u64).to_le_bytes()).map_err(write_error(path))?;
    file.write_all(&head).map_err(write_error(path))?;
    for entry in entries.iter() {
        let mut left = entry.shape.iter().product::<usize>();
        let sink = &mut |values: &[f32]| {
            left = left.checked_sub(values.len()).ok_or_else(|| bad(&entry.name, "has more numbers than its shape"))?;
            file.write_all(&encode(entry, values)?).map_err(write_error(path))
        };
        fill(entry, sink)?;
        if left > 0 {
            return Err(bad(&entry.name, format!("lacks {left} numbers of its shape")));
        }
    }
    let file = file.into_inner().map_err(|error| error.into_error()).map_err(write_error(path))?;
    file.sync_all().map_err(write_error(path))
}

/// The bytes of `values` as the type of `entry`.
fn encode(entry: &Entry, values: &[f32]) -> Result<Vec<u8>, WeightsError> {
    let wide = Tensor::from_slice(values, values.len(), &Device::Cpu);
    let stored = wide.and_then(|wide| wide.to_dtype(entry.dtype)).map_err(failed(&entry.name))?;
    if entry.dtype != DType::F32 {
        let again =
            stored.to_dtype(DType::F32).and_then(|again| again.to_vec1::<f32>()).map_err(failed(&entry.name))?;
        if let Some((value, _)) = values.iter().zip(again).find(|(_, again)| !again.is_finite()) {
            return Err(bad(
                &entry.name,
                format!("holds the value {value}, which {} cannot hold", entry.dtype.as_str()),
            ));
        }
    }
    Ok(stored.data().into_owned())
}

/// A folder being written under another name.
pub struct Staged {
    part: PathBuf,
    to: PathBuf,
    whole: bool,
}

impl Staged {
    /// Begins the folder `to`, which must not exist or be empty.
    ///
    /// # Errors
    /// When it holds something, or the folder beside it cannot be made.
    pub fn begin(to: &Path) -> Result<Self, WeightsError> {
        let taken = |what: &str| std::io::Error::new(std::io::ErrorKind::AlreadyExists, what.to_owned());
        let empty = match std::fs::read_dir(to) {
            Ok(mut entries) => entries.next().is_none(),
            Err(error) => error.kind() == std::io::ErrorKind::NotFound,
        };
        if !empty {
            return Err(write_error(to)(taken("it exists already")));
        }
        let name = to.file_name().ok_or_else(|| write_error(to)(std::io::ErrorKind::InvalidInput.into()))?;
        let mut part = name.to_owned();
        part.push(".part");
        let part = to.with_file_name(part);
        if let Some(parent) = to.parent() {
            std::fs::create_dir_all(parent).map_err(write_error(parent))?;
        }
        std::fs::create_dir(&part).map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => {
                write_error(&part)(taken("it is there already, left by a run that was cut off; delete it"))
            }
            _ => write_error(&part)(error),
        })?;
        Ok(Self { part, to: to.to_owned(), whole: false })
    }

    /// Where a file of the folder is written meanwhile.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.part.join(name)
    }

    /// Writes one file and puts it on the disk.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put(&self, name: &str, bytes: &[u8]) -> Result<(), WeightsError> {
        let path = self.path(name);
        let write = || {
            let mut file = File::create(&path)?;
            file.write_all(bytes)?;
            file.sync_all()
        };
        write().map_err(write_error(&path))
    }

    /// Gives the folder its name.
    ///
    /// # Errors
    /// When the folder cannot be renamed, or the disk does not keep the name.
    pub fn finish(mut self) -> Result<(), WeightsError> {
        // Names are on the disk when their folders are; only Unix opens folders.
        let keep = |dir: &Path| if cfg!(unix) { File::open(dir).and_then(|dir| dir.sync_all()) } else { Ok(()) };
        keep(&self.part).map_err(write_error(&self.part))?;
        std::fs::rename(&self.part, &self.to).map_err(write_error(&self.to))?;
        self.whole = true;
        let parent = self.to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        keep(parent).map_err(write_error(parent))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.whole {
            // What cannot be taken away is under the other name still, and the next run says so.
            let _ = std::fs::remove_dir_all(&self.part);
        }
    }
}
