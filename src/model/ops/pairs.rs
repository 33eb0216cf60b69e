//! Products of bf16 by AVX512-BF16, which adds products of pairs to `f32` sums. Knows slices only. Each sum is taken in an order that
//! depends on the number of inputs alone.

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _MM_HINT_T0, _mm_prefetch, _mm512_dpbf16_ps, _mm512_loadu_si512,
    _mm512_maskz_loadu_epi16, _mm512_reduce_add_ps, _mm512_setzero_ps,
};
use std::mem::transmute;
use std::ops::Range;

use half::bf16;
use rayon::prelude::*;

use super::widen;

/// Numbers of a vector.
const LANES: usize = 32;
/// Inputs summed before the next rows have their turn: so many numbers of a few rows stay in the first-level cache.
const CHUNK: usize = 2048;
/// Rows and outputs whose sums are in registers together.
const ROWS: usize = 6;
const OUTS: usize = 4;
/// Rows up to which more of them are summed together, with fewer outputs: weights are gone through less often.
const FEW: usize = 16;
const OF_FEW: usize = 8;
/// Numbers of all rows up to which one output follows another, so that weights are read as they lie: memory gives them a tenth to a
/// fifth faster than from several outputs in turns. More rows would be fetched for each output anew, from too far away.
const NEAR: usize = 3 * CHUNK;
/// Numbers from which on rounding is worth sharing between threads.
const LARGE: usize = 1 << 17;

/// Whether this processor has the instructions.
pub(super) fn at_hand() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512bf16")
}

/// Activations as bf16, each row filled up with zeros to whole vectors.
pub(super) struct Rounded {
    numbers: Vec<bf16>,
    inner: usize,
    stride: usize,
}

impl Rounded {
    /// Of `x [rows, inner]`.
    pub fn of(x: &[f32], rows: usize, inner: usize) -> Self {
        let stride = inner.next_multiple_of(LANES);
        let mut numbers = vec![bf16::ZERO; rows * stride];
        if inner > 0 {
            let round = |(to, x): (&mut [bf16], &[f32])| widen::round(x, &mut to[..inner]);
            if x.len() < LARGE {
                numbers.chunks_exact_mut(stride).zip(x.chunks_exact(inner)).for_each(round);
            } else {
                numbers.par_chunks_exact_mut(stride).zip(x.par_chunks_exact(inner)).for_each(round);
            }
        }
        Self { numbers, inner, stride }
    }
}

