//! The inner loops of the fused CPU operations: matrix products, vectorised `exp`, row reductions.
//! Works on `f32` slices; knows nothing of tensors or gradients. Instruction sets are chosen at run time.

use candle_core::{CpuStorage, Layout, Result, Storage, Tensor, bail};
use multiversion::multiversion;
use parking_lot::RwLockReadGuard;

/// A read-only matrix laid over a slice; strides in elements, and rows may overlap.
#[derive(Clone, Copy)]
pub(super) struct Mat<'a> {
    pub data: &'a [f32],
    pub rows: usize,
    pub cols: usize,
    pub row_stride: usize,
    pub col_stride: usize,
}

impl<'a> Mat<'a> {
    /// Row-major, `row_stride` elements from row to row.
    pub fn rows(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        Self { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// The same numbers with rows and columns exchanged.
    pub fn t(self) -> Self {
        Self { rows: self.cols, cols: self.rows, row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }

    fn fits(&self) -> bool {
        self.rows == 0
            || self.cols == 0
            || (self.rows - 1) * self.row_stride + (self.cols - 1) * self.col_stride < self.data.len()
    }
}

/// `out = lhs * rhs`, or `out += lhs * rhs`; `out` is row-major with `out_stride` elements from row to row.
/// `threads` 1 stays on this thread; 0 uses the whole pool.
pub(super) fn matmul(
    out: &mut [f32],
    out_stride: usize,
    lhs: Mat<'_>,
    rhs: Mat<'_>,
    add: bool,
    threads: usize,
) -> Result<()> {
    let (m, k, n) = (lhs.rows, lhs.cols, rhs.cols);
    let out_fits = m == 0 || n == 0 || (m - 1) * out_stride + n <= out.len();
    if rhs.rows != k || !lhs.fits() || !rhs.fits() || !out_fits || (m > 1 && out_stride < n) {
        bail!("matrix product out of bounds: {m}x{k} by {}x{n}", rhs.rows);
    }
    if m == 0 || n == 0 {
        return Ok(());
    }
    let parallelism = if threads == 1 { gemm::Parallelism::None } else { gemm::Parallelism::Rayon(threads) };
    // Strides come from slice lengths, so they fit isize.
    let s = |x: usize| x as isize;
    // SAFETY: every element addressed lies inside its slice (checked above), `out` is exclusively borrowed and its rows do
    // not overlap.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            s(out_stride),
            add,
            lhs.data.as_ptr(),
            s(lhs.col_stride),
            s(lhs.row_stride),
            rhs.data.as_ptr(),
            s(rhs.col_stride),
            s(rhs.row_stride),
            1.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
    Ok(())
}

/// `a b + c`, rounded once where the instruction set fuses the two (`fused`), which the library function alone does slowly elsewhere.
#[inline(always)]
pub(super) fn mul_add(a: f32, b: f32, c: f32, fused: bool) -> f32 {
    if fused { a.mul_add(b, c) } else { a * b + c }
}

/// e^x to about 2 units in the last place (Cephes `expf`), without branches so that loops vectorise.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to the nearest integer
    let x = x.clamp(-87.0, 88.0);
    let t = x * std::f32::consts::LOG2_E + ROUND;
    let n = t - ROUND;
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_2e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let p = p * r * r + r + 1.0;
    p * f32::from_bits((t.to_bits() << 23).wrapping_add(0x3f80_0000))
}

/// Logistic function.
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Standard normal distribution function and density, (Phi(x), phi(x)); absolute error below 2e-7
/// (Abramowitz and Stegun 7.1.26 for the error function).
#[inline(always)]
pub(super) fn normal(x: f32) -> (f32, f32) {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let p = ((((1.061_405_4 * t - 1.453_152) * t + 1.421_413_7) * t - 0.284_496_74) * t + 0.254_829_6) * t;
    let e = exp(-z * z);
    let tail = 0.5 * p * e;
    (if x < 0.0 { tail } else { 1.0 - tail }, 0.398_942_3 * e)
}

/// Partial sums of a reduction, and floats of a wide vector.
pub(super) const LANES: usize = 16;

/// Sum of the lanes by halves: one after another each addition would wait for the last. Inlined it would make the compiler keep
/// the lanes apart in the loop before it.
#[inline(never)]
pub(super) fn total(mut lanes: [f32; LANES]) -> f32 {
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
    }
    lanes[0]
}

/// Sum of `f(x)` over a slice, in a fixed order of 16 lanes.
#[inline(always)]
pub(super) fn sum_by(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane += f(v);
        }
    }
    total(lanes) + rest.iter().map(|&v| f(v)).sum::<f32>()
}

