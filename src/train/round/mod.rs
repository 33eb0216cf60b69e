//! Training rounds: feedback in the ledger becomes a candidate, and the gate decides whether it takes the live version's place.
//! A round may be cut anywhere: whoever claims it next goes on from its state. Publishes through the ledger alone; who serves a
//! promoted version is not known here.

pub mod describer;
pub mod features;
pub mod gate;
pub mod gather;
mod holding;
pub mod judge;
pub mod liking;
pub mod own;
pub mod plan;
mod rows;
mod said;
mod settle;
pub mod slips;
pub mod stats;
pub mod taste;
mod trying;
mod work;

pub use said::RANK;
pub use work::Rounds;

use serde_json::{Map, Value};

use super::TrainError;
use crate::domain::round::Round;
use crate::model::ModelError;
use crate::store::LedgerError;

/// Why a round stops.
#[derive(Debug, thiserror::Error)]
pub enum RoundError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Train(#[from] TrainError),
    #[error(transparent)]
    Model(#[from] ModelError),
    /// It was cancelled or paused, or another holds it, or this process ends.
    #[error("the round is no longer ours")]
    Lost,
    #[error("{0}")]
    Failed(String),
}

/// What a round has reported so far; empty where that is nothing or no object.
fn reported(round: &Round) -> Map<String, Value> {
    round.report.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}
