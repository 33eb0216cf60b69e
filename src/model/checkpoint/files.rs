//! The tensors of a checkpoint where they lie: one file or several with an index, safetensors or (where asked for) PyTorch's `.bin`, or
//! bytes in memory. They are listed at once and their numbers read piece by piece, so that memory holds little beside what is made of
//! them. Knows no network.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Component, Path};

use candle_core::{DType, Device, Tensor};
use parking_lot::Mutex;
use safetensors::SafeTensorError;
use safetensors::tensor::Metadata;

use super::pickle::Pickle;
use crate::model::weights::{WeightsError, bad, failed};

/// The weights of a checkpoint in one file.
pub const SAFETENSORS: &str = "model.safetensors";
/// PyTorch's.
pub const PICKLE: &str = "pytorch_model.bin";
/// What the list of several files is called behind the name of one.
pub const INDEX: &str = ".index.json";

/// Numbers read at once.
const CHUNK: usize = 1 << 20;
/// Longest header of a safetensors file, as its authors have it.
const LONGEST_HEADER: u64 = 100_000_000;
/// Most files of one checkpoint, and most bytes of their list.
const MOST_SHARDS: usize = 4096;
const LONGEST_INDEX: u64 = 64 << 20;

/// A tensor in a file.
#[derive(Clone, Debug)]
pub struct Stored {
    pub shape: Vec<usize>,
    /// Element type, as the file calls it.
    pub kind: String,
    /// Where it is one that weights are stored in.
    dtype: Option<DType>,
    shard: usize,
    /// Bytes before it.
    start: u64,
}

impl Stored {
    fn new(shape: Vec<usize>, kind: String, dtype: Option<DType>, start: u64) -> Self {
        let dtype = dtype.filter(|dtype| matches!(dtype, DType::F64 | DType::F32 | DType::F16 | DType::BF16));
        Self { shape, kind, dtype, shard: 0, start }
    }

    /// How many numbers it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The type of its numbers. `name` is what it is called, for the error.
    ///
    /// # Errors
    /// When it is none that weights are stored in.
    pub fn numeric(&self, name: &str) -> Result<DType, WeightsError> {
        let kind = &self.kind;
        let wrong = || bad(name, format!("has element type {kind}; f32, f16 and bf16 are understood"));
        self.dtype.ok_or_else(wrong)
    }
}

enum Holds<'a> {
    Bytes(Cow<'a, [u8]>),
    File(Mutex<File>),
    Pickle(Pickle),
}

struct Shard<'a> {
    name: String,
    holds: Holds<'a>,
    bytes: u64,
}

/// All tensors of a checkpoint.
pub struct Source<'a> {
    tensors: BTreeMap<String, Stored>,
    shards: Vec<Shard<'a>>,
    /// The file that an error about the whole names.
    place: String,
}

fn unread(path: &Path) -> impl FnOnce(std::io::Error) -> WeightsError {
    move |source| WeightsError::Read { path: path.to_owned(), source }
}

