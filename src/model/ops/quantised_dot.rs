//! Products of quantised blocks with activations rounded to blocks of bytes: whole numbers within a block, `f32` between blocks.
//! Sums are taken in the same order whatever the number of rows.

use multiversion::multiversion;
use rayon::prelude::*;

use super::kernel::max;
use super::quantised::{BLOCK, Codes, GROUP, QUAD, Scales};
#[cfg(target_arch = "x86_64")]
use super::vnni;

/// Rows whose sums are in registers together.
const ROWS: usize = 8;
/// Numbers from which on rounding is worth sharing between threads, and blocks of one part of it.
const LARGE: usize = 1 << 17;
const PART: usize = 512;

/// Which instructions are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Set {
    /// What the compiler makes of plain loops.
    Plain,
    /// AVX512-VNNI.
    #[cfg(target_arch = "x86_64")]
    Vnni,
}

impl Set {
    /// The quickest that this processor has.
    pub fn best() -> Self {
        #[cfg(target_arch = "x86_64")]
        if vnni::at_hand() {
            return Self::Vnni;
        }
        Self::Plain
    }
}

/// Activations as bytes.
pub(super) struct Rounded {
    rows: usize,
    inputs: usize,
    codes: Vec<i8>,
    /// By row and block.
    scales: Vec<f32>,
    /// -128 times the sum of a block's codes: undoes what is added to the weights' codes.
    offsets: Vec<i32>,
}

/// A row of activations, block by block.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    pub codes: &'a [i8],
    pub scales: &'a [f32],
    pub offsets: &'a [i32],
}

impl Rounded {
    /// Of `x [rows, inputs]`, whose rows are whole blocks. What is not finite makes its block's products NaN.
    pub fn of(x: &[f32], rows: usize, inputs: usize) -> Self {
        let blocks = x.len() / BLOCK;
        let (mut codes, mut scales, mut offsets) = (vec![0; x.len()], vec![0.0; blocks], vec![0; blocks]);
        if x.len() < LARGE {
            round(x, &mut codes, &mut scales, &mut offsets);
        } else {
            let places =
                codes.par_chunks_mut(PART * BLOCK).zip(scales.par_chunks_mut(PART)).zip(offsets.par_chunks_mut(PART));
            x.par_chunks(PART * BLOCK)
                .zip(places)
                .for_each(|(x, ((codes, scales), offsets))| round(x, codes, scales, offsets));
        }
        Self { rows, inputs, codes, scales, offsets }
    }

    fn row(&self, row: usize) -> Row<'_> {
        let blocks = self.inputs / BLOCK;
        let numbers = row * blocks..(row + 1) * blocks;
        let codes = &self.codes[row * self.inputs..(row + 1) * self.inputs];
        Row { codes, scales: &self.scales[numbers.clone()], offsets: &self.offsets[numbers] }
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn round(x: &[f32], codes: &mut [i8], scales: &mut [f32], offsets: &mut [i32]) {
    let places = codes.chunks_exact_mut(BLOCK).zip(scales).zip(offsets);
    for (x, ((codes, scale), offset)) in x.chunks_exact(BLOCK).zip(places) {
        let mut sizes = [0f32; BLOCK];
        sizes.iter_mut().zip(x).for_each(|(size, v)| *size = v.abs());
        // A maximum passes NaN over, this product does not.
        let largest = max(&sizes) + 0.0 * sizes.iter().sum::<f32>();
        *scale = largest / 127.0;
        let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
        let mut sum = 0;
        for (code, v) in codes.iter_mut().zip(x) {
            // Adding 1.5 * 2^23 rounds to a whole number, which then lies in the lowest bits; it is in ±127.
            let whole = (v * inverse + 12_582_912.0).to_bits() as i8;
            *code = whole;
            sum += i32::from(whole);
        }
        *offset = -128 * sum;
    }
}

/// Products of a group of outputs with every row: `put(row, sums)`.
pub(super) fn group(
    codes: &[Codes],
    scales: &[Scales],
    x: &Rounded,
    set: Set,
    mut put: impl FnMut(usize, &[f32; GROUP]),
) {
    let mut row = 0;
    while row < x.rows {
        row += match x.rows - row {
            1 => panel::<1>(codes, scales, x, set, row, &mut put),
            2 => panel::<2>(codes, scales, x, set, row, &mut put),
            3 => panel::<3>(codes, scales, x, set, row, &mut put),
            4 | 5 => panel::<4>(codes, scales, x, set, row, &mut put),
            6 | 7 => panel::<6>(codes, scales, x, set, row, &mut put),
            _ => panel::<ROWS>(codes, scales, x, set, row, &mut put),
        };
    }
}

/// `R` rows from `first` on; tells how many that were.
fn panel<const R: usize>(
    codes: &[Codes],
    scales: &[Scales],
    x: &Rounded,
    set: Set,
    first: usize,
    put: &mut impl FnMut(usize, &[f32; GROUP]),
) -> usize {
    let rows: [Row<'_>; R] = std::array::from_fn(|at| x.row(first + at));
    let mut sums = [[0.0; GROUP]; R];
    match set {
        Set::Plain => rows
            .iter()
            .zip(&mut sums)
            .for_each(|(row, sums)| plain(codes, scales, row.codes, row.scales, row.offsets, sums)),
        #[cfg(target_arch = "x86_64")]
        Set::Vnni => vnni::add(codes, scales, &rows, &mut sums),
    }
    sums.iter().enumerate().for_each(|(at, sums)| put(first + at, sums));
    R
}

/// One row.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn plain(codes: &[Codes], scales: &[Scales], x: &[i8], x_scales: &[f32], offsets: &[i32], sums: &mut [f32; GROUP]) {
    let activations = x.chunks_exact(BLOCK).zip(x_scales.iter().zip(offsets));
    for ((codes, scales), (x, (x_scale, offset))) in codes.iter().zip(scales).zip(activations) {
        let mut whole = [*offset; GROUP];
        for (codes, x) in codes.0.chunks_exact(GROUP * QUAD).zip(x.chunks_exact(QUAD)) {
            for (whole, codes) in whole.iter_mut().zip(codes.chunks_exact(QUAD)) {
                *whole += codes.iter().zip(x).map(|(&w, &x)| i32::from(w) * i32::from(x)).sum::<i32>();
            }
        }
        for ((sum, whole), scale) in sums.iter_mut().zip(whole).zip(scales) {
            *sum += whole as f32 * (scale.to_f32() * x_scale);
        }
    }
}
