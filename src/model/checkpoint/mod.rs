//! A checkpoint on the disk: which layout it has, what network it holds, and whether its tensors are that network's. Both layouts and
//! every kind of file come this way, to be served, converted or only looked at. Knows no request.

pub mod convert;
pub mod deepseek;
pub mod files;
pub mod names;
pub mod pickle;
pub mod plan;
pub mod random;
pub mod write;

use std::borrow::Cow;
use std::path::PathBuf;

use candle_core::Device;
use serde_json::{Map, Value};

use self::files::Source;
use self::names::Layout;
use self::plan::{Loaded, Plan};
use super::config::{ConfigError, ModelConfig};
use super::precision::Precision;
use super::tokens::Ids;
use super::weights::WeightsError;
use super::{ModelError, ModelFiles};
use crate::domain::sample::Version;

/// How a checkpoint is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// What weights are kept as.
    pub precision: Precision,
    /// Whether PyTorch's `.bin` files may be opened.
    pub pickle: bool,
}

/// Where the weights of a checkpoint are.
#[derive(Clone, Debug)]
pub enum Weights {
    /// A safetensors file in memory, of the Hugging Face layout or (with such a config) DeepSeek's.
    Bytes(Cow<'static, [u8]>),
    /// The files of a folder; see [`Source::folder`].
    Folder(PathBuf),
}

impl Default for Weights {
    fn default() -> Self {
        Self::Bytes(Cow::Borrowed(&[]))
    }
}

impl From<Vec<u8>> for Weights {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes.into())
    }
}

/// An open checkpoint whose tensors are those of its network, by name and shape.
pub struct Checkpoint<'f> {
    pub layout: Layout,
    pub config: ModelConfig,
    pub source: Source<'f>,
    pub plan: Plan,
}

/// Errors of the folder as [`ModelError`] has them, which names files from the folder on.
fn located(error: WeightsError) -> ModelError {
    match error {
        WeightsError::Read { path, source } => ModelError::Read { path, source },
        WeightsError::In { path, source } => ModelError::In { path, source: Box::new((*source).into()) },
        other => other.into(),
    }
}

/// The layout that a config is written for.
fn layout(root: &Map<String, Value>) -> Result<Layout, ConfigError> {
    let kind = root.get("model_type").unwrap_or(&Value::Null);
    match kind.as_str() {
        Some("janus") => Ok(Layout::HuggingFace),
        Some("multi_modality") => Ok(Layout::DeepSeek),
        _ => Err(ConfigError::Field {
            field: "model_type".into(),
            found: kind.to_string().chars().take(80).collect(),
            supported: "\"janus\" (the Hugging Face layout), \"multi_modality\" (DeepSeek's)".into(),
        }),
    }
}

impl<'f> Checkpoint<'f> {
    /// Opens the weights and reads the config. No number of a weight is read yet.
    ///
    /// # Errors
    /// When a file cannot be read, the config is of another architecture, or tensors are missing, misshapen or left over.
    pub fn open(files: &'f ModelFiles, pickle: bool) -> Result<Self, ModelError> {
        let root: Map<String, Value> =
            serde_json::from_slice(&files.config).map_err(|e| ConfigError::Json(e.to_string()))?;
        let layout = layout(&root)?;
        let source = match &files.weights {
            Weights::Bytes(bytes) => Source::bytes(Cow::Borrowed(bytes)).map_err(|source| ModelError::In {
                path: files::SAFETENSORS.into(),
                source: Box::new(source.into()),
            })?,
            Weights::Folder(dir) => Source::folder(dir, pickle).map_err(located)?,
        };
        let config = match layout {
            Layout::HuggingFace => ModelConfig::from_json(&files.config)?,
            Layout::DeepSeek => {
                let image = Ids::read(&files.for_prompter())?.image;
                deepseek::read(&root, image, &source).map_err(|error| match error {
                    weights @ ModelError::Weights(_) => within(&source)(weights),
                    other => other,
                })?
            }
        };
        Self::of(config, layout, source)
    }

    /// The network of `config` in the tensors of `source`.
    ///
    /// # Errors
    /// Lists the tensors that are missing, misshapen or left over.
    pub fn of(config: ModelConfig, layout: Layout, source: Source<'f>) -> Result<Self, ModelError> {
        let plan = Plan::new(&config, layout, &source).map_err(|error| within(&source)(error))?;
        Ok(Self { layout, config, source, plan })
    }

    /// The tensors of the network as `precision` keeps them, on `device`, and their content hash.
    ///
    /// # Errors
    /// When a file cannot be read, or a value is not finite.
    pub fn load(&self, precision: Precision, device: &Device) -> Result<Loaded, ModelError> {
        self.plan.load(&self.source, precision, device).map_err(|error| within(&self.source)(error.into()))
    }

    /// The content hash of the weights, the same in both layouts, without keeping them. `tick` hears how many numbers have passed.
    ///
    /// # Errors
    /// As [`Checkpoint::load`].
    pub fn version(&self, tick: &dyn Fn(u64)) -> Result<Version, ModelError> {
        self.plan.version(&self.source, tick).map_err(|error| within(&self.source)(error.into()))
    }
}

/// `error` about the whole of `source`.
fn within(source: &Source<'_>) -> impl Fn(ModelError) -> ModelError {
    let path = PathBuf::from(source.place());
    move |error| ModelError::In { path: path.clone(), source: Box::new(error) }
}
