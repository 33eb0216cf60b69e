//! A describer: a copy of a model that has learned to say what was asked for from pictures that people liked, and to find it likelier
//! behind those than behind others that they were shown with and did not like. How likely it finds the words of a prompt behind a picture
//! tells how well the picture shows them, of pictures that nobody has judged too (the cycle of CoRL, arXiv 2505.17534, learned from
//! feedback). Knows no votes and no ledger.

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
/// Requests of a step that compares, and of one pass.
const REQUESTS: usize = 16;
const REQUESTS_PASS: usize = 2;
/// Learning rate at its peak of steps that tell and of those that compare, which it reaches after so many steps, a tenth of all at most, to
/// fall to nothing at the end.
const RATE: f64 = 7e-4;
const COMPARING_RATE: f64 = 2e-4;
const WARMUP: u64 = 20;
/// How much longer than that the steps of matrices are (Muon).
const MUON: f64 = 8.0;
/// Most steps, however much was liked.
const MOST: u64 = 2000;
/// What a word of what was liked weighs beside the comparisons of its request, so that it goes on describing.
const TELLING: f64 = 0.05;
/// Numbers that it makes of a picture and its prompt.
pub const NUMBERS: usize = 4;

/// A picture and what it is to show.
pub type Shown<'a> = (Arc<Picture>, &'a str);

