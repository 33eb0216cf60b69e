//! How fast a checkpoint decodes beside PyTorch, at the same shapes, in turns of one run: steps a second of rows that each have one
//! position more to compute, after a context of the same length. Ratios are what counts; absolute figures belong to the machine.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Serialize;
use serde_json::json;

use crate::bench::median;
use crate::bench_ops::Memory;
use crate::model::Model;
use crate::model::cache::Slots;
use crate::model::network::{Chunk, Span};

/// Rows at once: one picture has two.
const ROWS: [usize; 5] = [1, 2, 8, 16, 32];
/// Positions that each row has behind it.
const CONTEXT: usize = 600;
/// What PyTorch runs.
const SCRIPT: &str = include_str!("bench_against.py");

/// One row of the report.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub rows: usize,
    /// Over many steps.
    pub steps_per_second: f64,
    /// Of weights and cache, in the best step.
    pub gigabytes_per_second: f64,
    /// That by what the machine reads at best in as many bytes.
    pub of_bandwidth: f64,
    pub theirs: Option<f64>,
    /// Our steps a second divided by theirs.
    pub ratio: Option<f64>,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub version: String,
    pub kept_as: String,
    /// Bytes of weights that a step reads.
    pub step_bytes: u64,
    /// And of the cache, for each row.
    pub row_bytes: u64,
    /// Gigabytes a second that this machine reads at best in as many bytes as the weights of a step, measured in this run.
    pub bandwidth: f64,
    pub context: usize,
    /// What stands beside us: PyTorch's version and type.
    pub against: Option<String>,
    pub decoding: Vec<Row>,
}

impl Report {
    /// A table for people.
    #[must_use]
    pub fn table(&self) -> String {
        let against = self.against.as_deref().unwrap_or("nothing");
        let mut text = format!(
            "kept as {}: a step reads {:.2} GB and {:.2} GB a row, {} positions behind each; the memory gives {:.1} GB/s at best; beside {against}\n",
            self.kept_as,
            self.step_bytes as f64 / 1e9,
            self.row_bytes as f64 / 1e9,
            self.context,
            self.bandwidth,
        );
        for row in &self.decoding {
            text += &format!(
                "{:>3} rows  {:>7.2} steps/s  {:>6.1} GB/s in the best ({:.0} % of what memory gives)",
                row.rows,
                row.steps_per_second,
                row.gigabytes_per_second,
                100.0 * row.of_bandwidth
            );
            if let (Some(theirs), Some(ratio)) = (row.theirs, row.ratio) {
                text += &format!("  theirs {theirs:>6.2}  ratio {ratio:.2}");
            }
            text.push('\n');
        }
        text
    }
}

/// PyTorch in a process of its own, which waits for orders.
struct Torch {
    child: Child,
    orders: ChildStdin,
    replies: BufReader<ChildStdout>,
    name: String,
}

