//! Matrices kept as blocks of small whole numbers, and their products with `f32` activations on a CPU, which are rounded to blocks alike
//! once a call. No gradient. candle's own keep every matrix twice (as stored and as its kernels want it) and spin in a pool beside ours.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use half::f16;

use super::blocks::by_outputs;
use super::few;
use super::kernel::{View, slice};
use super::nibbles::{self, Super};
use super::quantised_dot as dot;

/// Inputs that share a scale.
pub(super) const BLOCK: usize = 32;
/// Outputs whose codes lie side by side, which are the lanes of a vector.
pub(super) const GROUP: usize = 16;
/// Inputs whose codes one lane holds.
pub(super) const QUAD: usize = 4;
/// Groups of one task.
const TASK: usize = 4;

/// Rows from which on it is worth making numbers of the codes again where there are no instructions for bytes.
const MANY_ROWS: usize = 128;

/// How numbers are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// ggml's `q8_0`: 32 numbers of a row as whole numbers in ±127, times one `f16`.
    Q8_0,
    /// ggml's `q4_K`: 256 numbers of a row as whole numbers below 16, with a scale and a least number for every 32, of six bits, times one
    /// `f16` each. 4.625 bits a number as they lie here, where scales have bytes.
    Q4K,
}

impl Kind {
    /// As the option is called.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Q8_0 => "q8_0",
            Self::Q4K => "q4k",
        }
    }

    /// Bytes of a matrix.
    #[must_use]
    pub fn bytes(self, rows: usize, inputs: usize) -> usize {
        let block = match self {
            Self::Q8_0 => size_of::<Codes>() + size_of::<Scales>(),
            Self::Q4K => size_of::<Super>(),
        };
        rows.div_ceil(GROUP) * (inputs / self.block()) * block
    }

    /// Inputs of a block.
    fn block(self) -> usize {
        match self {
            Self::Q8_0 => BLOCK,
            Self::Q4K => nibbles::BLOCK,
        }
    }

    /// This, or else a finer one, for rows of so many inputs, which must fall into whole blocks.
    #[must_use]
    pub fn that_divides(self, inputs: usize) -> Option<Self> {
        [self, Self::Q8_0].into_iter().find(|kind| inputs > 0 && inputs.is_multiple_of(kind.block()))
    }
}

/// One block of inputs of a group of outputs: `[8 quads of inputs][16 outputs][4 inputs]`, each code plus 128.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub(super) struct Codes(pub [u8; BLOCK * GROUP]);

/// Scales of a block of inputs, by output.
pub(super) type Scales = [f16; GROUP];

/// A matrix `[rows, inputs]`, rows being the outputs of a linear layer.
#[derive(Debug)]
pub struct Quantised {
    rows: usize,
    inputs: usize,
    kept: Kept,
}

/// Blocks of all inputs of a group of outputs, then those of the next.
#[derive(Debug)]
enum Kept {
    Bytes { codes: Vec<Codes>, scales: Vec<Scales> },
    Nibbles(Vec<Super>),
}

impl Quantised {
    /// Of row-major numbers.
    ///
    /// # Errors
    /// When they are not `rows * inputs`, inputs do not fall into whole blocks, or a number cannot be kept: it is not finite, or too large
    /// for its scale.
    pub fn of(values: &[f32], rows: usize, inputs: usize, kind: Kind) -> Result<Self> {
        if values.len() != rows * inputs || kind.that_divides(inputs) != Some(kind) {
            bail!("{} numbers are no {rows} rows of {inputs} in blocks of {}", values.len(), kind.block());
        }
        let kept = match kind {
            Kind::Q8_0 => bytes(values, rows, inputs)?,
            Kind::Q4K => Kept::Nibbles(nibbles::of(values, rows, inputs)?),
        };
        Ok(Self { rows, inputs, kept })
    }

    /// Of an `f32` tensor `[rows, inputs]` on the CPU.
    ///
    /// # Errors
    /// When it is none, and as [`Quantised::of`].
    pub fn of_tensor(matrix: &Tensor, kind: Kind) -> Result<Self> {
        let (rows, inputs) = matrix.dims2()?;
        Self::of(&View::of(matrix)?, rows, inputs, kind)
    }

    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    #[must_use]
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    #[must_use]
    pub fn kind(&self) -> Kind {
        match self.kept {
            Kept::Bytes { .. } => Kind::Q8_0,
            Kept::Nibbles(_) => Kind::Q4K,
        }
    }

