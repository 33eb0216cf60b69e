//! Products of quantised blocks with activations rounded to blocks of bytes: whole numbers within a block, `f32` between blocks.
//! Sums are taken in the same order whatever the number of rows.

use multiversion::multiversion;
use rayon::prelude::*;

use super::kernel::max;
use super::nibbles::{Nibbles, Super};
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
    /// Sums of a block's codes, for what all weights of a block have in common.
    sums: Vec<i32>,
}

/// A row of activations, block by block.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    pub codes: &'a [i8],
    pub scales: &'a [f32],
    pub sums: &'a [i32],
}

impl Row<'_> {
    /// Whether it has so many blocks.
    pub fn has(&self, blocks: usize) -> bool {
        (self.codes.len(), self.scales.len(), self.sums.len()) == (blocks * BLOCK, blocks, blocks)
    }
}

/// Blocks of a group of outputs, with their products with rows that have as many.
pub(super) trait Lanes: Copy {
    /// `sums += ` the product with one row, by plain loops.
    fn plain(self, x: Row<'_>, sums: &mut [f32; GROUP]);

    /// The same with `R` rows, by AVX512-VNNI; false, and nothing done, where the processor has none.
    #[cfg(target_arch = "x86_64")]
    fn vnni<const R: usize>(self, rows: &[Row<'_>; R], sums: &mut [[f32; GROUP]; R]) -> bool;
}

/// `q8_0`.
#[derive(Clone, Copy)]
pub(super) struct Bytes<'a> {
    pub codes: &'a [Codes],
    pub scales: &'a [Scales],
}

impl Lanes for Bytes<'_> {
    fn plain(self, x: Row<'_>, sums: &mut [f32; GROUP]) {
        bytes(self.codes, self.scales, (x.codes, x.scales, x.sums), sums);
    }

    #[cfg(target_arch = "x86_64")]
    fn vnni<const R: usize>(self, rows: &[Row<'_>; R], sums: &mut [[f32; GROUP]; R]) -> bool {
        vnni::bytes(self, rows, sums)
    }
}

impl Lanes for Nibbles<'_> {
    fn plain(self, x: Row<'_>, sums: &mut [f32; GROUP]) {
        nibbles(self.0, (x.codes, x.scales, x.sums), sums);
    }

    #[cfg(target_arch = "x86_64")]
    fn vnni<const R: usize>(self, rows: &[Row<'_>; R], sums: &mut [[f32; GROUP]; R]) -> bool {
        vnni::nibbles(self, rows, sums)
    }
}

impl Rounded {
    /// Of `x [rows, inputs]`, whose rows are whole blocks. What is not finite makes its block's products NaN.
    pub fn of(x: &[f32], rows: usize, inputs: usize) -> Self {
        let blocks = x.len() / BLOCK;
        let (mut codes, mut scales, mut sums) = (vec![0; x.len()], vec![0.0; blocks], vec![0; blocks]);
        if x.len() < LARGE {
            round(x, &mut codes, &mut scales, &mut sums);
        } else {
            let places =
                codes.par_chunks_mut(PART * BLOCK).zip(scales.par_chunks_mut(PART)).zip(sums.par_chunks_mut(PART));
            x.par_chunks(PART * BLOCK)
                .zip(places)
                .for_each(|(x, ((codes, scales), sums))| round(x, codes, scales, sums));
        }
        Self { rows, inputs, codes, scales, sums }
    }

    fn row(&self, row: usize) -> Row<'_> {
        let blocks = self.inputs / BLOCK;
        let numbers = row * blocks..(row + 1) * blocks;
        let codes = &self.codes[row * self.inputs..(row + 1) * self.inputs];
        Row { codes, scales: &self.scales[numbers.clone()], sums: &self.sums[numbers] }
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn round(x: &[f32], codes: &mut [i8], scales: &mut [f32], sums: &mut [i32]) {
    let places = codes.chunks_exact_mut(BLOCK).zip(scales).zip(sums);
    for (x, ((codes, scale), sum)) in x.chunks_exact(BLOCK).zip(places) {
        let mut sizes = [0f32; BLOCK];
        sizes.iter_mut().zip(x).for_each(|(size, v)| *size = v.abs());
        // A maximum passes NaN over, this product does not.
        let largest = max(&sizes) + 0.0 * sizes.iter().sum::<f32>();
        *scale = largest / 127.0;
        let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
        *sum = 0;
        for (code, v) in codes.iter_mut().zip(x) {
            // Adding 1.5 * 2^23 rounds to a whole number, which then lies in the lowest bits; it is in ±127.
            let whole = (v * inverse + 12_582_912.0).to_bits() as i8;
            *code = whole;
            *sum += i32::from(whole);
        }
    }
}

/// Products of a group of outputs with every row: `put(row, sums)`.
pub(super) fn group(lanes: impl Lanes, x: &Rounded, set: Set, put: &mut impl FnMut(usize, &[f32; GROUP])) {
    let mut row = 0;
    while row < x.rows {
        row += match x.rows - row {
            1 => panel::<1>(lanes, x, set, row, put),
            2 => panel::<2>(lanes, x, set, row, put),
            3 => panel::<3>(lanes, x, set, row, put),
            4 | 5 => panel::<4>(lanes, x, set, row, put),
            6 | 7 => panel::<6>(lanes, x, set, row, put),
            _ => panel::<ROWS>(lanes, x, set, row, put),
        };
    }
}

/// `R` rows from `first` on; tells how many that were.
fn panel<const R: usize>(
    lanes: impl Lanes,
    x: &Rounded,
    set: Set,
    first: usize,
    put: &mut impl FnMut(usize, &[f32; GROUP]),
) -> usize {
    let rows: [Row<'_>; R] = std::array::from_fn(|at| x.row(first + at));
    let mut sums = [[0.0; GROUP]; R];
    let done = match set {
        Set::Plain => false,
        #[cfg(target_arch = "x86_64")]
        Set::Vnni => lanes.vnni(&rows, &mut sums),
    };
    if !done {
        rows.iter().zip(&mut sums).for_each(|(row, sums)| lanes.plain(*row, sums));
    }
    sums.iter().enumerate().for_each(|(at, sums)| put(first + at, sums));
    R
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn bytes(codes: &[Codes], scales: &[Scales], x: (&[i8], &[f32], &[i32]), sums: &mut [f32; GROUP]) {
    let activations = x.0.chunks_exact(BLOCK).zip(x.1.iter().zip(x.2));
    for ((codes, scales), (x, (x_scale, x_sum))) in codes.iter().zip(scales).zip(activations) {
        // Undoes what is added to the codes.
        let mut whole = [-128 * x_sum; GROUP];
        for (codes, x) in codes.0.chunks_exact(GROUP * QUAD).zip(x.chunks_exact(QUAD)) {
            add(&mut whole, codes, x, |code| code);
        }
        for ((sum, whole), scale) in sums.iter_mut().zip(whole).zip(scales) {
            *sum += whole as f32 * (scale.to_f32() * x_scale);
        }
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn nibbles(blocks: &[Super], x: (&[i8], &[f32], &[i32]), sums: &mut [f32; GROUP]) {
    let mut activations = x.0.chunks_exact(BLOCK).zip(x.1.iter().zip(x.2));
    for block in blocks {
        let parts = block.codes.iter().zip(block.scales.iter().zip(&block.leasts));
        for ((codes, (scales, leasts)), (x, (x_scale, x_sum))) in parts.zip(activations.by_ref()) {
            let mut whole = [0; GROUP];
            let (first, last) = x.split_at(BLOCK / 2);
            let quads = first.chunks_exact(QUAD).zip(last.chunks_exact(QUAD));
            for (codes, (first, last)) in codes.chunks_exact(GROUP * QUAD).zip(quads) {
                add(&mut whole, codes, first, |code| code & 15);
                add(&mut whole, codes, last, |code| code >> 4);
            }
            let common = x_scale * *x_sum as f32;
            for (lane, sum) in sums.iter_mut().enumerate() {
                let scale = block.scale[lane].to_f32() * f32::from(scales[lane]);
                let least = block.least[lane].to_f32() * f32::from(leasts[lane]);
                *sum += whole[lane] as f32 * (scale * x_scale) - least * common;
            }
        }
    }
}

/// Products of a quad of inputs.
#[inline(always)]
fn add(whole: &mut [i32; GROUP], codes: &[u8], x: &[i8], of: impl Fn(u8) -> u8) {
    for (whole, codes) in whole.iter_mut().zip(codes.chunks_exact(QUAD)) {
        *whole += codes.iter().zip(x).map(|(&w, &x)| i32::from(of(w)) * i32::from(x)).sum::<i32>();
    }
}
