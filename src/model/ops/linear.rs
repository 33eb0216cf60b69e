//! Fused `x W^T + b` with its backward pass.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::few;
use super::kernel::{Mat, View, matmul, slice};

/// `x [rows, in]`, `w [out, in]` → `[rows, out]`.
pub(super) struct Linear;

/// As [`Linear`] with a bias `[out]`.
pub(super) struct LinearBias;

fn forward(x: &[f32], w: &[f32], bias: Option<&[f32]>, lx: &Layout, lw: &Layout) -> Result<(CpuStorage, Shape)> {
    let (rows, inner) = lx.shape().dims2()?;
    let (outer, _) = lw.shape().dims2()?;
    let mut y = match bias {
        Some(b) => b.repeat(rows),
        None => vec![0.0; rows * outer],
    };
    if (2..few::MOST_ROWS).contains(&rows) {
        few::add_product(&mut y, x, w, inner, outer);
    } else {
        let (x, w) = (Mat::rows(x, rows, inner, inner), Mat::rows(w, outer, inner, inner));
        matmul(&mut y, outer, x, w.t(), bias.is_some(), 0)?;
    }
    Ok((CpuStorage::F32(y), Shape::from((rows, outer))))
}

fn backward(x: &Tensor, w: &Tensor, grad: &Tensor) -> Result<(Tensor, Tensor)> {
    let (rows, inner) = x.dims2()?;
    let outer = w.dim(0)?;
    let (xs, ws, gs) = (View::of(x)?, View::of(w)?, View::of(grad)?);
    let g = Mat::rows(&gs, rows, outer, outer);
    let mut dx = vec![0.0; rows * inner];
    matmul(&mut dx, inner, g, Mat::rows(&ws, outer, inner, inner), false, 0)?;
    let mut dw = vec![0.0; outer * inner];
    matmul(&mut dw, inner, g.t(), Mat::rows(&xs, rows, inner, inner), false, 0)?;
    Ok((Tensor::from_vec(dx, (rows, inner), x.device())?, Tensor::from_vec(dw, (outer, inner), x.device())?))
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, w: &CpuStorage, lw: &Layout) -> Result<(CpuStorage, Shape)> {
        forward(slice(x, lx)?, slice(w, lw)?, None, lx, lw)
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (dx, dw) = backward(x, w, &grad.contiguous()?)?;
        Ok((Some(dx), Some(dw)))
    }
}

impl CustomOp3 for LinearBias {
    fn name(&self) -> &'static str {
        "linear-bias"
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
        forward(slice(x, lx)?, slice(w, lw)?, Some(slice(b, lb)?), lx, lw)
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let (dx, dw) = backward(x, w, &grad)?;
        let outer = b.dim(0)?;
        let db = column_sums(&View::of(&grad)?, outer);
        Ok((Some(dx), Some(dw), Some(Tensor::from_vec(db, outer, b.device())?)))
    }
}

/// Sums of the columns of a row-major matrix, in a fixed order.
pub(super) fn column_sums(x: &[f32], cols: usize) -> Vec<f32> {
    const ROWS: usize = 512; // fixed, so that the sum does not depend on the number of threads
    let parts: Vec<Vec<f32>> = x
        .par_chunks(ROWS * cols)
        .map(|part| {
            let mut sum = vec![0.0; cols];
            for row in part.chunks_exact(cols) {
                add(&mut sum, row);
            }
            sum
        })
        .collect();
    let mut total = vec![0.0; cols];
    parts.iter().for_each(|part| add(&mut total, part));
    total
}

/// `a += b`.
pub(super) fn add(a: &mut [f32], b: &[f32]) {
    a.iter_mut().zip(b).for_each(|(a, &b)| *a += b);
}
