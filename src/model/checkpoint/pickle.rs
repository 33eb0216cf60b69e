//! PyTorch's `.bin` files: a ZIP archive of raw storages beside a pickle that names them. candle's reader understands just the
//! opcodes that such a list needs and calls nothing that a file names. It does not check all that it reads, so it is watched here.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use candle_core::pickle::PthTensors;
use candle_core::{DType, Tensor};

use crate::model::weights::WeightsError;

/// Shapes and element types by name.
pub type List = BTreeMap<String, (Vec<usize>, DType)>;

/// An open `.bin` file.
pub struct Pickle {
    reader: PthTensors,
}

/// What `read` gives, with a panic told as an error.
fn watched<T>(read: impl FnOnce() -> candle_core::Result<T>) -> Result<T, WeightsError> {
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(WeightsError::Pickle(error.to_string())),
        Err(_) => Err(WeightsError::Pickle("its list of tensors is damaged".into())),
    }
}

impl Pickle {
    /// Opens the file and lists its tensors with shape and element type.
    ///
    /// # Errors
    /// When it is none of PyTorch's ZIP files, or names more numbers than it can hold.
    pub fn open(path: &Path) -> Result<(Self, List), WeightsError> {
        let size =
            std::fs::metadata(path).map_err(|source| WeightsError::Read { path: path.to_owned(), source })?.len();
        let reader = watched(|| PthTensors::new(path, None))?;
        let mut tensors = BTreeMap::new();
        for (name, info) in reader.tensor_infos() {
            let shape = info.layout.dims().to_vec();
            let bytes = shape
                .iter()
                .try_fold(info.dtype.size_in_bytes(), |bytes, side| bytes.checked_mul(*side))
                .and_then(|bytes| bytes.checked_add(info.layout.start_offset()));
            // Storages are kept as they are, never compressed.
            if bytes.is_none_or(|bytes| bytes as u64 > size) {
                return Err(WeightsError::Tensor {
                    name: name.clone(),
                    what: format!("of shape {shape:?} is larger than the file"),
                });
            }
            tensors.insert(name.clone(), (shape, info.dtype));
        }
        if tensors.is_empty() {
            return Err(WeightsError::Pickle("it lists no tensors".into()));
        }
        Ok((Self { reader }, tensors))
    }

    /// A whole tensor, as it is stored.
    ///
    /// # Errors
    /// When its bytes are missing or lie otherwise than in rows.
    pub fn get(&self, name: &str) -> Result<Tensor, WeightsError> {
        let tensor = watched(|| self.reader.get(name))?;
        tensor.ok_or_else(|| WeightsError::Tensor { name: name.to_owned(), what: "is missing".into() })
    }
}
