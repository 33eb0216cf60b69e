//! The matrix of a linear layer, `[out, in]`, in whatever form it is kept. Activations are another matter: they are `f32` on a CPU,
//! whatever the weights are.

use std::sync::Arc;

use candle_core::Tensor;

use super::quantised::Quantised;

/// A matrix `[out, in]`.
#[derive(Clone, Debug)]
pub enum Weight {
    /// A tensor of that shape: `f32` (learns), or `bf16` or `f16` (does not).
    Dense(Tensor),
    /// Blocks of small whole numbers on a CPU; does not learn.
    Quantised(Arc<Quantised>),
}

impl Weight {
    /// Bytes that its numbers take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::Dense(tensor) => tensor.elem_count() * tensor.dtype().size_in_bytes(),
            Self::Quantised(matrix) => matrix.bytes(),
        }
    }
}

impl From<Tensor> for Weight {
    fn from(tensor: Tensor) -> Self {
        Self::Dense(tensor)
    }
}

impl From<Quantised> for Weight {
    fn from(matrix: Quantised) -> Self {
        Self::Quantised(Arc::new(matrix))
    }
}
