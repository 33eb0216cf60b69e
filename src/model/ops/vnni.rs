//! Products of quantised blocks by AVX512-VNNI, which adds products of four bytes to whole sums: the lanes are a group of outputs, so no
//! sum goes across a vector. Knows slices only.

use std::arch::x86_64::{
    __m512, __m512i, _mm_loadu_si128, _mm256_loadu_si256, _mm512_add_ps, _mm512_and_si512, _mm512_cvtepi32_ps,
    _mm512_cvtepu8_epi32, _mm512_cvtph_ps, _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_fnmadd_ps, _mm512_load_si512,
    _mm512_loadu_ps, _mm512_mul_ps, _mm512_set1_epi8, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps,
    _mm512_setzero_si512, _mm512_srli_epi32, _mm512_storeu_ps,
};

use super::nibbles::{Nibbles, PARTS, Super};
use super::quantised::{BLOCK, Codes, GROUP, QUAD, Scales};
use super::quantised_dot::{Bytes, Row};

/// Whether this processor has the instructions.
pub(super) fn at_hand() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni")
}

/// `sums[row] += ` the products of a group with `R` rows of as many blocks; false where not [`at_hand`], or rows have others.
pub(super) fn bytes<const R: usize>(lanes: Bytes<'_>, rows: &[Row<'_>; R], sums: &mut [[f32; GROUP]; R]) -> bool {
    let Bytes { codes, scales } = lanes;
    let fit = at_hand() && scales.len() == codes.len() && rows.iter().all(|row| row.has(codes.len()));
    if fit {
        // SAFETY: the processor has the features, and all slices are of so many blocks.
        unsafe { products_of_bytes(codes, scales, rows, sums) }
    }
    fit
}

/// The same of half bytes.
pub(super) fn nibbles<const R: usize>(lanes: Nibbles<'_>, rows: &[Row<'_>; R], sums: &mut [[f32; GROUP]; R]) -> bool {
    let fit = at_hand() && rows.iter().all(|row| row.has(lanes.0.len() * PARTS));
    if fit {
        // SAFETY: as above.
        unsafe { products_of_nibbles(lanes.0, rows, sums) }
    }
    fit
}

/// # Safety
/// All slices must be of as many blocks as `codes`.
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn products_of_bytes<const R: usize>(
    codes: &[Codes],
    scales: &[Scales],
    rows: &[Row<'_>; R],
    sums: &mut [[f32; GROUP]; R],
) {
    let mut totals = [_mm512_setzero_ps(); R];
    for (block, (codes, scales)) in codes.iter().zip(scales).enumerate() {
        // SAFETY: `block` is one of those that every row has.
        let mut whole: [_; R] =
            std::array::from_fn(|r| _mm512_set1_epi32(-128 * unsafe { *rows[r].sums.get_unchecked(block) }));
        for quad in 0..BLOCK / QUAD {
            // SAFETY: a block's codes are aligned and hold eight vectors.
            let w = unsafe { _mm512_load_si512(codes.0.as_ptr().add(quad * GROUP * QUAD).cast()) };
            for (whole, row) in whole.iter_mut().zip(rows) {
                // SAFETY: a row's codes hold eight quads for each block.
                *whole = _mm512_dpbusd_epi32(*whole, w, unsafe { inputs(row, block, quad) });
            }
        }
        let scale = widen(scales);
        for ((total, whole), row) in totals.iter_mut().zip(whole).zip(rows) {
            // SAFETY: as above.
            let x_scale = _mm512_set1_ps(unsafe { *row.scales.get_unchecked(block) });
            *total = _mm512_fmadd_ps(_mm512_cvtepi32_ps(whole), _mm512_mul_ps(scale, x_scale), *total);
        }
    }
    put(totals, sums);
}

/// # Safety
/// All slices must be of as many blocks as `blocks` have parts.
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn products_of_nibbles<const R: usize>(blocks: &[Super], rows: &[Row<'_>; R], sums: &mut [[f32; GROUP]; R]) {
    let mut totals = [_mm512_setzero_ps(); R];
    let lower = _mm512_set1_epi8(15);
    for (first, block) in blocks.iter().enumerate() {
        let (scale, least) = (widen(&block.scale), widen(&block.least));
        let parts = block.codes.iter().zip(block.scales.iter().zip(&block.leasts));
        for (part, (codes, (scales, leasts))) in parts.enumerate() {
            let at = first * PARTS + part;
            let mut whole = [_mm512_setzero_si512(); R];
            for quad in 0..BLOCK / QUAD / 2 {
                // SAFETY: a part's codes are aligned and hold four vectors.
                let both = unsafe { _mm512_load_si512(codes.as_ptr().add(quad * GROUP * QUAD).cast()) };
                let w = _mm512_and_si512(both, lower);
                let more = _mm512_and_si512(_mm512_srli_epi32::<4>(both), lower);
                for (whole, row) in whole.iter_mut().zip(rows) {
                    // SAFETY: a row's codes hold eight quads for each part.
                    let (x, next) = unsafe { (inputs(row, at, quad), inputs(row, at, quad + BLOCK / QUAD / 2)) };
                    *whole = _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(*whole, w, x), more, next);
                }
            }
            let (scale, least) = (_mm512_mul_ps(scale, small(scales)), _mm512_mul_ps(least, small(leasts)));
            for ((total, whole), row) in totals.iter_mut().zip(whole).zip(rows) {
                // SAFETY: `at` is one of those that every row has.
                let (x_scale, x_sum) = unsafe { (*row.scales.get_unchecked(at), *row.sums.get_unchecked(at)) };
                let common = _mm512_fnmadd_ps(least, _mm512_set1_ps(x_scale * x_sum as f32), *total);
                *total =
                    _mm512_fmadd_ps(_mm512_cvtepi32_ps(whole), _mm512_mul_ps(scale, _mm512_set1_ps(x_scale)), common);
            }
        }
    }
    put(totals, sums);
}

/// Four inputs of a row, in every lane.
///
/// # Safety
/// The row must have the block, and a block the quad.
#[target_feature(enable = "avx512f")]
unsafe fn inputs(row: &Row<'_>, block: usize, quad: usize) -> __m512i {
    // SAFETY: as asked of the caller.
    _mm512_set1_epi32(unsafe { row.codes.as_ptr().add(block * BLOCK + quad * QUAD).cast::<i32>().read_unaligned() })
}

#[target_feature(enable = "avx512f")]
fn widen(scales: &Scales) -> __m512 {
    // SAFETY: they are 32 bytes.
    _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(scales.as_ptr().cast()) })
}

#[target_feature(enable = "avx512f")]
fn small(numbers: &[u8; GROUP]) -> __m512 {
    // SAFETY: they are 16 bytes.
    _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(unsafe { _mm_loadu_si128(numbers.as_ptr().cast()) }))
}

#[target_feature(enable = "avx512f")]
fn put<const R: usize>(totals: [__m512; R], sums: &mut [[f32; GROUP]; R]) {
    for (sums, total) in sums.iter_mut().zip(totals) {
        // SAFETY: 16 numbers each.
        unsafe {
            let to = sums.as_mut_ptr();
            _mm512_storeu_ps(to, _mm512_add_ps(_mm512_loadu_ps(to), total));
        }
    }
}
