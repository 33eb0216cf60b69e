//! `x W^T` where `x` has few rows, as in a decoding step. A general product first packs all of `W` into another order, which then
//! costs more than the product; here the rows of `x` are the lanes of a vector and each weight is read once, in place.

use multiversion::multiversion;
use multiversion::target::target_cfg_f;
use rayon::prelude::*;

use super::kernel::mul_add;

/// From this many rows on the general product is the better one.
pub(super) const MOST_ROWS: usize = 64;
/// Rows computed together, by how many there are: the fewer lanes the quicker, the more the less often a weight is read.
const WIDE: usize = 32;
const MIDDLE: usize = 16;
const NARROW: usize = 8;
/// Outputs computed together; their sums stay in registers. More where a sum takes one register and there are many: a weight is read for
/// each, and so is a vector for as many as there are sums.
const OUTS: usize = 8;
const MANY: usize = 16;
/// Weights from which on the work is worth sharing between threads.
const SHARED: usize = 1 << 16;
/// Outputs of one task, and numbers turned from rows to lanes together: few enough for the first-level cache.
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
        let across = Across::some(x, inner);
        let task = |w: &[f32]| across.turn_back(w);
        let parts: Vec<Vec<f32>> = if w.len() < SHARED {
            w.chunks(TASK * inner).map(task).collect()
        } else {
            w.par_chunks(TASK * inner).map(task).collect()
        };
        for (block, part) in parts.iter().enumerate() {
            let outs = TASK.min(outer - block * TASK);
            for (y, part) in y.chunks_exact_mut(outer).zip(part.chunks_exact(outs)) {
                y[block * TASK..].iter_mut().zip(part).for_each(|(y, v)| *y += v);
            }
        }
    }
}

/// At most `N` rows as the lanes of vectors, one for each input.
fn turn<const N: usize>(x: &[f32], inner: usize) -> Vec<[f32; N]> {
    let mut across = vec![[0.0; N]; inner];
    for (block, across) in across.chunks_mut(TASK).enumerate() {
        for (row, x) in x.chunks_exact(inner).enumerate() {
            across.iter_mut().zip(&x[block * TASK..]).for_each(|(lanes, &v)| lanes[row] = v);
        }
    }
    across
}

/// The products of some outputs, turned back to rows: `[N, outputs]`.
fn turn_back<const N: usize>(across: &[[f32; N]], w: &[f32], products: Products<N>) -> Vec<f32> {
    let outs = w.len() / across.len();
    let (mut sums, mut rows) = (vec![[0.0; N]; outs], vec![0.0; N * outs]);
    products(across, w, &mut sums);
    for (row, part) in rows.chunks_exact_mut(outs).enumerate() {
        part.iter_mut().zip(&sums).for_each(|(v, lanes)| *v = lanes[row]);
    }
    rows
}

/// Some rows as the lanes of vectors, as many as are computed together.
pub(super) enum Across {
    Narrow(Vec<[f32; NARROW]>),
    Middle(Vec<[f32; MIDDLE]>),
    Wide(Vec<[f32; WIDE]>),
}

impl Across {
    /// Of at most `WIDE` rows.
    fn some(x: &[f32], inner: usize) -> Self {
        let rows = x.len() / inner;
        if rows <= NARROW {
            Self::Narrow(turn(x, inner))
        } else if rows <= MIDDLE {
            Self::Middle(turn(x, inner))
        } else {
            Self::Wide(turn(x, inner))
        }
    }

    /// Of `x [rows, inner]`, so many rows at a time as are computed together.
    pub fn of(x: &[f32], inner: usize) -> Vec<Self> {
        if inner == 0 { Vec::new() } else { x.par_chunks(WIDE * inner).map(|x| Self::some(x, inner)).collect() }
    }

    /// The products with `w [outs, inner]` of as many rows as there are lanes: `[lanes, outs]`.
    fn turn_back(&self, w: &[f32]) -> Vec<f32> {
        match self {
            Self::Narrow(x) => turn_back(x, w, narrow),
            Self::Middle(x) => turn_back(x, w, middle),
            Self::Wide(x) => turn_back(x, w, wide),
        }
    }

    /// `part [rows, outs] = x W^T` with `w [outs, inner]`, whose rows are those that all of `across` are made of. Each sum is
    /// taken in order.
    pub fn products(across: &[Self], w: &[f32], part: &mut [f32]) {
        let mut parts = part;
        for across in across {
            let rows = across.turn_back(w);
            let (to, rest) = parts.split_at_mut(rows.len().min(parts.len()));
            to.iter_mut().zip(rows).for_each(|(to, v)| *to = v);
            parts = rest;
        }
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn wide(x: &[[f32; WIDE]], w: &[f32], sums: &mut [[f32; WIDE]]) {
    products::<WIDE, OUTS>(x, w, sums, target_cfg_f!(target_feature = "fma"));
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn middle(x: &[[f32; MIDDLE]], w: &[f32], sums: &mut [[f32; MIDDLE]]) {
    let fused = target_cfg_f!(target_feature = "fma");
    if target_cfg_f!(target_feature = "avx512f") {
        products::<MIDDLE, MANY>(x, w, sums, fused);
    } else {
        products::<MIDDLE, OUTS>(x, w, sums, fused);
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn narrow(x: &[[f32; NARROW]], w: &[f32], sums: &mut [[f32; NARROW]]) {
    products::<NARROW, OUTS>(x, w, sums, target_cfg_f!(target_feature = "fma"));
}

/// The products of each row of `w` with the vectors that lie across `x`; `fused` is known where this is compiled into.
#[inline(always)]
fn products<const N: usize, const M: usize>(x: &[[f32; N]], w: &[f32], sums: &mut [[f32; N]], fused: bool) {
    let inner = x.len();
    let mut rest = sums.chunks_exact_mut(M);
    let mut weights = w.chunks_exact(M * inner);
    for (sums, w) in rest.by_ref().zip(weights.by_ref()) {
        block::<N, M>(x, w, sums, fused);
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
                *total = mul_add(weight, *x, *total, fused);
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
        for (rows, inner, outer) in [
            (1, 1, 1),
            (2, 5, 9),
            (16, 33, 8),
            (12, 20, 40),
            (17, 7, 70),
            (31, 1024, 600),
            (33, 65, 130),
            (3, 0, 4),
            (2, 3, 0),
        ] {
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