impl<'a> Source<'a> {
    /// The tensors of a safetensors file in memory.
    ///
    /// # Errors
    /// When the bytes are damaged.
    pub fn bytes(bytes: Cow<'a, [u8]>) -> Result<Self, WeightsError> {
        let size = bytes.len() as u64;
        let tensors = header(size, |at, to| {
            let from = usize::try_from(at).ok().and_then(|at| bytes.get(at..)?.get(..to.len()));
            to.copy_from_slice(from.ok_or(std::io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })?;
        let shard = Shard { name: SAFETENSORS.into(), holds: Holds::Bytes(bytes), bytes: size };
        Ok(Self { tensors, shards: vec![shard], place: SAFETENSORS.into() })
    }

    /// The tensors of a folder: `model.safetensors`, or the files of `model.safetensors.index.json`; where there are neither and `pickle`
    /// allows it, `pytorch_model.bin` or the files of its index.
    ///
    /// # Errors
    /// When there are none, a file cannot be read or is damaged, or the files are not those of their index.
    pub fn folder(dir: &Path, pickle: bool) -> Result<Self, WeightsError> {
        for whole in [SAFETENSORS, PICKLE] {
            let index = format!("{whole}{INDEX}");
            let place = match (dir.join(whole).exists(), dir.join(&index).exists()) {
                (false, false) => continue,
                (true, true) => {
                    return Err(WeightsError::Shards(format!(
                        "holds both `{whole}` and `{index}`; take away the one that is not meant"
                    )));
                }
                (true, false) => whole,
                (false, true) => &index,
            };
            if whole == PICKLE && !pickle {
                return Err(WeightsError::Shards(format!(
                    "its weights are in `{place}`, pickle, which is read only on request: `--allow-pickle`; `ulm model convert` \
                     makes safetensors of it"
                )));
            }
            if place == whole {
                let (tensors, shard) = open(dir, whole)?;
                return Ok(Self { tensors, shards: vec![shard], place: whole.into() });
            }
            let within = |source| WeightsError::In { path: index.clone().into(), source: Box::new(source) };
            let (tensors, shards) = shards(dir, whole, &index).map_err(|error| match error {
                read @ WeightsError::Read { .. } => read,
                other => within(other),
            })?;
            return Ok(Self { tensors, shards, place: index });
        }
        let (tensors, shard) = open(dir, SAFETENSORS)?;
        Ok(Self { tensors, shards: vec![shard], place: SAFETENSORS.into() })
    }

    /// The file that an error about the whole names.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.place
    }

    /// All tensors by their names in the files.
    #[must_use]
    pub fn tensors(&self) -> &BTreeMap<String, Stored> {
        &self.tensors
    }

    /// Names and bytes of the files.
    pub fn files(&self) -> impl Iterator<Item = (&str, u64)> {
        self.shards.iter().map(|shard| (shard.name.as_str(), shard.bytes))
    }

    /// Hands the numbers of a tensor to `each` in order, some at a time; of `part` (i, n) those of the i-th of n equal parts.
    ///
    /// # Errors
    /// When there is no such tensor, it holds no numbers that weights are made of, or its file cannot be read.
    pub fn numbers(
        &self,
        name: &str,
        (part, parts): (usize, usize),
        mut each: impl FnMut(&[f32]) -> Result<(), WeightsError>,
    ) -> Result<(), WeightsError> {
        let stored = self.tensors.get(name).ok_or_else(|| bad(name, "is missing"))?;
        let shard = self.shards.get(stored.shard).ok_or_else(|| bad(name, "is missing"))?;
        let dtype = stored.numeric(name)?;
        let len = stored.len() / parts.max(1);
        let first = part * len;
        let whole = match &shard.holds {
            Holds::Pickle(pickle) => Some(pickle.get(name)?.flatten_all().map_err(failed(name))?),
            Holds::Bytes(_) | Holds::File(_) => None,
        };
        let mut bytes = Vec::new();
        for at in (first..first + len).step_by(CHUNK) {
            let count = CHUNK.min(first + len - at);
            let numbers = match (&shard.holds, &whole) {
                (_, Some(whole)) => whole.narrow(0, at, count),
                (holds, None) => {
                    bytes.resize(count * dtype.size_in_bytes(), 0);
                    let start = stored.start + (at * dtype.size_in_bytes()) as u64;
                    let read = holds.read(start, &mut bytes);
                    read.map_err(|source| WeightsError::Read { path: shard.name.clone().into(), source })?;
                    Tensor::from_raw_buffer(&bytes, dtype, &[count], &Device::Cpu)
                }
            };
            let numbers = numbers.and_then(|numbers| numbers.to_dtype(DType::F32)?.to_vec1::<f32>());
            each(&numbers.map_err(failed(name))?)?;
        }
        Ok(())
    }
}

impl Holds<'_> {
    fn read(&self, start: u64, to: &mut [u8]) -> std::io::Result<()> {
        match self {
            Self::File(file) => {
                let mut file = file.lock();
                file.seek(SeekFrom::Start(start))?;
                file.read_exact(to)
            }
            Self::Bytes(bytes) => {
                let from = usize::try_from(start).ok().and_then(|start| bytes.get(start..)?.get(..to.len()));
                to.copy_from_slice(from.ok_or(std::io::ErrorKind::UnexpectedEof)?);
                Ok(())
            }
            Self::Pickle(_) => Err(std::io::ErrorKind::Unsupported.into()),
        }
    }
}

type Listed = BTreeMap<String, Stored>;

/// One file of a folder.
fn open(dir: &Path, name: &str) -> Result<(Listed, Shard<'static>), WeightsError> {
    let path = dir.join(name);
    let within = |source| WeightsError::In { path: name.into(), source: Box::new(source) };
    let mut file = File::open(&path).map_err(unread(&path))?;
    let bytes = file.metadata().map_err(unread(&path))?.len();
    if name.ends_with(".bin") {
        let (pickle, list) = Pickle::open(&path).map_err(within)?;
        let stored = |(name, (shape, dtype)): (String, (Vec<usize>, DType))| {
            (name, Stored::new(shape, dtype.as_str().to_owned(), Some(dtype), 0))
        };
        let shard = Shard { name: name.into(), holds: Holds::Pickle(pickle), bytes };
        return Ok((list.into_iter().map(stored).collect(), shard));
    }
    let tensors = header(bytes, |at, to| {
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(to)
    });
    let shard = Shard { name: name.into(), holds: Holds::File(Mutex::new(file)), bytes };
    Ok((tensors.map_err(within)?, shard))
}

