//! Fused attention on CPU: over the segments of a ragged batch (with backward), and over the slots of a cache (without).
//! One row of input holds a token's queries, keys and values of all heads side by side, before rotation.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, CustomOp3, InplaceOp2, Layout, Result, Shape, Tensor, bail};
use multiversion::multiversion;
use rayon::prelude::*;

use super::kernel::{LANES, Mat, View, matmul, slice, softmax, sum_by2};
use super::{Heads, Rope, Segment, SlotSpan};

/// `[rows, (heads + 2 kv) dim]` → `[rows, heads dim]`; rows attend within their segment.
pub(super) struct SegmentAttention {
    pub heads: Heads,
    pub segments: Arc<Vec<Segment>>,
    pub causal: bool,
    pub rope: Option<Arc<Rope>>,
}

/// Copies one head's `[len, dim]` out of the fused rows, rotated.
fn gather(x: &[f32], width: usize, at: usize, dim: usize, rope: Option<(&Rope, usize)>) -> Vec<f32> {
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
fn normalise(scores: &mut [f32], keys: usize, first: usize, causal: bool, scale: f32) {
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

/// Writes keys of fused rows, rotated, into a cache `[slots, kv, dim, capacity]` (`value: false`), or values into one
/// `[slots, kv, capacity, dim]`.
pub(super) struct StoreRows {
    pub heads: Heads,
    pub spans: Arc<Vec<SlotSpan>>,
    pub rope: Arc<Rope>,
    pub value: bool,
}

impl InplaceOp2 for StoreRows {
    fn name(&self) -> &'static str {
        "store-rows"
    }

    fn cpu_fwd(&self, cache: &mut CpuStorage, lc: &Layout, x: &CpuStorage, lx: &Layout) -> Result<()> {
        let (slots, kv, third, fourth) = lc.shape().dims4()?;
        let (capacity, dim) = if self.value { (third, fourth) } else { (fourth, third) };
        let (x, h) = (slice(x, lx)?, self.heads);
        let (CpuStorage::F32(cache), 0, true) = (cache, lc.start_offset(), lc.is_contiguous()) else {
            bail!("the cache must be contiguous f32")
        };
        check_spans(&self.spans, slots, capacity, x.len() / h.fused())?;
        let mut key = vec![0.0; dim];
        for span in self.spans.iter() {
            for i in 0..span.len {
                let row = &x[(span.row + i) * h.fused()..(span.row + i + 1) * h.fused()];
                let position = span.position + i;
                for head in 0..kv {
                    let to = (span.slot * kv + head) * capacity * dim;
                    if self.value {
                        let at = h.values_at(head);
                        cache[to + position * dim..to + (position + 1) * dim].copy_from_slice(&row[at..at + dim]);
                    } else {
                        let at = h.keys_at(head);
                        key.copy_from_slice(&row[at..at + dim]);
                        self.rope.rotate(&mut key, position, 1.0);
                        let places = cache[to + position..].iter_mut().step_by(capacity);
                        places.zip(&key).for_each(|(place, &k)| *place = k);
                    }
                }
            }
        }
        Ok(())
    }
}

fn check_spans(spans: &[SlotSpan], slots: usize, capacity: usize, rows: usize) -> Result<()> {
    match spans.iter().find(|s| s.slot >= slots || s.position + s.len > capacity || s.row + s.len > rows) {
        Some(bad) => bail!("{bad:?} lies outside a cache of {slots} slots of {capacity} tokens"),
        None => Ok(()),
    }
}

/// What one query sees: `out = softmax(scale q K) V` with the first `n` of `keys` `[dim, capacity]` and `values` `[n, dim]`. In a
/// decoding step every span is one query, and a general matrix product costs more to call than this to compute. Keys lie side by
/// side, so that a wide vector holds a number of each of many and no product ends in a sum across its lanes.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn attend(q: &[f32], keys: &[f32], values: &[f32], scale: f32, scores: &mut Vec<f32>, out: &mut [f32]) {
    let (n, capacity) = (values.len() / q.len(), keys.len() / q.len());
    scores.clear();
    scores.resize(n, 0.0);
    // Four numbers of each key at a time: what is read again and written again are the sums.
    for (q, keys) in q.chunks(4).zip(keys.chunks(4 * capacity)) {
        let mut rows = keys.chunks_exact(capacity).map(|row| &row[..n]);
        if let ([q0, q1, q2, q3], Some(a), Some(b), Some(c), Some(d)) =
            (q, rows.next(), rows.next(), rows.next(), rows.next())
        {
            let keys = a.iter().zip(b).zip(c.iter().zip(d));
            for (score, ((a, b), (c, d))) in scores.iter_mut().zip(keys) {
                *score += (q0 * a + q1 * b) + (q2 * c + q3 * d);
            }
        } else {
            for (q, row) in q.iter().zip(keys.chunks_exact(capacity)) {
                scores.iter_mut().zip(row).for_each(|(score, k)| *score += q * k);
            }
        }
    }
    softmax(scores, scale);
    let mut at = 0;
    let weighted = || scores.iter().zip(values.chunks_exact(q.len()));
    let mut parts = out.chunks_exact_mut(LANES);
    for out in parts.by_ref() {
        let mut sums = [0.0; LANES];
        for (&weight, value) in weighted() {
            sums.iter_mut().zip(&value[at..at + LANES]).for_each(|(sum, v)| *sum += weight * v);
        }
        out.copy_from_slice(&sums);
        at += LANES;
    }
    for out in parts.into_remainder() {
        *out = weighted().map(|(&weight, value)| weight * value[at]).sum();
        at += 1;
    }
}

