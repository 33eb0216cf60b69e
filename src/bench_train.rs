//! How fast a model learns: pictures of random tokens scored, differentiated and stepped on, as a stage of CoRL does it. The same work in
//! PyTorch is `tests/fixtures/train_speed.py`, which runs both in turns; only their ratio means anything.

use std::time::Instant;

use anyhow::Context;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use crate::bench::median;
use crate::domain::task::Draw;
use crate::model::Model;
use crate::train::corl::score::{Drawn, Prompt, log_probs};
use crate::train::optim::{AdamW, AdamWOptions};
use crate::train::trainable::Trainable;

/// Pictures of a step.
const PICTURES: usize = 48;

/// What was measured.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Report {
    pub pictures: usize,
    /// Positions of a picture with its prompt.
    pub positions: usize,
    /// Median seconds of a step: forward, back, AdamW.
    pub step_seconds: f64,
    pub positions_per_second: f64,
}

impl Report {
    /// A line for people.
    #[must_use]
    pub fn table(&self) -> String {
        format!(
            "a step of {} pictures of {} positions {:.3} s: {:.0} positions/s\n",
            self.pictures, self.positions, self.step_seconds, self.positions_per_second
        )
    }
}

/// Takes `rounds` steps after one that warms up.
///
/// # Errors
/// When memory runs out.
pub fn run(model: &Model, rounds: usize) -> anyhow::Result<Report> {
    let prompt = model.prompter().draw(&Draw { prompt: "a red circle and a blue square".into() })?;
    let (tokens, codes) = (model.config().image_tokens(), u32::try_from(model.config().vq.codebook_size)?);
    let mut dice = ChaCha8Rng::seed_from_u64(1);
    let grids: Vec<Vec<u32>> =
        (0..PICTURES).map(|_| (0..tokens).map(|_| dice.random_range(0..codes)).collect()).collect();
    let tensors = model.tensors().clone();
    let weights = Trainable::new(model.config(), tensors, &["model.language_model."], None, model.network().device())?;
    let mut optim = AdamW::new(weights.vars.clone(), AdamWOptions::default())?;
    let drawn: Vec<Drawn<'_>> = grids
        .iter()
        .map(|tokens| Drawn { prompt: Prompt::Picture { prompt: &prompt, guidance: 1.0 }, tokens, temperature: 1.0 })
        .collect();
    let positions = drawn.first().context("no picture")?.positions();
    let mut seconds = Vec::with_capacity(rounds);
    for round in 0..rounds.max(1) + 1 {
        let begun = Instant::now();
        let loss = log_probs(&weights.network, &drawn)?.mean_all()?.neg()?;
        optim.step(&loss.backward()?, 1e-4)?;
        if round > 0 {
            seconds.push(begun.elapsed().as_secs_f64());
        }
    }
    let step_seconds = median(seconds.into_iter());
    let positions_per_second = (PICTURES * positions) as f64 / step_seconds;
    Ok(Report { pictures: PICTURES, positions, step_seconds, positions_per_second })
}
