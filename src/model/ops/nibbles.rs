//! ggml's `q4_K` as it lies here: 16 outputs side by side, as the lanes of a vector are. candle chooses codes and scales; what is theirs in a
//! row becomes a lane. Knows no threads.

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Result, Tensor, bail};
use half::f16;
use rayon::prelude::*;

use super::quantised::{BLOCK as PART, GROUP, QUAD, Scales, place};

/// Inputs of a block, and its parts, which have scales of their own.
pub(super) const BLOCK: usize = 256;
pub(super) const PARTS: usize = BLOCK / PART;
/// Bytes of the codes of a part: the lower half of each is of the first inputs, the upper half of as many that follow.
pub(super) const CODES: usize = PART * GROUP / 2;

/// One block of inputs of a group of outputs: a number is `scale * part's scale * code - least * part's least`.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub(super) struct Super {
    /// By part: `[4 quads of inputs][16 outputs][4 inputs]`, and the four quads that follow in the upper halves.
    pub codes: [[u8; CODES]; PARTS],
    pub scale: Scales,
    pub least: Scales,
    pub scales: [[u8; GROUP]; PARTS],
    pub leasts: [[u8; GROUP]; PARTS],
}

const NONE: Super = Super {
    codes: [[0; CODES]; PARTS],
    scale: [f16::ZERO; GROUP],
    least: [f16::ZERO; GROUP],
    scales: [[0; GROUP]; PARTS],
    leasts: [[0; GROUP]; PARTS],
};

/// Blocks of a group of outputs.
#[derive(Clone, Copy)]
pub(super) struct Nibbles<'a>(pub &'a [Super]);

/// Bytes of one of ggml's blocks: two `f16`, eight pairs of six bits, and the codes.
const THEIRS: usize = 2 + 2 + 12 + BLOCK / 2;

/// Row-major numbers, whose rows are whole blocks.
///
/// # Errors
/// When a number cannot be kept: it is not finite, or too large.
pub(super) fn of(values: &[f32], rows: usize, inputs: usize) -> Result<Vec<Super>> {
    let blocks = inputs / BLOCK;
    let mut kept = vec![NONE; rows.div_ceil(GROUP) * blocks];
    let groups = kept.par_chunks_mut(blocks).zip(values.par_chunks(GROUP * inputs)).enumerate();
    groups.try_for_each(|(group, (kept, values))| {
        let number = |lane: usize| group * GROUP + lane;
        for (lane, row) in values.chunks_exact(inputs).enumerate() {
            if row.iter().any(|v| !v.is_finite()) {
                bail!("row {} holds what no block can keep", number(lane));
            }
            let theirs = QTensor::quantize(&Tensor::new(row, &Device::Cpu)?, GgmlDType::Q4K)?;
            let theirs = theirs.data()?;
            for (block, theirs) in kept.iter_mut().zip(theirs.chunks_exact(THEIRS)) {
                take(block, lane, theirs);
                if !block.scale[lane].is_finite() || !block.least[lane].is_finite() {
                    bail!("row {} holds what no block can keep", number(lane));
                }
            }
        }
        Ok(())
    })?;
    Ok(kept)
}

/// One of ggml's blocks as a lane.
fn take(block: &mut Super, lane: usize, theirs: &[u8]) {
    let two = |at: usize| f16::from_le_bytes([theirs[at], theirs[at + 1]]);
    (block.scale[lane], block.least[lane]) = (two(0), two(2));
    let (six, codes) = theirs[4..].split_at(12);
    for part in 0..PARTS {
        // The first four parts have six bits of a byte each; the upper two bits of these belong to the last four.
        let (scale, least) = match part {
            0..4 => (six[part] & 63, six[part + 4] & 63),
            _ => {
                let low = six[part + 4];
                (low & 15 | six[part - 4] >> 6 << 4, low >> 4 | six[part] >> 6 << 4)
            }
        };
        (block.scales[part][lane], block.leasts[part][lane]) = (scale, least);
        // Two parts share bytes there.
        let theirs = &codes[part / 2 * PART..(part / 2 + 1) * PART];
        for (at, byte) in theirs.iter().enumerate() {
            let code = byte >> (4 * (part % 2)) & 15;
            let (to, shift) = half(lane, at);
            block.codes[part][to] |= code << shift;
        }
    }
}

/// The byte that holds the code of an input of a part, and by how many bits it is shifted.
fn half(lane: usize, at: usize) -> (usize, usize) {
    (place(lane, at % (PART / 2)), at / (PART / 2) * QUAD)
}

/// The numbers of a lane.
pub(super) fn row(blocks: &[Super], lane: usize) -> Vec<f32> {
    let part = |block: &Super, part: usize| -> [f32; PART] {
        let scale = block.scale[lane].to_f32() * f32::from(block.scales[part][lane]);
        let least = block.least[lane].to_f32() * f32::from(block.leasts[part][lane]);
        std::array::from_fn(|at| {
            let (to, shift) = half(lane, at);
            scale * f32::from(block.codes[part][to] >> shift & 15) - least
        })
    };
    blocks.iter().flat_map(|block| (0..PARTS).flat_map(move |at| part(block, at))).collect()
}
