//! Products of quantised blocks with activations rounded to blocks of bytes: whole numbers within a block, `f32` between blocks.
//! Sums are taken in the same order whatever the number of rows and the instruction set.

use multiversion::multiversion;

use super::kernel::max;
use super::quantised::{BLOCK, Codes, GROUP, QUAD, Scales};

/// Which instructions are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Set {
    /// What the compiler makes of plain loops.
    Plain,
}

impl Set {
    pub fn best() -> Self {
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

impl Rounded {
    /// Of `x [rows, inputs]`, whose rows are whole blocks. What is not finite makes its block's products NaN.
    pub fn of(x: &[f32], rows: usize, inputs: usize) -> Self {
        let blocks = x.len() / BLOCK;
        let (mut codes, mut scales, mut offsets) = (vec![0; x.len()], vec![0.0; blocks], vec![0; blocks]);
        round(x, &mut codes, &mut scales, &mut offsets);
        Self { rows, inputs, codes, scales, offsets }
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
    let Set::Plain = set;
    let blocks = x.inputs / BLOCK;
    for row in 0..x.rows {
        let numbers = row * blocks..(row + 1) * blocks;
        let bytes = &x.codes[row * x.inputs..(row + 1) * x.inputs];
        let mut sums = [0.0; GROUP];
        plain(codes, scales, bytes, &x.scales[numbers.clone()], &x.offsets[numbers], &mut sums);
        put(row, &sums);
    }
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
