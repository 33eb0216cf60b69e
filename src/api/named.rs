//! Weights by name: the live ones, those that the engine holds, and those that the ledger keeps, which are loaded when they are asked
//! for. Of these the engine holds few at once. Knows not how weights come to be.

use std::sync::Arc;

use tokio::sync::Mutex;

use super::error::ApiError;
use super::wire::models::ModelCard;
use super::{Service, short};
use crate::domain::round::KnownVersion;
use crate::domain::sample::Version;
use crate::kept::{self, KeptError};
use crate::model::Model;
use crate::store::digest;

/// Most versions that the engine holds because somebody asked for them.
const HELD: usize = 2;

/// Who asks, as trials tell people apart: the person whom the client names, who always gets the same weights; where it names nobody, each
/// request is somebody of its own.
pub(super) struct Asker(String);

impl Asker {
    /// `body` is the whole request.
    pub(super) fn of(person: Option<&str>, key: &str, body: &[u8]) -> Result<Self, ApiError> {
        Ok(match person {
            Some(person) => Self(format!("person {person}")),
            None => Self(format!("key {key} request {}", digest(body)?)),
        })
    }
}

/// Versions that were loaded because somebody asked for them, the last one at the end. Loading waits for its turn, so that memory holds
/// one file at a time.
#[derive(Default)]
pub struct Named(Mutex<Vec<Version>>);

impl Service {
    /// What a version is called.
    pub(super) fn version_name(&self, version: &Version) -> String {
        format!("{}@{}", self.name, short(version))
    }

    /// The digits of the version that a name asks for; none of the alias.
    fn digits<'a>(&self, id: &'a str) -> Option<&'a str> {
        id.strip_prefix(&self.name)?.strip_prefix('@').filter(|digits| digits.len() == 12)
    }

    fn held(&self, digits: &str) -> Option<Arc<Model>> {
        self.engine.models().into_iter().find(|model| short(model.version()) == digits)
    }

    /// The version that a name asks for, whose weights are kept or held; `None` of the alias.
    ///
    /// # Errors
    /// When there is none.
    pub(super) async fn named(&self, id: &str) -> Result<Option<Version>, ApiError> {
        if id == self.name {
            return Ok(None);
        }
        let none = || ApiError::model(id, &self.name);
        let digits = self.digits(id).ok_or_else(none)?;
        match self.held(digits) {
            Some(model) => Ok(Some(model.version().clone())),
            None => Ok(Some(self.kept(digits).await?.ok_or_else(none)?.version)),
        }
    }

    async fn kept(&self, digits: &str) -> Result<Option<KnownVersion>, ApiError> {
        let all = self.ledger.versions().await?;
        Ok(all.into_iter().find(|known| known.weights.is_some() && short(&known.version) == digits))
    }

    /// The weights that answer for the model asked for; for none the live ones, or those on trial where `asker` is drawn for them.
    ///
    /// # Errors
    /// When there is no such model, or it cannot be loaded.
    pub(super) async fn pick(&self, id: Option<&str>, asker: Option<&Asker>) -> Result<Arc<Model>, ApiError> {
        let Some(id) = id.filter(|id| *id != self.name) else {
            return Ok(asker.map_or_else(|| self.engine.model(), |asker| self.engine.model_for(&asker.0)));
        };
        let none = || ApiError::model(id, &self.name);
        let digits = self.digits(id).ok_or_else(none)?;
        if let Some(model) = self.held(digits) {
            return Ok(model);
        }
        let mut loaded = self.loaded.0.lock().await;
        // Another may have asked for the same.
        if let Some(model) = self.held(digits) {
            return Ok(model);
        }
        let known = self.kept(digits).await?.ok_or_else(none)?;
        let model = kept::load(&self.ledger, self.engine.model(), &known.version).await;
        let model = model.map_err(|error| match error {
            KeptError::Ledger(error) => error.into(),
            KeptError::Unknown(_) | KeptError::Gone(_) => none(),
            cause => ApiError::internal(&cause),
        })?;
        self.engine.admit(Arc::clone(&model)).map_err(|cause| ApiError::internal(&cause))?;
        loaded.retain(|version| *version != known.version);
        loaded.push(known.version);
        if loaded.len() > HELD {
            let longest = loaded.remove(0);
            self.engine.retain(|version| *version != longest);
        }
        Ok(model)
    }

    /// The models that may be named: the alias, which is whatever is live, each version that is held, and each that is kept.
    pub(super) async fn cards(&self) -> Vec<ModelCard> {
        let models = self.engine.models();
        let card = |id: String, created: u64, version: &Version| ModelCard {
            id,
            object: "model",
            created,
            owned_by: "ulm",
            version: version.0.clone(),
        };
        let live = models.first().map(|live| card(self.name.clone(), self.started, live.version()));
        let held = models.iter().map(|model| card(self.version_name(model.version()), self.started, model.version()));
        let mut cards: Vec<ModelCard> = live.into_iter().chain(held).collect();
        // Where the ledger is away, what is held can be asked for.
        let kept = self.ledger.versions().await.unwrap_or_default();
        for known in kept.iter().filter(|known| known.weights.is_some()) {
            if models.iter().all(|model| *model.version() != known.version) {
                let created = u64::try_from(known.created_ms / 1000).unwrap_or(0);
                cards.push(card(self.version_name(&known.version), created, &known.version));
            }
        }
        cards
    }
}