    /// Bytes that codes and scales take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.kind().bytes(self.rows, self.inputs)
    }

    /// What a row is kept as, in `f32`.
    ///
    /// # Errors
    /// When there is no such row.
    pub fn row(&self, row: usize) -> Result<Vec<f32>> {
        if row >= self.rows {
            bail!("row {row} of {}", self.rows);
        }
        let (blocks, lane) = (self.group(row), row % GROUP);
        Ok(match &self.kept {
            Kept::Bytes { codes, scales } => {
                let kept = codes[blocks.clone()].iter().zip(&scales[blocks]);
                let numbers = kept.flat_map(|(codes, scales)| {
                    let scale = scales[lane].to_f32();
                    (0..BLOCK).map(move |at| scale * (f32::from(codes.0[place(lane, at)]) - 128.0))
                });
                numbers.collect()
            }
            Kept::Nibbles(all) => nibbles::row(&all[blocks], lane),
        })
    }

    /// The blocks of the group that a row is in.
    fn group(&self, row: usize) -> Range<usize> {
        let blocks = self.inputs / self.kind().block();
        row / GROUP * blocks..(row / GROUP + 1) * blocks
    }

    /// `x [rows, inputs]` times its transpose, plus `bias`.
    fn product(&self, x: &[f32], rows: usize, bias: Option<&[f32]>, set: dot::Set) -> Result<Vec<f32>> {
        if set == dot::Set::Plain && rows >= MANY_ROWS {
            return self.widened(x, rows, bias);
        }
        let x = dot::Rounded::of(x, rows, self.inputs);
        let fill = |outputs: Range<usize>, part: &mut [f32]| {
            let width = outputs.len();
            for (at, first) in outputs.clone().step_by(GROUP).enumerate() {
                let lanes = GROUP.min(outputs.end - first);
                let mut put = |row: usize, sums: &[f32; GROUP]| {
                    let to = row * width + at * GROUP;
                    part[to..to + lanes].copy_from_slice(&sums[..lanes]);
                };
                let blocks = self.group(first);
                match &self.kept {
                    Kept::Bytes { codes, scales } => {
                        let bytes = dot::Bytes { codes: &codes[blocks.clone()], scales: &scales[blocks] };
                        dot::group(bytes, &x, set, &mut put);
                    }
                    Kept::Nibbles(all) => dot::group(nibbles::Nibbles(&all[blocks]), &x, set, &mut put),
                }
            }
            Ok(())
        };
        by_outputs((rows, self.rows, self.inputs), TASK * GROUP, bias, fill)
    }

    /// The same by products of `f32`.
    fn widened(&self, x: &[f32], rows: usize, bias: Option<&[f32]>) -> Result<Vec<f32>> {
        let across = few::Across::of(x, self.inputs);
        let fill = |outputs: Range<usize>, part: &mut [f32]| {
            let numbers = outputs.map(|row| self.row(row)).collect::<Result<Vec<_>>>()?.concat();
            few::Across::products(&across, &numbers, part);
            Ok(())
        };
        by_outputs((rows, self.rows, self.inputs), TASK * GROUP, bias, fill)
    }
}

/// Where the code of an input of a block lies.
pub(super) fn place(lane: usize, at: usize) -> usize {
    (at / QUAD * GROUP + lane) * QUAD + at % QUAD
}

/// Row-major numbers as `q8_0`.
fn bytes(values: &[f32], rows: usize, inputs: usize) -> Result<Kept> {
    let blocks = inputs / BLOCK;
    let all = rows.div_ceil(GROUP) * blocks;
    let mut all_codes = vec![Codes([128; BLOCK * GROUP]); all];
    let mut all_scales = vec![[f16::ZERO; GROUP]; all];
    for (at, row) in values.chunks_exact(inputs).enumerate() {
        let (first, lane) = (at / GROUP * blocks, at % GROUP);
        for (block, numbers) in row.chunks_exact(BLOCK).enumerate() {
            let largest = numbers.iter().fold(0f32, |most, v| most.max(v.abs()));
            let scale = f16::from_f32(largest / 127.0);
            if !scale.is_finite() || numbers.iter().any(|v| v.is_nan()) {
                bail!("row {at} holds what no block can keep");
            }
            all_scales[first + block][lane] = scale;
            let inverse = if scale == f16::ZERO { 0.0 } else { 1.0 / scale.to_f32() };
            let codes = &mut all_codes[first + block].0;
            for (at, v) in numbers.iter().enumerate() {
                // Whole and in 1..=255, so the cast is exact.
                codes[place(lane, at)] = ((v * inverse).round_ties_even().clamp(-127.0, 127.0) + 128.0) as u8;
            }
        }
    }
    Ok(Kept::Bytes { codes: all_codes, scales: all_scales })
}

