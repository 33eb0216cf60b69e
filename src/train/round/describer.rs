//! A describer: a copy of a model that has learned to say what was asked for from pictures that people liked. How likely it finds the
//! words of a prompt behind a picture tells how well the picture shows them, of pictures that nobody has judged too (the cycle of
//! CoRL, arXiv 2505.17534, learned from feedback). Knows no votes and no ledger.

use std::sync::Arc;

use candle_core::Tensor;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rayon::prelude::*;

use crate::domain::picture::Picture;
use crate::model::Model;
use crate::model::prompt::AnswerPrompt;
use crate::train::TrainError;
use crate::train::corl::score::{Drawn, Plan, Prompt, log_probs};
use crate::train::optim::{AdamW, AdamWOptions, Pass, Schedule};
use crate::train::pretrain::asked;
use crate::train::segments;
use crate::train::trainable::Trainable;
use crate::world::Dice;

/// What learns; the eyes stay as they are.
const TRAINS: [&str; 2] = ["model.language_model.", "lm_head."];
/// Pictures of a step.
const BATCH: usize = 128;
/// Of these, in one pass; memory goes with it.
const PASS: usize = 16;
/// Learning rate at its peak, which it reaches after so many steps, a tenth of all at most, to fall to nothing at the end.
const RATE: f64 = 7e-4;
const WARMUP: u64 = 20;
/// How much longer than that the steps of matrices are (Muon).
const MUON: f64 = 8.0;
/// Most steps, however much was liked.
const MOST: u64 = 2000;
/// Numbers that it makes of a picture and its prompt.
pub const NUMBERS: usize = 4;

/// A picture and what it is to show.
pub type Shown<'a> = (Arc<Picture>, &'a str);

/// See the module text.
pub struct Describer {
    model: Model,
}

/// A picture, nothing asked of it, and the words that are looked for behind it.
struct Told {
    prompt: AnswerPrompt,
    words: Vec<u32>,
}

impl Told {
    fn new(model: &Model, (picture, words): &Shown<'_>) -> Result<Self, TrainError> {
        let prompter = model.prompter();
        Ok(Self { prompt: prompter.answer(&asked(picture, ""))?, words: prompter.reply(words)? })
    }

    /// What a model that sees as `eyes` does is to score.
    fn drawn(&self, eyes: &Model) -> Result<Drawn<'_>, TrainError> {
        let features = eyes.see(&self.prompt.pictures).map_err(|e| TrainError::State(e.to_string()))?;
        let prompt = Prompt::Answer { prompt: &self.prompt, features: Some(features.detach()) };
        Ok(Drawn { prompt, tokens: &self.words, temperature: 1.0 })
    }
}

impl Describer {
    /// Learns from what was liked, all of it `epochs` times; begins as `before` is, or as `base`. `go_on` is given the steps done and of how
    /// many, and says whether to; `None` where it did not.
    ///
    /// # Errors
    /// When a prompt leaves no room for words, memory runs out, or the model fails.
    pub fn learn(
        base: &Model,
        before: Option<&Self>,
        liked: &[Shown<'_>],
        epochs: u64,
        seed: u64,
        mut go_on: impl FnMut(u64, u64) -> bool,
    ) -> Result<Option<Self>, TrainError> {
        let device = base.network().device();
        let tensors = before.map_or(base, |before| &before.model).tensors().clone();
        let weights = Trainable::new(base.config(), tensors, &TRAINS, None, device)?;
        let options = AdamWOptions { beta2: 0.98, muon: Some(MUON), ..AdamWOptions::default() };
        let mut optim = AdamW::new(weights.vars().clone(), options)?;
        let steps = (epochs * liked.len() as u64).div_ceil(BATCH as u64).min(MOST);
        let schedule = Schedule { peak: RATE, warmup: WARMUP.min(steps.div_ceil(10)), decay: 1.0 };
        let mut dice = Dice::seed_from_u64(seed);
        let mut waiting: Vec<usize> = Vec::new();
        for step in 0..steps {
            if !go_on(step, steps) {
                return Ok(None);
            }
            while waiting.len() < BATCH {
                let mut more: Vec<usize> = (0..liked.len()).collect();
                more.shuffle(&mut dice);
                waiting.extend(more);
            }
            let batch: Vec<usize> = waiting.drain(..BATCH).collect();
            let told = batch.par_iter().map(|&at| Told::new(base, &liked[at])).collect::<Result<Vec<_>, _>>()?;
            let words: usize = told.iter().map(|told| told.words.len()).sum();
            for parts in told.chunks(PASS).collect::<Vec<_>>().chunks(rayon::current_num_threads()) {
                let pass = |part: &&[Told]| pass(base, &weights, &optim, part, words);
                let passes: Vec<_> = parts.par_iter().map(pass).collect();
                for pass in passes {
                    optim.accumulate(pass?, |_| true)?;
                }
            }
            optim.apply(schedule.rate(step, steps))?;
        }
        let model = base.with_tensors(weights.snapshot()?).map_err(|e| TrainError::State(e.to_string()))?;
        Ok(Some(Self { model }))
    }

    /// One that learned before, from the file of its weights.
    ///
    /// # Errors
    /// When the file is damaged or of another model.
    pub fn read(base: &Model, file: &[u8]) -> Result<Self, TrainError> {
        let model = base.with_weights_file(file).map_err(|e| TrainError::State(e.to_string()))?;
        Ok(Self { model })
    }

    /// Its weights as a file.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn file(&self) -> Result<Vec<u8>, TrainError> {
        self.model.weights_file().map_err(|e| TrainError::State(e.to_string()))
    }

