//! `x W^T` where `x` has few rows, as in a decoding step. A general product first packs all of `W` into another order, which then
//! costs more than the product; here the rows of `x` are the lanes of a vector and each weight is read once, in place.

use multiversion::multiversion;
use multiversion::target::target_cfg_f;
use rayon::prelude::*;

/// From this many rows on the general product is the better one.
pub(super) const MOST_ROWS: usize = 64;
/// Rows computed together when they are many, and when they are not: a vector half as wide is twice as quick.
const WIDE: usize = 16;
const NARROW: usize = 8;
/// Outputs computed together; their sums stay in registers.
const OUTS: usize = 8;
/// Weights from which on the work is worth sharing between threads.
const SHARED: usize = 1 << 16;
/// Outputs of one task.
const TASK: usize = 8 * OUTS;

/// Sums of the products of weights with the vectors that lie across rows.
type Products<const N: usize> = fn(&[[f32; N]], &[f32], &mut [[f32; N]]);

/// `y += x W^T` with `x [rows, inner]`, `w [outer, inner]`, `y [rows, outer]`, all row-major. Each sum is taken in order, whatever
/// the number of rows and threads.
pub(super) fn add_product(y: &mut [f32], x: &[f32], w: &[f32], inner: usize, outer: usize) {
    if inner == 0 || outer == 0 {
        return;
    }
    for (y, x) in y.chunks_mut(WIDE * outer).zip(x.chunks(WIDE * inner)) {
        if x.len() <= NARROW * inner {
            add_across::<NARROW>(y, x, w, inner, outer, narrow);
        } else {
            add_across::<WIDE>(y, x, w, inner, outer, wide);
        }
    }
}

/// [`add_product`] of at most `N` rows.
fn add_across<const N: usize>(y: &mut [f32], x: &[f32], w: &[f32], inner: usize, outer: usize, products: Products<N>) {
    let mut across = vec![[0.0; N]; inner];
    for (row, x) in x.chunks_exact(inner).enumerate() {
        across.iter_mut().zip(x).for_each(|(lanes, &v)| lanes[row] = v);
    }
    let mut sums = vec![[0.0; N]; outer];
    if w.len() < SHARED {
        products(&across, w, &mut sums);
    } else {
        let tasks = sums.par_chunks_mut(TASK).zip(w.par_chunks(TASK * inner));
        tasks.for_each(|(sums, w)| products(&across, w, sums));
    }
    for (row, y) in y.chunks_exact_mut(outer).enumerate() {
        y.iter_mut().zip(&sums).for_each(|(y, lanes)| *y += lanes[row]);
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn wide(x: &[[f32; WIDE]], w: &[f32], sums: &mut [[f32; WIDE]]) {
    products(x, w, sums, target_cfg_f!(target_feature = "fma"));
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn narrow(x: &[[f32; NARROW]], w: &[f32], sums: &mut [[f32; NARROW]]) {
    products(x, w, sums, target_cfg_f!(target_feature = "fma"));
}

/// The products of each row of `w` with the vectors that lie across `x`; `fused` is known where this is compiled into.
#[inline(always)]
fn products<const N: usize>(x: &[[f32; N]], w: &[f32], sums: &mut [[f32; N]], fused: bool) {
    let inner = x.len();
    let mut rest = sums.chunks_exact_mut(OUTS);
    let mut weights = w.chunks_exact(OUTS * inner);
    for (sums, w) in rest.by_ref().zip(weights.by_ref()) {
        block::<N, OUTS>(x, w, sums, fused);
    }
    for (sum, w) in rest.into_remainder().chunks_exact_mut(1).zip(weights.remainder().chunks_exact(inner)) {
        block::<N, 1>(x, w, sum, fused);
    }
}

/// The products of `M` rows of weights.
#[inline(always)]
fn block<const N: usize, const M: usize>(x: &[[f32; N]], w: &[f32], sums: &mut [[f32; N]], fused: bool) {
    let inner = x.len();
    let rows: [&[f32]; M] = std::array::from_fn(|out| &w[out * inner..(out + 1) * inner]);
    let mut totals = [[0.0; N]; M];
    for (at, x) in x.iter().enumerate() {
        for (total, row) in totals.iter_mut().zip(rows) {
            let weight = row[at];
            for (total, x) in total.iter_mut().zip(x) {
                *total = if fused { weight.mul_add(*x, *total) } else { weight * *x + *total };
            }
        }
    }
    sums.copy_from_slice(&totals);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whole numbers, so that every order of summing is exact.
    #[test]
    fn products_are_right_at_every_size() {
        for (rows, inner, outer) in
            [(1, 1, 1), (2, 5, 9), (16, 33, 8), (17, 7, 70), (31, 1024, 600), (3, 0, 4), (2, 3, 0)]
        {
            let x: Vec<f32> = (0..rows * inner).map(|i| (i % 7) as f32 - 3.0).collect();
            let w: Vec<f32> = (0..outer * inner).map(|i| (i % 5) as f32 - 2.0).collect();
            let mut y = vec![1.0; rows * outer];
            add_product(&mut y, &x, &w, inner, outer);
            for (row, y) in y.chunks_exact(outer.max(1)).enumerate() {
                for (out, &y) in y.iter().enumerate() {
                    let terms = (0..inner).map(|at| x[row * inner + at] * w[out * inner + at]);
                    assert_eq!(y, 1.0 + terms.sum::<f32>(), "{rows}x{inner} by {outer}: row {row}, output {out}");
                }
            }
        }
    }
}