/// `x [rows, in]` → `[rows, out]`, without the backward pass that candle then asks for in vain.
pub(super) struct QuantisedLinear {
    pub matrix: Arc<Quantised>,
    /// `f32`, one an output.
    pub bias: Option<Vec<f32>>,
}

impl CustomOp1 for QuantisedLinear {
    fn name(&self) -> &'static str {
        "quantised-linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, inner) = lx.shape().dims2()?;
        let outer = self.matrix.rows;
        if inner != self.matrix.inputs || self.bias.as_ref().is_some_and(|bias| bias.len() != outer) {
            bail!("rows of {inner} do not meet {outer} outputs of {} inputs", self.matrix.inputs);
        }
        let y = self.matrix.product(slice(x, lx)?, rows, self.bias.as_deref(), dot::Set::best())?;
        Ok((CpuStorage::F32(y), Shape::from((rows, outer))))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Weight, linear};
    use super::*;
    use candle_core::quantized::{GgmlDType, QTensor};
    use candle_core::{Device, Tensor, Var};
    use rand::{RngExt, SeedableRng};

    fn random(seed: u64, n: usize) -> Vec<f32> {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        (0..n).map(|_| rng.random_range(-1.5..1.5)).collect()
    }

    #[test]
    fn rows_are_kept_to_half_a_step() {
        let (rows, inputs) = (37, 96);
        let values = random(1, rows * inputs);
        let whole = Quantised::of(&values, rows, inputs, Kind::Q8_0).unwrap();
        for (row, numbers) in values.chunks_exact(inputs).enumerate() {
            let kept = whole.row(row).unwrap();
            for (kept, numbers) in kept.chunks_exact(BLOCK).zip(numbers.chunks_exact(BLOCK)) {
                let step = numbers.iter().fold(0f32, |most, v| most.max(v.abs())) / 127.0;
                kept.iter().zip(numbers).for_each(|(a, b)| assert!((a - b).abs() <= 0.57 * step, "{a} for {b}"));
            }
        }
        assert_eq!(whole.bytes(), 48 * 96 + 48 * 3 * 2, "a byte a number and two a block, of 48 outputs");
    }

    /// candle makes the blocks and reads them back; here they lie otherwise.
    #[test]
    fn rows_of_nibbles_are_those_of_candle() {
        let (rows, inputs) = (21, 768);
        let values = random(7, rows * inputs);
        let kept = Quantised::of(&values, rows, inputs, Kind::Q4K).unwrap();
        let tensor = Tensor::from_vec(values, (rows, inputs), &Device::Cpu).unwrap();
        let theirs = QTensor::quantize(&tensor, GgmlDType::Q4K).unwrap().dequantize(&Device::Cpu).unwrap();
        for (row, theirs) in theirs.to_vec2::<f32>().unwrap().into_iter().enumerate() {
            assert_eq!(kept.row(row).unwrap(), theirs, "row {row}");
        }
        assert_eq!(kept.bytes() * 8, 32 * inputs * 37 / 8, "4.625 bits a number of 32 outputs");
    }

    #[test]
    fn what_cannot_be_kept_is_refused() {
        for (kind, inputs) in [(Kind::Q8_0, 32), (Kind::Q4K, 256)] {
            let of = |values: &[f32]| Quantised::of(values, 2, inputs, kind).map(|_| ()).map_err(|e| e.to_string());
            assert_eq!(of(&vec![0.0; 2 * inputs]), Ok(()));
            assert!(of(&vec![0.0; 2 * inputs + 1]).unwrap_err().contains("are no 2 rows of"));
            for bad in [f32::NAN, f32::INFINITY, 1e8] {
                let mut values = vec![0.0; 2 * inputs];
                values[inputs + 3] = bad;
                assert!(of(&values).unwrap_err().contains("row 1"), "{bad} as {kind:?}");
            }
            assert!(Quantised::of(&[0.0; 80], 2, 40, kind).is_err());
        }
        let that = |inputs| Kind::Q4K.that_divides(inputs);
        assert_eq!([512, 96, 40, 0].map(that), [Some(Kind::Q4K), Some(Kind::Q8_0), None, None]);
    }

    /// Against `f64` products of the numbers that are kept; what is left is the rounding of activations.
    #[test]
    fn products_are_those_of_what_is_kept() {
        let bytes = [(1, 32, 1), (2, 96, 16), (7, 64, 17), (33, 2048, 70), (70, 160, 100)];
        let nibbles = [(1, 256, 1), (2, 512, 16), (7, 256, 17), (33, 2048, 70)];
        let bytes = bytes.map(|sizes| (Kind::Q8_0, sizes));
        for (kind, (rows, inputs, outer)) in bytes.into_iter().chain(nibbles.map(|sizes| (Kind::Q4K, sizes))) {
            let x = random(2, rows * inputs);
            let matrix = Quantised::of(&random(3, outer * inputs), outer, inputs, kind).unwrap();
            let bias = random(4, outer);
            let kept: Vec<Vec<f32>> = (0..outer).map(|row| matrix.row(row).unwrap()).collect();
            let x = Tensor::from_vec(x, (rows, inputs), &Device::Cpu).unwrap();
            let b = Tensor::new(bias.as_slice(), &Device::Cpu).unwrap();
            let y = linear(&x, &Weight::from(matrix), Some(&b)).unwrap().to_vec2::<f32>().unwrap();
            for (x, y) in x.to_vec2::<f32>().unwrap().iter().zip(&y) {
                for ((kept, bias), y) in kept.iter().zip(&bias).zip(y) {
                    let terms = kept.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x));
                    let wanted = terms.sum::<f64>() + f64::from(*bias);
                    let bound = 0.03 * (inputs as f64).sqrt();
                    assert!((wanted - f64::from(*y)).abs() < bound, "{rows}x{inputs} by {outer}: {y}, not {wanted}");
                }
            }
        }
    }

    #[test]
    fn every_path_has_the_same_numbers_for_a_row_alone_or_among_others() {
        for (kind, inputs) in [(Kind::Q8_0, 320), (Kind::Q4K, 512)] {
            paths_agree(kind, inputs);
        }
    }

    fn paths_agree(kind: Kind, inputs: usize) {
        let (rows, outer) = (29, 90);
        let x = random(5, rows * inputs);
        let matrix = Quantised::of(&random(6, outer * inputs), outer, inputs, kind).unwrap();
        let plain = matrix.product(&x, rows, None, dot::Set::Plain).unwrap();
        let best = matrix.product(&x, rows, None, dot::Set::best()).unwrap();
        for (a, b) in plain.iter().zip(&best) {
            assert!((a - b).abs() < 1e-4, "{a} by plain loops, {b} by {:?}", dot::Set::best());
        }
        // Many rows by plain loops are not rounded, so they differ by that.
        let many = matrix.product(&x.repeat(5), 5 * rows, None, dot::Set::Plain).unwrap();
        for (a, b) in many.iter().zip(plain.iter().cycle()) {
            assert!((a - b).abs() < 0.3, "{a} of numbers, {b} of bytes");
        }
        for row in 0..rows {
            let alone = matrix.product(&x[row * inputs..(row + 1) * inputs], 1, None, dot::Set::best()).unwrap();
            assert!(alone == best[row * outer..(row + 1) * outer], "row {row}");
        }
    }

    #[test]
    fn a_gradient_is_refused_and_no_number_stays_none() {
        let matrix: Weight = Quantised::of(&[1.0; 64], 2, 32, Kind::Q8_0).unwrap().into();
        let x = Var::zeros((1, 32), candle_core::DType::F32, &Device::Cpu).unwrap();
        assert!(linear(x.as_tensor(), &matrix, None).unwrap().backward().is_err());
        for bad in [f32::NAN, f32::INFINITY] {
            let mut row = vec![0.0; 32];
            row[9] = bad;
            let x = Tensor::from_vec(row, (1, 32), &Device::Cpu).unwrap();
            let y = linear(&x, &matrix, None).unwrap().to_vec2::<f32>().unwrap();
            assert!(y[0].iter().all(|v| v.is_nan()), "{bad} makes {y:?}");
        }
    }
}
