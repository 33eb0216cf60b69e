//! Fused 3×3 convolution and nearest upsampling on channels-last pictures, with their backward passes.
//!
//! In a zero-padded channels-last picture the three pixels under one kernel row are neighbours in memory, and so are the
//! kernel rows of consecutive pixels. A convolution is then three matrix products on overlapping views, with no im2col copy; and
//! where the output channels fill whole vectors, a loop over these views in place, with nothing packed and the sums in registers.

use candle_core::{CpuStorage, CustomOp1, CustomOp3, Layout, Result, Shape, Tensor, bail};
use multiversion::multiversion;
use multiversion::target::target_cfg_f;
use rayon::prelude::*;

use super::kernel::{Mat, View, matmul, mul_add, slice};
use super::linear::{add, column_sums};

/// Stride 1, padding 1. `x [n, h, w, c]`, `weight [9 c, out]` with rows in (ky, kx, c) order, `bias [out]` → `[n, h, w, out]`.
pub(super) struct Conv3x3;

/// `[n, h, w, c]` → `[n, 2 h, 2 w, c]`, nearest neighbour.
pub(super) struct Upsample2x;

/// Pixels of one task: a band of about this many fits the second-level cache at the usual channel counts.
const BAND_PIXELS: usize = 1024;

#[derive(Clone, Copy)]
struct Dims {
    n: usize,
    h: usize,
    w: usize,
    c: usize,
    out: usize,
}

impl Dims {
    fn of(x: &Shape, weight: &Shape) -> Result<Self> {
        let (n, h, w, c) = x.dims4()?;
        let (inner, out) = weight.dims2()?;
        if inner != 9 * c {
            bail!("a 3x3 convolution of {c} channels needs {} weight rows, got {inner}", 9 * c);
        }
        Ok(Self { n, h, w, c, out })
    }

    /// Elements of one padded row of the input.
    fn padded_row(&self) -> usize {
        (self.w + 2) * self.c
    }

    /// Rows `y0 - 1 ..= y0 + rows` of picture `x`, zero-padded all round, with room to read past the end.
    fn pad(&self, x: &[f32], y0: usize, rows: usize) -> Vec<f32> {
        let row = self.w * self.c;
        let mut padded = vec![0.0; (rows + 2) * self.padded_row() + 2 * self.c];
        for (i, line) in padded.chunks_exact_mut(self.padded_row()).take(rows + 2).enumerate() {
            let y = y0 + i;
            if (1..=self.h).contains(&y) {
                line[self.c..self.c + row].copy_from_slice(&x[(y - 1) * row..y * row]);
            }
        }
        padded
    }

    /// The view whose row m holds the 3 c inputs under kernel row `ky` at output pixel m of the padded geometry.
    fn kernel_row<'a>(&self, padded: &'a [f32], ky: usize, rows: usize) -> Mat<'a> {
        Mat::rows(&padded[ky * self.padded_row()..], rows * (self.w + 2), 3 * self.c, self.c)
    }
}

