//! The end of a round: its candidate held against the live version, promoted or refused, and weights forgotten that nobody will want.
//! Knows nothing of how it was trained.

use std::sync::Arc;

use serde_json::Value;

use super::gate::{Verdict, decide};
use super::holding::Holding;
use super::judge::{Looks, compare};
use super::own::{self, Own};
use super::plan::Plan;
use super::trying::by;
use super::work::Rounds;
use super::{RoundError, reported};
use crate::domain::job::{Level, RoundEvent};
use crate::domain::round::{Round, RoundState};
use crate::domain::sample::Version;
use crate::model::Model;
use crate::store::Move;
use crate::train::player::Player;

/// Versions that were live last whose weights are kept.
const KEPT: usize = 3;

impl Rounds {
    /// Holds a candidate against the live version and acts on the verdict.
    pub(super) fn judge(
        &self,
        round: &mut Round,
        plan: &Plan,
        candidate: &Arc<Model>,
        own: &Own,
        holding: &Holding,
    ) -> Result<(), RoundError> {
        let live = self.runtime.block_on(self.ledger.live())?;
        let live = live.ok_or_else(|| RoundError::Failed("no version is live".into()))?;
        let by = by(round);
        if live.version == *candidate.version() && live.by == by {
            // It was promoted, and cut before it could say so.
            let with = self.still(round);
            return self.on(round, RoundState::Promoted, with);
        }
        if self.runtime.block_on(self.ledger.trial_of(round.id))?.is_some() {
            // The same, and its trial has begun.
            let with = self.still(round);
            return self.on(round, RoundState::Trying, with);
        }
        let base = self.loaded(&live.version)?;
        let verdict = self.verdict(round, plan, [&base, candidate], own, holding)?;
        let scores = serde_json::to_value(&verdict).unwrap_or(Value::Null);
        let mut report = reported(round);
        report.insert("verdict".into(), scores.clone());
        let mut to = if verdict.promote { RoundState::Promoted } else { RoundState::Refused };
        self.runtime.block_on(self.ledger.score(candidate.version().clone(), scores.to_string()))?;
        if verdict.promote {
            let why = format!("the score rose from {:.3} to {:.3}", verdict.gain.live, verdict.gain.candidate);
            to = self.publish(round, candidate.version(), live.number, why)?;
            if to == RoundState::Refused {
                let why = "another version was promoted, or put on trial, while it was judged";
                report.insert("lost".into(), why.into());
            }
        }
        for reason in &verdict.reasons {
            let message = format!("The gate: {reason}");
            self.tell(RoundEvent::say(round.id, (self.now_ms)(), Level::Warn, message));
        }
        let with = Move { report: Some(Value::Object(report).to_string()), ..self.still(round) };
        self.on(round, to, with)?;
        self.tidy(candidate.version(), to != RoundState::Refused)?;
        Ok(())
    }

    /// Both versions, the live one first, on the same tasks; on as many again where the candidate did better and it may be chance.
    fn verdict(
        &self,
        round: &Round,
        plan: &Plan,
        both: [&Arc<Model>; 2],
        own: &Own,
        holding: &Holding,
    ) -> Result<Verdict, RoundError> {
        let player = |model: &Arc<Model>| -> Result<Player, RoundError> {
            holding.check()?;
            Ok(Player::beside(&self.engine, Arc::clone(model)))
        };
        let look = |model, suite| Ok::<_, RoundError>(Looks::of(&player(model)?, suite, self.served)?);
        let own_look = |model| Ok::<_, RoundError>(own.looks(&player(model)?, self.served)?);
        let [mut was, mut is] = [look(both[0], plan.suite)?, look(both[1], plan.suite)?];
        let own_guards = own::guards(&own_look(both[0])?, &own_look(both[1])?);
        let report = reported(round);
        let learned = report.get("learned_from");
        let some = |name: &str| learned.and_then(|from| from[name].as_u64()).is_some_and(|n| n > 0);
        let weigh = |was: &Looks, is: &Looks| {
            let (measures, mut guards) = compare(was, is, some("pictures"), some("answers") || some("corrections"));
            guards.extend(own_guards.iter().cloned());
            decide(&measures, &guards, plan.suite.seed)
        };
        let verdict = weigh(&was, &is);
        if !verdict.is_open() {
            return Ok(verdict);
        }
        let message =
            "The candidate did better, which may be chance: both are judged by as many tasks again".to_owned();
        self.tell(RoundEvent::say(round.id, (self.now_ms)(), Level::Info, message));
        let more = plan.suite.another();
        (was, is) = (was.and(look(both[0], more)?), is.and(look(both[1], more)?));
        Ok(weigh(&was, &is))
    }

    /// Forgets weights that nobody will want: of a refused candidate, and of versions that were live long ago.
    fn tidy(&self, candidate: &Version, passed: bool) -> Result<(), RoundError> {
        self.runtime.block_on(async {
            if !passed {
                self.ledger.shed(candidate.clone()).await?;
            }
            let mut kept: Vec<Version> = Vec::new();
            for promotion in self.ledger.promotions(1000).await? {
                if kept.len() < KEPT && !kept.contains(&promotion.version) {
                    kept.push(promotion.version);
                }
            }
            for known in self.ledger.versions().await? {
                if known.round.is_some() && known.weights.is_some() && !kept.contains(&known.version) {
                    self.ledger.shed(known.version).await?;
                }
            }
            Ok(())
        })
    }
}
