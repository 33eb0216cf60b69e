//! Stage 2: the decoder learns to look things up, in text alone. Binding (which colour belongs to which shape) is the hard
//! part of drawing and answering; learned here it costs minutes.

use rand::SeedableRng;

use super::super::TrainError;
use super::super::optim::{AdamW, AdamWOptions, cosine};
use super::super::run::{Metrics, Stage};
use super::learner::{Learner, Spelled, rows};
use crate::model::network::{Chunk, Span};
use crate::model::params::Tensors;
use crate::model::policy;
use crate::world::Dice;
use crate::world::language::Lookup;

/// Tensors that this stage trains.
pub const TRAINS: [&str; 2] = ["model.language_model.", "lm_head."];

/// What is learned, and how long.
#[derive(Clone, Debug)]
pub struct WordsOptions {
    pub seed: u64,
    pub steps: u64,
    pub batch: usize,
    pub rate: f64,
}

/// Look-up lessons.
pub struct WordsStage {
    learner: Learner,
    optim: AdamW,
    options: WordsOptions,
}

/// Lessons as ids, with the rows (over all lessons) whose next id is a recalled value, and those ids.
pub struct Lessons {
    pub sequences: Vec<Vec<u32>>,
    pub rows: Vec<u32>,
    pub ids: Vec<u32>,
}

/// `n` random lessons; the first row is `first_row` of a larger batch.
///
/// # Errors
/// When a lesson cannot be tokenised.
pub fn lessons(learner: &Learner, n: usize, first_row: usize, dice: &mut Dice) -> Result<Lessons, TrainError> {
    let mut lessons = Lessons { sequences: Vec::with_capacity(n), rows: vec![], ids: vec![] };
    let mut row = first_row;
    for _ in 0..n {
        let lesson = Lookup::draw(dice);
        let Spelled { ids, bytes } = learner.encode(&lesson.text)?;
        for (at, &(start, end)) in bytes.iter().enumerate() {
            // The token of a recalled word may begin with the space before it. The row before it (begin shifts by one) predicts it.
            if lesson.recalled.iter().any(|word| end > word.start && start < word.end) {
                lessons.rows.push((row + at) as u32);
                lessons.ids.push(ids[at]);
            }
        }
        let sequence: Vec<u32> = std::iter::once(learner.begin).chain(ids).collect();
        row += sequence.len();
        lessons.sequences.push(sequence);
    }
    Ok(lessons)
}

impl WordsStage {
    /// # Errors
    /// When the optimizer's memory cannot be allocated.
    pub fn new(learner: Learner, options: WordsOptions) -> Result<Self, TrainError> {
        let optim = AdamW::new(learner.weights.vars().clone(), AdamWOptions::default())?;
        Ok(Self { learner, optim, options })
    }

    /// # Errors
    /// When memory runs out.
    pub fn finish(self) -> Result<Tensors, TrainError> {
        self.learner.weights.tensors()
    }
}

impl Stage for WordsStage {
    fn name(&self) -> &'static str {
        "words"
    }

    fn steps(&self) -> u64 {
        self.options.steps
    }

    fn step(&mut self, step: u64) -> Result<Metrics, TrainError> {
        let mut dice = Dice::seed_from_u64(self.options.seed);
        dice.set_stream(step + 1);
        let lessons = lessons(&self.learner, self.options.batch, 0, &mut dice)?;
        let spans: Vec<Span<'_>> =
            lessons.sequences.iter().map(|ids| Span { slot: 0, start: 0, chunks: vec![Chunk::Text(ids)] }).collect();
        let hidden = rows(&self.learner.weights.network.forward(&spans)?, lessons.rows)?;
        let logits = self.learner.weights.network.text_logits(&hidden)?;
        let loss = policy::log_prob_of(&logits, &lessons.ids, 1.0)?.mean_all()?.neg()?;
        let recall = hits(&logits, &lessons.ids)?;
        let rate = cosine(step, self.options.steps, 50, self.options.rate, 0.2);
        let norm = self.optim.step(&loss.backward()?, rate)?;
        Ok(vec![("loss", f64::from(loss.to_scalar::<f32>()?)), ("recall", recall), ("norm", norm)])
    }

    fn state(&self) -> Result<Tensors, TrainError> {
        Ok(self.optim.state()?)
    }

    fn restore(&mut self, state: &Tensors) -> Result<(), TrainError> {
        Ok(self.optim.restore(state)?)
    }
}

/// Share of rows whose most likely id is the right one.
///
/// # Errors
/// When the logits cannot be read back.
pub fn hits(logits: &candle_core::Tensor, ids: &[u32]) -> Result<f64, TrainError> {
    let best: Vec<u32> = logits.detach().argmax(1)?.to_vec1()?;
    Ok(best.iter().zip(ids).filter(|(a, b)| a == b).count() as f64 / ids.len().max(1) as f64)
}
