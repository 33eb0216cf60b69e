//! How a candidate that passed the gate leaves its round: live at once, or on trial, the end of which ends the round too. Knows nothing of
//! how a trial goes on.

use super::RoundError;
use super::work::Rounds;
use crate::domain::round::{Round, RoundState};
use crate::domain::sample::Version;
use crate::store::{Beginning, Begun, Promoted};

/// Who a round is among those who promote.
pub(super) fn by(round: &Round) -> String {
    format!("round {}", round.id)
}

impl Rounds {
    /// Makes `version` live behind promotion number `after`, or lets it be tried; refused where another came first.
    pub(super) fn publish(
        &self,
        round: &Round,
        version: &Version,
        after: i64,
        why: String,
    ) -> Result<RoundState, RoundError> {
        let (version, by, now_ms) = (version.clone(), by(round), (self.now_ms)());
        let Some(terms) = self.canary else {
            let promote = self.ledger.promote(version, after, by, why, now_ms);
            let is_live = matches!(self.runtime.block_on(promote)?, Promoted::Live(_));
            return Ok(if is_live { RoundState::Promoted } else { RoundState::Refused });
        };
        let beginning = Beginning { version, after, terms, by, why, round: Some(round.id), now_ms };
        let begun = self.runtime.block_on(self.ledger.begin_trial(beginning))?;
        Ok(if matches!(begun, Begun::Running(_)) { RoundState::Trying } else { RoundState::Refused })
    }
}
