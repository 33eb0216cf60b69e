//! The gradient of a step: samples with their advantages through the objective, forward and back, in parts of one kind and as many of
//! them at once as there are cores. Knows nothing of where samples and advantages come from.

use candle_core::Tensor;
use rayon::prelude::*;

use super::super::TrainError;
use super::super::optim::{AdamW, Pass};
use super::super::segments;
use super::super::trainable::SHARPNESS;
use super::loss::{Aggregate, Objective, Outcome, Tokens};
use super::score::{Drawn, Plan, Prompt};
use super::thin::thin;
use crate::model::network::Network;
use crate::world::Dice;

/// What pictures alone do not reach.
const WORDS: &str = "lm_head.";

/// A sample to learn from.
pub(super) struct Learning<'a> {
    pub drawn: Drawn<'a>,
    /// log π of its tokens as they were sampled; empty for as they are. All of a step that are of one kind have it, or none.
    pub sampled: &'a [f32],
    /// What each token weighs beside its share in the mean; empty where they weigh the same.
    pub importance: &'a [f32],
    pub advantage: f64,
    /// How often it was drawn.
    pub times: usize,
    /// How many it stands for, itself included, where others like it are left out.
    pub stands: f64,
}

impl Learning<'_> {
    fn is_picture(&self) -> bool {
        matches!(self.drawn.prompt, Prompt::Picture { .. })
    }
}

/// What a step's passes have shown.
#[derive(Default)]
pub(super) struct Learned {
    pub samples: usize,
    /// Of these, different ones.
    pub scored: usize,
    pub tokens: usize,
    pub loss: f64,
    pub kl: f64,
    /// Sum of log π.
    pub log_prob: f64,
    /// Sum of |log ρ| and the largest.
    pub drift: f64,
    pub most: f64,
}

impl Learned {
    fn add(&mut self, other: &Self) {
        self.samples += other.samples;
        self.scored += other.scored;
        self.tokens += other.tokens;
        self.loss += other.loss;
        self.kl += other.kl;
        self.log_prob += other.log_prob;
        self.drift += other.drift;
        self.most = self.most.max(other.most);
    }
}

/// How a step's gradient is made.
pub(super) struct Learner<'a> {
    pub network: &'a Network,
    /// What leaving it costs, if that costs anything.
    pub reference: &'a Network,
    pub objective: Objective,
    pub aggregate: Aggregate,
    /// Most positions of one pass.
    pub positions: usize,
    /// Layers of a pass that are in memory at once; all where it is not said.
    pub segment: Option<usize>,
    /// The same weights, of which nothing learns, where unconditional rows are not to.
    pub still: Option<&'a Network>,
    /// Share of the samples that gradients are computed of; the others are stood for.
    pub keep: f64,
}

/// Samples of one kind that one pass takes, and what all of their kind come to.
struct Part<'a, 'b> {
    samples: &'a [Learning<'b>],
    of: usize,
    tokens: usize,
}

