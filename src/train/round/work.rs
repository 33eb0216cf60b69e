//! Working on rounds: claimed, gathered, trained, judged, promoted or refused, each step written to the ledger before the next. For a
//! thread of its own.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use tokio::runtime::Handle;

use super::RoundError;
use super::holding::{Held, Holding, LEASE_MS};
use super::own::Own;
use super::plan::{Plan, Policy};
use crate::domain::id::{RoundId, SampleId};
use crate::domain::job::{Level, RoundEvent};
use crate::domain::round::{KnownVersion, Round, RoundState};
use crate::domain::sample::Version;
use crate::domain::trial::Terms;
use crate::engine::EngineHandle;
use crate::kept::{self, KeptError};
use crate::model::{Defaults, Model};
use crate::store::{Ledger, LedgerError, Move};
use crate::train::corl::CorlStage;
use crate::train::run::{Metrics, RunOptions, Stage as _, run};

/// Time between looks for work.
const EVERY: Duration = Duration::from_secs(1);
/// Most steps of a round that are told of, about.
const TOLD: u64 = 200;

/// What a round learns from, ready to be run.
pub(super) struct Study {
    pub stage: CorlStage,
    /// What it is, for the report.
    pub told: Value,
    /// Samples of the ledger among it.
    pub samples: Vec<SampleId>,
    /// Held-out work of users to judge the candidate by.
    pub own: Own,
}

/// Works on rounds, one after another, beside an engine that serves.
pub struct Rounds {
    pub ledger: Ledger,
    pub engine: EngineHandle,
    pub runtime: Handle,
    /// Where runs keep their checkpoints.
    pub dir: PathBuf,
    /// What this worker is called in the ledger.
    pub owner: String,
    /// How pictures are served, and so judged.
    pub served: Defaults,
    /// When rounds are opened without anybody's hand.
    pub policy: Option<Policy>,
    /// How candidates that pass the gate are tried; none where they become live at once.
    pub canary: Option<Terms>,
    pub stop: Arc<AtomicBool>,
    /// The time, Unix milliseconds.
    pub now_ms: fn() -> i64,
}

impl Rounds {
    /// Works until told to stop. For a thread of its own, outside the async runtime.
    pub fn run(&self) {
        while !self.is_stopped() {
            match self.turn() {
                Ok(true) => {}
                Ok(false) => self.rest(),
                Err(error) => {
                    tracing::warn!(%error, "rounds cannot be worked on for now");
                    self.rest();
                }
            }
        }
    }

