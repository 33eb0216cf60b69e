//! A network of which some tensors learn and the others stay as they are. Knows nothing of what is learned.

use std::collections::BTreeMap;

use candle_core::{Device, Var};

use super::TrainError;
use crate::model::config::ModelConfig;
use crate::model::network::Network;
use crate::model::params::{Params, Tensors, variables};

/// See the module text.
pub struct Trainable {
    pub network: Network,
    /// What learns, by internal name.
    pub vars: BTreeMap<String, Var>,
    fixed: Tensors,
}

impl Trainable {
    /// The tensors learn whose names begin with one of `prefixes`.
    ///
    /// # Errors
    /// When the tensors do not fit the config.
    pub fn new(config: &ModelConfig, tensors: Tensors, prefixes: &[&str], device: &Device) -> Result<Self, TrainError> {
        let learns = |name: &str| prefixes.iter().any(|prefix| name.starts_with(prefix));
        let (learning, fixed): (Tensors, Tensors) = tensors.into_iter().partition(|(name, _)| learns(name));
        let vars = variables(learning)?;
        let mut all = fixed.clone();
        all.extend(vars.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())));
        let params = Params::given(all, device);
        let network = Network::new(&params.root(), config)?;
        params.finish()?;
        Ok(Self { network, vars, fixed })
    }

    /// Every tensor as it is now; those that learn share their memory.
    #[must_use]
    pub fn tensors(&self) -> Tensors {
        let mut all = self.fixed.clone();
        all.extend(self.vars.iter().map(|(name, var)| (name.clone(), var.as_tensor().detach())));
        all
    }

    /// Every tensor as it is now and will stay.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn snapshot(&self) -> Result<Tensors, TrainError> {
        let mut all = self.fixed.clone();
        for (name, var) in &self.vars {
            all.insert(name.clone(), var.as_tensor().copy()?.detach());
        }
        Ok(all)
    }
}
