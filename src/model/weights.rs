//! Weights as safetensors bytes and as a content hash, and the way from the network's tensors to those of the Hugging Face layout.
//! Knows names and shapes, not what they compute; whole checkpoints are read in `checkpoint/`.

use std::io::Write;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use sha2::{Digest, Sha256};

use super::checkpoint::names::{FUSED, Kernel, first_rows, kernel, kernel_shape};
use super::params::Tensors;
use crate::domain::sample::Version;

/// A weight file cannot be read, written, or understood.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    #[error("cannot read `{}`: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("cannot write `{}`: {source}", path.display())]
    Write { path: PathBuf, source: std::io::Error },
    #[error("`{}`: {source}", path.display())]
    In { path: PathBuf, source: Box<WeightsError> },
    #[error("not a whole safetensors file: {0}")]
    Format(safetensors::SafeTensorError),
    #[error("tensor `{name}` {what}")]
    Tensor { name: String, what: String },
    #[error(transparent)]
    Misfit(#[from] Misfit),
    #[error("not a whole PyTorch file: {0}")]
    Pickle(String),
    #[error("{0}")]
    Shards(String),
}

/// How the tensors of a checkpoint are not those of the network that its config describes; names and shapes of the file.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Misfit {
    pub missing: Vec<String>,
    /// Name, the shape found, the shape wanted.
    pub misshapen: Vec<(String, Vec<usize>, Vec<usize>)>,
    pub extra: Vec<String>,
}

/// Tensors that one message lists of each kind.
const LISTED: usize = 12;

impl Misfit {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.misshapen.is_empty() && self.extra.is_empty()
    }
}

impl std::error::Error for Misfit {}

impl std::fmt::Display for Misfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let list = |names: &[String]| {
            let shown = names.iter().take(LISTED).cloned().collect::<Vec<_>>().join(", ");
            let rest = names.len().saturating_sub(LISTED);
            if rest == 0 { shown } else { format!("{shown}, and {rest} more") }
        };
        let mut parts = Vec::new();
        match self.missing.as_slice() {
            [] => {}
            [name] => parts.push(format!("tensor `{name}` is missing")),
            names => parts.push(format!("{} tensors are missing: {}", names.len(), list(names))),
        }
        match self.misshapen.as_slice() {
            [] => {}
            [(name, found, wanted)] => {
                parts.push(format!("tensor `{name}` has shape {found:?}, but the config asks for {wanted:?}"));
            }
            all => {
                let told = |(name, found, wanted): &(String, Vec<usize>, Vec<usize>)| {
                    format!("{name} {found:?}, not {wanted:?}")
                };
                let told: Vec<_> = all.iter().map(told).collect();
                parts.push(format!(
                    "{} tensors have shapes that the config does not ask for: {}",
                    all.len(),
                    list(&told)
                ));
            }
        }
        match self.extra.as_slice() {
            [] => {}
            [name] => parts.push(format!("tensor `{name}` belongs to no part of the network")),
            names => parts.push(format!("{} tensors belong to no part of the network: {}", names.len(), list(names))),
        }
        f.write_str(&parts.join("; "))
    }
}

pub(super) fn bad(name: &str, what: impl ToString) -> WeightsError {
    WeightsError::Tensor { name: name.to_owned(), what: what.to_string() }
}

pub(super) fn failed(name: &str) -> impl FnOnce(candle_core::Error) -> WeightsError {
    move |source| bad(name, format!("cannot be read: {source}"))
}

/// A kernel of the disk layout as it lies in memory; anything else as it is.
pub(super) fn kernel_in(name: &str, x: &Tensor) -> Result<Tensor, WeightsError> {
    let Some(kernel) = kernel(name) else { return Ok(x.clone()) };
    let fits = match (&kernel, x.dims()) {
        (Kernel::Spatial, [_, _, h, w]) => (*h, *w) == (3, 3),
        (Kernel::Pointwise, [_, _, h, w]) => (*h, *w) == (1, 1),
        (Kernel::Patch, [_, c, h, w]) => *c == 3 && h == w,
        _ => false,
    };
    if !fits {
        return Err(bad(name, format!("has shape {:?}, which is no such kernel", x.dims())));
    }
    let run = || match kernel {
        Kernel::Spatial => x.permute((2, 3, 1, 0))?.flatten_to(2)?.contiguous(),
        Kernel::Pointwise | Kernel::Patch => x.flatten_from(1)?.contiguous(),
    };
    run().map_err(failed(name))
}

fn kernel_out(name: &str, x: &Tensor) -> Result<Tensor, WeightsError> {
    let shape = kernel_shape(name, x.dims());
    let run = || match (kernel(name), shape.as_slice()) {
        (Some(Kernel::Spatial), &[out, c, h, w]) => x.reshape((h, w, c, out))?.permute((3, 2, 0, 1))?.contiguous(),
        _ => x.reshape(shape.as_slice()),
    };
    run().map_err(failed(name))
}

/// Memory layout → disk layout. `query_rows` are the rows of a language-model query projection; the rest of a fused one is
/// shared equally by keys and values.
///
/// # Errors
/// When a fused tensor does not split.
pub fn split(memory: &Tensors, query_rows: usize) -> Result<Tensors, WeightsError> {
    let mut disk = Tensors::new();
    for (name, tensor) in memory {
        let Some((fused, members)) = FUSED.iter().find(|(fused, _)| name.contains(fused)) else {
            disk.insert(name.clone(), kernel_out(name, tensor)?);
            continue;
        };
        let rows = tensor.dim(0).map_err(failed(name))?;
        let first = first_rows(name, members, rows, query_rows);
        let mut at = 0;
        for (i, member) in members.iter().enumerate() {
            let len = if i == 0 { first } else { rows.saturating_sub(first) / (members.len() - 1) };
            let part = tensor.narrow(0, at, len).and_then(|t| t.contiguous()).map_err(failed(name))?;
            disk.insert(name.replace(fused, member), part);
            at += len;
        }
    }
    Ok(disk)
}

