//! The weights that an engine may compute with: the live ones, which answer whatever does not say otherwise, others that may be named,
//! and among these perhaps some on trial, which answer a share of the people. All are of one model: same sizes, same prompts, same device. Knows nothing of where they come from.

use std::sync::{Arc, PoisonError, RwLock};

use super::PromoteError;
use crate::domain::sample::Version;
use crate::domain::trial::Split;
use crate::model::Model;

/// See the module text.
pub(super) struct Shelf(RwLock<Models>);

struct Models {
    live: Arc<Model>,
    others: Vec<Arc<Model>>,
    /// Some of the others, and whom they answer.
    trial: Option<(Arc<Model>, Split)>,
}

impl Shelf {
    pub fn new(live: Arc<Model>) -> Self {
        Self(RwLock::new(Models { live, others: Vec::new(), trial: None }))
    }

    pub fn live(&self) -> Arc<Model> {
        self.read(|models| Arc::clone(&models.live))
    }

    /// Every one of them, the live one first.
    pub fn all(&self) -> Vec<Arc<Model>> {
        self.read(|models| std::iter::once(&models.live).chain(&models.others).cloned().collect())
    }

    /// Those that answer `who` where nothing else is said.
    pub fn choose(&self, who: &str) -> Arc<Model> {
        self.read(|models| {
            let tried = models.trial.as_ref().filter(|(_, split)| split.takes(who)).map(|(model, _)| model);
            Arc::clone(tried.unwrap_or(&models.live))
        })
    }

    /// Whom weights on trial answer, if there are any, and which these are.
    pub fn trial(&self) -> Option<(Version, Split)> {
        self.read(|models| models.trial.as_ref().map(|(model, split)| (model.version().clone(), *split)))
    }

    /// Lets `model` answer some people from now on, beside the live one.
    pub fn begin_trial(&self, model: Arc<Model>, split: Split) -> Result<(), PromoteError> {
        self.write(&model, |models| {
            models.others.retain(|other| other.version() != model.version());
            models.others.push(Arc::clone(&model));
            models.trial = Some((Arc::clone(&model), split));
        })
    }

    /// Lets the live one answer everybody again.
    pub fn end_trial(&self) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).trial = None;
    }

    /// Makes `model` live, which ends a trial. Those that were named before stay.
    pub fn promote(&self, model: Arc<Model>) -> Result<(), PromoteError> {
        self.write(&model, |models| {
            models.trial = None;
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

    /// Takes away those beside the live one that are not wanted and not on trial; their memory is free when the last work with them is done.
    pub fn retain(&self, wanted: impl Fn(&Version) -> bool) {
        let mut models = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let Models { others, trial, .. } = &mut *models;
        let tried = trial.as_ref().map(|(model, _)| model.version());
        others.retain(|other| wanted(other.version()) || Some(other.version()) == tried);
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
