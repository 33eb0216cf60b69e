//! How fast the products and the attention of a decoder of Janus-Pro-1B's shape are, on random numbers, by what weights and caches are
//! kept as. Weights and caches come from memory, not from a processor's cache, as between the layers of a step; so a step of few rows can be
//! no faster than memory is read, which is measured again beside each shape.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use candle_core::{DType, Device, Tensor};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::Serialize;

use crate::model::ops::{self, Heads, Kind, Quantised, Rope, SlotSpan, Weight};

/// Inputs and outputs of the decoder's products and of the head that draws.
const SHAPES: [(&str, usize, usize); 5] =
    [("qkv", 2048, 6144), ("out", 2048, 2048), ("gate_up", 2048, 11264), ("down", 5632, 2048), ("head", 2048, 16384)];
const ROWS: [usize; 6] = [1, 2, 8, 16, 32, 600];
const HEADS: Heads = Heads { count: 16, kv: 16, dim: 128 };
/// Tokens that a slot of the cache holds, and those that are there.
const CAPACITY: usize = 640;
const POSITIONS: usize = 600;
const ATTENDING: [usize; 3] = [2, 8, 32];
/// Bytes gone through before anything is read again: several times what a processor's caches hold.
const COLD: usize = 128 << 20;
/// Time that goes into one figure, a round.
const SPENT: Duration = Duration::from_millis(60);

/// One product or one step of attention.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub what: &'static str,
    /// How weights or the cache are kept.
    pub kept: &'static str,
    pub inputs: usize,
    pub outputs: usize,
    pub rows: usize,
    /// Of the best run.
    pub milliseconds: f64,
    /// 10^9 bytes of weights, or of the cache, a second.
    pub gigabytes_per_second: f64,
    /// That by what is read of memory at best.
    pub of_memory: f64,
    /// 10^9 products and sums a second.
    pub gigaflops: f64,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub threads: usize,
    /// 10^9 bytes a second that all threads together read of memory at best.
    pub memory: f64,
    pub products: Vec<Row>,
    pub attention: Vec<Row>,
}

impl Report {
    /// A table for people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = format!("{} threads read {:.1} GB/s of memory\n", self.threads, self.memory);
        for row in self.products.iter().chain(&self.attention) {
            text += &format!(
                "{:<9} {:>4} -> {:<5} {:<4} {:>3} rows {:>9.3} ms {:>6.1} GB/s {:>4.0} % of memory {:>6.0} GFLOP/s\n",
                row.what,
                row.inputs,
                row.outputs,
                row.kept,
                row.rows,
                row.milliseconds,
                row.gigabytes_per_second,
                100.0 * row.of_memory,
                row.gigaflops
            );
        }
        text
    }
}

/// What reading is measured on.
pub struct Memory(Vec<u64>);

impl Default for Memory {
    fn default() -> Self {
        Self(vec![1; COLD / size_of::<u64>()])
    }
}

impl Memory {
    /// 10^9 bytes a second that all threads together read at best in so much time, over a run of so many bytes or somewhat more: for long
    /// memory gives less than for a moment.
    ///
    /// # Errors
    /// Never; the runs of others may.
    pub fn read(&self, bytes: usize, spent: Duration) -> anyhow::Result<f64> {
        let sum = |part: &[u64]| part.iter().fold(0u64, |sum, v| sum.wrapping_add(*v));
        let passes = bytes.div_ceil(COLD).max(1);
        let seconds = best(spent, |_| {
            for _ in 0..passes {
                black_box(self.0.par_chunks(1 << 15).map(sum).reduce(|| 0, u64::wrapping_add));
            }
            Ok(())
        })?;
        Ok((passes * COLD) as f64 / seconds / 1e9)
    }
}

/// Seconds of the best run of `f`, which gets the number of the run.
fn best(spent: Duration, f: impl Fn(usize) -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let (begun, mut best, mut run) = (Instant::now(), f64::INFINITY, 0);
    while run < 3 || begun.elapsed() < spent {
        let begun = Instant::now();
        f(run)?;
        best = best.min(begun.elapsed().as_secs_f64());
        run += 1;
    }
    Ok(best)
}

struct Bench {
    dice: ChaCha8Rng,
    spent: Duration,
    memory: Memory,
    /// 10^9 bytes a second read at best so far.
    fastest: f64,
}

impl Bench {
    fn random(&mut self, rows: usize, columns: usize) -> anyhow::Result<Tensor> {
        let numbers: Vec<f32> = (0..rows * columns).map(|_| self.dice.random_range(-1.0..1.0)).collect();
        Ok(Tensor::from_vec(numbers, (rows, columns), &Device::Cpu)?)
    }

