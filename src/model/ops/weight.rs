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
    /// A matrix of which a change of low rank is a part, which learns.
    Changed(Arc<Changed>),
}

/// `whole [out, in]`, differentiable in what it is made of, of which `scale · up down` is a part that learns and all else is fixed.
#[derive(Debug)]
pub struct Changed {
    pub whole: Tensor,
    /// `[rank, in]`
    pub down: Tensor,
    /// `[out, rank]`
    pub up: Tensor,
    pub scale: f64,
}

impl Weight {
    /// `[out, in]`
    #[must_use]
    pub fn shape(&self) -> Vec<usize> {
        match self {
            Self::Dense(tensor) => tensor.dims().to_vec(),
            Self::Quantised(matrix) => vec![matrix.rows(), matrix.inputs()],
            Self::Changed(changed) => changed.whole.dims().to_vec(),
        }
    }

    /// Bytes that its numbers take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let dense = |tensor: &Tensor| tensor.elem_count() * tensor.dtype().size_in_bytes();
        match self {
            Self::Dense(tensor) => dense(tensor),
            Self::Quantised(matrix) => matrix.bytes(),
            Self::Changed(changed) => [&changed.whole, &changed.down, &changed.up].map(dense).iter().sum(),
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
