//! Fused `x W^T + b` with its backward pass.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::few;
use super::kernel::{Mat, View, matmul, slice};

/// `x [rows, in]`, `w [out, in]` → `[rows, out]`.
pub(super) struct Linear;

/// As [`Linear`] with a bias `[out]`.
pub(super) struct LinearBias;

pub(super) fn forward(
    x: &[f32],
    w: &[f32],
    bias: Option<&[f32]>,
    (rows, inner): (usize, usize),
    outer: usize,
) -> Result<(CpuStorage, Shape)> {
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

/// The gradient in `x`, given that of the outputs; none where nothing that learns is in it.
pub(super) fn input_gradient(x: &Tensor, w: &Tensor, grads: &[f32]) -> Result<Option<Tensor>> {
    if !x.track_op() {
        return Ok(None);
    }
    let ((rows, inner), outer) = (x.dims2()?, w.dim(0)?);
    let mut dx = vec![0.0; rows * inner];
    let g = Mat::rows(grads, rows, outer, outer);
    matmul(&mut dx, inner, g, Mat::rows(&View::of(w)?, outer, inner, inner), false, 0)?;
    Tensor::from_vec(dx, x.shape(), x.device()).map(Some)
}

/// The gradient in `w`, as [`input_gradient`].
fn weight_gradient(x: &Tensor, w: &Tensor, grads: &[f32]) -> Result<Option<Tensor>> {
    if !w.track_op() {
        return Ok(None);
    }
    let ((rows, inner), outer) = (x.dims2()?, w.dim(0)?);
    let mut dw = vec![0.0; outer * inner];
    let g = Mat::rows(grads, rows, outer, outer);
    matmul(&mut dw, inner, g.t(), Mat::rows(&View::of(x)?, rows, inner, inner), false, 0)?;
    Tensor::from_vec(dw, w.shape(), w.device()).map(Some)
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, w: &CpuStorage, lw: &Layout) -> Result<(CpuStorage, Shape)> {
        forward(slice(x, lx)?, slice(w, lw)?, None, lx.shape().dims2()?, lw.shape().dims2()?.0)
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let grads = View::of(&grad)?;
        Ok((input_gradient(x, w, &grads)?, weight_gradient(x, w, &grads)?))
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
        forward(slice(x, lx)?, slice(w, lw)?, Some(slice(b, lb)?), lx.shape().dims2()?, lw.shape().dims2()?.0)
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
        let (grads, outer) = (View::of(&grad)?, b.dim(0)?);
        let db = Tensor::from_vec(column_sums(&grads, outer), outer, b.device())?;
        Ok((input_gradient(x, w, &grads)?, weight_gradient(x, w, &grads)?, Some(db)))
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
