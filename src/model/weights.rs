//! Checkpoint files ↔ the network's tensors: the Hugging Face Janus layout on disk, fused projections in memory; load, hash, save.
//! Knows names and shapes, not what they compute.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use sha2::{Digest, Sha256};

use super::params::Tensors;
use crate::domain::sample::Version;

/// A weight file cannot be read, written, or understood.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    #[error("cannot read `{}`: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("cannot write `{}`: {source}", path.display())]
    Write { path: PathBuf, source: std::io::Error },
    #[error("`{file}` is not a whole safetensors file: {source}")]
    Format { file: String, source: safetensors::SafeTensorError },
    #[error("tensor `{name}`: {what}")]
    Tensor { name: String, what: String },
}

fn bad(name: &str, what: impl ToString) -> WeightsError {
    WeightsError::Tensor { name: name.to_owned(), what: what.to_string() }
}

/// The members of each fused tensor, in row order.
const FUSED: [(&str, &[&str]); 2] =
    [("self_attn.qkv.", &["self_attn.q_proj.", "self_attn.k_proj.", "self_attn.v_proj."]), ("mlp.gate_up.", &["mlp.gate_proj.", "mlp.up_proj."])];

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
    let run = || match kernel(name) {
        None => Ok(x.clone()),
        Some(Kernel::Spatial) => {
            let (out, c, h, w) = x.dims4()?;
            x.permute((2, 3, 1, 0))?.reshape((h * w * c, out))?.contiguous()
        }
        Some(Kernel::Pointwise | Kernel::Patch) => x.flatten_from(1)?.contiguous(),
    };
    run().map_err(|e: candle_core::Error| bad(name, e))
}

fn kernel_out(name: &str, x: &Tensor) -> Result<Tensor, WeightsError> {
    let run = || match kernel(name) {
        None => Ok(x.clone()),
        Some(Kernel::Spatial) => {
            let (rows, out) = x.dims2()?;
            x.reshape((3, 3, rows / 9, out))?.permute((3, 2, 0, 1))?.contiguous()
        }
        Some(Kernel::Pointwise) => x.unsqueeze(2)?.unsqueeze(3),
        Some(Kernel::Patch) => {
            let (out, inputs) = x.dims2()?;
            let side = ((inputs / 3) as f64).sqrt().round() as usize;
            x.reshape((out, 3, side, side))
        }
    };
    run().map_err(|e: candle_core::Error| bad(name, e))
}

/// Disk layout → memory layout.
///
/// # Errors
/// When a member of a fused tensor is missing or the members do not fit together.
pub fn fuse(mut disk: Tensors) -> Result<Tensors, WeightsError> {
    let mut memory = Tensors::new();
    for name in disk.keys().cloned().collect::<Vec<_>>() {
        let Some(tensor) = disk.get(&name) else { continue };
        let Some((fused, members)) = FUSED.iter().find(|(_, members)| name.contains(members[0])) else {
            if !FUSED.iter().any(|(_, members)| members.iter().any(|m| name.contains(m))) {
                memory.insert(name.clone(), kernel_in(&name, tensor)?);
                disk.remove(&name);
            }
            continue;
        };
        let member = |m: &&str| {
            let name = name.replace(members[0], m);
            disk.get(&name).cloned().ok_or_else(|| bad(&name, "missing"))
        };
        let parts = members.iter().map(member).collect::<Result<Vec<_>, _>>()?;
        let whole = Tensor::cat(&parts, 0).map_err(|e| bad(&name, e))?;
        memory.insert(name.replace(members[0], fused), whole);
        members.iter().for_each(|m| drop(disk.remove(&name.replace(members[0], m))));
    }
    memory.extend(disk); // what is left has no place; `Params` names it
    Ok(memory)
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
        let rows = tensor.dim(0).map_err(|e| bad(name, e))?;
        let first = if members.len() == 3 && name.contains("language_model") { query_rows } else { rows / members.len() };
        let mut at = 0;
        for (i, member) in members.iter().enumerate() {
            let len = if i == 0 { first } else { (rows - first) / (members.len() - 1) };
            let part = tensor.narrow(0, at, len).and_then(|t| t.contiguous()).map_err(|e| bad(name, e))?;
            disk.insert(name.replace(fused, member), part);
            at += len;
        }
    }
    Ok(disk)
}

/// Reads safetensors bytes (disk layout) as `dtype` on `device`; `file` is only for messages.
///
/// # Errors
/// When the bytes are damaged or a tensor holds a type other than f64, f32, f16 or bf16, or a value that is not finite.
pub fn parse(bytes: &[u8], file: &str, dtype: DType, device: &Device) -> Result<Tensors, WeightsError> {
    let format = |source| WeightsError::Format { file: file.to_owned(), source };
    let views = safetensors::SafeTensors::deserialize(bytes).map_err(format)?;
    let mut tensors = Tensors::new();
    for (name, view) in views.tensors() {
        let stored: DType = view.dtype().try_into().map_err(|e: candle_core::Error| bad(&name, e))?;
        if !matches!(stored, DType::F64 | DType::F32 | DType::F16 | DType::BF16) {
            return Err(bad(&name, format!("has element type {stored:?}; f32, f16 and bf16 are understood")));
        }
        let load = || Tensor::from_raw_buffer(view.data(), stored, view.shape(), device)?.to_dtype(dtype);
        tensors.insert(name.clone(), load().map_err(|e| bad(&name, e))?);
    }
    Ok(tensors)
}

/// Reads a safetensors file.
///
/// # Errors
/// As [`parse`], and when the file cannot be read.
pub fn read(path: &Path, dtype: DType, device: &Device) -> Result<Tensors, WeightsError> {
    let bytes = std::fs::read(path).map_err(|source| WeightsError::Read { path: path.to_owned(), source })?;
    parse(&bytes, &path.display().to_string(), dtype, device)
}

/// Writes tensors (disk layout) as `dtype`; the file appears whole or not at all.
///
/// # Errors
/// When a tensor cannot be converted or the file cannot be written.
pub fn write(path: &Path, tensors: &Tensors, dtype: DType) -> Result<(), WeightsError> {
    let mut converted = BTreeMap::new();
    for (name, tensor) in tensors {
        converted.insert(name.clone(), tensor.to_dtype(dtype).map_err(|e| bad(name, e))?);
    }
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    let bytes = safetensors::serialize(&converted, Some(metadata))
        .map_err(|source| WeightsError::Format { file: path.display().to_string(), source })?;
    let write_error = |source| WeightsError::Write { path: path.to_owned(), source };
    let part = path.with_extension("part");
    std::fs::write(&part, bytes).map_err(write_error)?;
    std::fs::rename(&part, path).map_err(write_error)
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
        for value in flat().map_err(|e| bad(name, e))? {
            if !value.is_finite() {
                return Err(bad(name, format!("holds {value}")));
            }
            sha.update(value.to_le_bytes());
        }
    }
    Ok(Version(sha.finalize().iter().map(|byte| format!("{byte:02x}")).collect()))
}
