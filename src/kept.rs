//! Weights that the ledger keeps: loaded in the frame of a version that is at hand, and known by their hash. Knows not who answers with
//! them.

use std::sync::Arc;

use crate::domain::sample::Version;
use crate::model::{Model, ModelError};
use crate::store::{Ledger, LedgerError};

/// Why a version cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("the ledger does not know version {0}")]
    Unknown(String),
    #[error("the weights of version {0} are not kept, and it is not the checkpoint that this server began with")]
    Gone(String),
    #[error("the weights kept as version {version} are those of {found}")]
    Other { version: String, found: String },
    #[error("its weights cannot be loaded: {0}")]
    Load(#[from] ModelError),
    #[error("loading broke off")]
    Broken,
}

/// The model of a version, loaded and checked; all but its weights is `frame`'s.
///
/// # Errors
/// When the version is not known or not kept, its file cannot be read or is another version's.
pub async fn load(ledger: &Ledger, frame: Arc<Model>, version: &Version) -> Result<Arc<Model>, KeptError> {
    let known = ledger.version(version).await?.ok_or_else(|| KeptError::Unknown(version.0.clone()))?;
    let weights = known.weights.ok_or_else(|| KeptError::Gone(version.0.clone()))?;
    let bytes = ledger.blobs().get(&weights).await?;
    let model = tokio::task::spawn_blocking(move || frame.with_weights_file(&bytes));
    let model = model.await.map_err(|_| KeptError::Broken)??;
    if model.version() != version {
        return Err(KeptError::Other { version: version.0.clone(), found: model.version().0.clone() });
    }
    Ok(Arc::new(model))
}
