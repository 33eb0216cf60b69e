//! The operations composed of candle's own differentiable ones, for every device and type; the oracle of the fused kernels.
//! Reductions that need it run in f32, as the reference network's do.

use candle_core::{D, DType, Result, Tensor};

use super::{Heads, Rope, Segment, SlotSpan};

pub(super) fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let y = x.matmul(&weight.t()?)?;
    match bias {
        Some(bias) => y.broadcast_add(bias),
        None => Ok(y),
    }
}

/// f32 for half types, unchanged for f32 and f64.
fn wide(x: &Tensor) -> Result<Tensor> {
    if x.dtype() == DType::F64 { Ok(x.clone()) } else { x.to_dtype(DType::F32) }
}

pub(super) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let dtype = x.dtype();
    let x = wide(x)?;
    let variance = x.sqr()?.mean_keepdim(D::Minus1)?;
    x.broadcast_div(&(variance + eps)?.sqrt()?)?.to_dtype(dtype)?.broadcast_mul(weight)
}

pub(super) fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let dtype = x.dtype();
    let x = wide(x)?;
    let x = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = x.sqr()?.mean_keepdim(D::Minus1)?;
    let x = x.broadcast_div(&(variance + eps)?.sqrt()?)?.to_dtype(dtype)?;
    x.broadcast_mul(weight)?.broadcast_add(bias)
}

