//! The network under pre-training and its tokenizer. Knows nothing of lessons.

use candle_core::{Device, Tensor};
use tokenizers::Tokenizer;

use super::super::TrainError;
use super::super::trainable::Trainable;
use crate::model::config::ModelConfig;
use crate::model::params::Tensors;
use crate::model::prompt::{PromptError, Prompter};
use crate::model::tokens::NAMES;
use crate::model::{Defaults, Model, ModelFiles};

/// How requests become ids with this tokenizer and Janus-Pro's settings.
fn prompter(config: &ModelConfig, tokenizer: &[u8]) -> Result<Prompter, TrainError> {
    let files = ModelFiles { tokenizer: tokenizer.to_vec().into(), ..ModelFiles::default() };
    files.prompter(config).map_err(|e| TrainError::State(e.to_string()))
}

/// See the module text.
pub struct Learner {
    pub config: ModelConfig,
    pub prompter: Prompter,
    pub weights: Trainable,
    pub device: Device,
    /// The id that every sequence begins with.
    pub begin: u32,
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
        let tokenizer = Tokenizer::from_bytes(tokenizer_json).map_err(|e| TrainError::State(e.to_string()))?;
        let (_, name) = NAMES[0];
        let begin =
            tokenizer.token_to_id(name).ok_or_else(|| TrainError::State(format!("the tokenizer has no `{name}`")))?;
        Ok(Self {
            config: config.clone(),
            weights: Trainable::new(config, tensors, prefixes, None, device)?,
            prompter: prompter(config, tokenizer_json)?,
            device: device.clone(),
            begin,
            tokenizer,
            tokenizer_json: tokenizer_json.to_vec(),
        })
    }

    /// The network as it is now, ready for an engine.
    ///
    /// # Errors
    /// When the tensors cannot be read.
    pub fn model(&self) -> Result<Model, TrainError> {
        let prompter = prompter(&self.config, &self.tokenizer_json)?;
        let defaults = Defaults { guidance: 1.0, temperature: 1.0 };
        Model::from_tensors(self.config.clone(), prompter, defaults, self.weights.tensors()?, &self.device)
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