fn convolve(x: &[f32], weight: &[f32], bias: Option<&[f32]>, d: Dims) -> Result<Vec<f32>> {
    let band = (BAND_PIXELS / d.w.max(1)).clamp(1, d.h.max(1));
    let (out_row, kernel) = (d.w * d.out, 3 * d.c * d.out);
    let mut y = vec![0.0; d.n * d.h * out_row];
    let tasks: Vec<_> = y
        .chunks_mut((d.h * out_row).max(1))
        .zip(x.chunks_exact((d.h * d.w * d.c).max(1)))
        .flat_map(|(y, x)| y.chunks_mut(band * out_row).enumerate().map(move |(i, y)| (x, i * band, y)))
        .collect();
    tasks.into_par_iter().try_for_each(|(x, y0, y)| {
        let rows = y.len() / out_row;
        let padded = d.pad(x, y0, rows);
        if d.out.is_multiple_of(LANES) {
            for (row, y) in y.chunks_exact_mut(out_row).enumerate() {
                let lines = &padded[row * d.padded_row()..(row + 3) * d.padded_row()];
                convolve_line(lines, weight, bias, d.c, d.out, y);
            }
            return Ok(());
        }
        let mut wide = vec![0.0; rows * (d.w + 2) * d.out];
        for ky in 0..3 {
            let w = Mat::rows(&weight[ky * kernel..(ky + 1) * kernel], 3 * d.c, d.out, d.out);
            matmul(&mut wide, d.out, d.kernel_row(&padded, ky, rows), w, ky > 0, 1)?;
        }
        for (y, wide) in y.chunks_exact_mut(out_row).zip(wide.chunks_exact((d.w + 2) * d.out)) {
            y.copy_from_slice(&wide[..out_row]);
            if let Some(bias) = bias {
                y.chunks_exact_mut(d.out).for_each(|pixel| add(pixel, bias));
            }
        }
        Result::Ok(())
    })?;
    Ok(y)
}

/// Channels of a vector, and pixels computed together: their sums stay in registers.
const LANES: usize = 16;
const PIXELS: usize = 8;

/// One line of the output `y [w, out]` from the three padded lines `[3, w + 2, c]` that it sees; `out` is a multiple of `LANES`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn convolve_line(lines: &[f32], weight: &[f32], bias: Option<&[f32]>, c: usize, out: usize, y: &mut [f32]) {
    let fused = target_cfg_f!(target_feature = "fma");
    let mut parts = y.chunks_exact_mut(PIXELS * out);
    let mut first = 0;
    for y in parts.by_ref() {
        convolve_pixels::<PIXELS>(lines, weight, bias, (c, out), first, y, fused);
        first += PIXELS;
    }
    for y in parts.into_remainder().chunks_exact_mut(out) {
        convolve_pixels::<1>(lines, weight, bias, (c, out), first, y, fused);
        first += 1;
    }
}

/// `N` pixels from `first` on; `fused` is known where this is compiled into.
#[inline(always)]
fn convolve_pixels<const N: usize>(
    lines: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    (c, out): (usize, usize),
    first: usize,
    y: &mut [f32],
    fused: bool,
) {
    for channel in (0..out).step_by(LANES) {
        let mut start = [0.0; LANES];
        if let Some(bias) = bias {
            start.copy_from_slice(&bias[channel..channel + LANES]);
        }
        let mut sums = [start; N];
        for (line, weight) in lines.chunks_exact(lines.len() / 3).zip(weight.chunks_exact(3 * c * out)) {
            let seen: [&[f32]; N] = std::array::from_fn(|pixel| &line[(first + pixel) * c..(first + pixel + 3) * c]);
            for (at, weight) in weight.chunks_exact(out).enumerate() {
                let weight = &weight[channel..channel + LANES];
                for (sums, seen) in sums.iter_mut().zip(seen) {
                    let input = seen[at];
                    for (sum, weight) in sums.iter_mut().zip(weight) {
                        *sum = mul_add(input, *weight, *sum, fused);
                    }
                }
            }
        }
        for (y, sums) in y.chunks_exact_mut(out).zip(sums) {
            y[channel..channel + LANES].copy_from_slice(&sums);
        }
    }
}

/// The kernel turned by 180 degrees with inputs and outputs exchanged: `[9 c, out]` → `[9 out, c]`.
fn flip(weight: &[f32], c: usize, out: usize) -> Vec<f32> {
    let mut flipped = vec![0.0; weight.len()];
    for tap in 0..9 {
        let (from, to) = (&weight[tap * c * out..], &mut flipped[(8 - tap) * c * out..]);
        for i in 0..c {
            for o in 0..out {
                to[o * c + i] = from[i * out + o];
            }
        }
    }
    flipped
}

