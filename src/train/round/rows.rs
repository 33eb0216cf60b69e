//! What a round learns from that has a file of its own: rows, and a grader that says what samples of them earn. The judge is the version
//! the round began with, so that it stays as it was while its pupil learns. Knows nothing of how a round goes on.

use std::sync::Arc;

use serde_json::json;

use super::RoundError;
use super::own::Own;
use super::plan::{Plan, RowsPlan};
use super::work::{Rounds, Study};
use crate::model::Model;
use crate::reward::grader::Grader;
use crate::reward::grader::graded::{Graded, Turns};
use crate::reward::grader::row::{Row, Task};
use crate::reward::{AnswerReward, DrawReward, Mix};
use crate::train::corl::exercise::{Practice, Source};
use crate::train::corl::oracle::Eyes;
use crate::train::corl::rows::items::Items;
use crate::train::corl::{CorlOptions, CorlStage};
use crate::train::optim::Schedule;
use crate::train::player::Player;

/// Fewest and most samples of a row.
const GROUP: (f64, f64) = (2.0, 64.0);

impl Rounds {
    /// Reads the rows and makes a reward of the grader.
    pub(super) fn of_rows(&self, plan: &Plan, rows: &RowsPlan, base: &Arc<Model>) -> Result<Study, RoundError> {
        let unusable = |what: String| RoundError::Failed(format!("the file cannot be learned from: {what}"));
        let blob = rows.file.parse().map_err(|_| unusable("its digest is none".into()))?;
        let file = self.runtime.block_on(self.ledger.blobs().get(&blob))?;
        let all = Row::all(&file).map_err(unusable)?;
        drop(file);
        let grader = Grader::read(&rows.grader, "grader").map_err(|error| RoundError::Failed(error.to_string()))?;
        for (line, row) in &all {
            grader.check(row).map_err(|what| unusable(format!("line {line} {what}")))?;
        }
        let draws = all.iter().filter(|(_, row)| matches!(row.task, Task::Draw(_))).count();
        let answers = all.len() - draws;
        let practice = Practice::of(draws > 0, answers > 0);
        let told = json!({
            "rows": all.len(), "pictures": draws, "answers": answers,
            "grader": { "name": grader.name, "type": grader.kind() },
        });
        let usual = CorlOptions::demo(practice, self.served);
        let prompts = plan.lessons.clamp(1, all.len());
        let options = CorlOptions {
            seed: plan.seed,
            steps: (all.len() as u64).saturating_mul(plan.epochs).div_ceil(prompts as u64).max(1),
            prompts,
            cold: 0,
            questions: 0,
            // Between the bounds it is small and whole.
            group: (usual.group as f64 * plan.effort).round().clamp(GROUP.0, GROUP.1) as usize,
            schedule: Schedule { peak: usual.schedule.peak * plan.multiplier, warmup: 5, decay: 0.3 },
            ..usual
        };
        let graded = || {
            let player = Player::beside(&self.engine, Arc::clone(base));
            Graded { grader: grader.clone(), judge: Turns::of(Eyes { player, answer_tokens: options.answer_tokens }) }
        };
        let weight = graded().weight();
        let draws: Vec<(Box<dyn DrawReward>, f64)> = vec![(Box::new(graded()), weight)];
        let answers: Vec<(Box<dyn AnswerReward>, f64)> = vec![(Box::new(graded()), weight)];
        let source = Source::Items(Items::new(all, rows.file.clone()));
        let (engine, base) = (self.engine.clone(), Arc::clone(base));
        let stage = CorlStage::over(engine, base, options, source, Mix::new(draws), Mix::new(answers), vec![])?;
        Ok(Study { stage, told, samples: vec![], own: Own::default() })
    }
}
