//! `x W^T` of a matrix of which only a change of low rank learns (LoRA, arXiv 2106.09685): forward as one matrix, back without the gradient
//! of the whole.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};

use super::kernel::{Mat, View, matmul, slice};
use super::linear::{forward, input_gradient};

/// `x [rows, in]`, `down [rank, in]`, `up [out, rank]` → `[rows, out]`, as `whole` says, of which `scale · up down` is a part.
pub(super) struct LowRank {
    /// `[out, in]`, without history.
    pub whole: Tensor,
    pub scale: f32,
}

impl CustomOp3 for LowRank {
    fn name(&self) -> &'static str {
        "low-rank"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        _down: &CpuStorage,
        _ldown: &Layout,
        _up: &CpuStorage,
        _lup: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        forward(slice(x, lx)?, &View::of(&self.whole)?, None, lx.shape().dims2()?, self.whole.dim(0)?)
    }

    fn bwd(
        &self,
        x: &Tensor,
        down: &Tensor,
        up: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let ((rows, inner), (outer, rank)) = (x.dims2()?, up.dims2()?);
        let grad = grad.contiguous()?;
        let (xs, gs, downs, ups) = (View::of(x)?, View::of(&grad)?, View::of(down)?, View::of(up)?);
        let (x_rows, g_rows) = (Mat::rows(&xs, rows, inner, inner), Mat::rows(&gs, rows, outer, outer));
        // What passes between the factors, forward and back: `[rows, rank]`.
        let (mut passed, mut back) = (vec![0.0; rows * rank], vec![0.0; rows * rank]);
        matmul(&mut passed, rank, x_rows, Mat::rows(&downs, rank, inner, inner).t(), false, 0)?;
        matmul(&mut back, rank, g_rows, Mat::rows(&ups, outer, rank, rank), false, 0)?;
        passed.iter_mut().chain(&mut back).for_each(|number| *number *= self.scale);
        let (mut d_down, mut d_up) = (vec![0.0; rank * inner], vec![0.0; outer * rank]);
        matmul(&mut d_down, inner, Mat::rows(&back, rows, rank, rank).t(), x_rows, false, 0)?;
        matmul(&mut d_up, rank, g_rows.t(), Mat::rows(&passed, rows, rank, rank), false, 0)?;
        let of = |numbers, like: &Tensor| Tensor::from_vec(numbers, like.shape(), like.device());
        Ok((input_gradient(x, &self.whole, &gs)?, Some(of(d_down, down)?), Some(of(d_up, up)?)))
    }
}
