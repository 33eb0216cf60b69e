//! How weights come to be live: training rounds and the ways between their states, versions of the weights, promotions.
//! What a round is set to do and what was found out are JSON texts here: the ledger and the interface pass them on unread.

use super::id::{BlobId, RoundId};
use super::sample::Version;

/// Where a round is. A crash leaves it where it is, and whoever takes it up goes on from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RoundState {
    /// Nobody has begun.
    Open,
    /// Gathering what it learns from, and drawing what is to be drawn anew.
    Rolling,
    Training,
    /// The gate compares its candidate with the live version.
    Judging,
    /// The gate passed its candidate, which answers a share of the people.
    Trying,
    /// Its candidate became live.
    Promoted,
    /// The gate refused its candidate, or people did.
    Refused,
    Failed,
    Cancelled,
}

impl RoundState {
    pub const ALL: [Self; 9] = [
        Self::Open,
        Self::Rolling,
        Self::Training,
        Self::Judging,
        Self::Trying,
        Self::Promoted,
        Self::Refused,
        Self::Failed,
        Self::Cancelled,
    ];

    /// As it is written and shown.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Rolling => "rolling",
            Self::Training => "training",
            Self::Judging => "judging",
            Self::Trying => "trying",
            Self::Promoted => "promoted",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Nothing follows it.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Promoted | Self::Refused | Self::Failed | Self::Cancelled)
    }

    /// Whether a round may go from here to `next`: one step at a time, or to an end without a verdict.
    #[must_use]
    pub fn may_become(self, next: Self) -> bool {
        match (self, next) {
            (Self::Open, Self::Rolling)
            | (Self::Rolling, Self::Training)
            | (Self::Training, Self::Judging)
            | (Self::Judging, Self::Trying | Self::Promoted | Self::Refused)
            | (Self::Trying, Self::Promoted | Self::Refused) => true,
            (from, Self::Failed | Self::Cancelled) => !from.is_final(),
            _ => false,
        }
    }
}

/// A training round.
#[derive(Clone, Debug, PartialEq)]
pub struct Round {
    pub id: RoundId,
    pub state: RoundState,
    /// Unix milliseconds.
    pub created_ms: i64,
    pub changed_ms: i64,
    /// Who or what opened it.
    pub by: String,
    /// What it is to do, JSON.
    pub plan: String,
    /// It learns from what was said after this, Unix milliseconds, and not after that.
    pub since_ms: i64,
    pub until_ms: i64,
    /// What it began with; known once it has begun.
    pub base: Option<Version>,
    /// What it has made.
    pub candidate: Option<Version>,
    /// What the gate or an error said, JSON.
    pub report: Option<String>,
    /// It waits until somebody says that it may go on.
    pub paused: bool,
}

impl Round {
    /// One that nobody has begun, to learn from what was said after `since_ms` and up to now.
    #[must_use]
    pub fn open(by: String, plan: String, since_ms: i64, now_ms: i64) -> Self {
        Self {
            id: RoundId::fresh(),
            state: RoundState::Open,
            created_ms: now_ms,
            changed_ms: now_ms,
            by,
            plan,
            since_ms,
            until_ms: now_ms,
            base: None,
            candidate: None,
            report: None,
            paused: false,
        }
    }
}

/// Weights that may be served.
#[derive(Clone, Debug, PartialEq)]
pub struct KnownVersion {
    pub version: Version,
    /// What it was trained from, and by which round; nothing of weights that came from outside.
    pub parent: Option<Version>,
    pub round: Option<RoundId>,
    pub created_ms: i64,
    /// Their file; of those that came from outside only their owner knows where they are.
    pub weights: Option<BlobId>,
    pub bytes: i64,
    /// How good they are, JSON.
    pub scores: String,
    /// Kept whatever comes.
    pub pinned: bool,
}

/// That a version became live. The last one says which is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promotion {
    /// Counted from 1 without a gap, so that of two who promote at once one is told.
    pub number: i64,
    pub version: Version,
    pub at_ms: i64,
    /// Whose hand, or which round.
    pub by: String,
    pub why: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_goes_one_way_and_ends() {
        for from in RoundState::ALL {
            let next: Vec<_> = RoundState::ALL.into_iter().filter(|&next| from.may_become(next)).collect();
            assert_eq!(next.is_empty(), from.is_final(), "{from:?} {next:?}");
            assert!(!from.may_become(from) && !from.may_become(RoundState::Open));
        }
        let mut way = vec![RoundState::Open];
        while let Some(&next) =
            RoundState::ALL.iter().find(|&&next| way.last().is_some_and(|last| last.may_become(next)))
        {
            way.push(next);
        }
        assert_eq!(
            way.iter().map(|state| state.word()).collect::<Vec<_>>(),
            ["open", "rolling", "training", "judging", "trying", "promoted"]
        );
    }
}
