//! Products by a matrix `[out, in]`, cut into blocks of outputs: each is one thread's, who has its weights in a cache near by. What comes out
//! does not depend on the number of threads.

use std::ops::Range;

use candle_core::Result;
use rayon::prelude::*;

/// Weights from which on the work is worth sharing between threads.
const SHARED: usize = 1 << 15;
/// Numbers from which on putting blocks side by side is worth sharing.
const LARGE: usize = 1 << 18;

/// `[rows, outer]` of blocks of `block` outputs. `fill(outputs, part)` gets a part `[rows, outputs]` of zeros.
///
/// # Errors
/// When `fill` fails.
pub(super) fn by_outputs(
    (rows, outer, inner): (usize, usize, usize),
    block: usize,
    bias: Option<&[f32]>,
    fill: impl Fn(Range<usize>, &mut [f32]) -> Result<()> + Sync,
) -> Result<Vec<f32>> {
    let mut y = vec![0.0; rows * outer];
    if rows == 0 || outer == 0 {
        return Ok(y);
    }
    let starts: Vec<usize> = (0..outer).step_by(block.max(1)).collect();
    let part = |&start: &usize| {
        let outputs = start..(start + block.max(1)).min(outer);
        let mut part = vec![0.0; rows * outputs.len()];
        fill(outputs, &mut part).map(|()| part)
    };
    let parts: Vec<Vec<f32>> = if outer * inner < SHARED {
        starts.iter().map(part).collect::<Result<_>>()?
    } else {
        starts.par_iter().with_max_len(1).map(part).collect::<Result<_>>()?
    };
    let place = |(row, y): (usize, &mut [f32])| {
        for (&start, part) in starts.iter().zip(&parts) {
            let width = part.len() / rows;
            y[start..start + width].copy_from_slice(&part[row * width..(row + 1) * width]);
        }
        if let Some(bias) = bias {
            y.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
        }
    };
    if y.len() < LARGE {
        y.chunks_exact_mut(outer).enumerate().for_each(place);
    } else {
        y.par_chunks_exact_mut(outer).enumerate().for_each(place);
    }
    Ok(y)
}