/// The list at the head of a safetensors file of `size` bytes. What it tells must fill the file to the last byte.
fn header(size: u64, mut read: impl FnMut(u64, &mut [u8]) -> std::io::Result<()>) -> Result<Listed, WeightsError> {
    let mut read = |at, len: u64| {
        let mut bytes = vec![0; usize::try_from(len).map_err(|_| SafeTensorError::HeaderTooLarge)?];
        read(at, &mut bytes).map_err(|_| SafeTensorError::InvalidHeaderLength)?;
        Ok::<_, SafeTensorError>(bytes)
    };
    let listed = || {
        let size = size.checked_sub(8).ok_or(SafeTensorError::HeaderTooSmall)?;
        let length = read(0, 8)?.try_into().map_or(u64::MAX, u64::from_le_bytes);
        if length > LONGEST_HEADER {
            return Err(SafeTensorError::HeaderTooLarge);
        }
        let body = size.checked_sub(length).ok_or(SafeTensorError::InvalidHeaderLength)?;
        let list: Metadata =
            serde_json::from_slice(&read(8, length)?).map_err(SafeTensorError::InvalidHeaderDeserialization)?;
        if list.data_len() as u64 != body {
            return Err(SafeTensorError::MetadataIncompleteBuffer);
        }
        let stored = |(name, info): (String, &safetensors::tensor::TensorInfo)| {
            let start = 8 + length + info.data_offsets.0 as u64;
            let kind = info.dtype.to_string();
            (name, Stored::new(info.shape.clone(), kind, DType::try_from(info.dtype).ok(), start))
        };
        Ok(list.tensors().into_iter().map(stored).collect())
    };
    let mut listed = listed;
    listed().map_err(WeightsError::Format)
}

#[derive(serde::Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The files that `index` lists; each must be whole, of one kind, and hold just the tensors that the index says.
fn shards(dir: &Path, whole: &str, index: &str) -> Result<(Listed, Vec<Shard<'static>>), WeightsError> {
    let wrong = |what: String| Err(WeightsError::Shards(what));
    let path = dir.join(index);
    if std::fs::metadata(&path).map_err(unread(&path))?.len() > LONGEST_INDEX {
        return wrong("is too long to be an index".into());
    }
    let bytes = std::fs::read(&path).map_err(unread(&path))?;
    let map = match serde_json::from_slice::<Index>(&bytes) {
        Ok(index) => index.weight_map,
        Err(error) => return wrong(format!("is no index: {error}")),
    };
    let names: BTreeSet<&String> = map.values().collect();
    if names.len() > MOST_SHARDS || names.is_empty() {
        return wrong(format!("lists {} files; supported: 1 to {MOST_SHARDS}", names.len()));
    }
    let ending = Path::new(whole).extension();
    for name in &names {
        let path = Path::new(name);
        let plain = matches!(path.components().collect::<Vec<_>>()[..], [Component::Normal(_)]);
        if !plain || path.extension() != ending {
            let ending = ending.unwrap_or_default().display();
            return wrong(format!("lists `{name}`, which is no `.{ending}` file beside it"));
        }
    }
    // `model-00001-of-00002.safetensors`: all of one division, and all of it.
    let divided = |name: &&&String| {
        let (_, of) = Path::new(name).file_stem()?.to_str()?.rsplit_once("-of-")?;
        of.parse::<usize>().ok()
    };
    let divisions: BTreeSet<usize> = names.iter().filter_map(|name| divided(&name)).collect();
    if divisions.len() > 1 || divisions.iter().any(|of| *of != names.len()) {
        let listed = names.iter().map(|name| name.as_str()).take(4).collect::<Vec<_>>().join(", ");
        return wrong(format!("mixes files of several divisions, or not all of one: {} ({listed}, …)", names.len()));
    }
    let (mut all, mut opened) = (Listed::new(), Vec::with_capacity(names.len()));
    for name in names {
        let (list, shard) = open(dir, name)?;
        for (tensor, mut stored) in list {
            match map.get(&tensor) {
                Some(said) if said == name => {}
                Some(said) => return wrong(format!("says that `{tensor}` is in `{said}`, but it is in `{name}`")),
                None => return wrong(format!("does not list `{tensor}`, which is in `{name}`")),
            }
            stored.shard = opened.len();
            all.insert(tensor, stored);
        }
        opened.push(shard);
    }
    match map.iter().find(|(tensor, _)| !all.contains_key(*tensor)) {
        Some((tensor, said)) => wrong(format!("says that `{tensor}` is in `{said}`, which lacks it")),
        None => Ok((all, opened)),
    }
}