/// `x [n, pixels, c]`.
pub(super) fn group_norm(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    groups: usize,
    eps: f64,
    swish: bool,
) -> Result<Tensor> {
    let (n, pixels, c) = x.dims3()?;
    let dtype = x.dtype();
    let grouped = wide(x)?.reshape((n, pixels, groups, c / groups))?.transpose(1, 2)?.reshape((
        n,
        groups,
        pixels * c / groups,
    ))?;
    let centred = grouped.broadcast_sub(&grouped.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let normal = centred.broadcast_div(&(variance + eps)?.sqrt()?)?;
    let normal =
        normal.reshape((n, groups, pixels, c / groups))?.transpose(1, 2)?.reshape((n, pixels, c))?.to_dtype(dtype)?;
    let y = normal.broadcast_mul(weight)?.broadcast_add(bias)?;
    if swish { y.silu() } else { Ok(y) }
}

pub(super) fn swiglu(x: &Tensor) -> Result<Tensor> {
    let n = x.dim(1)? / 2;
    x.narrow(1, 0, n)?.silu()? * x.narrow(1, n, n)?
}

pub(super) fn log_prob(logits: &Tensor, ids: &[u32]) -> Result<Tensor> {
    let ids = Tensor::new(ids, logits.device())?.unsqueeze(1)?;
    candle_nn::ops::log_softmax(&wide(logits)?, D::Minus1)?.gather(&ids, 1)?.squeeze(1)
}

pub(super) fn conv3x3(x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let (c, out) = (x.dim(3)?, weight.dim(1)?);
    let kernel = weight.reshape((3, 3, c, out))?.permute((3, 2, 0, 1))?.contiguous()?;
    let y = x.permute((0, 3, 1, 2))?.contiguous()?.conv2d(&kernel, 1, 1, 1, 1)?;
    y.permute((0, 2, 3, 1))?.contiguous()?.broadcast_add(bias)
}

pub(super) fn upsample2x(x: &Tensor) -> Result<Tensor> {
    let (n, h, w, c) = x.dims4()?;
    let x = x.reshape((n, h, 1, w, 1, c))?;
    x.broadcast_as((n, h, 2, w, 2, c))?.reshape((n, 2 * h, 2 * w, c))
}

/// `[rows, heads, dim]` of one kind of head, rotated from `position` on.
fn rotate(x: &Tensor, rope: &Rope, position: usize) -> Result<Tensor> {
    let (len, _, dim) = x.dims3()?;
    let range = position * rope.half..(position + len) * rope.half;
    let table =
        |t: &[f32]| Tensor::new(&t[range.clone()], x.device())?.reshape((len, 1, rope.half))?.to_dtype(x.dtype());
    let (cos, sin) = (table(&rope.cos)?, table(&rope.sin)?);
    let (a, b) = (x.narrow(2, 0, dim / 2)?, x.narrow(2, dim / 2, dim / 2)?);
    let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
    let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
    Tensor::cat(&[first, second], 2)
}

/// Query, key and value `[rows, heads or kv, dim]` of fused rows.
fn split(rows: &Tensor, heads: Heads, rope: Option<(&Rope, usize)>) -> Result<(Tensor, Tensor, Tensor)> {
    let len = rows.dim(0)?;
    let part = |at: usize, count: usize| rows.narrow(1, at, count * heads.dim)?.reshape((len, count, heads.dim));
    let (q, k, v) = (part(0, heads.count)?, part(heads.keys_at(0), heads.kv)?, part(heads.values_at(0), heads.kv)?);
    match rope {
        Some((rope, position)) => Ok((rotate(&q, rope, position)?, rotate(&k, rope, position)?, v)),
        None => Ok((q, k, v)),
    }
}

/// `q [len, heads, dim]`, `k`, `v [seen, kv, dim]`; query i stands at key index `seen - len + i` → `[len, heads * dim]`.
pub(super) fn attend(q: &Tensor, k: &Tensor, v: &Tensor, causal: bool) -> Result<Tensor> {
    let ((len, count, dim), (seen, kv, _)) = (q.dims3()?, k.dims3()?);
    let spread = |x: &Tensor| {
        let x = x.transpose(0, 1)?.unsqueeze(1)?;
        x.broadcast_as((kv, count / kv, seen, dim))?.reshape((count, seen, dim))
    };
    let scores =
        (q.transpose(0, 1)?.contiguous()?.matmul(&spread(k)?.transpose(1, 2)?.contiguous()?)? / (dim as f64).sqrt())?;
    let mut scores = wide(&scores)?;
    if causal && len > 1 {
        let first = seen - len;
        let mask: Vec<f32> =
            (0..len * seen).map(|at| if at % seen > first + at / seen { f32::NEG_INFINITY } else { 0.0 }).collect();
        let mask = Tensor::from_vec(mask, (len, seen), q.device())?.to_dtype(scores.dtype())?;
        scores = scores.broadcast_add(&mask)?;
    }
    let weights = candle_nn::ops::softmax(&scores, D::Minus1)?.to_dtype(q.dtype())?;
    weights.matmul(&spread(v)?.contiguous()?)?.transpose(0, 1)?.reshape((len, count * dim))
}

pub(super) fn attention(
    qkv: &Tensor,
    heads: Heads,
    segments: &[Segment],
    causal: bool,
    rope: Option<&Rope>,
) -> Result<Tensor> {
    let parts = segments.iter().map(|s| {
        let (q, k, v) = split(&qkv.narrow(0, s.row, s.len)?, heads, rope.map(|rope| (rope, s.position)))?;
        attend(&q, &k, &v, causal)
    });
    Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 0)
}

pub(super) fn slot_attention(
    qkv: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    heads: Heads,
    spans: &[SlotSpan],
    rope: &Rope,
) -> Result<Tensor> {
    let parts = spans.iter().map(|s| {
        let (q, k, v) = split(&qkv.narrow(0, s.row, s.len)?, heads, Some((rope, s.position)))?;
        let seen = s.position + s.len;
        // Both share the cache's storage: [kv, dim, capacity], [kv, capacity, dim].
        let (keys, values) = (keys.get(s.slot)?, values.get(s.slot)?);
        keys.slice_set(&k.permute((1, 2, 0))?.contiguous()?, 2, s.position)?;
        values.slice_set(&v.transpose(0, 1)?.contiguous()?, 1, s.position)?;
        let k = keys.narrow(2, 0, seen)?.permute((2, 0, 1))?.contiguous()?;
        let v = values.narrow(1, 0, seen)?.transpose(0, 1)?.contiguous()?;
        attend(&q, &k, &v, true)
    });
    Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 0)
}
