//! Watches what people say of new versions, and acts on it: a version on trial becomes live or is withdrawn, and a live one that is rated
//! worse than the one before it is taken back. Every server watches the same facts; the first to write its conclusion has decided.
//!
//! A version that a person made live is never taken back, only spoken of: whoever promotes by hand may know why. Nor is what a rollback
//! made live, so that two versions cannot take turns. Knows no weights and no engine.

use std::time::Duration;

use crate::domain::round::Promotion;
use crate::domain::trial::{Trial, TrialState};
use crate::store::{Ending, Ledger, LedgerError, Promoted, Settled};
use crate::trial::{Outcome, of_switch, of_trial};

/// Time between looks at the ledger.
const EVERY: Duration = Duration::from_secs(1);
/// Promotions among which the version before is looked for.
const HISTORY: u32 = 100;

/// Who makes a version live at the end of its trial.
pub const CANARY: &str = "canary";
/// Who takes a version back.
pub const WATCH: &str = "watch";

/// See the module text.
pub struct Watch {
    ledger: Ledger,
    /// It takes versions back after they became live.
    takes_back: bool,
    now_ms: fn() -> i64,
    /// What was said when nothing followed from it, of a trial and of a promotion by their numbers.
    trial: Option<(i64, u64)>,
    switch: Option<(i64, u64)>,
    /// The promotion that there is nothing more to say of.
    done: i64,
}

impl Watch {
    #[must_use]
    pub fn new(ledger: Ledger, takes_back: bool, now_ms: fn() -> i64) -> Self {
        Self { ledger, takes_back, now_ms, trial: None, switch: None, done: 0 }
    }

    /// Watches for as long as it is polled.
    pub async fn run(mut self) {
        loop {
            tokio::time::sleep(EVERY).await;
            if let Err(error) = self.look().await {
                tracing::warn!(%error, "versions cannot be watched for now");
            }
        }
    }

    async fn look(&mut self) -> Result<(), LedgerError> {
        let promotions = self.ledger.promotions(HISTORY).await?;
        let Some(live) = promotions.first() else { return Ok(()) };
        for trial in self.ledger.running_trials().await? {
            if trial.after == live.number {
                self.try_on(&trial, live).await?;
            } else {
                self.close(&trial, live).await?;
            }
        }
        let before = promotions.iter().find(|before| before.version != live.version);
        match before {
            Some(before) if self.takes_back && self.done != live.number && live.by != WATCH => {
                self.look_back(live, before).await
            }
            _ => Ok(()),
        }
    }

    /// Ends a trial that has come to something.
    async fn try_on(&mut self, trial: &Trial, live: &Promotion) -> Result<(), LedgerError> {
        let now = (self.now_ms)();
        let said = self.ledger.said_since(trial.began_ms).await?;
        if self.trial == Some((trial.number, said)) && now < trial.until_ms() {
            return Ok(());
        }
        let standing = of_trial(&self.ledger, trial, &live.version).await?;
        let Some(outcome) = standing.outcome(trial.terms.votes, trial.until_ms(), now) else {
            self.trial = Some((trial.number, said));
            return Ok(());
        };
        let (state, why) = match outcome {
            Outcome::Worse => (TrialState::Withdrawn, "worse on trial"),
            Outcome::Enough => (TrialState::Promoted, "not worse on trial"),
            Outcome::Late => (TrialState::Promoted, "not found worse in the time of its trial"),
        };
        let said = format!("{why}: {} ({})", standing.said(), trial.why);
        let promoter = Some(CANARY.to_owned());
        self.settle(trial, Ending { number: trial.number, state, said, promoter, now_ms: now }).await
    }

    /// Ends a trial that a promotion has ended.
    async fn close(&self, trial: &Trial, live: &Promotion) -> Result<(), LedgerError> {
        let is_live = trial.version == live.version;
        let state = if is_live { TrialState::Promoted } else { TrialState::Overtaken };
        let said = format!("promotion {} by {} came first: {}", live.number, live.by, live.why);
        self.settle(trial, Ending { number: trial.number, state, said, promoter: None, now_ms: (self.now_ms)() }).await
    }

    async fn settle(&self, trial: &Trial, ending: Ending) -> Result<(), LedgerError> {
        let said = ending.said.clone();
        if let Settled::Ended(state) = self.ledger.settle_trial(ending).await? {
            tracing::info!(
                number = trial.number,
                version = trial.version.0,
                end = state.word(),
                said,
                "a trial has ended"
            );
            // As those of a candidate that the gate refused.
            if state != TrialState::Promoted && trial.round.is_some() {
                self.ledger.shed(trial.version.clone()).await?;
            }
        }
        Ok(())
    }

    /// Takes a live version back that is rated worse than the one before it.
    async fn look_back(&mut self, live: &Promotion, before: &Promotion) -> Result<(), LedgerError> {
        let said = self.ledger.said_since(live.at_ms).await?;
        if self.switch == Some((live.number, said)) {
            return Ok(());
        }
        let standing = of_switch(&self.ledger, live, &before.version).await?;
        if !standing.evidence.is_worse() {
            self.switch = Some((live.number, said));
            return Ok(());
        }
        let numbers = standing.said();
        if is_by_hand(live) {
            tracing::warn!(version = live.version.0, by = live.by, numbers, "what was promoted by hand is rated worse");
        } else if self
            .ledger
            .version(&before.version)
            .await?
            .is_none_or(|known| known.weights.is_none() && !known.pinned)
        {
            tracing::error!(
                version = live.version.0,
                numbers,
                "the live version is rated worse, and the one before is not kept"
            );
        } else {
            let why = format!("rolled back, rated worse: {numbers}");
            let back =
                self.ledger.promote(before.version.clone(), live.number, WATCH.into(), why.clone(), (self.now_ms)());
            if let Promoted::Live(back) = back.await? {
                tracing::warn!(number = back.number, from = live.version.0, to = back.version.0, why, "rolled back");
            }
        }
        self.done = live.number;
        Ok(())
    }
}

/// Whether a person made it live, and not a round or the end of a trial.
fn is_by_hand(promotion: &Promotion) -> bool {
    promotion.by != CANARY && !promotion.by.starts_with("round ")
}
