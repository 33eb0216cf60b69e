//! How fast a model learns, and in how much memory: pictures of random tokens scored, differentiated and stepped on, as a stage of CoRL
//! does it. The same work in PyTorch is `tests/fixtures/train_speed.py`, which runs both in turns; only ratios mean anything.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, ensure};
use candle_core::Tensor;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::bench::median;
use crate::domain::task::Draw;
use crate::model::Model;
use crate::model::config::{ModelConfig, TextConfig};
use crate::model::network::Network;
use crate::model::params::{Params, Tensors};
use crate::model::prompt::DrawPrompt;
use crate::train::corl::score::{Drawn, Plan, Prompt};
use crate::train::optim::{AdamW, AdamWOptions};
use crate::train::round::RANK;
use crate::train::segments;
use crate::train::trainable::{Lora, Trainable};

/// Pictures of a step.
const PICTURES: usize = 48;
/// Layers and width of the random decoder whose memory is measured: deep, as those are that need segments.
const LAYERS: usize = 24;
const HIDDEN: usize = 256;
/// Layers a segment.
const SEGMENT: usize = 1;

/// What was measured.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Report {
    pub pictures: usize,
    /// Positions of a picture with its prompt.
    pub positions: usize,
    /// Passes of a step that run at once: one for each core, as in a stage.
    pub at_once: usize,
    /// Median seconds of a step: forward, back, AdamW.
    pub step_seconds: f64,
    /// The same in one pass, whose operations share the cores.
    pub one_pass_seconds: f64,
    /// The same as `step_seconds`, learning by changes of low rank, as rounds do.
    pub low_rank_seconds: f64,
    pub positions_per_second: f64,
    /// Where the system tells it.
    pub memory: Option<Memory>,
}

/// Such steps of a deep random network whole and in segments, each in processes of their own, in turns.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Memory {
    pub layers: usize,
    pub hidden: usize,
    pub whole: Footprint,
    /// Layers a segment.
    pub segment: usize,
    pub segments: Footprint,
    /// Peaks: in segments, by whole.
    pub times_peak: f64,
    /// The same less what is there before a step.
    pub times_of_step: f64,
    pub times_seconds: f64,
}

/// What a process took.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Footprint {
    /// MiB resident before the first step: weights, moments, the program.
    pub before: f64,
    /// Most MiB resident from its start to its end.
    pub peak: f64,
    /// Seconds of a step.
    pub step_seconds: f64,
}

impl Report {
    /// Lines for people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = format!(
            "a step of {} pictures of {} positions in {} passes at once {:.3} s: {:.0} positions/s, {:.2}x one pass\n\
             by changes of rank {RANK} {:.3} s, {:.2}x the time\n",
            self.pictures,
            self.positions,
            self.at_once,
            self.step_seconds,
            self.positions_per_second,
            self.one_pass_seconds / self.step_seconds,
            self.low_rank_seconds,
            self.low_rank_seconds / self.step_seconds
        );
        let Some(m) = &self.memory else { return text };
        for (name, of) in [("whole", &m.whole), ("segments", &m.segments)] {
            text += &format!(
                "{} layers of {}, {name:<8} {:>6.0} MiB at most, {:>4.0} before the step  {:>7.3} s\n",
                m.layers, m.hidden, of.peak, of.before, of.step_seconds
            );
        }
        text += &format!(
            "in segments of {} layers {:.2}x the memory, {:.2}x that of the step alone, {:.2}x the time\n",
            m.segment, m.times_peak, m.times_of_step, m.times_seconds
        );
        text
    }
}

/// A decoder that learns pictures of random tokens.
struct Bench {
    weights: Trainable,
    optim: AdamW,
    prompt: DrawPrompt,
    grids: Vec<Vec<u32>>,
}

impl Bench {
    /// Of weights that fit `config`, with the prompts of `model`.
    fn new(model: &Model, config: &ModelConfig, tensors: Tensors, lora: Option<Lora>) -> anyhow::Result<Self> {
        let prompt = model.prompter().draw(&Draw { prompt: "a red circle and a blue square".into() })?;
        let (tokens, codes) = (config.image_tokens(), u32::try_from(config.vq.codebook_size)?);
        let mut dice = ChaCha8Rng::seed_from_u64(1);
        let mut grid = || (0..tokens).map(|_| dice.random_range(0..codes)).collect();
        let grids = (0..PICTURES).map(|_| grid()).collect();
        let weights = Trainable::new(config, tensors, &["model.language_model."], lora, model.network().device())?;
        let optim = AdamW::new(weights.vars().clone(), AdamWOptions::default())?;
        Ok(Self { weights, optim, prompt, grids })
    }

