//! `x W^T + b` where `W` is kept in half precision on a CPU and `x` and what comes out are `f32`. Where the processor multiplies pairs
//! of bf16, activations are rounded to bf16 once a call; elsewhere weights are widened and activations stay as they are. Each weight
//! is read once for a handful of rows; for many, a block of outputs stays in a cache while all rows pass. No gradient: asking candle
//! for one is an error.

use std::ops::Range;

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, bail};
use half::{bf16, f16};

use super::blocks::by_outputs;
use super::few;
use super::kernel::slice;
#[cfg(target_arch = "x86_64")]
use super::pairs;
use super::widen::{self, Kept};

/// Outputs of one task: their weights stay in the second-level cache.
const TASK: usize = 64;
/// Rows up to which weights are widened in registers, a handful of outputs at a time; those of more are widened once for all rows.
const A_FEW: usize = 8;
/// Outputs of one task where weights are widened for rows that are computed all together: those stay nearer.
const STRIP: usize = 16;

/// `x [rows, in]`, `w [out, in]` → `[rows, out]`.
pub(super) struct HalfLinear;

/// As [`HalfLinear`] with a bias `[out]`, `f32`.
pub(super) struct HalfLinearBias;

/// Weights as they are kept.
#[derive(Clone, Copy)]
enum Weights<'a> {
    Brain(&'a [bf16]),
    Half(&'a [f16]),
}

impl<'a> Weights<'a> {
    fn of(storage: &'a CpuStorage, layout: &Layout) -> Result<Self> {
        match (storage, layout.contiguous_offsets()) {
            (CpuStorage::BF16(w), Some((start, end))) => Ok(Self::Brain(&w[start..end])),
            (CpuStorage::F16(w), Some((start, end))) => Ok(Self::Half(&w[start..end])),
            _ => bail!("a product in half precision needs contiguous bf16 or f16"),
        }
    }
}

fn forward(
    (x, lx): (&CpuStorage, &Layout),
    (w, lw): (&CpuStorage, &Layout),
    bias: Option<&[f32]>,
) -> Result<(CpuStorage, Shape)> {
    let ((rows, inner), (outer, inputs)) = (lx.shape().dims2()?, lw.shape().dims2()?);
    if inner != inputs || bias.is_some_and(|bias| bias.len() != outer) {
        bail!("rows of {inner} do not meet {outer} outputs of {inputs} inputs");
    }
    let (x, w, sizes) = (slice(x, lx)?, Weights::of(w, lw)?, (rows, outer, inner));
    #[cfg(target_arch = "x86_64")]
    if let (Weights::Brain(w), true) = (w, pairs::at_hand()) {
        let y = in_pairs(x, w, sizes, bias)?;
        return Ok((CpuStorage::F32(y), Shape::from((rows, outer))));
    }
    Ok((CpuStorage::F32(widened(x, w, sizes, bias)?), Shape::from((rows, outer))))
}

/// By products of pairs of bf16, which the processor must have.
#[cfg(target_arch = "x86_64")]
fn in_pairs(x: &[f32], w: &[bf16], sizes: (usize, usize, usize), bias: Option<&[f32]>) -> Result<Vec<f32>> {
    let (rows, _, inner) = sizes;
    let x = pairs::Rounded::of(x, rows, inner);
    let fill = |outputs: Range<usize>, part: &mut [f32]| {
        pairs::products(&w[outputs.start * inner..outputs.end * inner], &x, part);
        Ok(())
    };
    by_outputs(sizes, TASK, bias, fill)
}

/// By products of widened weights.
fn widened(x: &[f32], w: Weights<'_>, sizes: (usize, usize, usize), bias: Option<&[f32]>) -> Result<Vec<f32>> {
    let (rows, _, inner) = sizes;
    let across = if rows > A_FEW { few::Across::of(x, inner) } else { Vec::new() };
    let fill = |outputs: Range<usize>, part: &mut [f32]| {
        let range = outputs.start * inner..outputs.end * inner;
        match w {
            Weights::Brain(w) if rows <= A_FEW => widen::brain_products(&w[range], x, inner, part),
            Weights::Half(w) if rows <= A_FEW => widen::half_products(&w[range], x, inner, part),
            Weights::Brain(w) => few::Across::products(&across, &wide(&w[range]), part),
            Weights::Half(w) => few::Across::products(&across, &wide(&w[range]), part),
        }
        Ok(())
    };
    by_outputs(sizes, if across.len() == 1 { STRIP } else { TASK }, bias, fill)
}

fn wide<T: Kept>(w: &[T]) -> Vec<f32> {
    let mut wide = vec![0.0; w.len()];
    T::widen(w, &mut wide);
    wide
}

impl CustomOp2 for HalfLinear {
    fn name(&self) -> &'static str {
        "half-linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, w: &CpuStorage, lw: &Layout) -> Result<(CpuStorage, Shape)> {
        forward((x, lx), (w, lw), None)
    }
}

