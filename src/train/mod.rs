//! Floor 4: learning. Meets the rest of the server only in weights on disk.

pub mod corl;
pub mod draw;
pub mod eval;
mod events;
mod log;
mod muon;
pub mod optim;
pub mod player;
pub mod pretrain;
pub mod round;
pub mod run;
pub mod segments;
pub mod trainable;

use crate::model::params::ParamError;
use crate::model::weights::WeightsError;

/// Training cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    #[error(transparent)]
    Weights(#[from] WeightsError),
    #[error(transparent)]
    Param(#[from] ParamError),
    #[error("cannot write `{path}`: {source}")]
    Write { path: String, source: std::io::Error },
    #[error("cannot draw `{path}`: {what}")]
    Plot { path: String, what: String },
    #[error("{0}")]
    State(String),
}

fn write_error(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> TrainError {
    let path = path.display().to_string();
    move |source| TrainError::Write { path, source }
}
