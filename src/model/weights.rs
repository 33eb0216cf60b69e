//! Checkpoint files ↔ the network's tensors: the Hugging Face Janus layout on disk, fused projections in memory; load, hash, save.
//! Knows names and shapes, not what they compute.

use std::io::Write;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use sha2::{Digest, Sha256};

use super::params::{ParamError, Tensors};
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
}

fn bad(name: &str, what: impl ToString) -> WeightsError {
    WeightsError::Tensor { name: name.to_owned(), what: what.to_string() }
}

fn failed(name: &str) -> impl FnOnce(candle_core::Error) -> WeightsError {
    move |source| bad(name, format!("cannot be read: {source}"))
}

/// The members of each fused tensor, in row order.
const FUSED: [(&str, &[&str]); 2] = [
    ("self_attn.qkv.", &["self_attn.q_proj.", "self_attn.k_proj.", "self_attn.v_proj."]),
    ("mlp.gate_up.", &["mlp.gate_proj.", "mlp.up_proj."]),
];

/// The fused tensor that `name` is a member of, its members, and which of them it is.
fn group(name: &str) -> Option<(&'static str, &'static [&'static str], usize)> {
    FUSED.iter().find_map(|(fused, members)| Some((*fused, *members, members.iter().position(|m| name.contains(m))?)))
}

/// Rows of the first member of a fused tensor of `rows` rows; the others share the rest equally. Only the language model's
/// queries may have more rows than their keys and values.
fn first_rows(name: &str, members: &[&str], rows: usize, query_rows: usize) -> usize {
    if members.len() == 3 && name.contains("language_model") { query_rows } else { rows / members.len() }
}

/// How a weight of four dimensions lies in memory.
enum Kernel {
    /// `[out, c, 3, 3]` on disk, `[9 c, out]` in memory, rows in (ky, kx, c) order.
    Spatial,
    /// `[out, c, 1, 1]` on disk, `[out, c]` in memory.
    Pointwise,
    /// `[out, 3, p, p]` on disk, `[out, 3 p p]` in memory.
    Patch,
}

fn kernel(name: &str) -> Option<Kernel> {
    let module = name.strip_suffix(".weight")?;
    if module == "model.vision_model.embeddings.patch_embedding" {
        return Some(Kernel::Patch);
    }
    let last = module.strip_prefix("model.vqmodel.")?.rsplit('.').next()?;
    match last {
        "conv" | "conv1" | "conv2" | "conv_in" | "conv_out" => Some(Kernel::Spatial),
        "q" | "k" | "v" | "proj_out" | "nin_shortcut" | "quant_conv" | "post_quant_conv" => Some(Kernel::Pointwise),
        _ => None,
    }
}

fn kernel_in(name: &str, x: &Tensor) -> Result<Tensor, WeightsError> {
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

/// The shape on disk of what has `shape` in memory.
fn kernel_shape(name: &str, shape: &[usize]) -> Vec<usize> {
    match (kernel(name), shape) {
        (Some(Kernel::Spatial), &[rows, out]) => vec![out, rows / 9, 3, 3],
        (Some(Kernel::Pointwise), &[out, c]) => vec![out, c, 1, 1],
        (Some(Kernel::Patch), &[out, inputs]) => {
            let side = (inputs / 3).isqrt();
            vec![out, 3, side, side]
        }
        _ => shape.to_vec(),
    }
}

fn kernel_out(name: &str, x: &Tensor) -> Result<Tensor, WeightsError> {
    let shape = kernel_shape(name, x.dims());
    let run = || match (kernel(name), shape.as_slice()) {
        (Some(Kernel::Spatial), &[out, c, h, w]) => x.reshape((h, w, c, out))?.permute((3, 2, 0, 1))?.contiguous(),
        _ => x.reshape(shape.as_slice()),
    };
    run().map_err(failed(name))
}

/// Disk layout → memory layout. `query_rows` are the rows of a language-model query projection.
///
/// # Errors
/// When a member of a fused tensor is missing or the members do not fit together.
pub fn fuse(mut disk: Tensors, query_rows: usize) -> Result<Tensors, WeightsError> {
    let mut memory = Tensors::new();
    while let Some((name, tensor)) = disk.pop_first() {
        let Some((fused, members, at)) = group(&name) else {
            memory.insert(name.clone(), kernel_in(&name, &tensor)?);
            continue;
        };
        let mut parts = Vec::with_capacity(members.len());
        for (i, member) in members.iter().enumerate() {
            let sibling = name.replace(members[at], member);
            let part = if i == at { Some(tensor.clone()) } else { disk.remove(&sibling) };
            parts.push((part.ok_or_else(|| bad(&sibling, "is missing"))?, sibling));
        }
        let shape = parts[1].0.dims();
        for (i, (part, sibling)) in parts.iter().enumerate() {
            let mut wanted = shape.to_vec();
            if let (0, Some(rows)) = (i, wanted.first_mut()) {
                *rows = first_rows(&name, members, *rows * members.len(), query_rows);
            }
            if part.dims() != wanted {
                let found = part.dims();
                return Err(bad(
                    sibling,
                    format!("has shape {found:?}, but {wanted:?} fits the config and `{}`", parts[1].1),
                ));
            }
        }
        let parts: Vec<_> = parts.into_iter().map(|(part, _)| part).collect();
        memory.insert(name.replace(members[at], fused), Tensor::cat(&parts, 0).map_err(failed(&name))?);
    }
    Ok(memory)
}

/// `error` about a tensor of the memory layout, told by the names and shapes of the file.
#[must_use]
pub fn on_disk(error: ParamError, query_rows: usize) -> ParamError {
    let fused = |name: &str| FUSED.iter().find(|(fused, _)| name.contains(fused));
    match error {
        ParamError::Missing(name) => match fused(&name) {
            Some((fused, members)) => ParamError::Missing(name.replace(fused, members[0])),
            None => ParamError::Missing(name),
        },
        ParamError::Shape { name, found, wanted } => {
            let Some((fused, members)) = fused(&name) else {
                let (found, wanted) = (kernel_shape(&name, &found), kernel_shape(&name, &wanted));
                return ParamError::Shape { name, found, wanted };
            };
            // The first member was held against the config when it was fused, so where there are rows too many or too few,
            // they are the others'.
            let member = |shape: &[usize], i| {
                let mut shape = shape.to_vec();
                if let Some(rows) = shape.first_mut() {
                    let first = first_rows(&name, members, *rows, query_rows);
                    *rows = if i == 0 { first } else { rows.saturating_sub(first) / (members.len() - 1) };
                }
                shape
            };
            let wrong = (0..members.len()).find(|&i| member(&found, i) != member(&wanted, i)).unwrap_or(0);
            let (found, wanted) = (member(&found, wrong), member(&wanted, wrong));
            ParamError::Shape { name: name.replace(fused, members[wrong]), found, wanted }
        }
        other => other,
    }
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
/// When a tensor cannot be read back.
pub fn hash(tensors: &Tensors) -> Result<Version, WeightsError> {
    let mut sha = Sha256::new();
    for (name, tensor) in tensors {
        sha.update(format!("{name}{:?}", tensor.dims()));
        let flat = || tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
        for value in flat().map_err(failed(name))? {
            if !value.is_finite() {
                return Err(bad(name, format!("holds the value {value}")));
            }
            sha.update(value.to_le_bytes());
        }
    }
    Ok(Version(sha.finalize().iter().map(|byte| format!("{byte:02x}")).collect()))
}