    /// As many matrices as are read before one is read again.
    fn weights(&self, one: &Tensor, kept: &str) -> anyhow::Result<Vec<Weight>> {
        let make = || -> anyhow::Result<Weight> {
            Ok(match kept {
                "f32" => one.copy()?.into(),
                "bf16" => one.to_dtype(DType::BF16)?.into(),
                "f16" => one.to_dtype(DType::F16)?.into(),
                "q8_0" => Quantised::of_tensor(one, Kind::Q8_0)?.into(),
                _ => Quantised::of_tensor(one, Kind::Q4K)?.into(),
            })
        };
        let first = make()?;
        let more = COLD.div_ceil(first.bytes().max(1));
        std::iter::once(Ok(first)).chain((0..more).map(|_| make())).collect()
    }

    fn products(&mut self, what: &'static str, inputs: usize, outputs: usize) -> anyhow::Result<Vec<Row>> {
        self.fastest = self.fastest.max(self.memory.read(COLD, self.spent)?);
        let (one, mut rows_of) = (self.random(outputs, inputs)?, Vec::new());
        for kept in ["f32", "bf16", "f16", "q8_0", "q4k"] {
            let weights = self.weights(&one, kept)?;
            let bytes = weights.first().map_or(0, Weight::bytes);
            for rows in ROWS {
                let x = self.random(rows, inputs)?;
                let seconds = best(self.spent, |run| {
                    let weight = weights.get(run % weights.len()).context("no weight")?;
                    black_box(ops::linear(&x, weight, None)?);
                    Ok(())
                })?;
                rows_of.push(row((what, kept), (inputs, outputs, rows), bytes, 2 * rows * inputs * outputs, seconds));
            }
        }
        Ok(rows_of)
    }

    fn attention(&mut self, rows: usize, kept: &'static str, dtype: DType) -> anyhow::Result<Row> {
        self.fastest = self.fastest.max(self.memory.read(COLD, self.spent)?);
        let shown = 2 * rows * HEADS.kv * HEADS.dim * POSITIONS;
        let bytes = shown * dtype.size_in_bytes();
        let part = |a, b| Tensor::rand(-1f32, 1f32, (rows, HEADS.kv, a, b), &Device::Cpu)?.to_dtype(dtype);
        let layer = |_| Ok((part(HEADS.dim, CAPACITY)?, part(CAPACITY, HEADS.dim)?));
        let layers = (0..=COLD.div_ceil(bytes)).map(layer).collect::<candle_core::Result<Vec<_>>>()?;
        let x = self.random(rows, HEADS.fused())?;
        let rope = Arc::new(Rope::new(10_000.0, HEADS.dim, CAPACITY));
        let span = |row| SlotSpan { slot: row, row, len: 1, position: POSITIONS - 1 };
        let spans = Arc::new((0..rows).map(span).collect::<Vec<_>>());
        let seconds = best(self.spent, |run| {
            let (keys, values) = layers.get(run % layers.len()).context("no layer")?;
            black_box(ops::slot_attention(&x, keys, values, HEADS, &spans, &rope)?);
            Ok(())
        })?;
        Ok(row(("attention", kept), (HEADS.fused(), HEADS.width(), rows), bytes, 2 * shown, seconds))
    }
}

fn row(
    (what, kept): (&'static str, &'static str),
    (inputs, outputs, rows): (usize, usize, usize),
    bytes: usize,
    flops: usize,
    seconds: f64,
) -> Row {
    let gigabytes_per_second = bytes as f64 / seconds / 1e9;
    Row {
        what,
        kept,
        inputs,
        outputs,
        rows,
        milliseconds: 1e3 * seconds,
        gigabytes_per_second,
        of_memory: f64::NAN, // known when memory has been measured beside everything
        gigaflops: flops as f64 / seconds / 1e9,
    }
}

/// Measures everything for `rounds` times [`SPENT`], on all threads of rayon's pool.
///
/// # Errors
/// When memory runs out.
pub fn run(rounds: usize) -> anyhow::Result<Report> {
    let measure = || {
        let spent = SPENT * u32::try_from(rounds.max(1)).unwrap_or(u32::MAX);
        let mut bench = Bench { dice: ChaCha8Rng::seed_from_u64(1), spent, memory: Memory::default(), fastest: 0.0 };
        let (mut products, mut attention) = (Vec::new(), Vec::new());
        for (what, inputs, outputs) in SHAPES {
            products.extend(bench.products(what, inputs, outputs)?);
        }
        for rows in ATTENDING {
            for (kept, dtype) in [("f32", DType::F32), ("bf16", DType::BF16)] {
                attention.push(bench.attention(rows, kept, dtype)?);
            }
        }
        let memory = bench.fastest.max(bench.memory.read(COLD, spent)?);
        products.iter_mut().chain(&mut attention).for_each(|row| row.of_memory = row.gigabytes_per_second / memory);
        Ok(Report { threads: rayon::current_num_threads(), memory, products, attention })
    };
    // Within the pool, as the engine's thread is: begun from outside, every loop would wake it anew.
    rayon::join(measure, || ()).0
}
