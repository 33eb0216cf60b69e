//! The one definition of pi(token | state): logits → guided, tempered log-probabilities. Serving and training both call it.

use candle_core::{D, DType, Result, Tensor};

use super::ops;

/// Classifier-free guidance of image logits, `u + w (c - u)`, in f32. Both `[rows, n]`.
pub fn guide(conditional: &Tensor, unconditional: &Tensor, weight: f64) -> Result<Tensor> {
    let (c, u) = (conditional.to_dtype(DType::F32)?, unconditional.to_dtype(DType::F32)?);
    &u + ((c - &u)? * weight)?
}

/// log softmax(`logits / temperature`) over the last dimension, in f32. Temperature 0 (greedy) is scored at 1.
pub fn log_probs(logits: &Tensor, temperature: f64) -> Result<Tensor> {
    candle_nn::ops::log_softmax(&tempered(logits, temperature)?, D::Minus1)
}

/// [`log_probs`] at one id a row: `logits [rows, n]` → `[rows]`, f32, differentiable.
pub fn log_prob_of(logits: &Tensor, ids: &[u32], temperature: f64) -> Result<Tensor> {
    ops::log_prob(&tempered(logits, temperature)?, ids)
}

fn tempered(logits: &Tensor, temperature: f64) -> Result<Tensor> {
    let logits = logits.to_dtype(DType::F32)?;
    if temperature == 0.0 || temperature == 1.0 { Ok(logits) } else { logits / temperature }
}