/// Sum of `f(x, y)` over two slices of one length, in a fixed order of 16 lanes.
#[inline(always)]
pub(super) fn sum_by2(x: &[f32], y: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let (xs, ys) = (x.chunks_exact(LANES), y.chunks_exact(LANES));
    let rest = xs.remainder().iter().zip(ys.remainder()).map(|(&a, &b)| f(a, b)).sum::<f32>();
    for (a, b) in xs.zip(ys) {
        for i in 0..LANES {
            lanes[i] += f(a[i], b[i]);
        }
    }
    total(lanes) + rest
}

/// Largest element; negative infinity when empty.
#[inline(always)]
pub(super) fn max(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder().iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane = if v > *lane { v } else { *lane };
        }
    }
    lanes.iter().copied().fold(rest, f32::max)
}

/// In place: `x = softmax(scale * x)`. NaN in gives NaN out.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
pub(super) fn softmax(x: &mut [f32], scale: f32) {
    let top = max(x) * scale;
    for v in x.iter_mut() {
        *v = exp(*v * scale - top);
    }
    let inverse = 1.0 / sum_by(x, |v| v);
    for v in x.iter_mut() {
        *v *= inverse;
    }
}

/// A borrowed, contiguous CPU tensor of `f32`.
pub(super) struct View<'a> {
    guard: RwLockReadGuard<'a, Storage>,
    start: usize,
    len: usize,
}

impl<'a> View<'a> {
    /// # Errors
    /// When the tensor is not contiguous `f32` on the CPU.
    pub fn of(tensor: &'a Tensor) -> Result<Self> {
        let (guard, layout) = tensor.storage_and_layout();
        let Some((start, end)) = layout.contiguous_offsets() else {
            bail!("a fused operation needs a contiguous tensor")
        };
        match &*guard {
            Storage::Cpu(CpuStorage::F32(v)) if end <= v.len() => {}
            _ => bail!("a fused operation needs an f32 tensor on the CPU"),
        }
        Ok(Self { guard, start, len: end - start })
    }
}

impl std::ops::Deref for View<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.guard {
            Storage::Cpu(CpuStorage::F32(v)) => &v[self.start..self.start + self.len],
            _ => &[], // `of` admits nothing else
        }
    }
}

/// The contiguous `f32` numbers of an operation's argument.
pub(super) fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(v), Some((start, end))) => Ok(&v[start..end]),
        _ => bail!("a fused operation needs contiguous f32"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_matches_the_library() {
        for i in -8600..8800 {
            let x = i as f32 / 100.0;
            let wanted = f64::from(x).exp();
            assert!((f64::from(exp(x)) / wanted - 1.0).abs() < 3e-7, "exp({x})");
        }
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn normal_matches_tabulated_values() {
        for (x, phi) in [(0.0, 0.5), (1.0, 0.841_344_8), (-2.0, 0.022_750_132), (5.0, 0.999_999_7)] {
            assert!((normal(x).0 - phi).abs() < 3e-7, "Phi({x})");
        }
    }

    #[test]
    fn products_outside_their_slices_are_refused() {
        let (a, b) = (vec![1.0; 6], vec![1.0; 6]);
        let mut out = vec![0.0; 4];
        let product = |out: &mut [f32], k| matmul(out, 2, Mat::rows(&a, 2, k, k), Mat::rows(&b, k, 2, 2), false, 1);
        assert!(product(&mut out, 3).is_ok());
        assert_eq!(out, [3.0; 4]);
        assert!(product(&mut out, 4).is_err());
        assert!(product(&mut out[..3], 3).is_err());
    }
}
