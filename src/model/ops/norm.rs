//! Fused RMSNorm, LayerNorm and GroupNorm (+ swish) with their backward passes.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};
use multiversion::multiversion;
use rayon::prelude::*;

use super::kernel::{View, sigmoid, slice, sum_by, sum_by2};
use super::linear::add;

/// Rows handled by one task; fixed, so that weight gradients do not depend on the number of threads.
const ROWS: usize = 128;

/// `x [rows, n]`, `weight [n]` → `x / rms(x) * weight`.
pub(super) struct RmsNorm {
    pub eps: f32,
}

/// `x [rows, n]`, `weight [n]`, `bias [n]`.
pub(super) struct LayerNorm {
    pub eps: f32,
}

/// `x [pictures, pixels, channels]` (channels last), `weight [channels]`, `bias [channels]`; optionally swish of the result.
pub(super) struct GroupNorm {
    pub groups: usize,
    pub eps: f32,
    pub swish: bool,
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn rms_row(x: &[f32], w: &[f32], eps: f32, y: &mut [f32]) {
    let inverse = 1.0 / (sum_by(x, |v| v * v) / x.len() as f32 + eps).sqrt();
    for ((y, &x), &w) in y.iter_mut().zip(x).zip(w) {
        *y = x * inverse * w;
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn rms_row_grad(x: &[f32], w: &[f32], g: &[f32], eps: f32, dx: &mut [f32], dw: &mut [f32]) {
    let n = x.len();
    let inverse = 1.0 / (sum_by(x, |v| v * v) / n as f32 + eps).sqrt();
    for (((d, &g), &w), &x) in dx.iter_mut().zip(g).zip(w).zip(x) {
        *d = g * w * x;
    }
    let shared = sum_by(dx, |v| v) * inverse * inverse * inverse / n as f32;
    for i in 0..n.min(w.len()).min(g.len()).min(dx.len()).min(dw.len()) {
        dx[i] = g[i] * w[i] * inverse - x[i] * shared;
        dw[i] += g[i] * x[i] * inverse;
    }
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, w: &CpuStorage, lw: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, n) = lx.shape().dims2()?;
        let (x, w) = (slice(x, lx)?, slice(w, lw)?);
        let mut y = vec![0.0; x.len()];
        y.par_chunks_mut(n).zip(x.par_chunks(n)).with_min_len(ROWS).for_each(|(y, x)| rms_row(x, w, self.eps, y));
        Ok((CpuStorage::F32(y), lx.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (_, n) = x.dims2()?;
        let grad = grad.contiguous()?;
        let (xs, ws, gs) = (View::of(x)?, View::of(w)?, View::of(&grad)?);
        let mut dx = vec![0.0; xs.len()];
        let parts: Vec<Vec<f32>> = dx
            .par_chunks_mut(n * ROWS)
            .zip(xs.par_chunks(n * ROWS))
            .zip(gs.par_chunks(n * ROWS))
            .map(|((dx, x), g)| {
                let mut dw = vec![0.0; n];
                for ((dx, x), g) in dx.chunks_exact_mut(n).zip(x.chunks_exact(n)).zip(g.chunks_exact(n)) {
                    rms_row_grad(x, &ws, g, self.eps, dx, &mut dw);
                }
                dw
            })
            .collect();
        Ok((Some(Tensor::from_vec(dx, x.shape(), x.device())?), Some(total(&parts, n, x)?)))
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn layer_row(x: &[f32], w: &[f32], b: &[f32], eps: f32, y: &mut [f32]) {
    let n = x.len() as f32;
    let mean = sum_by(x, |v| v) / n;
    let inverse = 1.0 / (sum_by(x, |v| (v - mean) * (v - mean)) / n + eps).sqrt();
    for (((y, &x), &w), &b) in y.iter_mut().zip(x).zip(w).zip(b) {
        *y = (x - mean) * inverse * w + b;
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn layer_row_grad(x: &[f32], w: &[f32], g: &[f32], eps: f32, dx: &mut [f32], dw: &mut [f32], db: &mut [f32]) {
    let n = x.len() as f32;
    let mean = sum_by(x, |v| v) / n;
    let inverse = 1.0 / (sum_by(x, |v| (v - mean) * (v - mean)) / n + eps).sqrt();
    for ((d, &g), &w) in dx.iter_mut().zip(g).zip(w) {
        *d = g * w;
    }
    let first = sum_by(dx, |v| v) / n;
    let second = sum_by2(dx, x, |d, v| d * (v - mean) * inverse) / n;
    for i in 0..x.len().min(g.len()).min(dx.len()).min(dw.len()).min(db.len()) {
        let normal = (x[i] - mean) * inverse;
        dx[i] = inverse * (dx[i] - first - normal * second);
        dw[i] += g[i] * normal;
        db[i] += g[i];
    }
}

impl CustomOp3 for LayerNorm {
    fn name(&self) -> &'static str {
        "layer-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (_, n) = lx.shape().dims2()?;
        let (x, w, b) = (slice(x, lx)?, slice(w, lw)?, slice(b, lb)?);
        let mut y = vec![0.0; x.len()];
        y.par_chunks_mut(n).zip(x.par_chunks(n)).with_min_len(ROWS).for_each(|(y, x)| layer_row(x, w, b, self.eps, y));
        Ok((CpuStorage::F32(y), lx.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _b: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (_, n) = x.dims2()?;
        let grad = grad.contiguous()?;
        let (xs, ws, gs) = (View::of(x)?, View::of(w)?, View::of(&grad)?);
        let mut dx = vec![0.0; xs.len()];
        let (dw, db): (Vec<_>, Vec<_>) = dx
            .par_chunks_mut(n * ROWS)
            .zip(xs.par_chunks(n * ROWS))
            .zip(gs.par_chunks(n * ROWS))
            .map(|((dx, x), g)| {
                let (mut dw, mut db) = (vec![0.0; n], vec![0.0; n]);
                for ((dx, x), g) in dx.chunks_exact_mut(n).zip(x.chunks_exact(n)).zip(g.chunks_exact(n)) {
                    layer_row_grad(x, &ws, g, self.eps, dx, &mut dw, &mut db);
                }
                (dw, db)
            })
            .unzip();
        Ok((Some(Tensor::from_vec(dx, x.shape(), x.device())?), Some(total(&dw, n, x)?), Some(total(&db, n, x)?)))
    }
}

/// Sum of equally long vectors, in order.
fn total(parts: &[Vec<f32>], n: usize, like: &Tensor) -> Result<Tensor> {
    let mut sum = vec![0.0; n];
    parts.iter().for_each(|part| add(&mut sum, part));
    Tensor::from_vec(sum, n, like.device())
}

/// Per channel: what to subtract and what to multiply with, shared by the channels of a group.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn group_stats(x: &[f32], channels: usize, groups: usize, eps: f32) -> (Vec<f32>, Vec<f32>) {
    let mut mean = vec![0.0; channels];
    x.chunks_exact(channels).for_each(|pixel| add_inline(&mut mean, pixel));
    let count = x.len() as f32 / groups as f32;
    share(&mut mean, groups, |sum| sum / count);
    let mut spread = vec![0.0; channels];
    for pixel in x.chunks_exact(channels) {
        for ((s, &v), &m) in spread.iter_mut().zip(pixel).zip(&mean) {
            *s += (v - m) * (v - m);
        }
    }
    share(&mut spread, groups, |sum| 1.0 / (sum / count + eps).sqrt());
    (mean, spread)
}

#[inline(always)]
fn add_inline(a: &mut [f32], b: &[f32]) {
    a.iter_mut().zip(b).for_each(|(a, &b)| *a += b);
}

/// Replaces each channel's figure by `f` of the sum over its group.
#[inline(always)]
fn share(x: &mut [f32], groups: usize, f: impl Fn(f32) -> f32) {
    for group in x.chunks_exact_mut(x.len() / groups) {
        let value = f(group.iter().sum());
        group.fill(value);
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn group_apply(x: &[f32], mean: &[f32], inverse: &[f32], w: &[f32], b: &[f32], swish: bool, y: &mut [f32]) {
    let c = mean.len();
    let scale: Vec<f32> = inverse.iter().zip(w).map(|(i, w)| i * w).collect();
    let shift: Vec<f32> = b.iter().zip(mean).zip(&scale).map(|((b, m), s)| b - m * s).collect();
    for (x, y) in x.chunks_exact(c).zip(y.chunks_exact_mut(c)) {
        for (((y, &x), &s), &t) in y.iter_mut().zip(x).zip(&scale).zip(&shift) {
            let z = x * s + t;
            *y = if swish { z * sigmoid(z) } else { z };
        }
    }
}

/// Gradient for one picture; adds to `dw` and `db`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
#[allow(clippy::too_many_arguments)] // a kernel: every argument is a slice of one array
fn group_grad(
    x: &[f32],
    (mean, inverse): (&[f32], &[f32]),
    (w, b): (&[f32], &[f32]),
    grad: &[f32],
    groups: usize,
    swish: bool,
    dx: &mut [f32],
    dw: &mut [f32],
    db: &mut [f32],
) {
    let c = mean.len();
    // First pass: gradient before the activation into `dx`, and its per-channel sums.
    for ((x, g), d) in x.chunks_exact(c).zip(grad.chunks_exact(c)).zip(dx.chunks_exact_mut(c)) {
        for i in 0..c {
            let normal = (x[i] - mean[i]) * inverse[i];
            let z = normal * w[i] + b[i];
            let s = sigmoid(z);
            let dz = if swish { g[i] * s * (1.0 + z * (1.0 - s)) } else { g[i] };
            d[i] = dz;
            dw[i] += dz * normal;
            db[i] += dz;
        }
    }
    let count = x.len() as f32 / groups as f32;
    let mut first: Vec<f32> = db.iter().zip(w).map(|(d, w)| d * w).collect();
    let mut second: Vec<f32> = dw.iter().zip(w).map(|(d, w)| d * w).collect();
    share(&mut first, groups, |sum| sum / count);
    share(&mut second, groups, |sum| sum / count);
    for (x, d) in x.chunks_exact(c).zip(dx.chunks_exact_mut(c)) {
        for i in 0..c {
            let normal = (x[i] - mean[i]) * inverse[i];
            d[i] = inverse[i] * (d[i] * w[i] - first[i] - normal * second[i]);
        }
    }
}

impl CustomOp3 for GroupNorm {
    fn name(&self) -> &'static str {
        "group-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (_, pixels, channels) = lx.shape().dims3()?;
        let (x, w, b) = (slice(x, lx)?, slice(w, lw)?, slice(b, lb)?);
        let mut y = vec![0.0; x.len()];
        y.par_chunks_mut(pixels * channels).zip(x.par_chunks(pixels * channels)).for_each(|(y, x)| {
            let (mean, inverse) = group_stats(x, channels, self.groups, self.eps);
            group_apply(x, &mean, &inverse, w, b, self.swish, y);
        });
        Ok((CpuStorage::F32(y), lx.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (_, pixels, c) = x.dims3()?;
        let grad = grad.contiguous()?;
        let (xs, ws, bs, gs) = (View::of(x)?, View::of(w)?, View::of(b)?, View::of(&grad)?);
        let mut dx = vec![0.0; xs.len()];
        let (dw, db): (Vec<_>, Vec<_>) = dx
            .par_chunks_mut(pixels * c)
            .zip(xs.par_chunks(pixels * c))
            .zip(gs.par_chunks(pixels * c))
            .map(|((dx, x), g)| {
                let (mut dw, mut db) = (vec![0.0; c], vec![0.0; c]);
                let (mean, inverse) = group_stats(x, c, self.groups, self.eps);
                group_grad(x, (&mean, &inverse), (&ws, &bs), g, self.groups, self.swish, dx, &mut dw, &mut db);
                (dw, db)
            })
            .unzip();
        Ok((Some(Tensor::from_vec(dx, x.shape(), x.device())?), Some(total(&dw, c, x)?), Some(total(&db, c, x)?)))
    }
}