impl CustomOp3 for HalfLinearBias {
    fn name(&self) -> &'static str {
        "half-linear-bias"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        forward((x, lx), (w, lw), Some(slice(b, lb)?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Weight, linear};
    use super::*;
    use candle_core::{DType, Device, Tensor, Var};
    use rand::{RngExt, SeedableRng};

    fn random(seed: u64, n: usize) -> Vec<f32> {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        (0..n).map(|_| rng.random_range(-1.5..1.5)).collect()
    }

    fn brains(x: &[f32]) -> Vec<bf16> {
        x.iter().map(|&x| bf16::from_f32(x)).collect()
    }

    fn halves(x: &[f32]) -> Vec<f16> {
        x.iter().map(|&x| f16::from_f32(x)).collect()
    }

    /// Every path that this processor has: products of bf16 first.
    fn paths(
        x: &[f32],
        w: &[f32],
        sizes: (usize, usize, usize),
        bias: Option<&[f32]>,
    ) -> Vec<(&'static str, Vec<f32>)> {
        let (brain, half) = (brains(w), halves(w));
        let mut all = vec![
            ("wide bf16", widened(x, Weights::Brain(&brain), sizes, bias).unwrap()),
            ("wide f16", widened(x, Weights::Half(&half), sizes, bias).unwrap()),
        ];
        #[cfg(target_arch = "x86_64")]
        if pairs::at_hand() {
            all.push(("pairs of bf16", in_pairs(x, &brain, sizes, bias).unwrap()));
        }
        all
    }

    /// Whole numbers, so that every order of summing is exact and every type keeps them.
    #[test]
    fn products_are_right_at_every_size() {
        let sizes =
            [(1, 1, 1), (1, 9, 5), (2, 1, 33), (3, 70, 31), (5, 3, 0), (4, 130, 65), (6, 8, 2081), (70, 67, 40)];
        for (rows, outer, inner) in sizes.into_iter().chain((7..=66).map(|rows| (rows, 5, 47))) {
            let x: Vec<f32> = (0..rows * inner).map(|i| (i % 7) as f32 - 3.0).collect();
            let w: Vec<f32> = (0..outer * inner).map(|i| (i % 5) as f32 - 2.0).collect();
            let bias: Vec<f32> = (0..outer).map(|i| i as f32).collect();
            for (name, y) in paths(&x, &w, (rows, outer, inner), Some(&bias)) {
                for row in 0..rows {
                    for out in 0..outer {
                        let terms = (0..inner).map(|at| x[row * inner + at] * w[out * inner + at]);
                        let wanted = out as f32 + terms.sum::<f32>();
                        assert_eq!(y[row * outer + out], wanted, "{name}, {rows}x{inner} by {outer}: {row}, {out}");
                    }
                }
            }
        }
    }

    #[test]
    fn products_are_as_exact_as_their_types() {
        for (rows, outer, inner) in [(1, 20, 2048), (13, 20, 5632), (80, 33, 1000)] {
            let (x, w) = (random(1, rows * inner), random(2, outer * inner));
            for (name, y) in paths(&x, &w, (rows, outer, inner), None) {
                let kept: Vec<f64> = match name {
                    "wide f16" => halves(&w).iter().map(|w| w.to_f64()).collect(),
                    _ => brains(&w).iter().map(|w| w.to_f64()).collect(),
                };
                // Rounding of activations to bf16 is at most one part in 256 each, with either sign.
                let allowed = if name == "pairs of bf16" { 8e-3 } else { 2e-5 } * (inner as f64).sqrt();
                for (row, x) in x.chunks_exact(inner).enumerate() {
                    for (out, w) in kept.chunks_exact(inner).enumerate() {
                        let wanted: f64 = w.iter().zip(x).map(|(w, &x)| w * f64::from(x)).sum();
                        let gap = (wanted - f64::from(y[row * outer + out])).abs();
                        assert!(gap < allowed, "{name}, {rows}x{inner} by {outer}: off by {gap}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_row_is_the_same_among_others_and_on_any_number_of_threads() {
        let (rows, outer, inner) = (63, 150, 2100);
        let (x, w) = (random(1, rows * inner), random(2, outer * inner));
        let all = paths(&x, &w, (rows, outer, inner), None);
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            assert!(pool.install(|| paths(&x, &w, (rows, outer, inner), None)) == all, "{threads} threads");
        }
        // Widened weights have one order of sums for a few rows and one for more.
        for (few, first) in [(1, 0), (1, 62), (8, 7), (4, 58), (11, 3), (30, 30)] {
            let some = paths(&x[first * inner..(first + few) * inner], &w, (few, outer, inner), None);
            for ((name, some), (_, all)) in some.iter().zip(&all) {
                let same = *name == "pairs of bf16" || few > A_FEW;
                for (a, b) in some.iter().zip(&all[first * outer..]) {
                    assert!(a == b || (!same && (a - b).abs() < 1e-3), "{name}, {few} rows from {first}: {a}, {b}");
                }
            }
        }
    }

    #[test]
    fn tensors_may_begin_anywhere_and_gradients_are_refused() {
        let (rows, outer, inner) = (3, 7, 33);
        let x = Tensor::from_vec(random(1, (rows + 1) * inner), (rows + 1, inner), &Device::Cpu).unwrap();
        let w = Tensor::from_vec(random(2, (outer + 1) * inner), (outer + 1, inner), &Device::Cpu).unwrap();
        let bias = Tensor::from_vec(random(3, outer), outer, &Device::Cpu).unwrap();
        let x = x.narrow(0, 1, rows).unwrap();
        for dtype in [DType::BF16, DType::F16] {
            let w = w.to_dtype(dtype).unwrap().narrow(0, 1, outer).unwrap();
            let y = linear(&x, &w.clone().into(), Some(&bias)).unwrap();
            let wanted = linear(&x, &w.to_dtype(DType::F32).unwrap().into(), Some(&bias)).unwrap();
            let gap = (y - wanted).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(gap < 0.05, "{dtype:?}: off by {gap}");
            let learns = Var::from_tensor(&x).unwrap();
            let y = linear(learns.as_tensor(), &Weight::from(w.clone()), None).unwrap();
            assert!(y.sum_all().unwrap().backward().is_err());
            let narrow = x.narrow(1, 0, 32).unwrap();
            assert!(linear(&narrow, &w.into(), None).is_err(), "rows of another length");
        }
    }
}
