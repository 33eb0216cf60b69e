//! Every operation of the network, differentiable on every path, and the only place that chooses how one is computed: fused
//! CPU kernels for `f32` on a CPU, compositions of candle's differentiable operations elsewhere. candle's own fused norms,
//! softmax and rotary drop gradients without an error, so the network may not call them.

mod act;
mod attention;
mod blocks;
mod conv;
mod few;
mod half;
mod kernel;
mod linear;
mod low_rank;
mod nibbles;
mod norm;
#[cfg(target_arch = "x86_64")]
mod pairs;
mod plain;
mod quantised;
mod quantised_dot;
mod slots;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod vnni;
mod weight;
mod widen;

use std::sync::Arc;

use candle_core::{DType, Result, Tensor, bail};

pub use quantised::{Kind, Quantised};
pub use weight::{Changed, Weight};

/// How one row of fused queries, keys and values is laid out: `count` query heads, then `kv` key heads, then `kv` value heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    pub count: usize,
    /// Key and value heads; divides `count` (grouped-query attention).
    pub kv: usize,
    pub dim: usize,
}

impl Heads {
    /// Elements of a fused row.
    #[must_use]
    pub fn fused(self) -> usize {
        (self.count + 2 * self.kv) * self.dim
    }

    /// Elements of an attention output row.
    #[must_use]
    pub fn width(self) -> usize {
        self.count * self.dim
    }

    fn query_at(self, head: usize) -> usize {
        head * self.dim
    }

    fn keys_at(self, kv: usize) -> usize {
        (self.count + kv) * self.dim
    }

    fn values_at(self, kv: usize) -> usize {
        (self.count + self.kv + kv) * self.dim
    }

    fn key_at(self, head: usize) -> usize {
        self.keys_at(head / (self.count / self.kv))
    }

    fn value_at(self, head: usize) -> usize {
        self.values_at(head / (self.count / self.kv))
    }
}

/// `len` consecutive rows from `row` on that attend among themselves; the first stands at `position` of its sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub row: usize,
    pub len: usize,
    pub position: usize,
}

/// `len` consecutive rows from `row` on that continue the sequence in `slot` from `position` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotSpan {
    pub slot: usize,
    pub row: usize,
    pub len: usize,
    pub position: usize,
}

/// Rotary position embedding, half-split convention: pair (i, i + dim/2), angle `position * theta^(-2 i / dim)`.
#[derive(Debug)]
pub struct Rope {
    half: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Rope {
    #[must_use]
    pub fn new(theta: f64, dim: usize, positions: usize) -> Self {
        let half = dim / 2;
        let angle = |at: usize| (at / half) as f64 * theta.powf(-((2 * (at % half)) as f64) / dim as f64);
        let table = |f: fn(f64) -> f64| (0..half * positions).map(|at| f(angle(at)) as f32).collect();
        Self { half, cos: table(f64::cos), sin: table(f64::sin) }
    }

    /// # Errors
    /// When some of the first `positions` positions are not in the table.
    fn check(&self, positions: usize) -> Result<()> {
        if positions * self.half > self.cos.len() {
            bail!("position {positions} is past the longest context of {}", self.cos.len() / self.half.max(1));
        }
        Ok(())
    }

    /// Rotates one head in place; `direction` -1 rotates back. The position was checked.
    fn rotate(&self, row: &mut [f32], position: usize, direction: f32) {
        let at = position * self.half;
        let (first, second) = row.split_at_mut(self.half);
        let (cos, sin) = (&self.cos[at..at + self.half], &self.sin[at..at + self.half]);
        for (((a, b), &c), &s) in first.iter_mut().zip(second).zip(cos).zip(sin) {
            let s = s * direction;
            (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
        }
    }
}

fn fused(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32
}

/// `x [rows, in]`, `weight [out, in]`, `bias [out]` → `[rows, out]`. `f32` rows on a CPU may meet weights of half precision or
/// quantised ones; no gradient goes through those, and asking for one is an error.
pub fn linear(x: &Tensor, weight: &Weight, bias: Option<&Tensor>) -> Result<Tensor> {
    let dense = match weight {
        Weight::Dense(dense) => dense,
        Weight::Quantised(matrix) => {
            let bias = bias.map(Tensor::to_vec1).transpose()?;
            return x.contiguous()?.apply_op1(quantised::QuantisedLinear { matrix: matrix.clone(), bias });
        }
        Weight::Changed(changed) if fused(x) => {
            let op = low_rank::LowRank { whole: changed.whole.detach(), scale: changed.scale as f32 };
            let y = x.contiguous()?.apply_op3(&changed.down, &changed.up, op)?;
            return if let Some(bias) = bias { y.broadcast_add(bias) } else { Ok(y) };
        }
        Weight::Changed(changed) => &changed.whole,
    };
    if fused(x) && matches!(dense.dtype(), DType::BF16 | DType::F16) {
        return match bias {
            None => x.contiguous()?.apply_op2(dense, half::HalfLinear),
            Some(bias) => x.contiguous()?.apply_op3(dense, &bias.to_dtype(DType::F32)?, half::HalfLinearBias),
        };
    }
    match (fused(x), bias) {
        (false, _) => plain::linear(x, dense, bias),
        (true, None) => x.contiguous()?.apply_op2(dense, linear::Linear),
        (true, Some(bias)) => x.contiguous()?.apply_op3(dense, bias, linear::LinearBias),
    }
}

/// `a + b` of one shape. candle's own sum of large tensors wakes a pool of threads beside ours.
pub fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if fused(a) { a.contiguous()?.apply_op2(&b.contiguous()?, act::Add) } else { a + b }
}

/// RMSNorm of the rows of `x [rows, n]`.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    if !fused(x) {
        return plain::rms_norm(x, weight, eps);
    }
    x.contiguous()?.apply_op2(weight, norm::RmsNorm { eps: eps as f32 })
}

