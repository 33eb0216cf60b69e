//! Fused attention on CPU over the segments of a ragged batch, with its backward pass. One row of input holds a token's queries, keys
//! and values of all heads side by side, before rotation.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::kernel::{Mat, View, matmul, slice, softmax, sum_by2};
use super::{Heads, Rope, Segment};

/// `[rows, (heads + 2 kv) dim]` → `[rows, heads dim]`; rows attend within their segment.
pub(super) struct SegmentAttention {
    pub heads: Heads,
    pub segments: Arc<Vec<Segment>>,
    pub causal: bool,
    pub rope: Option<Arc<Rope>>,
}

/// Copies one head's `[len, dim]` out of the fused rows, rotated.
pub(super) fn gather(x: &[f32], width: usize, at: usize, dim: usize, rope: Option<(&Rope, usize)>) -> Vec<f32> {
    let mut out = Vec::with_capacity(x.len() / width.max(1) * dim);
    for row in x.chunks_exact(width) {
        out.extend_from_slice(&row[at..at + dim]);
    }
    if let Some((rope, position)) = rope {
        for (i, row) in out.chunks_exact_mut(dim).enumerate() {
            rope.rotate(row, position + i, 1.0);
        }
    }
    out
}

/// Row-wise causal (or full) softmax of scores whose row i is the query at key index `first + i`.
pub(super) fn normalise(scores: &mut [f32], keys: usize, first: usize, causal: bool, scale: f32) {
    for (i, row) in scores.chunks_exact_mut(keys).enumerate() {
        let seen = if causal { (first + i + 1).min(keys) } else { keys };
        let (seen, rest) = row.split_at_mut(seen);
        softmax(seen, scale);
        rest.fill(0.0);
    }
}

impl SegmentAttention {
    fn scale(&self) -> f32 {
        1.0 / (self.heads.dim as f32).sqrt()
    }

    /// Cuts the rows of `data` into the segments' chunks; they must tile it in order.
    fn tile<'a>(&self, mut data: &'a mut [f32], width: usize) -> Result<Vec<(&'a mut [f32], Segment)>> {
        let mut tiles = Vec::with_capacity(self.segments.len());
        for &segment in self.segments.iter() {
            let Some((head, tail)) = data.split_at_mut_checked(segment.len * width) else {
                bail!("attention segments are longer than their rows")
            };
            tiles.push((head, segment));
            data = tail;
        }
        if !data.is_empty() {
            bail!("attention segments do not cover all rows");
        }
        Ok(tiles)
    }

    /// Rotated query, key and value of one head.
    fn qkv(&self, x: &[f32], head: usize, position: usize) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
        let h = self.heads;
        let rope = self.rope.as_deref().map(|rope| (rope, position));
        (
            gather(x, h.fused(), h.query_at(head), h.dim, rope),
            gather(x, h.fused(), h.key_at(head), h.dim, rope),
            gather(x, h.fused(), h.value_at(head), h.dim, None),
        )
    }

    fn weights(&self, q: &[f32], k: &[f32], len: usize) -> Result<Vec<f32>> {
        let dim = self.heads.dim;
        let mut scores = vec![0.0; len * len];
        matmul(&mut scores, len, Mat::rows(q, len, dim, dim), Mat::rows(k, len, dim, dim).t(), false, 1)?;
        normalise(&mut scores, len, 0, self.causal, self.scale());
        Ok(scores)
    }

    fn forward(&self, x: &[f32], out: &mut [f32], position: usize) -> Result<()> {
        let (h, dim) = (self.heads, self.heads.dim);
        let len = x.len() / h.fused();
        for head in 0..h.count {
            let (q, k, v) = self.qkv(x, head, position);
            let weights = self.weights(&q, &k, len)?;
            let (w, v) = (Mat::rows(&weights, len, len, len), Mat::rows(&v, len, dim, dim));
            matmul(&mut out[head * dim..], h.count * dim, w, v, false, 1)?;
        }
        Ok(())
    }

    fn backward(&self, x: &[f32], grad: &[f32], dx: &mut [f32], position: usize) -> Result<()> {
        let (h, dim) = (self.heads, self.heads.dim);
        let len = x.len() / h.fused();
        for head in 0..h.count {
            let (q, k, v) = self.qkv(x, head, position);
            let p = self.weights(&q, &k, len)?;
            let g = gather(grad, h.count * dim, head * dim, dim, None);
            let matrix = |m| Mat::rows(m, len, dim, dim);
            let square = |m| Mat::rows(m, len, len, len);

            let mut dv = vec![0.0; len * dim];
            matmul(&mut dv, dim, square(&p).t(), matrix(&g), false, 1)?;
            let mut ds = vec![0.0; len * len];
            matmul(&mut ds, len, matrix(&g), matrix(&v).t(), false, 1)?;
            for (ds, p) in ds.chunks_exact_mut(len).zip(p.chunks_exact(len)) {
                let mean = sum_by2(ds, p, |d, p| d * p);
                ds.iter_mut().zip(p).for_each(|(d, &p)| *d = p * (*d - mean) * self.scale());
            }
            let (mut dq, mut dk) = (vec![0.0; len * dim], vec![0.0; len * dim]);
            matmul(&mut dq, dim, square(&ds), matrix(&k), false, 1)?;
            matmul(&mut dk, dim, square(&ds).t(), matrix(&q), false, 1)?;

            let mut scatter = |at: usize, d: &mut [f32], rotated: bool| {
                for (i, (row, d)) in dx.chunks_exact_mut(h.fused()).zip(d.chunks_exact_mut(dim)).enumerate() {
                    if let (true, Some(rope)) = (rotated, self.rope.as_deref()) {
                        rope.rotate(d, position + i, -1.0);
                    }
                    row[at..at + dim].iter_mut().zip(d).for_each(|(x, d)| *x += *d);
                }
            };
            scatter(h.query_at(head), &mut dq, true);
            scatter(h.key_at(head), &mut dk, true);
            scatter(h.value_at(head), &mut dv, false);
        }
        Ok(())
    }

    fn check(&self, shape: &Shape) -> Result<usize> {
        let (rows, width) = shape.dims2()?;
        if width != self.heads.fused() {
            bail!("attention rows of {width} do not hold {:?}", self.heads);
        }
        if let Some(rope) = &self.rope {
            rope.check(self.segments.iter().map(|s| s.position + s.len).max().unwrap_or(0))?;
        }
        Ok(rows)
    }
}

impl CustomOp1 for SegmentAttention {
    fn name(&self) -> &'static str {
        "segment-attention"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout) -> Result<(CpuStorage, Shape)> {
        let rows = self.check(lx.shape())?;
        let (x, h) = (slice(x, lx)?, self.heads);
        let mut y = vec![0.0; rows * h.width()];
        self.tile(&mut y, h.width())?.into_par_iter().try_for_each(|(out, s)| {
            self.forward(&x[s.row * h.fused()..(s.row + s.len) * h.fused()], out, s.position)
        })?;
        Ok((CpuStorage::F32(y), Shape::from((rows, h.width()))))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let h = self.heads;
        let grad = grad.contiguous()?;
        let (xs, gs) = (View::of(x)?, View::of(&grad)?);
        let mut dx = vec![0.0; xs.len()];
        self.tile(&mut dx, h.fused())?.into_par_iter().try_for_each(|(dx, s)| {
            let rows = s.row..s.row + s.len;
            let (x, g) =
                (&xs[rows.start * h.fused()..rows.end * h.fused()], &gs[rows.start * h.width()..rows.end * h.width()]);
            self.backward(x, g, dx, s.position)
        })?;
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}