impl Torch {
    fn start(python: &Path, model: &Model, dtype: &str) -> anyhow::Result<Self> {
        let (text, vq) = (&model.config().text, &model.config().vq);
        let shape = json!({
            "hidden": text.hidden_size, "inner": text.intermediate_size, "layers": text.num_layers, "heads": text.num_heads,
            "kv_heads": text.num_kv_heads, "head_dim": text.head_dim, "codes": vq.codebook_size, "code_dim": vq.codebook_dim,
            "context": context(model), "threads": rayon::current_num_threads(), "dtype": dtype,
        });
        let mut command = Command::new(python);
        command.args(["-c", SCRIPT, &shape.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("{} cannot be run", python.display()))?;
        let (Some(orders), Some(replies)) = (child.stdin.take(), child.stdout.take()) else { bail!("no pipes") };
        let mut torch = Self { child, orders, replies: BufReader::new(replies), name: String::new() };
        let version =
            torch.line().with_context(|| format!("{} has no PyTorch (`pip install torch`)", python.display()))?;
        torch.name = format!("PyTorch {version} in {dtype}");
        Ok(torch)
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        match self.replies.read_line(&mut line)? {
            0 => bail!("it ended"),
            _ => Ok(line.trim().to_owned()),
        }
    }

    /// Steps a second.
    fn rate(&mut self, rows: usize, steps: usize) -> anyhow::Result<f64> {
        writeln!(self.orders, "{rows} {steps}")?;
        Ok(steps as f64 / self.line()?.parse::<f64>()?)
    }
}

impl Drop for Torch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn context(model: &Model) -> usize {
    CONTEXT.min(model.config().text.max_positions - 1)
}

/// Steps a second of ours, and in the best of them.
fn rate(model: &Model, slots: &mut Slots, rows: usize, steps: usize) -> anyhow::Result<(f64, f64)> {
    let start = context(model);
    let span = |slot| Span { slot, start, chunks: vec![Chunk::Codes(&[0])] };
    let spans: Vec<Span<'_>> = (0..rows).map(span).collect();
    let mut step = || -> anyhow::Result<f64> {
        let begun = Instant::now();
        let hidden = model.step(&spans, slots)?;
        model.image_logits(&hidden)?;
        Ok(begun.elapsed().as_secs_f64())
    };
    step()?;
    let seconds = (0..steps).map(|_| step()).collect::<anyhow::Result<Vec<_>>>()?;
    let best = seconds.iter().copied().fold(f64::INFINITY, f64::min);
    Ok((steps as f64 / seconds.iter().sum::<f64>(), 1.0 / best))
}

/// Measures `rounds` times over, ours and theirs in turns; best of all, because a neighbour's work only ever slows. `python` is a Python
/// with PyTorch, `dtype` what it computes in.
///
/// # Errors
/// When a step fails or that Python has no PyTorch.
pub fn run(model: &Model, python: Option<&Path>, dtype: &str, rounds: usize) -> anyhow::Result<Report> {
    // Within the pool, as the engine's thread is: begun from outside, every loop would wake it anew.
    rayon::join(|| measure(model, python, dtype, rounds), || ()).0
}

fn measure(model: &Model, python: Option<&Path>, dtype: &str, rounds: usize) -> anyhow::Result<Report> {
    let mut torch = python.map(|python| Torch::start(python, model, dtype)).transpose()?;
    let most = ROWS.into_iter().max().unwrap_or(1);
    let mut slots = model.slots(most, context(model) + 1)?;
    // Memory that nothing was written to is not read from memory.
    let behind = vec![0; context(model)];
    model.step(&[Span { slot: 0, start: 0, chunks: vec![Chunk::Codes(&behind)] }], &mut slots)?;
    (1..most).try_for_each(|slot| slots.copy(0, slot, behind.len()))?;
    let numbers = model.config().text.cached_numbers() * (context(model) + 1);
    let row_bytes = (numbers * model.precision().cache().size_in_bytes()) as u64;
    let (memory, mut bandwidth) = (Memory::default(), 0.0);
    let step_bytes = model.size().step;
    let mut measured = Vec::new();
    for rows in ROWS {
        let steps = (64 / rows).max(6);
        let (mut ours, mut theirs, mut best) = (vec![], vec![], 0.0);
        for _ in 0..rounds.max(1) {
            let (many, one) = rate(model, &mut slots, rows, steps)?;
            ours.push(many);
            best = f64::max(best, one);
            if let Some(torch) = &mut torch {
                theirs.push(torch.rate(rows, steps)?);
            }
            bandwidth = f64::max(bandwidth, memory.read(usize::try_from(step_bytes)?, Duration::from_millis(200))?);
        }
        measured.push((rows, ours, theirs, best));
    }
    let mut decoding = Vec::new();
    for (rows, ours, theirs, step) in measured {
        let best = |rates: &[f64]| rates.iter().copied().fold(f64::NAN, f64::max);
        let ratio = median(ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs));
        let read = step * (step_bytes + rows as u64 * row_bytes) as f64 / 1e9;
        decoding.push(Row {
            rows,
            steps_per_second: best(&ours),
            gigabytes_per_second: read,
            of_bandwidth: read / bandwidth,
            theirs: torch.as_ref().map(|_| best(&theirs)),
            ratio: torch.as_ref().map(|_| ratio),
        });
    }
    Ok(Report {
        version: model.version().0.clone(),
        kept_as: model.precision().to_string(),
        step_bytes,
        row_bytes,
        bandwidth,
        context: context(model),
        against: torch.map(|torch| torch.name.clone()),
        decoding,
    })
}