/// Queries of fused rows attend to their slot's keys and values up to their own position → `[rows, heads dim]`.
pub(super) struct SlotAttention {
    pub heads: Heads,
    pub spans: Arc<Vec<SlotSpan>>,
    pub rope: Arc<Rope>,
}

impl CustomOp3 for SlotAttention {
    fn name(&self) -> &'static str {
        "slot-attention"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        keys: &CpuStorage,
        lk: &Layout,
        values: &CpuStorage,
        lv: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (slots, kv, dim, capacity) = lk.shape().dims4()?;
        let (x, keys, values, h) = (slice(x, lx)?, slice(keys, lk)?, slice(values, lv)?, self.heads);
        let rows = x.len() / h.fused();
        check_spans(&self.spans, slots, capacity, rows)?;
        self.rope.check(capacity)?;
        let mut y = vec![0.0; rows * h.width()];
        let mut tiles = Vec::with_capacity(self.spans.len());
        let mut rest = y.as_mut_slice();
        for span in self.spans.iter() {
            let Some((tile, tail)) = rest.split_at_mut_checked(span.len * h.width()) else {
                bail!("spans are longer than their rows")
            };
            tiles.push((tile, *span));
            rest = tail;
        }
        let scale = 1.0 / (dim as f32).sqrt();
        tiles.into_par_iter().try_for_each(|(out, span)| {
            let seen = span.position + span.len;
            let x = &x[span.row * h.fused()..(span.row + span.len) * h.fused()];
            let mut scores = vec![0.0; span.len * seen];
            for head in 0..h.count {
                let q = gather(x, h.fused(), h.query_at(head), dim, Some((&*self.rope, span.position)));
                let at = (span.slot * kv + head / (h.count / h.kv)) * capacity * dim;
                let (k, v) = (&keys[at..at + capacity * dim], &values[at..at + seen * dim]);
                if span.len == 1 {
                    attend(&q, k, v, scale, &mut scores, &mut out[head * dim..(head + 1) * dim]);
                    continue;
                }
                let (k, v) = (Mat::rows(k, dim, seen, capacity), Mat::rows(v, seen, dim, dim));
                matmul(&mut scores, seen, Mat::rows(&q, span.len, dim, dim), k, false, 1)?;
                normalise(&mut scores, seen, span.position, true, scale);
                matmul(&mut out[head * dim..], h.width(), Mat::rows(&scores, span.len, seen, seen), v, false, 1)?;
            }
            Result::Ok(())
        })?;
        Ok((CpuStorage::F32(y), Shape::from((rows, h.width()))))
    }
}
