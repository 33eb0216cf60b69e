//! Products of quantised blocks by AVX512-VNNI, which adds products of four bytes to whole sums: the lanes are a group of outputs, so no
//! sum goes across a vector. Knows slices only.

use std::arch::x86_64::{
    _mm256_loadu_si256, _mm512_add_ps, _mm512_cvtepi32_ps, _mm512_cvtph_ps, _mm512_dpbusd_epi32, _mm512_fmadd_ps,
    _mm512_load_si512, _mm512_loadu_ps, _mm512_mul_ps, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps,
    _mm512_storeu_ps,
};

use super::quantised::{BLOCK, Codes, GROUP, QUAD, Scales};
use super::quantised_dot::Row;

/// Whether this processor has the instructions.
pub(super) fn at_hand() -> bool {
    is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni")
}

/// `sums[row] += ` the products of a group with `R` rows of as many blocks. Only where [`at_hand`].
pub(super) fn add<const R: usize>(
    codes: &[Codes],
    scales: &[Scales],
    rows: &[Row<'_>; R],
    sums: &mut [[f32; GROUP]; R],
) {
    let blocks = codes.len();
    let fit =
        |row: &Row<'_>| row.codes.len() == blocks * BLOCK && row.scales.len() == blocks && row.offsets.len() == blocks;
    if !at_hand() || scales.len() != blocks || !rows.iter().all(fit) {
        return;
    }
    // SAFETY: the processor has the features, and all slices are of so many blocks.
    unsafe { products(codes, scales, rows, sums) }
}

/// # Safety
/// All slices must be of as many blocks as `codes`.
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn products<const R: usize>(
    codes: &[Codes],
    scales: &[Scales],
    rows: &[Row<'_>; R],
    sums: &mut [[f32; GROUP]; R],
) {
    let mut totals = [_mm512_setzero_ps(); R];
    for (block, (codes, scales)) in codes.iter().zip(scales).enumerate() {
        // SAFETY: `block` is one of those that every row has.
        let mut whole: [_; R] =
            std::array::from_fn(|r| _mm512_set1_epi32(unsafe { *rows[r].offsets.get_unchecked(block) }));
        for quad in 0..BLOCK / QUAD {
            // SAFETY: a block's codes are aligned and hold eight vectors; a row's hold eight quads for each block.
            let w = unsafe { _mm512_load_si512(codes.0.as_ptr().add(quad * GROUP * QUAD).cast()) };
            for (whole, row) in whole.iter_mut().zip(rows) {
                let x = unsafe { row.codes.as_ptr().add(block * BLOCK + quad * QUAD).cast::<i32>().read_unaligned() };
                *whole = _mm512_dpbusd_epi32(*whole, w, _mm512_set1_epi32(x));
            }
        }
        // SAFETY: a block's scales are 32 bytes.
        let scale = _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(scales.as_ptr().cast()) });
        for ((total, whole), row) in totals.iter_mut().zip(whole).zip(rows) {
            // SAFETY: as above.
            let x_scale = _mm512_set1_ps(unsafe { *row.scales.get_unchecked(block) });
            *total = _mm512_fmadd_ps(_mm512_cvtepi32_ps(whole), _mm512_mul_ps(scale, x_scale), *total);
        }
    }
    for (sums, total) in sums.iter_mut().zip(totals) {
        // SAFETY: 16 numbers each.
        unsafe {
            let to = sums.as_mut_ptr();
            _mm512_storeu_ps(to, _mm512_add_ps(_mm512_loadu_ps(to), total));
        }
    }
}