/// `part [rows, outs] += x W^T` with `w [outs, inner]`. Only where [`at_hand`].
pub(super) fn products(w: &[bf16], x: &Rounded, part: &mut [f32]) {
    if !at_hand() || x.inner == 0 {
        return;
    }
    // SAFETY: the processor has the features that `block` is compiled for.
    unsafe { block(w, x, part) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn block(w: &[bf16], x: &Rounded, part: &mut [f32]) {
    let outs = w.len() / x.inner;
    let group = if x.numbers.len() <= NEAR { 1 } else { outs.max(1) };
    let most = if x.numbers.len() <= FEW * x.stride { OF_FEW } else { ROWS };
    for first in (0..outs).step_by(group) {
        for start in (0..x.inner).step_by(CHUNK) {
            let at = (first..first + group, start..x.inner.min(start + CHUNK));
            let panels = x.numbers.chunks(most * x.stride).zip(part.chunks_mut(most * outs));
            for (turn, (numbers, part)) in panels.enumerate() {
                // Those after the first find the weights in a cache; for up to three rows it was slower.
                let ask = turn == 0 && group > 1;
                match numbers.len() / x.stride {
                    1 => panel::<1, 8>(w, x, numbers, &at, false, part),
                    2 => panel::<2, 8>(w, x, numbers, &at, false, part),
                    3 => panel::<3, OUTS>(w, x, numbers, &at, false, part),
                    4 => panel::<4, OUTS>(w, x, numbers, &at, ask, part),
                    5 => panel::<5, OUTS>(w, x, numbers, &at, ask, part),
                    6 => panel::<6, OUTS>(w, x, numbers, &at, ask, part),
                    7 => panel::<7, 2>(w, x, numbers, &at, ask, part),
                    _ => panel::<8, 2>(w, x, numbers, &at, ask, part),
                }
            }
        }
    }
}

/// `R` rows by some outputs, `M` at a time, of some inputs; `part [R, all outputs]`. Memory is asked for the next outputs where it does
/// not foresee them: from one to the next is too far.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn panel<const R: usize, const M: usize>(
    w: &[bf16],
    x: &Rounded,
    numbers: &[bf16],
    (some, inputs): &(Range<usize>, Range<usize>),
    ask: bool,
    part: &mut [f32],
) {
    let (outs, len) = (w.len() / x.inner, inputs.len().next_multiple_of(LANES));
    let xs: [&[bf16]; R] = std::array::from_fn(|row| &numbers[row * x.stride + inputs.start..][..len]);
    let of = |out: usize| &w[out * x.inner..][inputs.clone()];
    let mut out = some.start;
    while out + M <= some.end {
        let ws = std::array::from_fn(|m| of(out + m));
        tile::<M, R>(ws, xs, if ask { M * x.inner } else { 0 }, |m, row, sum| part[row * outs + out + m] += sum);
        out += M;
    }
    while out < some.end {
        tile([of(out)], xs, 0, |_, row, sum| part[row * outs + out] += sum);
        out += 1;
    }
}

/// The sum of each of `M` rows of weights with each of `R` rows of activations. Memory is asked for what lies `ahead` numbers further.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn tile<const M: usize, const R: usize>(
    w: [&[bf16]; M],
    x: [&[bf16]; R],
    ahead: usize,
    mut put: impl FnMut(usize, usize, f32),
) {
    let len = w.first().map_or(0, |w| w.len());
    assert!(w.iter().all(|w| w.len() == len) && x.iter().all(|x| x.len() >= len.next_multiple_of(LANES)));
    let mut sums = [[_mm512_setzero_ps(); R]; M];
    for at in (0..len - len % LANES).step_by(LANES) {
        // SAFETY: 32 numbers from `at` on lie in each of `w`.
        let ws: [__m512bh; M] = std::array::from_fn(|m| unsafe { load(w[m].as_ptr().add(at)) });
        if ahead > 0 {
            for w in w {
                _mm_prefetch::<_MM_HINT_T0>(w.as_ptr().wrapping_add(at + ahead).cast());
            }
        }
        add(&mut sums, ws, x, at);
    }
    if !len.is_multiple_of(LANES) {
        let (at, mask) = (len - len % LANES, (1u32 << (len % LANES)) - 1);
        // SAFETY: the mask admits only what lies in each of `w`.
        let ws: [__m512bh; M] =
            std::array::from_fn(|m| unsafe { pairs(_mm512_maskz_loadu_epi16(mask, w[m].as_ptr().add(at).cast())) });
        add(&mut sums, ws, x, at);
    }
    for (m, sums) in sums.into_iter().enumerate() {
        for (row, sum) in sums.into_iter().enumerate() {
            put(m, row, _mm512_reduce_add_ps(sum));
        }
    }
}

/// Adds the products of a vector of each row from `at` on; `x` must reach to `at + 32`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn add<const M: usize, const R: usize>(sums: &mut [[__m512; R]; M], w: [__m512bh; M], x: [&[bf16]; R], at: usize) {
    for (row, x) in x.iter().enumerate() {
        // SAFETY: `tile` has checked that `x` holds whole vectors for all of `w`.
        let x = unsafe { load(x.as_ptr().add(at)) };
        for (sums, w) in sums.iter_mut().zip(w) {
            sums[row] = _mm512_dpbf16_ps(sums[row], w, x);
        }
    }
}

/// # Safety
/// 32 numbers must lie there.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load(from: *const bf16) -> __m512bh {
    // SAFETY: the caller's.
    pairs(unsafe { _mm512_loadu_si512(from.cast()) })
}

#[inline]
#[target_feature(enable = "avx512f")]
fn pairs(vector: __m512i) -> __m512bh {
    // SAFETY: both are 64 bytes without a meaning of their own.
    unsafe { transmute::<__m512i, __m512bh>(vector) }
}
