//! Whose samples are wanted, and how urgently: an engine, weights that it holds, a lane. Knows nothing of what is sampled.

use std::sync::Arc;

use crate::domain::task::Sampling;
use crate::engine::EngineHandle;
use crate::engine::command::{Lane, Submission, Work};
use crate::model::Model;

/// See the module text.
#[derive(Clone)]
pub struct Player {
    pub engine: EngineHandle,
    pub model: Arc<Model>,
    pub lane: Lane,
    /// Submissions that may be on their way at once.
    pub at_once: usize,
}

impl Player {
    /// The live weights of an engine that nobody else uses.
    #[must_use]
    pub fn alone(engine: &EngineHandle) -> Self {
        Self { engine: engine.clone(), model: engine.model(), lane: Lane::Interactive, at_once: 32 }
    }

    /// Weights beside those that answer people, for when nobody waits.
    #[must_use]
    pub fn beside(engine: &EngineHandle, model: Arc<Model>) -> Self {
        Self { engine: engine.clone(), model, lane: Lane::Background, at_once: 32 }
    }

    /// One prompt with how to sample each of its replies.
    #[must_use]
    pub fn submission(&self, work: Work, samplings: Vec<Sampling>) -> Submission {
        Submission { work, samplings, lane: self.lane }
    }
}