/// LayerNorm of the rows of `x [rows, n]`.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    if !fused(x) {
        return plain::layer_norm(x, weight, bias, eps);
    }
    x.contiguous()?.apply_op3(weight, bias, norm::LayerNorm { eps: eps as f32 })
}

/// GroupNorm of channels-last pictures `[n, h, w, c]`, then x·sigmoid(x) if `swish`.
pub fn group_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, groups: usize, eps: f64, swish: bool) -> Result<Tensor> {
    let (n, h, w, c) = x.dims4()?;
    if groups == 0 || c % groups != 0 {
        bail!("{c} channels do not fall into {groups} groups");
    }
    let flat = x.contiguous()?.reshape((n, h * w, c))?;
    let y = if fused(x) {
        flat.apply_op3(weight, bias, norm::GroupNorm { groups, eps: eps as f32, swish })?
    } else {
        plain::group_norm(&flat, weight, bias, groups, eps, swish)?
    };
    y.reshape((n, h, w, c))
}

/// Exact (erf) GELU.
pub fn gelu(x: &Tensor) -> Result<Tensor> {
    if fused(x) { x.contiguous()?.apply_op1(act::Gelu) } else { x.gelu_erf() }
}

/// `[rows, 2 n]` (gate, then up) → `silu(gate) * up`, `[rows, n]`.
pub fn swiglu(x: &Tensor) -> Result<Tensor> {
    if fused(x) { x.contiguous()?.apply_op1(act::SwiGlu) } else { plain::swiglu(x) }
}

/// log softmax(`logits [rows, n]`) at one id a row → `[rows]`, `f32`.
pub fn log_prob(logits: &Tensor, ids: &[u32]) -> Result<Tensor> {
    if fused(logits) {
        return logits.contiguous()?.apply_op1(act::LogProb { ids: ids.to_vec() });
    }
    plain::log_prob(logits, ids)
}

/// 3×3 convolution, stride 1, padding 1, of `x [n, h, w, c]` with `weight [9 c, out]` (rows in (ky, kx, c) order).
pub fn conv3x3(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    if fused(x) { x.contiguous()?.apply_op3(weight, bias, conv::Conv3x3) } else { plain::conv3x3(x, weight, bias) }
}

/// `[n, h, w, c]` → `[n, 2 h, 2 w, c]`, nearest neighbour.
pub fn upsample2x(x: &Tensor) -> Result<Tensor> {
    if fused(x) { x.contiguous()?.apply_op1(conv::Upsample2x) } else { plain::upsample2x(x) }
}

/// Attention of fused rows `[rows, heads.fused()]` within their segments, which tile the rows in order → `[rows, heads.width()]`.
pub fn attention(
    qkv: &Tensor,
    heads: Heads,
    segments: &Arc<Vec<Segment>>,
    causal: bool,
    rope: Option<&Arc<Rope>>,
) -> Result<Tensor> {
    if !fused(qkv) {
        return plain::attention(qkv, heads, segments, causal, rope.map(AsRef::as_ref));
    }
    let op = attention::SegmentAttention { heads, segments: segments.clone(), causal, rope: rope.cloned() };
    qkv.contiguous()?.apply_op1(op)
}

/// Attention of `q [len, heads, dim]` to all of `k` and `v [seen, heads, dim]` → `[len, heads * dim]`. Composed everywhere.
pub fn cross_attention(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    plain::attend(q, k, v, false)
}

/// Appends fused rows to their slots of `keys` (`[slots, kv, dim, capacity]`) and `values` (`[slots, kv, capacity, dim]`, both written
/// in place), then attends to everything in the slot up to each row's own position → `[rows, heads.width()]`. Spans tile the rows in
/// order. Beside `f32` rows on a CPU the cache may be bf16, to which keys and values are rounded. No gradient.
pub fn slot_attention(
    qkv: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    heads: Heads,
    spans: &Arc<Vec<SlotSpan>>,
    rope: &Arc<Rope>,
) -> Result<Tensor> {
    rope.check(spans.iter().map(|s| s.position + s.len).max().unwrap_or(0))?;
    if !fused(qkv) {
        return plain::slot_attention(qkv, keys, values, heads, spans, rope);
    }
    let qkv = qkv.contiguous()?;
    let store = |value| slots::StoreRows { heads, spans: spans.clone(), rope: rope.clone(), value };
    keys.inplace_op2(&qkv, &store(false))?;
    values.inplace_op2(&qkv, &store(true))?;
    qkv.apply_op3_no_bwd(keys, values, &slots::SlotAttention { heads, spans: spans.clone(), rope: rope.clone() })
}
