//! CoRL (arXiv 2505.17534): groups of pictures and of answers are drawn, scored and learned from, first both tasks together (unified),
//! then each by itself (refined). GRPO without the defects of the published code: tokens are scored where they are predicted, under
//! the distribution they were drawn from.

pub mod advantage;
pub mod exercise;
mod learn;
pub mod lesson;
pub mod loss;
pub mod merge;
pub mod oracle;
pub mod rollout;
pub mod rows;
pub mod score;
mod stage;
mod thin;

pub use stage::{CorlOptions, CorlStage, Scored};

use advantage::{Coupling, Pairing, Scale};
use exercise::Practice;
use loss::{Aggregate, Divergence, Objective};

use super::optim::Schedule;
use crate::model::Defaults;

impl CorlOptions {
    /// What the demo model learns best with (see the log in ARCHITECTURE.md); `served` is how its pictures are sampled.
    #[must_use]
    pub fn demo(practice: Practice, served: Defaults) -> Self {
        // Few groups of answers tell anything, so it takes many.
        let (cold, steps, prompts, questions, peak) = match practice {
            Practice::Unified => (0, 360, 8, 88, 1.5e-4),
            Practice::Drawing => (0, 150, 12, 0, 1e-4),
            Practice::Answering(_) => (700, 120, 96, 0, 2e-4),
        };
        Self {
            practice,
            seed: 1,
            steps,
            cold,
            prompts,
            questions,
            logged: 0,
            group: 8,
            guidance: served.guidance,
            temperature: served.temperature,
            answer_tokens: 64,
            scored: Scored::Guided,
            keep: 1.0,
            coupling: Coupling {
                pairing: Pairing::Separate,
                lambda: 3.0,
                pictures: Scale::Deviation,
                answers: Scale::Mean,
            },
            objective: Objective { clip_low: 0.2, clip_high: 0.28, beta: 0.0, divergence: Divergence::Reference },
            aggregate: Aggregate::Sequences,
            lora: None,
            sharpen: 0.0,
            schedule: Schedule { peak, warmup: 10, decay: 0.3 },
            positions: 2048,
            segment: None,
        }
    }

    /// The published settings for Janus-Pro-1B (paper, appendix; `corl_unified.sh`).
    #[must_use]
    pub fn published(practice: Practice) -> Self {
        let refined = practice != Practice::Unified;
        let served = Defaults { guidance: 5.0, temperature: 1.0 };
        let demo = Self::demo(practice, served);
        Self {
            prompts: if matches!(practice, Practice::Answering(_)) { 32 } else { 16 },
            group: if refined { 16 } else { 8 },
            answer_tokens: 512,
            objective: Objective { clip_high: 0.2, beta: if refined { 0.02 } else { 0.0 }, ..demo.objective },
            schedule: Schedule { peak: if refined { 1e-6 } else { 4e-6 }, warmup: 0, decay: 0.0 },
            steps: 1400,
            cold: 0,
            questions: 0,
            coupling: Coupling { lambda: 0.8, answers: Scale::Deviation, ..demo.coupling },
            ..demo
        }
    }
}
