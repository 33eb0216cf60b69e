//! Fused elementwise operations with their backward passes: sums, SwiGLU, GELU (erf), and the log-probability of chosen ids.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, bail};
use multiversion::multiversion;
use rayon::prelude::*;

use super::kernel::{View, exp, max, normal, sigmoid, slice, sum_by};
use super::linear::add;

const CHUNK: usize = 16 * 1024;

/// `[rows, 2 n]` (gate, then up) → `silu(gate) * up` of `[rows, n]`.
pub(super) struct SwiGlu;

/// Exact GELU, `x Phi(x)`, any shape.
pub(super) struct Gelu;

/// `[rows, n]` logits → `log softmax(logits)[ids[row]]` of `[rows]`.
pub(super) struct LogProb {
    pub ids: Vec<u32>,
}

/// Sum of two tensors of one shape.
pub(super) struct Add;

impl CustomOp2 for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn cpu_fwd(&self, a: &CpuStorage, la: &Layout, b: &CpuStorage, lb: &Layout) -> Result<(CpuStorage, Shape)> {
        let (a, b) = (slice(a, la)?, slice(b, lb)?);
        if la.shape() != lb.shape() {
            bail!("sums need one shape, not {:?} and {:?}", la.shape(), lb.shape());
        }
        let mut y = a.to_vec();
        y.par_chunks_mut(CHUNK).zip(b.par_chunks(CHUNK)).for_each(|(y, b)| add(y, b));
        Ok((CpuStorage::F32(y), la.shape().clone()))
    }

    fn bwd(&self, _a: &Tensor, _b: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((Some(grad.clone()), Some(grad.clone())))
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn swiglu_row(gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((o, &g), &u) in out.iter_mut().zip(gate).zip(up) {
        *o = g * sigmoid(g) * u;
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn swiglu_row_grad(gate: &[f32], up: &[f32], grad: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
    for i in 0..gate.len().min(up.len()).min(grad.len()).min(dgate.len()).min(dup.len()) {
        let (g, s) = (gate[i], sigmoid(gate[i]));
        dup[i] = grad[i] * g * s;
        dgate[i] = grad[i] * up[i] * s * (1.0 + g * (1.0 - s));
    }
}

impl CustomOp1 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, both) = lx.shape().dims2()?;
        let n = both / 2;
        let mut y = vec![0.0; rows * n];
        y.par_chunks_mut(n).zip(slice(x, lx)?.par_chunks(both)).with_min_len(64).for_each(|(y, x)| {
            let (gate, up) = x.split_at(n);
            swiglu_row(gate, up, y);
        });
        Ok((CpuStorage::F32(y), Shape::from((rows, n))))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (rows, both) = x.dims2()?;
        let n = both / 2;
        let grad = grad.contiguous()?;
        let (xs, gs) = (View::of(x)?, View::of(&grad)?);
        let mut dx = vec![0.0; rows * both];
        dx.par_chunks_mut(both).zip(xs.par_chunks(both)).zip(gs.par_chunks(n)).with_min_len(64).for_each(
            |((dx, x), g)| {
                let ((gate, up), (dgate, dup)) = (x.split_at(n), dx.split_at_mut(n));
                swiglu_row_grad(gate, up, g, dgate, dup);
            },
        );
        Ok(Some(Tensor::from_vec(dx, (rows, both), x.device())?))
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn gelu_chunk(x: &[f32], out: &mut [f32]) {
    for (o, &x) in out.iter_mut().zip(x) {
        *o = x * normal(x).0;
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn gelu_chunk_grad(x: &[f32], grad: &[f32], dx: &mut [f32]) {
    for ((d, &x), &g) in dx.iter_mut().zip(x).zip(grad) {
        let (cumulative, density) = normal(x);
        *d = g * (cumulative + x * density);
    }
}

impl CustomOp1 for Gelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = slice(x, lx)?;
        let mut y = vec![0.0; x.len()];
        y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| gelu_chunk(x, y));
        Ok((CpuStorage::F32(y), lx.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = grad.contiguous()?;
        let (xs, gs) = (View::of(x)?, View::of(&grad)?);
        let mut dx = vec![0.0; xs.len()];
        dx.par_chunks_mut(CHUNK)
            .zip(xs.par_chunks(CHUNK))
            .zip(gs.par_chunks(CHUNK))
            .for_each(|((d, x), g)| gelu_chunk_grad(x, g, d));
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}

/// log of the sum of `e^x` over a row.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn log_sum_exp(x: &[f32]) -> f32 {
    let top = max(x);
    top + sum_by(x, |v| exp(v - top)).ln()
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn scaled_softmax(x: &[f32], log_sum: f32, scale: f32, out: &mut [f32]) {
    for (o, &x) in out.iter_mut().zip(x) {
        *o = scale * exp(x - log_sum);
    }
}

impl CustomOp1 for LogProb {
    fn name(&self) -> &'static str {
        "log-prob"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, n) = lx.shape().dims2()?;
        if self.ids.len() != rows || self.ids.iter().any(|&id| id as usize >= n) {
            bail!("log-prob needs one id below {n} for each of {rows} rows");
        }
        let x = slice(x, lx)?;
        let y: Vec<f32> =
            x.par_chunks(n).zip(&self.ids).with_min_len(16).map(|(x, &id)| x[id as usize] - log_sum_exp(x)).collect();
        Ok((CpuStorage::F32(y), Shape::from(rows)))
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (rows, n) = x.dims2()?;
        let grad = grad.contiguous()?;
        let (xs, ys, gs) = (View::of(x)?, View::of(y)?, View::of(&grad)?);
        let mut dx = vec![0.0; rows * n];
        dx.par_chunks_mut(n).enumerate().with_min_len(16).for_each(|(row, dx)| {
            let (x, id) = (&xs[row * n..(row + 1) * n], self.ids[row] as usize);
            // y = x[id] - log_sum, so log_sum needs no second pass.
            scaled_softmax(x, x[id] - ys[row], -gs[row], dx);
            dx[id] += gs[row];
        });
        Ok(Some(Tensor::from_vec(dx, (rows, n), x.device())?))
    }
}
