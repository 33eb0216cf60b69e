//! The weights that an engine may compute with: the live ones, which answer whatever does not say otherwise, and others that may be
//! named. All are of one model: same sizes, same prompts, same device. Knows nothing of where they come from.

use std::sync::{Arc, PoisonError, RwLock};

use super::PromoteError;
use crate::domain::sample::Version;
use crate::model::Model;

/// See the module text.
pub(super) struct Shelf(RwLock<Models>);

struct Models {
    live: Arc<Model>,
    others: Vec<Arc<Model>>,
}

impl Shelf {
    pub fn new(live: Arc<Model>) -> Self {
        Self(RwLock::new(Models { live, others: Vec::new() }))
    }

    pub fn live(&self) -> Arc<Model> {
        self.read(|models| Arc::clone(&models.live))
    }

    /// Every one of them, the live one first.
    pub fn all(&self) -> Vec<Arc<Model>> {
        self.read(|models| std::iter::once(&models.live).chain(&models.others).cloned().collect())
    }

    /// Makes `model` live. Those that were named before stay.
    pub fn promote(&self, model: Arc<Model>) -> Result<(), PromoteError> {
        self.write(&model, |models| {
            models.others.retain(|other| other.version() != model.version());
            models.live = Arc::clone(&model);
        })
    }

    /// Puts `model` beside the live one.
    pub fn admit(&self, model: Arc<Model>) -> Result<(), PromoteError> {
        self.write(&model, |models| {
            if models.others.iter().chain([&models.live]).all(|other| other.version() != model.version()) {
                models.others.push(Arc::clone(&model));
            }
        })
    }

    /// Takes away those beside the live one that are not wanted; their memory is free when the last work with them is done.
    pub fn retain(&self, wanted: impl Fn(&Version) -> bool) {
        let mut models = self.0.write().unwrap_or_else(PoisonError::into_inner);
        models.others.retain(|other| wanted(other.version()));
    }

    fn read<T>(&self, look: impl FnOnce(&Models) -> T) -> T {
        look(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write(&self, model: &Model, change: impl FnOnce(&mut Models)) -> Result<(), PromoteError> {
        let mut models = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let live = &models.live;
        let differs = [
            (model.config() != live.config(), "config.json"),
            (model.digest() != live.digest(), "the tokenizer or the processor"),
            (!model.network().device().same_device(live.network().device()), "the device"),
        ];
        match differs.iter().find(|(differs, _)| *differs) {
            Some((_, what)) => Err(PromoteError(what)),
            None => {
                change(&mut models);
                Ok(())
            }
        }
    }
}
