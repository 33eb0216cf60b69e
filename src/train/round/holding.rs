//! Holding a round while it is worked on: the claim is renewed in the background, and whoever works learns when it is lost.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::RoundError;
use crate::domain::id::RoundId;
use crate::model::params::Tensors;
use crate::store::Ledger;
use crate::train::TrainError;
use crate::train::corl::CorlStage;
use crate::train::run::{Metrics, Stage};

/// How long a claim holds, and how often it is renewed.
pub(super) const LEASE_MS: i64 = 30_000;
const RENEW: Duration = Duration::from_secs(2);

/// A claim on a round, for as long as this lives.
pub(super) struct Holding {
    lost: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Holding {
    /// Renews the claim of `owner` from now on; `stop` says that the process ends.
    pub fn on(
        runtime: &Handle,
        ledger: Ledger,
        id: RoundId,
        owner: String,
        now_ms: fn() -> i64,
        stop: Arc<AtomicBool>,
    ) -> Self {
        let lost = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&lost);
        let task = runtime.spawn(async move {
            loop {
                tokio::time::sleep(RENEW).await;
                match ledger.hold_round(id, owner.clone(), now_ms() + LEASE_MS).await {
                    Ok(true) => {}
                    Ok(false) => return told.store(true, Ordering::Relaxed),
                    // The claim lasts longer than the ledger is usually away; if not, the next change tells.
                    Err(error) => tracing::warn!(%error, "a round cannot be held for now"),
                }
            }
        });
        Self { lost, stop, task }
    }

    /// # Errors
    /// When the round has been cancelled or paused, or is another's, or the process ends.
    pub fn check(&self) -> Result<(), RoundError> {
        if self.is_lost() { Err(RoundError::Lost) } else { Ok(()) }
    }

    fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed) || self.stop.load(Ordering::Relaxed)
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A stage that is left behind a checkpoint when its round is no longer held, and tells of its steps.
pub(super) struct Held<'a> {
    pub stage: &'a mut CorlStage,
    pub holding: &'a Holding,
    /// Given the number of a step, from 0, and its numbers.
    pub tell: &'a dyn Fn(u64, &Metrics),
}

impl Stage for Held<'_> {
    fn name(&self) -> &'static str {
        self.stage.name()
    }

    fn steps(&self) -> u64 {
        self.stage.steps()
    }

    fn settings(&self) -> Map<String, Value> {
        self.stage.settings()
    }

    fn step(&mut self, step: u64) -> Result<Metrics, TrainError> {
        let metrics = self.stage.step(step)?;
        (self.tell)(step, &metrics);
        Ok(metrics)
    }

    fn leaves(&self) -> bool {
        self.holding.is_lost()
    }

    fn state(&self) -> Result<Tensors, TrainError> {
        self.stage.state()
    }

    fn restore(&mut self, state: &Tensors) -> Result<(), TrainError> {
        self.stage.restore(state)
    }

    fn look(&self, dir: &Path, step: u64) -> Result<Metrics, TrainError> {
        self.stage.look(dir, step)
    }
}