/// Pictures of one request, whether each was liked, and how far comparisons of these are to be trusted (`slips::trust`).
pub struct Compared<'a> {
    pub pictures: Vec<(Shown<'a>, bool)>,
    pub trust: f64,
}

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
        Ok(Self {
            prompt: prompter.answer(&asked(picture, ""))?,
            words: prompter.reply(&format!(" {}", words.trim()))?,
        })
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
    pub fn learn<'a>(
        base: &Model,
        before: Option<&Self>,
        liked: &[Shown<'a>],
        epochs: u64,
        seed: u64,
        go_on: impl FnMut(u64, u64) -> bool,
    ) -> Result<Option<Self>, TrainError> {
        let alone = |shown: &Shown<'a>| Compared { pictures: vec![(shown.clone(), true)], trust: 0.0 };
        let alone: Vec<Compared<'_>> = liked.iter().map(alone).collect();
        let course = Course { step: BATCH, pass: PASS, epochs, rate: RATE, telling: 1.0, seed };
        course.teach(base, before.map_or(base, |before| &before.model), &alone, go_on)
    }

    /// Goes on: learns to find words likelier behind what was liked than behind other pictures of the same request, from all of them
    /// `epochs` times.
    ///
    /// # Errors
    /// As [`Describer::learn`].
    pub fn compare(
        &self,
        base: &Model,
        requests: &[Compared<'_>],
        epochs: u64,
        seed: u64,
        go_on: impl FnMut(u64, u64) -> bool,
    ) -> Result<Option<Self>, TrainError> {
        let (step, pass) = (REQUESTS, REQUESTS_PASS);
        let course = Course { step, pass, epochs, rate: COMPARING_RATE, telling: TELLING, seed };
        course.teach(base, &self.model, requests, go_on)
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

/// How a describer learns from requests.
struct Course {
    /// Requests of a step, and of one pass.
    step: usize,
    pass: usize,
    epochs: u64,
    /// Learning rate at its peak.
    rate: f64,
    /// What a word of what was liked weighs.
    telling: f64,
    seed: u64,
}

impl Course {
    fn teach(
        &self,
        base: &Model,
        from: &Model,
        requests: &[Compared<'_>],
        mut go_on: impl FnMut(u64, u64) -> bool,
    ) -> Result<Option<Describer>, TrainError> {
        let device = base.network().device();
        let weights = Trainable::new(base.config(), from.tensors().clone(), &TRAINS, None, device)?;
        let options = AdamWOptions { beta2: 0.98, muon: Some(MUON), ..AdamWOptions::default() };
        let mut optim = AdamW::new(weights.vars().clone(), options)?;
        let steps = (self.epochs * requests.len() as u64).div_ceil(self.step as u64).min(MOST);
        let schedule = Schedule { peak: self.rate, warmup: WARMUP.min(steps.div_ceil(10)), decay: 1.0 };
        let mut dice = Dice::seed_from_u64(self.seed);
        let mut waiting: Vec<usize> = Vec::new();
        for step in 0..steps {
            if !go_on(step, steps) {
                return Ok(None);
            }
            while waiting.len() < self.step {
                let mut more: Vec<usize> = (0..requests.len()).collect();
                more.shuffle(&mut dice);
                waiting.extend(more);
            }
            let batch: Vec<usize> = waiting.drain(..self.step).collect();
            let lessons =
                batch.par_iter().map(|&at| Lesson::new(base, &requests[at])).collect::<Result<Vec<_>, _>>()?;
            let share = Share {
                comparing: 1.0 / self.step as f64,
                telling: self.telling / lessons.iter().map(Lesson::words).sum::<usize>().max(1) as f64,
            };
            for parts in lessons.chunks(self.pass).collect::<Vec<_>>().chunks(rayon::current_num_threads()) {
                let pass = |part: &&[Lesson]| pass(base, &weights, &optim, part, &share);
                let passes: Vec<_> = parts.par_iter().map(pass).collect();
                for pass in passes {
                    optim.accumulate(pass?, |_| true)?;
                }
            }
            optim.apply(schedule.rate(step, steps))?;
        }
        let model = base.with_tensors(weights.snapshot()?).map_err(|e| TrainError::State(e.to_string()))?;
        Ok(Some(Describer { model }))
    }
}

/// The pictures of a request, and which of them were liked.
struct Lesson {
    told: Vec<Told>,
    liked: Vec<bool>,
    /// How far its comparisons are trusted.
    trust: f64,
}

impl Lesson {
    fn new(model: &Model, request: &Compared<'_>) -> Result<Self, TrainError> {
        let told = request.pictures.iter().map(|(shown, _)| Told::new(model, shown)).collect::<Result<_, _>>()?;
        Ok(Self { told, liked: request.pictures.iter().map(|(_, liked)| *liked).collect(), trust: request.trust })
    }

    /// Of what was liked.
    fn words(&self) -> usize {
        self.told.iter().zip(&self.liked).filter(|(_, liked)| **liked).map(|(told, _)| told.words.len()).sum()
    }
}

/// What the comparisons of a request, and a word of what was liked, weigh in a step.
struct Share {
    comparing: f64,
    telling: f64,
}

/// What a pass makes of the log-probabilities of its words, one after another.
#[derive(Default)]
struct Terms {
    words: usize,
    /// Of each comparison, 1 for the words behind what was liked, -1 for those behind what was not, `[comparisons, words]`; its weight, and
    /// how far it is trusted.
    differences: Vec<f32>,
    weights: Vec<f32>,
    trust: Vec<f32>,
    /// 1 for words behind what was liked, `[words]`.
    telling: Vec<f32>,
}

impl Terms {
    fn new(part: &[Lesson]) -> Self {
        let mut terms = Self {
            words: part.iter().flat_map(|lesson| &lesson.told).map(|told| told.words.len()).sum(),
            ..Self::default()
        };
        let mut end = 0;
        for lesson in part {
            let (mut liked, mut others) = (Vec::new(), Vec::new());
            for (told, is_liked) in lesson.told.iter().zip(&lesson.liked) {
                let begin = end;
                end += told.words.len();
                terms.telling.resize(end, f32::from(u8::from(*is_liked)));
                if *is_liked { &mut liked } else { &mut others }.push(begin..end);
            }
            let weight = 1.0 / (liked.len() * others.len()).max(1) as f32;
            for (better, worse) in liked.iter().flat_map(|better| others.iter().map(move |worse| (better, worse))) {
                let sign = |at| f32::from(u8::from(better.contains(&at))) - f32::from(u8::from(worse.contains(&at)));
                terms.differences.extend((0..terms.words).map(sign));
                terms.weights.push(weight);
                terms.trust.push(lesson.trust as f32);
            }
        }
        terms
    }

    /// -log of how likely each comparison would come out so, whose odds are those of the two pictures' words where it is to be trusted; and
    /// -log π of the words behind what was liked. `log_probs` is `[words]`.
    fn loss(self, log_probs: &Tensor, share: &Share) -> candle_core::Result<Tensor> {
        let device = log_probs.device();
        let telling = Tensor::from_vec(self.telling, self.words, device)?;
        let mut loss = ((log_probs * telling)?.sum_all()? * -share.telling)?;
        if !self.weights.is_empty() {
            let comparisons = self.weights.len();
            let differences = Tensor::from_vec(self.differences, (comparisons, self.words), device)?;
            let odds = differences.matmul(&log_probs.unsqueeze(1)?)?.squeeze(1)?.clamp(-30.0, 30.0)?;
            let better = candle_nn::ops::sigmoid(&odds)?;
            let trust = Tensor::from_vec(self.trust, comparisons, device)?;
            let chance = ((&trust * -0.5)? + 0.5)?;
            let said = ((better * trust)? + chance)?.log()?;
            let weights = Tensor::from_vec(self.weights, comparisons, device)?;
            loss = (loss + ((said * weights)?.sum_all()? * -share.comparing)?)?;
        }
        Ok(loss)
    }
}

fn pass(base: &Model, weights: &Trainable, optim: &AdamW, part: &[Lesson], share: &Share) -> Result<Pass, TrainError> {
    let told = part.iter().flat_map(|lesson| &lesson.told);
    let drawn = told.map(|told| told.drawn(base)).collect::<Result<Vec<_>, _>>()?;
    let (plan, mut pass) = (Plan::new(&drawn, None)?, optim.begin());
    let loss = |hidden: &Tensor| Terms::new(part).loss(&plan.log_probs(&weights.network, hidden)?, share);
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

    /// Two requests, the first with a picture that was liked (two words) and two that were not, the second with one that was liked.
    #[test]
    fn the_loss_by_hand() {
        let lesson = |pictures: &[(usize, bool)]| Lesson {
            told: pictures
                .iter()
                .map(|&(words, _)| Told {
                    prompt: AnswerPrompt { pieces: vec![], pictures: vec![], image_tokens: 0 },
                    words: vec![0; words],
                })
                .collect(),
            liked: pictures.iter().map(|one| one.1).collect(),
            trust: 0.64,
        };
        let part = [lesson(&[(1, false), (2, true), (1, false)]), lesson(&[(2, true)])];
        assert_eq!(part.each_ref().map(Lesson::words), [2, 2]);
        let log_probs = [-4.0, -1.0, -0.5, -1.0, -2.0, -0.25].map(|x: f32| x);
        let share = Share { comparing: 0.5, telling: 0.1 };
        let said = |odds: f64| -(0.18 + 0.64 / (1.0 + (-odds).exp())).ln();
        let wanted = 0.1 * (1.0 + 0.5 + 2.0 + 0.25) + 0.5 * 0.5 * (said(-1.5 + 4.0) + said(-1.5 + 1.0));
        let log_probs = candle_core::Var::new(&log_probs, &candle_core::Device::Cpu).unwrap();
        let loss = Terms::new(&part).loss(&log_probs, &share).unwrap();
        assert!((f64::from(loss.to_scalar::<f32>().unwrap()) - wanted).abs() < 1e-6, "{loss} {wanted}");
        let slope: Vec<f32> = loss.backward().unwrap().get(&log_probs).unwrap().to_vec1().unwrap();
        // What was liked and already better is hardly taken further; what was not is pushed down.
        assert!(slope[0] > 0.0 && slope[3] > slope[0] && slope[1] < -0.1 && (slope[4] + 0.1).abs() < 1e-6, "{slope:?}");
        // However sure the describer is of the opposite, a comparison costs no more than a slip does.
        assert!(said(-1e3) - said(0.0) < 1.1 && said(1e3) > 0.0);
    }

    #[test]
    fn the_numbers_of_words_by_hand() {
        assert_eq!(of_words(&[-0.5, -3.0, -1.0, -2.0]), [-6.5, -1.625, -3.0, -2.0]);
        assert_eq!(of_words(&[-2.0, -1.0]), [-3.0, -1.5, -2.0, -1.0]);
        assert_eq!(of_words(&[-2.0]), [-2.0, -2.0, -2.0, 0.0]);
    }
}
