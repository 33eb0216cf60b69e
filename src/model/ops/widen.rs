//! Numbers of half precision made `f32` and back, and their products with `f32` activations, as plain loops that are compiled for
//! several instruction sets.

use half::{bf16, f16};
use multiversion::multiversion;
use multiversion::target::target_cfg_f;

use super::kernel::{LANES, mul_add, total};

/// A number as it is kept.
pub(super) trait Kept: Copy + Send + Sync {
    /// The same number.
    fn wide(self) -> f32;

    /// The nearest such number.
    fn of(x: f32) -> Self;

    /// Widens as many numbers as both hold.
    fn widen(x: &[Self], to: &mut [f32]);

    /// The numbers themselves where they are kept as `f32`.
    fn as_f32(_: &[Self]) -> Option<&[f32]> {
        None
    }
}

impl Kept for f32 {
    #[inline(always)]
    fn wide(self) -> f32 {
        self
    }

    #[inline(always)]
    fn of(x: f32) -> Self {
        x
    }

    fn widen(x: &[Self], to: &mut [f32]) {
        to.iter_mut().zip(x).for_each(|(to, x)| *to = *x);
    }

    fn as_f32(x: &[Self]) -> Option<&[f32]> {
        Some(x)
    }
}

impl Kept for bf16 {
    #[inline(always)]
    fn wide(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    /// The even one of two that are as near; what is no number stays none.
    #[inline(always)]
    fn of(x: f32) -> Self {
        let bits = x.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
        let kept = if x.is_nan() { (bits >> 16) | 0x40 } else { rounded };
        Self::from_bits(kept as u16) // 16 bits are left
    }

    fn widen(x: &[Self], to: &mut [f32]) {
        brains(x, to);
    }
}

impl Kept for f16 {
    /// The exponent is put right by one product, which also makes normal numbers of subnormal ones.
    #[inline(always)]
    fn wide(self) -> f32 {
        let bits = u32::from(self.to_bits());
        let (size, sign) = ((bits & 0x7fff) << 13, (bits & 0x8000) << 16);
        let finite = (f32::from_bits(size) * f32::from_bits(0x7780_0000)).to_bits(); // 2^112
        let bits = if size >= 0x0f80_0000 { size | 0x7f80_0000 } else { finite };
        f32::from_bits(bits | sign)
    }

    fn of(x: f32) -> Self {
        Self::from_f32(x)
    }

    fn widen(x: &[Self], to: &mut [f32]) {
        halves(x, to);
    }
}

/// Rounds as many numbers as both hold.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
pub(super) fn round(x: &[f32], to: &mut [bf16]) {
    to.iter_mut().zip(x).for_each(|(to, &x)| *to = bf16::of(x));
}

/// [`Kept::widen`] of bf16.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn brains(x: &[bf16], to: &mut [f32]) {
    to.iter_mut().zip(x).for_each(|(to, x)| *to = x.wide());
}

/// [`Kept::widen`] of `f16`.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn halves(x: &[f16], to: &mut [f32]) {
    to.iter_mut().zip(x).for_each(|(to, x)| *to = x.wide());
}

/// `part [rows, outs] = x W^T` with `w [outs, inner]`, `x [rows, inner]`. For a few rows; each sum is taken in one order, however many.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
pub(super) fn brain_products(w: &[bf16], x: &[f32], inner: usize, part: &mut [f32]) {
    products(w, x, inner, part, target_cfg_f!(target_feature = "fma"));
}

/// As [`brain_products`].
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
pub(super) fn half_products(w: &[f16], x: &[f32], inner: usize, part: &mut [f32]) {
    products(w, x, inner, part, target_cfg_f!(target_feature = "fma"));
}

/// Rows and outputs whose sums are in registers together.
const ROWS: usize = 4;
const OUTS: usize = 4;

#[inline(always)]
fn products<H: Kept>(w: &[H], x: &[f32], inner: usize, part: &mut [f32], fused: bool) {
    if inner == 0 {
        return;
    }
    let outs = w.len() / inner;
    for (x, part) in x.chunks(ROWS * inner).zip(part.chunks_mut(ROWS * outs)) {
        match x.len() / inner {
            1 => panel::<H, 1>(w, x, inner, part, fused),
            2 => panel::<H, 2>(w, x, inner, part, fused),
            3 => panel::<H, 3>(w, x, inner, part, fused),
            _ => panel::<H, ROWS>(w, x, inner, part, fused),
        }
    }
}