impl Learner<'_> {
    /// Adds the gradient of `samples` to those that wait in `optim`.
    ///
    /// # Errors
    /// When memory runs out, or a gradient is missing.
    pub fn learn(&self, samples: Vec<Learning<'_>>, dice: &mut Dice, optim: &mut AdamW) -> Result<Learned, TrainError> {
        // The mean is over all samples of a task, those that tell nothing included: over the few others alone it would be mostly noise
        // where most groups agree.
        let count = |picture: bool| {
            let of = samples.iter().filter(|sample| sample.is_picture() == picture);
            of.fold((0, 0), |(n, tokens), sample| (n + sample.times, tokens + sample.times * sample.drawn.tokens.len()))
        };
        let counts = [count(true), count(false)];
        // Of one kind, so that each part reaches what its kind reaches.
        let (mut drawn, mut said): (Vec<_>, Vec<_>) = samples.into_iter().partition(Learning::is_picture);
        for of_kind in [&mut drawn, &mut said] {
            // What earned next to nothing tells of the reference like any other, so it must not stand for too many.
            let size = |sample: &Learning<'_>| match sample.advantage {
                0.0 => 0.0,
                advantage => sample.times as f64 * (advantage.abs() + self.objective.beta),
            };
            let stands = thin(&of_kind.iter().map(size).collect::<Vec<_>>(), self.keep, dice);
            of_kind.iter_mut().zip(stands).for_each(|(sample, stands)| sample.stands = stands);
            of_kind.retain(|sample| sample.stands != 0.0);
        }
        let mut parts = Vec::new();
        for (of_kind, (of, tokens)) in [&drawn, &said].into_iter().zip(counts) {
            let mut rest = of_kind.as_slice();
            while !rest.is_empty() {
                let mut positions = 0;
                let fits = rest.iter().take_while(|sample| {
                    positions += sample.drawn.positions();
                    positions <= self.positions
                });
                let (samples, after) = rest.split_at(fits.count().max(1));
                rest = after;
                parts.push(Part { samples, of, tokens });
            }
        }
        let mut learned = Learned::default();
        // Gradients are added in the order of the parts, whichever is done first.
        for parts in parts.chunks(rayon::current_num_threads()) {
            let passes: Vec<_> = parts.par_iter().map(|part| self.pass(part, optim)).collect();
            for (part, pass) in parts.iter().zip(passes) {
                let (pass, shown) = pass?;
                let pictures = part.samples.first().is_some_and(Learning::is_picture);
                let beyond = |name: &str| if pictures { name.starts_with(WORDS) } else { name == SHARPNESS };
                optim.accumulate(pass, |name| !beyond(name))?;
                learned.add(&shown);
            }
        }
        Ok(learned)
    }

    fn pass(&self, part: &Part<'_, '_>, optim: &AdamW) -> candle_core::Result<(Pass, Learned)> {
        let Part { samples, of, tokens } = *part;
        let drawn: Vec<Drawn<'_>> = samples.iter().map(|sample| sample.drawn.clone()).collect();
        let of_tokens = |value: &dyn Fn(&Learning<'_>) -> f64| {
            let values =
                samples.iter().flat_map(|sample| std::iter::repeat_n(value(sample) as f32, sample.drawn.tokens.len()));
            Tensor::new(values.collect::<Vec<f32>>(), self.network.device())
        };
        let weight = |sample: &Learning<'_>| {
            let share = self.aggregate.weight(sample.drawn.tokens.len(), of, tokens);
            sample.stands * sample.times as f64 * share
        };
        let weights = of_tokens(&weight)?;
        let weights = match samples.iter().all(|sample| sample.importance.is_empty()) {
            true => weights,
            false => {
                let importance = samples.iter().flat_map(|sample| {
                    let rest = sample.drawn.tokens.len() - sample.importance.len().min(sample.drawn.tokens.len());
                    sample.importance.iter().copied().chain(std::iter::repeat_n(1.0, rest))
                });
                (weights * Tensor::new(importance.collect::<Vec<f32>>(), self.network.device())?)?
            }
        };
        let sampled: Vec<f32> = samples.iter().flat_map(|sample| sample.sampled).copied().collect();
        let mut learned = Learned {
            samples: samples.iter().map(|sample| sample.times).sum(),
            scored: samples.len(),
            ..Learned::default()
        };
        let (plan, mut pass) = (Plan::new(&drawn, self.still)?, optim.begin());
        // Beside unconditional rows that do not learn, which are what they are under either.
        let reference = match self.objective.beta {
            0.0 => None,
            _ => Some(plan.score(self.reference)?),
        };
        let loss = |hidden: &Tensor| {
            let now = plan.log_probs(self.network, hidden)?;
            let sampled = match sampled.is_empty() {
                true => now.detach(),
                false => Tensor::new(sampled, self.network.device())?,
            };
            let tokens = Tokens {
                now: &now,
                sampled: &sampled,
                reference: reference.as_ref(),
                advantages: &of_tokens(&|sample| sample.advantage)?,
                weights: &weights,
            };
            let Outcome { loss, kl, log_ratio } = self.objective.of(&tokens)?;
            let scalar = |tensor: &Tensor| tensor.to_scalar::<f32>().map(f64::from);
            learned.loss = scalar(&loss)?;
            learned.kl = kl.as_ref().map_or(Ok(0.0), scalar)?;
            learned.log_prob = scalar(&now.sum_all()?)?;
            for log_ratio in log_ratio.to_vec1::<f32>()? {
                let drift = f64::from(log_ratio.abs());
                learned.tokens += 1;
                learned.drift += drift;
                learned.most = learned.most.max(drift);
            }
            Ok(loss)
        };
        segments::backward(self.network, plan.run(), self.segment, loss, |grads| optim.gather(grads, &mut pass))?;
        Ok((pass, learned))
    }
}
