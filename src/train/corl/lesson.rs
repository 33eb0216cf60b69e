//! What there is to learn from: a prompt with replies that have their advantages, drawn just now or long ago. Knows no rewards, and
//! not where replies come from.

use candle_core::Tensor;

use super::super::TrainError;
use super::learn::Learning;
use super::score::{Drawn, Prompt, log_probs};
use crate::domain::task::Answer;
use crate::model::Model;
use crate::model::prompt::{AnswerPrompt, DrawPrompt, Prompter};

/// A prompt and replies to it.
pub struct Lesson {
    pub prompt: LessonPrompt,
    /// What replies were drawn at; 1 without guidance, and of answers.
    pub guidance: f32,
    pub temperature: f32,
    pub tries: Vec<Try>,
}

/// What was asked for, in ids.
#[derive(Clone)]
pub enum LessonPrompt {
    Picture(DrawPrompt),
    Answer(AnswerPrompt),
}

/// One reply.
pub struct Try {
    pub tokens: Vec<u32>,
    /// log π of its tokens under the weights that the ratio is to; empty for those that learn, as they are.
    pub sampled: Vec<f32>,
    /// What each token weighs because other weights drew it; empty where those of `sampled` did.
    pub importance: Vec<f32>,
    pub advantage: f64,
}

impl Lesson {
    /// A reply that nobody drew but that is to become likelier, by `weight`.
    ///
    /// # Errors
    /// When either is too long or empty.
    pub fn told(prompter: &Prompter, asked: &Answer, reply: &str, weight: f64) -> Result<Self, TrainError> {
        let tokens = prompter.reply(reply)?;
        let told = Try { tokens, sampled: vec![], importance: vec![], advantage: weight };
        let prompt = LessonPrompt::Answer(prompter.answer(asked)?);
        Ok(Self { prompt, guidance: 1.0, temperature: 1.0, tries: vec![told] })
    }

    /// All of it earned the same, so that it tells nothing.
    #[must_use]
    pub fn is_mute(&self) -> bool {
        self.tries.iter().all(|one| one.advantage == 0.0)
    }

    /// Features of the pictures that it asks about, if it tells something; they do not learn.
    ///
    /// # Errors
    /// When the model fails.
    pub fn features(&self, model: &Model) -> Result<Option<Tensor>, TrainError> {
        match &self.prompt {
            LessonPrompt::Answer(prompt) if !prompt.pictures.is_empty() && !self.is_mute() => {
                Ok(Some(model.see(&prompt.pictures).map_err(|e| TrainError::State(e.to_string()))?))
            }
            _ => Ok(None),
        }
    }

    fn prompt(&self, features: Option<&Tensor>) -> Prompt<'_> {
        match &self.prompt {
            LessonPrompt::Picture(prompt) => Prompt::Picture { prompt, guidance: self.guidance },
            LessonPrompt::Answer(prompt) => Prompt::Answer { prompt, features: features.cloned() },
        }
    }

    /// Its replies, each as often as it came; those that say the same for the same are scored once.
    pub(super) fn learnings(&self, features: Option<&Tensor>) -> Vec<Learning<'_>> {
        let mut learnings: Vec<Learning<'_>> = Vec::with_capacity(self.tries.len());
        for one in &self.tries {
            let alike = |other: &&mut Learning<'_>| {
                other.drawn.tokens == one.tokens.as_slice() && other.advantage == one.advantage
            };
            match learnings.iter_mut().find(alike) {
                Some(other) => other.times += 1,
                None => learnings.push(Learning {
                    drawn: Drawn { prompt: self.prompt(features), tokens: &one.tokens, temperature: self.temperature },
                    sampled: &one.sampled,
                    importance: &one.importance,
                    advantage: one.advantage,
                    times: 1,
                    stands: 1.0,
                }),
            }
        }
        learnings
    }

    /// Makes replies that other weights drew fit for learning from `model` on: their ratio is to `model`, and each token weighs
    /// π_model / π_drawn, at most `cap`.
    ///
    /// # Errors
    /// When the model fails.
    pub fn renew(&mut self, model: &Model, cap: f32) -> Result<(), TrainError> {
        if self.is_mute() {
            return Ok(());
        }
        let features = self.features(model)?;
        let mut now = Vec::with_capacity(self.tries.len());
        for one in &self.tries {
            let (prompt, temperature) = (self.prompt(features.as_ref()), self.temperature);
            let scored = log_probs(model.network(), &[Drawn { prompt, tokens: &one.tokens, temperature }])?;
            now.push(scored.to_vec1::<f32>()?);
        }
        for (one, now) in self.tries.iter_mut().zip(now) {
            one.importance = now.iter().zip(&one.sampled).map(|(now, drawn)| (now - drawn).exp().min(cap)).collect();
            one.sampled = now;
        }
        Ok(())
    }
}