    fn rest(&self) {
        let begun = Instant::now();
        while begun.elapsed() < EVERY && !self.is_stopped() {
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Works on the next round, if there is one, or is due; false when there is nothing to do.
    ///
    /// # Errors
    /// When the ledger is away.
    pub fn turn(&self) -> Result<bool, LedgerError> {
        if let Some(policy) = &self.policy {
            self.open_if_due(policy)?;
        }
        let now = (self.now_ms)();
        let claim = self.ledger.claim_round(self.owner.clone(), now, now + LEASE_MS);
        let Some(round) = self.runtime.block_on(claim)? else { return Ok(false) };
        tracing::info!(round = %round.id, state = round.state.word(), "working on a round");
        let (ledger, owner, stop) = (self.ledger.clone(), self.owner.clone(), Arc::clone(&self.stop));
        let holding = Holding::on(&self.runtime, ledger, round.id, owner, self.now_ms, stop);
        match self.work(round.clone(), &holding) {
            Ok(state) => tracing::info!(round = %round.id, state = state.word(), "a round has ended"),
            Err(RoundError::Lost) => {
                tracing::info!(round = %round.id, "left a round");
                let now = self.runtime.block_on(self.ledger.round(round.id))?;
                if now.is_some_and(|now| now.state.is_final()) {
                    let _ = std::fs::remove_dir_all(self.folder(round.id));
                }
            }
            Err(RoundError::Ledger(error @ LedgerError::Unavailable(_))) => return Err(error),
            Err(error) => {
                tracing::warn!(round = %round.id, %error, "a round has failed");
                let state = self.runtime.block_on(self.ledger.round(round.id))?.map_or(round.state, |now| now.state);
                let report = Some(json!({ "error": error.to_string() }).to_string());
                if !state.is_final() {
                    let message = format!("Failed: {error}");
                    let tell = Some(RoundEvent::say(round.id, (self.now_ms)(), Level::Error, message));
                    self.go(&round, state, RoundState::Failed, Move { report, tell, ..self.still(&round) })?;
                }
                let _ = std::fs::remove_dir_all(self.folder(round.id));
            }
        }
        Ok(true)
    }

    /// Opens a round by policy.
    fn open_if_due(&self, policy: &Policy) -> Result<(), LedgerError> {
        let now = (self.now_ms)();
        let due = async {
            let last = self.ledger.rounds(None, 1).await?.pop();
            if last.as_ref().is_some_and(|last| !last.state.is_final() && !last.paused) {
                return Ok(None);
            }
            let since = self.ledger.learned_until().await?;
            // A refused round's feedback is learned from again, but does not call for another round.
            let heard = self.ledger.heard_until().await?.max(since);
            let said = self.ledger.said_since(heard).await?;
            Ok::<_, LedgerError>(policy.is_due(now, last.map(|last| last.created_ms), said).then_some(since))
        };
        let Some(since_ms) = self.runtime.block_on(due)? else { return Ok(()) };
        let round = Round::open("policy".into(), "{}".into(), since_ms, now);
        self.runtime.block_on(self.ledger.open_round(round))
    }

    fn folder(&self, id: RoundId) -> PathBuf {
        self.dir.join(id.to_string())
    }

    /// A move that changes nothing yet.
    pub(super) fn still(&self, round: &Round) -> Move {
        Move {
            id: round.id,
            owner: self.owner.clone(),
            from: round.state,
            to: round.state,
            base: None,
            candidate: None,
            report: None,
            now_ms: (self.now_ms)(),
            tell: None,
        }
    }

    fn go(&self, round: &Round, from: RoundState, to: RoundState, with: Move) -> Result<bool, LedgerError> {
        debug_assert_eq!(round.id, with.id);
        self.runtime.block_on(self.ledger.move_round(Move { from, to, ..with }))
    }

    /// Moves a round on, or learns that it is another's.
    pub(super) fn on(&self, round: &mut Round, to: RoundState, with: Move) -> Result<(), RoundError> {
        let event = |level, message: &str| RoundEvent::say(round.id, (self.now_ms)(), level, message.to_owned());
        let tell = match to {
            RoundState::Rolling => Some(event(Level::Info, "Taken up: gathering what there is to learn from")),
            RoundState::Training => Some(event(Level::Info, "Training has begun")),
            RoundState::Judging => Some(event(Level::Info, "Trained; the candidate is judged beside the live version")),
            RoundState::Trying => {
                Some(event(Level::Info, "The gate passed the candidate; a share of the people tries it"))
            }
            RoundState::Promoted => Some(event(Level::Info, "The gate made the candidate live")),
            RoundState::Refused => Some(event(Level::Warn, "The gate did not make the candidate live")),
            _ => None,
        };
        if !self.go(round, round.state, to, Move { tell, ..with })? {
            return Err(RoundError::Lost);
        }
        round.state = to;
        Ok(())
    }

    /// Takes a round from where it is to its end.
    fn work(&self, mut round: Round, holding: &Holding) -> Result<RoundState, RoundError> {
        let plan: Plan = serde_json::from_str(&round.plan)
            .map_err(|e| RoundError::Failed(format!("its plan cannot be read: {e}")))?;
        if round.state == RoundState::Open {
            let live = || -> Result<Version, RoundError> {
                let live = self.runtime.block_on(self.ledger.live())?;
                Ok(live.ok_or_else(|| RoundError::Failed("no version is live".into()))?.version)
            };
            // It may have been opened to begin with another.
            let base = round.base.clone().map_or_else(live, Ok)?;
            round.base = Some(base.clone());
            let with = Move { base: Some(base), ..self.still(&round) };
            self.on(&mut round, RoundState::Rolling, with)?;
        }
        let base = round.base.clone().ok_or_else(|| RoundError::Failed("it has begun with nothing".into()))?;
        let base = self.loaded(&base)?;
        let (candidate, own) = match (round.state, &round.candidate) {
            (RoundState::Judging, Some(candidate)) => {
                let own = match plan.rows {
                    Some(_) => Own::default(),
                    None => self.own(&round, &plan, &base, holding)?,
                };
                (self.fetch(Arc::clone(&base), candidate)?, own)
            }
            _ => self.learn(&mut round, &plan, &base, holding)?,
        };
        // The candidate is in the ledger now.
        let _ = std::fs::remove_dir_all(self.folder(round.id));
        self.judge(&mut round, &plan, &candidate, &own, holding)?;
        Ok(round.state)
    }

    /// Weights that the engine holds, or the ledger.
    pub(super) fn loaded(&self, version: &Version) -> Result<Arc<Model>, RoundError> {
        match self.engine.models().into_iter().find(|model| model.version() == version) {
            Some(model) => Ok(model),
            None => self.fetch(self.engine.model(), version),
        }
    }

    /// Weights from the ledger's files, in the frame of another version.
    fn fetch(&self, frame: Arc<Model>, version: &Version) -> Result<Arc<Model>, RoundError> {
        self.runtime.block_on(kept::load(&self.ledger, frame, version)).map_err(|error| match error {
            KeptError::Ledger(error) => error.into(),
            KeptError::Load(error) => error.into(),
            _ => RoundError::Failed(format!("the weights of version {} are gone", version.0)),
        })
    }

    /// Gathers and trains; the candidate is known to the ledger when this returns.
    fn learn(
        &self,
        round: &mut Round,
        plan: &Plan,
        base: &Arc<Model>,
        holding: &Holding,
    ) -> Result<(Arc<Model>, Own), RoundError> {
        let Study { mut stage, told, samples, own } = match &plan.rows {
            Some(rows) => self.of_rows(plan, rows, base)?,
            None => self.of_what_was_said(round, plan, base, holding)?,
        };
        if round.state == RoundState::Rolling {
            let with = self.still(round);
            self.on(round, RoundState::Training, with)?;
        }
        let dir = self.folder(round.id);
        let (id, steps) = (round.id, stage.steps());
        let tell = |step: u64, metrics: &Metrics| self.tell_step(id, step, steps, metrics);
        let mut held = Held { stage: &mut stage, holding, tell: &tell };
        let how = RunOptions { dir, every: Duration::from_secs(60), device: base.network().device().clone() };
        let record = run(&mut held, &how);
        holding.check()?;
        let record = record?;
        let model = Arc::new(stage.model()?);
        drop(stage);
        if model.version() == base.version() {
            return Err(RoundError::Failed("nothing was learned: the weights are what they were".into()));
        }
        let bytes = model.weights_file()?;
        let size = i64::try_from(bytes.len()).unwrap_or(i64::MAX);
        let file = self.runtime.block_on(self.ledger.blobs().put(bytes))?;
        let known = KnownVersion {
            version: model.version().clone(),
            parent: Some(base.version().clone()),
            round: Some(round.id),
            created_ms: (self.now_ms)(),
            weights: Some(file.id().clone()),
            bytes: size,
            scores: "{}".into(),
            pinned: plan.keep,
        };
        self.runtime.block_on(async {
            self.ledger.know(known, &[file]).await?;
            self.ledger.note_trained(model.version().clone(), samples).await
        })?;
        round.candidate = Some(model.version().clone());
        let report = json!({ "learned_from": told, "training": { "steps": record.steps, "seconds": record.seconds } });
        round.report = Some(report.to_string());
        let with = Move { candidate: round.candidate.clone(), report: round.report.clone(), ..self.still(round) };
        self.on(round, RoundState::Judging, with)?;
        Ok((model, own))
    }

    /// Tells what happened to whoever watches the round. The round itself does not depend on it.
    pub(super) fn tell(&self, event: RoundEvent) {
        if let Err(error) = self.runtime.block_on(self.ledger.tell(event)) {
            tracing::warn!(%error, "what happened in a round could not be told");
        }
    }

    /// Tells of a step; of many, only of some.
    fn tell_step(&self, round: RoundId, step: u64, steps: u64, metrics: &Metrics) {
        if !step.is_multiple_of(steps.div_ceil(TOLD).max(1)) && step + 1 != steps {
            return;
        }
        let mut data: Map<String, Value> =
            metrics.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
        for (name, as_others_call_it) in [("loss", "train_loss"), ("grader", "train_mean_reward")] {
            if let Some(value) = data.get(name).cloned() {
                data.insert(as_others_call_it.to_owned(), value);
            }
        }
        data.insert("step".into(), (step + 1).into());
        data.insert("total_steps".into(), steps.into());
        let reward = metrics.iter().find(|(name, _)| *name == "grader");
        let reward = reward.map_or(String::new(), |(_, reward)| format!(": mean reward {reward:.4}"));
        self.tell(RoundEvent {
            step: i64::try_from(step + 1).ok(),
            data: Some(Value::Object(data).to_string()),
            ..RoundEvent::say(round, (self.now_ms)(), Level::Info, format!("Step {}/{steps}{reward}", step + 1))
        });
    }
}