/// Reads safetensors bytes (disk layout) as `dtype` on `device`.
///
/// # Errors
/// When the bytes are damaged or a tensor holds a type other than f64, f32, f16 or bf16, or a value that is not finite.
pub fn parse(bytes: &[u8], dtype: DType, device: &Device) -> Result<Tensors, WeightsError> {
    parse_some(bytes, dtype, device, |_| true)
}

/// Reads those tensors of safetensors bytes whose names are `wanted`; the others may hold anything.
///
/// # Errors
/// As [`parse`].
pub fn parse_some(
    bytes: &[u8],
    dtype: DType,
    device: &Device,
    wanted: impl Fn(&str) -> bool,
) -> Result<Tensors, WeightsError> {
    let views = safetensors::SafeTensors::deserialize(bytes).map_err(WeightsError::Format)?;
    let mut tensors = Tensors::new();
    for (name, view) in views.tensors().into_iter().filter(|(name, _)| wanted(name)) {
        let stored: DType = view.dtype().try_into().map_err(failed(&name))?;
        if !matches!(stored, DType::F64 | DType::F32 | DType::F16 | DType::BF16) {
            return Err(bad(&name, format!("has element type {stored:?}; f32, f16 and bf16 are understood")));
        }
        let load = || Tensor::from_raw_buffer(view.data(), stored, view.shape(), device)?.to_dtype(dtype);
        tensors.insert(name.clone(), load().map_err(failed(&name))?);
    }
    Ok(tensors)
}

/// Reads a safetensors file.
///
/// # Errors
/// As [`parse`], and when the file cannot be read.
pub fn read(path: &Path, dtype: DType, device: &Device) -> Result<Tensors, WeightsError> {
    let bytes = std::fs::read(path).map_err(|source| WeightsError::Read { path: path.to_owned(), source })?;
    parse(&bytes, dtype, device).map_err(|source| WeightsError::In { path: path.to_owned(), source: Box::new(source) })
}

/// `tensors` with their numbers as `dtype`.
///
/// # Errors
/// When a tensor cannot be converted.
pub fn cast(tensors: &Tensors, dtype: DType) -> Result<Tensors, WeightsError> {
    tensors.iter().map(|(name, tensor)| Ok((name.clone(), tensor.to_dtype(dtype).map_err(failed(name))?))).collect()
}

/// Writes tensors (disk layout) as `dtype`; the file appears whole or not at all.
///
/// # Errors
/// When a tensor cannot be converted or the file cannot be written.
pub fn write(path: &Path, tensors: &Tensors, dtype: DType) -> Result<(), WeightsError> {
    let part = stage(path, &to_bytes(path, &cast(tensors, dtype)?)?)?;
    std::fs::rename(&part, path).map_err(write_error(path))
}

/// The safetensors file of tensors; `path` is only for messages.
pub(super) fn to_bytes(path: &Path, tensors: &Tensors) -> Result<Vec<u8>, WeightsError> {
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    safetensors::serialize(tensors, Some(metadata)).map_err(std::io::Error::other).map_err(write_error(path))
}

/// Puts `bytes` on the disk, under a name beside `path`, for renaming.
pub(super) fn stage(path: &Path, bytes: &[u8]) -> Result<PathBuf, WeightsError> {
    let part = path.with_extension("part");
    let write = || {
        let mut file = std::fs::File::create(&part)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(write_error(&part))?;
    Ok(part)
}

pub(super) fn write_error(path: &Path) -> impl FnOnce(std::io::Error) -> WeightsError {
    move |source| WeightsError::Write { path: path.to_owned(), source }
}

/// SHA-256 over names, shapes and little-endian f32 values in name order: the same for every file that holds the same network.
///
/// # Errors
/// When a tensor cannot be read back, or holds a value that is not finite.
pub fn hash(tensors: &Tensors) -> Result<Version, WeightsError> {
    let mut content = Content::default();
    for (name, tensor) in tensors {
        let flat = || tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
        let values = flat().map_err(failed(name))?;
        content.begin(name, tensor.dims());
        for values in values.chunks(1 << 16) {
            content.add(name, values)?;
        }
    }
    Ok(content.finish())
}

/// [`hash`] while tensors pass by, in name order.
#[derive(Default)]
pub(super) struct Content {
    sha: Sha256,
    bytes: Vec<u8>,
}

impl Content {
    /// The next tensor.
    pub fn begin(&mut self, name: &str, shape: &[usize]) {
        self.sha.update(format!("{name}{shape:?}"));
    }

    /// Its next values.
    pub fn add(&mut self, name: &str, values: &[f32]) -> Result<(), WeightsError> {
        if let Some(value) = values.iter().find(|value| !value.is_finite()) {
            return Err(bad(name, format!("holds the value {value}")));
        }
        self.bytes.resize(values.len() * 4, 0);
        for (bytes, value) in self.bytes.as_chunks_mut().0.iter_mut().zip(values) {
            *bytes = value.to_le_bytes();
        }
        self.sha.update(&self.bytes);
        Ok(())
    }

    pub fn finish(self) -> Version {
        Version(self.sha.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}