    /// Takes a step of so many passes at once with `layers` layers a segment and tells its seconds.
    fn step(&mut self, passes: usize, layers: Option<usize>) -> anyhow::Result<f64> {
        let begun = Instant::now();
        let Self { weights, optim, prompt, grids } = self;
        let parts: Vec<_> = grids.chunks(PICTURES.div_ceil(passes)).collect();
        let one = |grids: &&[Vec<u32>]| {
            let drawn = drawn(prompt, grids);
            let (plan, mut pass) = (Plan::new(&drawn, None)?, optim.begin());
            // The mean of all pictures, which are of one length.
            let share = -(grids.len() as f64) / PICTURES as f64;
            let loss = |hidden: &Tensor| plan.log_probs(&weights.network, hidden)?.mean_all()? * share;
            segments::backward(&weights.network, plan.run(), layers, loss, |grads| optim.gather(grads, &mut pass))?;
            Ok::<_, candle_core::Error>(pass)
        };
        let done: Vec<_> = parts.par_iter().map(one).collect();
        for pass in done {
            optim.accumulate(pass?, |_| true)?;
        }
        optim.apply(1e-4)?;
        weights.refresh()?;
        Ok(begun.elapsed().as_secs_f64())
    }
}

fn drawn<'a>(prompt: &'a DrawPrompt, grids: &'a [Vec<u32>]) -> Vec<Drawn<'a>> {
    let picture = |tokens| Drawn { prompt: Prompt::Picture { prompt, guidance: 1.0 }, tokens, temperature: 1.0 };
    grids.iter().map(|tokens| picture(tokens)).collect()
}

/// Takes `rounds` steps after one that warms up; then measures memory as often.
///
/// # Errors
/// When memory runs out, or this program cannot be run again.
pub fn run(model: &Model, rounds: usize) -> anyhow::Result<Report> {
    let bench = |lora| Bench::new(model, model.config(), model.tensors().clone(), lora);
    let (mut bench, mut low_rank) = (bench(None)?, bench(Some(Lora::of(RANK, 1)))?);
    let positions = drawn(&bench.prompt, &bench.grids).first().context("no picture")?.positions();
    let at_once = rayon::current_num_threads();
    let (mut seconds, mut alone, mut by_changes) = (vec![], vec![], vec![]);
    bench.step(at_once, None)?;
    low_rank.step(at_once, None)?;
    for _ in 0..rounds.max(1) {
        seconds.push(bench.step(at_once, None)?);
        alone.push(bench.step(1, None)?);
        by_changes.push(low_rank.step(at_once, None)?);
    }
    let step_seconds = median(seconds.into_iter());
    let one_pass_seconds = median(alone.into_iter());
    let low_rank_seconds = median(by_changes.into_iter());
    let positions_per_second = (PICTURES * positions) as f64 / step_seconds;
    let memory = resident("VmHWM").is_ok().then(|| memory(rounds.max(1))).transpose()?;
    Ok(Report {
        pictures: PICTURES,
        positions,
        at_once,
        step_seconds,
        one_pass_seconds,
        low_rank_seconds,
        positions_per_second,
        memory,
    })
}

fn memory(rounds: usize) -> anyhow::Result<Memory> {
    let program = std::env::current_exe()?;
    let child = |layers: usize| -> anyhow::Result<Footprint> {
        let done = Command::new(&program).args(["bench", "--train", "--footprint", &layers.to_string()]).output()?;
        ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        Ok(serde_json::from_slice(&done.stdout)?)
    };
    let (mut whole, mut segments) = (vec![], vec![]);
    for _ in 0..rounds {
        whole.push(child(0)?);
        segments.push(child(SEGMENT)?);
    }
    let middle = |of: &[Footprint]| Footprint {
        before: median(of.iter().map(|one| one.before)),
        peak: median(of.iter().map(|one| one.peak)),
        step_seconds: median(of.iter().map(|one| one.step_seconds)),
    };
    let (whole, segments) = (middle(&whole), middle(&segments));
    Ok(Memory {
        layers: LAYERS,
        hidden: HIDDEN,
        whole,
        segment: SEGMENT,
        segments,
        times_peak: segments.peak / whole.peak,
        times_of_step: (segments.peak - segments.before) / (whole.peak - whole.before),
        times_seconds: segments.step_seconds / whole.step_seconds,
    })
}

/// One of the processes that are compared: two steps of the deep network, `layers` layers a segment, with the prompts of `model`.
///
/// # Errors
/// When memory runs out or the system does not tell how much was taken.
pub fn footprint(model: &Model, layers: usize) -> anyhow::Result<Footprint> {
    let config = ModelConfig {
        text: TextConfig {
            hidden_size: HIDDEN,
            intermediate_size: 11 * HIDDEN / 4,
            num_layers: LAYERS,
            num_heads: 4,
            num_kv_heads: 4,
            head_dim: HIDDEN / 4,
            ..model.config().text.clone()
        },
        ..model.config().clone()
    };
    let fresh = Params::fresh(1, model.network().device());
    Network::new(&fresh.root(), &config)?;
    let mut bench = Bench::new(model, &config, fresh.finish()?, None)?;
    let before = resident("VmRSS")?;
    bench.step(1, Some(layers))?;
    let step_seconds = bench.step(1, Some(layers))?;
    Ok(Footprint { before, peak: resident("VmHWM")?, step_seconds })
}

/// MiB that this process has resident (`VmRSS`), or had at most (`VmHWM`).
fn resident(what: &str) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let field = status.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(':'));
    let kib = field.and_then(|field| field.trim().strip_suffix(" kB")).context("/proc/self/status tells no memory")?;
    Ok(kib.parse::<f64>()? / 1024.0)
}