#[inline(always)]
fn panel<H: Kept, const R: usize>(w: &[H], x: &[f32], inner: usize, part: &mut [f32], fused: bool) {
    let outs = w.len() / inner;
    let xs: [&[f32]; R] = std::array::from_fn(|row| &x[row * inner..(row + 1) * inner]);
    let mut put = |out: usize, sums: &[[f32; R]]| {
        for (m, sums) in sums.iter().enumerate() {
            sums.iter().enumerate().for_each(|(row, sum)| part[row * outs + out + m] = *sum);
        }
    };
    let whole = outs - outs % OUTS;
    for out in (0..whole).step_by(OUTS) {
        let ws: [&[H]; OUTS] = std::array::from_fn(|m| &w[(out + m) * inner..(out + m + 1) * inner]);
        put(out, &tile(ws, xs, fused));
    }
    for out in whole..outs {
        put(out, &tile([&w[out * inner..(out + 1) * inner]], xs, fused));
    }
}

/// The sum of each of `M` rows of weights with each of `R` rows of activations, all of one length.
#[inline(always)]
fn tile<H: Kept, const M: usize, const R: usize>(w: [&[H]; M], x: [&[f32]; R], fused: bool) -> [[f32; R]; M] {
    let len = w.first().map_or(0, |w| w.len());
    let whole = len - len % LANES;
    let mut sums = [[[0f32; LANES]; R]; M];
    for at in (0..whole).step_by(LANES) {
        let mut wide = [[0f32; LANES]; M];
        for (wide, w) in wide.iter_mut().zip(w) {
            wide.iter_mut().zip(&w[at..at + LANES]).for_each(|(wide, w)| *wide = w.wide());
        }
        for (row, x) in x.iter().enumerate() {
            let x = &x[at..at + LANES];
            for (sums, wide) in sums.iter_mut().zip(&wide) {
                for ((sum, w), x) in sums[row].iter_mut().zip(wide).zip(x) {
                    *sum = mul_add(*w, *x, *sum, fused);
                }
            }
        }
    }
    std::array::from_fn(|m| {
        std::array::from_fn(|row| {
            let rest = w[m][whole..].iter().zip(&x[row][whole..]).map(|(w, x)| w.wide() * x).sum::<f32>();
            total(sums[m][row]) + rest
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_number_is_the_same_when_wide() {
        let bits: Vec<u16> = (0..=u16::MAX).collect();
        let brain: Vec<bf16> = bits.iter().map(|&bits| bf16::from_bits(bits)).collect();
        let half: Vec<f16> = bits.iter().map(|&bits| f16::from_bits(bits)).collect();
        let (mut a, mut b) = (vec![0.0; bits.len()], vec![0.0; bits.len()]);
        Kept::widen(&brain, &mut a);
        Kept::widen(&half, &mut b);
        let same = |x: f32, y: f32| x.to_bits() == y.to_bits() || (x.is_nan() && y.is_nan());
        for at in 0..bits.len() {
            assert!(same(a[at], brain[at].to_f32()), "bf16 {at:#x}");
            assert!(same(b[at], half[at].to_f32()), "f16 {at:#x}");
        }
    }

    #[test]
    fn numbers_are_rounded_as_the_library_does() {
        let bits = (0..1 << 20).map(|at: u32| f32::from_bits(at.wrapping_mul(4099)));
        let edges = [0.0, -0.0, f32::MAX, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, f32::MIN_POSITIVE, 1.003_906_3];
        let x: Vec<f32> = bits.chain(edges).collect();
        let mut to = vec![bf16::ZERO; x.len()];
        round(&x, &mut to);
        for (x, to) in x.iter().zip(to) {
            let wanted = bf16::from_f32(*x);
            assert!(to == wanted || (to.is_nan() && wanted.is_nan()), "{x} to {to}");
        }
    }
}