    /// What it makes of pictures and their prompts: log-probabilities of a prompt's words behind the picture, their sum, their mean, the least and
    /// the least but one.
    ///
    /// # Errors
    /// When a prompt leaves no room for words, or the model fails.
    pub fn numbers(&self, shown: &[Shown<'_>]) -> Result<Vec<[f32; NUMBERS]>, TrainError> {
        let parts = shown.par_chunks(PASS).map(|shown| {
            let told = shown.iter().map(|shown| Told::new(&self.model, shown)).collect::<Result<Vec<_>, _>>()?;
            let drawn = told.iter().map(|told| told.drawn(&self.model)).collect::<Result<Vec<_>, _>>()?;
            let log_probs = log_probs(self.model.network(), &drawn)?.to_vec1::<f32>()?;
            let mut rest = log_probs.as_slice();
            let one = |told: &Told| {
                let (words, behind) = rest.split_at(told.words.len());
                rest = behind;
                of_words(words)
            };
            Ok(told.iter().map(one).collect::<Vec<_>>())
        });
        Ok(parts.collect::<Result<Vec<_>, TrainError>>()?.concat())
    }
}

/// The gradient of -log π of the words of one part, by the number of `words` of the whole batch.
fn pass(base: &Model, weights: &Trainable, optim: &AdamW, part: &[Told], words: usize) -> Result<Pass, TrainError> {
    let drawn = part.iter().map(|told| told.drawn(base)).collect::<Result<Vec<_>, _>>()?;
    let (plan, mut pass) = (Plan::new(&drawn, None)?, optim.begin());
    let loss = |hidden: &Tensor| plan.log_probs(&weights.network, hidden)?.sum_all()? * (-1.0 / words as f64);
    segments::backward(&weights.network, plan.run(), None, loss, |grads| optim.gather(grads, &mut pass))?;
    Ok(pass)
}

fn of_words(log_probs: &[f32]) -> [f32; NUMBERS] {
    let sum: f32 = log_probs.iter().sum();
    let (mut least, mut next) = (0.0f32, 0.0f32);
    for &one in log_probs {
        if one < least {
            (least, next) = (one, least);
        } else {
            next = next.min(one);
        }
    }
    [sum, sum / log_probs.len().max(1) as f32, least, next]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_words_by_hand() {
        assert_eq!(of_words(&[-0.5, -3.0, -1.0, -2.0]), [-6.5, -1.625, -3.0, -2.0]);
        assert_eq!(of_words(&[-2.0, -1.0]), [-3.0, -1.5, -2.0, -1.0]);
        assert_eq!(of_words(&[-2.0]), [-2.0, -2.0, -2.0, 0.0]);
    }
}
