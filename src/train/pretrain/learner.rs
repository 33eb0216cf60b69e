//! The network under training: which of its tensors are variables, and the tokenizer. Knows nothing of lessons.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor, Var};
use tokenizers::Tokenizer;

use super::super::TrainError;
use crate::model::config::ModelConfig;
use crate::model::network::Network;
use crate::model::params::{Params, Tensors, variables};
use crate::model::prompt::{NAMES, PromptError, Prompter};
use crate::model::{Defaults, Model, ModelFiles};

/// How requests become ids with this tokenizer and Janus-Pro's settings.
fn prompter(config: &ModelConfig, tokenizer: &[u8]) -> Result<Prompter, TrainError> {
    let files = ModelFiles { tokenizer: tokenizer.to_vec().into(), ..ModelFiles::default() };
    files.prompter(config).map_err(|e| TrainError::State(e.to_string()))
}

/// The network, with the tensors that train as variables.
pub struct Learner {
    pub config: ModelConfig,
    pub network: Network,
    pub prompter: Prompter,
    pub vars: BTreeMap<String, Var>,
    pub device: Device,
    /// The id that every sequence begins with.
    pub begin: u32,
    fixed: Tensors,
    tokenizer: Tokenizer,
    tokenizer_json: Vec<u8>,
}

impl Learner {
    /// Trains the tensors whose names begin with one of `prefixes`; the others stay as they are.
    ///
    /// # Errors
    /// When the tensors do not fit the config.
    pub fn new(
        config: &ModelConfig,
        tensors: Tensors,
        prefixes: &[&str],
        tokenizer_json: &[u8],
        device: &Device,
    ) -> Result<Self, TrainError> {
        let trains = |name: &str| prefixes.iter().any(|prefix| name.starts_with(prefix));
        let (trained, fixed): (Tensors, Tensors) = tensors.into_iter().partition(|(name, _)| trains(name));
        let vars = variables(trained)?;
        let mut all = fixed.clone();
        all.extend(vars.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())));
        let params = Params::given(all, device);
        let network = Network::new(&params.root(), config)?;
        params.finish()?;
        let tokenizer = Tokenizer::from_bytes(tokenizer_json).map_err(|e| TrainError::State(e.to_string()))?;
        let (_, name) = NAMES[0];
        let begin =
            tokenizer.token_to_id(name).ok_or_else(|| TrainError::State(format!("the tokenizer has no `{name}`")))?;
        Ok(Self {
            config: config.clone(),
            network,
            prompter: prompter(config, tokenizer_json)?,
            vars,
            device: device.clone(),
            begin,
            fixed,
            tokenizer,
            tokenizer_json: tokenizer_json.to_vec(),
        })
    }

    /// Every tensor as it is now.
    #[must_use]
    pub fn tensors(&self) -> Tensors {
        let mut all = self.fixed.clone();
        all.extend(self.vars.iter().map(|(name, var)| (name.clone(), var.as_tensor().detach())));
        all
    }

    /// The network as it is now, ready for an engine.
    ///
    /// # Errors
    /// When the tensors cannot be read.
    pub fn model(&self) -> Result<Model, TrainError> {
        let prompter = prompter(&self.config, &self.tokenizer_json)?;
        let defaults = Defaults { guidance: 1.0, temperature: 1.0 };
        Model::from_tensors(self.config.clone(), prompter, defaults, self.tensors(), &self.device)
            .map_err(|e| TrainError::State(e.to_string()))
    }

    /// Ids of a text, nothing added.
    ///
    /// # Errors
    /// When the text cannot be tokenised.
    pub fn encode(&self, text: &str) -> Result<Spelled, TrainError> {
        let encoding = self.tokenizer.encode(text, false).map_err(|e| TrainError::State(e.to_string()))?;
        Ok(Spelled { ids: encoding.get_ids().to_vec(), bytes: encoding.get_offsets().to_vec() })
    }
}

/// A text as ids, and where in the text each begins and ends.
pub struct Spelled {
    pub ids: Vec<u32>,
    pub bytes: Vec<(usize, usize)>,
}

impl From<PromptError> for TrainError {
    fn from(e: PromptError) -> Self {
        Self::State(format!("a lesson is no prompt: {e}"))
    }
}

/// Rows of `x` by index.
///
/// # Errors
/// When one is out of range.
pub fn rows(x: &Tensor, at: Vec<u32>) -> Result<Tensor, TrainError> {
    Ok(x.index_select(&Tensor::new(at, x.device())?, 0)?)
}