/// Gradient of the weight, summed over pictures in order.
fn weight_grad(x: &[f32], grad: &[f32], d: Dims) -> Result<Vec<f32>> {
    let kernel = 3 * d.c * d.out;
    let parts: Vec<Vec<f32>> = x
        .par_chunks_exact((d.h * d.w * d.c).max(1))
        .zip(grad.par_chunks_exact((d.h * d.w * d.out).max(1)))
        .map(|(x, grad)| {
            let padded = d.pad(x, 0, d.h);
            let mut wide = vec![0.0; d.h * (d.w + 2) * d.out];
            for (wide, grad) in wide.chunks_exact_mut((d.w + 2) * d.out).zip(grad.chunks_exact(d.w * d.out)) {
                wide[..d.w * d.out].copy_from_slice(grad);
            }
            let g = Mat::rows(&wide, d.h * (d.w + 2), d.out, d.out);
            let mut dw = vec![0.0; 3 * kernel];
            for (ky, dw) in dw.chunks_exact_mut(kernel).enumerate() {
                matmul(dw, d.out, d.kernel_row(&padded, ky, d.h).t(), g, false, 1)?;
            }
            Ok(dw)
        })
        .collect::<Result<_>>()?;
    let mut sum = vec![0.0; 3 * kernel];
    parts.iter().for_each(|part| add(&mut sum, part));
    Ok(sum)
}

impl CustomOp3 for Conv3x3 {
    fn name(&self) -> &'static str {
        "conv3x3"
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
        let d = Dims::of(lx.shape(), lw.shape())?;
        let y = convolve(slice(x, lx)?, slice(w, lw)?, Some(slice(b, lb)?), d)?;
        Ok((CpuStorage::F32(y), Shape::from((d.n, d.h, d.w, d.out))))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        b: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let d = Dims::of(x.shape(), w.shape())?;
        let grad = grad.contiguous()?;
        let (xs, ws, gs) = (View::of(x)?, View::of(w)?, View::of(&grad)?);
        let back = Dims { c: d.out, out: d.c, ..d };
        let dx = convolve(&gs, &flip(&ws, d.c, d.out), None, back)?;
        Ok((
            Some(Tensor::from_vec(dx, x.shape(), x.device())?),
            Some(Tensor::from_vec(weight_grad(&xs, &gs, d)?, w.shape(), x.device())?),
            Some(Tensor::from_vec(column_sums(&gs, d.out), b.shape(), x.device())?),
        ))
    }
}

impl CustomOp1 for Upsample2x {
    fn name(&self) -> &'static str {
        "upsample2x"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, h, w, c) = lx.shape().dims4()?;
        let x = slice(x, lx)?;
        let mut y = vec![0.0; 4 * x.len()];
        y.par_chunks_exact_mut(4 * w * c).zip(x.par_chunks_exact(w * c)).for_each(|(two, row)| {
            let (first, second) = two.split_at_mut(2 * w * c);
            for (pair, pixel) in first.chunks_exact_mut(2 * c).zip(row.chunks_exact(c)) {
                pair[..c].copy_from_slice(pixel);
                pair[c..].copy_from_slice(pixel);
            }
            second.copy_from_slice(first);
        });
        Ok((CpuStorage::F32(y), Shape::from((n, 2 * h, 2 * w, c))))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (_, _, w, c) = x.dims4()?;
        let grad = grad.contiguous()?;
        let gs = View::of(&grad)?;
        let mut dx = vec![0.0; x.elem_count()];
        dx.par_chunks_exact_mut(w * c).zip(gs.par_chunks_exact(4 * w * c)).for_each(|(row, two)| {
            for half in two.chunks_exact(2 * w * c) {
                for (pixel, pair) in row.chunks_exact_mut(c).zip(half.chunks_exact(2 * c)) {
                    add(pixel, &pair[..c]);
                    add(pixel, &pair[c..]);
                }
            }
        });
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}
