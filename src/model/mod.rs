//! Floor 1: the Janus-Pro network. Tensors in, tensors out; no sockets, no clocks, no threads of its own, and no IO but in
//! `checkpoint/`, `weights.rs`, `save.rs` and [`ModelFiles`]. [`Model`] is the face that the engine sees; training uses [`network::Network`] itself.

pub mod cache;
pub mod checkpoint;
pub mod config;
pub mod decoder;
pub mod layers;
pub mod network;
pub mod ops;
pub mod params;
pub mod policy;
pub mod precision;
pub mod preprocess;
pub mod prompt;
pub mod save;
pub mod tokens;
pub mod vision;
pub mod vq;
pub mod weights;

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;
use sha2::{Digest as _, Sha256};

use crate::domain::picture::Picture;
use crate::domain::sample::Version;
use cache::Slots;
use checkpoint::convert::Settings;
use checkpoint::files::Source;
use checkpoint::names::Layout;
use checkpoint::plan::Loaded;
use checkpoint::{Checkpoint, Reading, Weights};
use config::{ConfigError, ModelConfig};
use network::{Network, Span};
use params::{Matrices, ParamError, Params, Tensors};
use precision::Precision;
use preprocess::Pixels;
use prompt::{Prompter, PrompterError, PrompterFiles};
use weights::WeightsError;

/// A model cannot be loaded or run.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    #[error("cannot read `{}`: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("`{}`: {source}", path.display())]
    In { path: PathBuf, source: Box<ModelError> },
    #[error("{0}; download the checkpoint again, or make one with `ulm pretrain`")]
    Unusable(Box<ModelError>),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Prompter(#[from] PrompterError),
    #[error(transparent)]
    Weights(#[from] WeightsError),
    #[error(transparent)]
    Params(#[from] ParamError),
    #[error("generation_config.json: {0}")]
    Generation(String),
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl ModelError {
    /// This error about a checkpoint in the folder `dir`, with what to do.
    #[must_use]
    pub fn located(self, dir: &Path) -> Self {
        let located = match self {
            read @ Self::Read { .. } => read,
            Self::In { path, source } => Self::In { path: dir.join(path), source },
            error => Self::In { path: dir.to_owned(), source: Box::new(error) },
        };
        Self::Unusable(Box::new(located))
    }
}

/// Most bytes that a step reads of weights for its rows to be computed side by side, each thread reading all of them: what lies in the
/// processor's caches. Larger weights are read once for all rows, and shared between threads.
const SIDE_BY_SIDE: u64 = 32 << 20;

/// Number of the prompt templates; another when any of them changes.
const TEMPLATES: u8 = 1;

/// The files of a checkpoint folder in the Hugging Face or in DeepSeek's layout.
#[derive(Clone, Debug, Default)]
pub struct ModelFiles {
    pub config: Cow<'static, [u8]>,
    pub weights: Weights,
    pub tokenizer: Cow<'static, [u8]>,
    pub tokenizer_config: Option<Cow<'static, [u8]>>,
    pub processor_config: Option<Cow<'static, [u8]>>,
    pub preprocessor_config: Option<Cow<'static, [u8]>>,
    pub generation_config: Option<Cow<'static, [u8]>>,
}

impl ModelFiles {
    /// Reads a folder, but for the weights, which stay where they are.
    ///
    /// # Errors
    /// When `config.json` or `tokenizer.json` cannot be read; the others are optional.
    pub fn read(dir: &Path) -> Result<Self, ModelError> {
        let need = |name: &str| {
            let path = dir.join(name);
            std::fs::read(&path).map(Cow::Owned).map_err(|source| ModelError::Read { path, source })
        };
        let may = |name: &str| match dir.join(name).exists() {
            true => need(name).map(Some),
            false => Ok(None),
        };
        Ok(Self {
            config: need("config.json")?,
            weights: Weights::Folder(dir.to_owned()),
            tokenizer: need("tokenizer.json")?,
            tokenizer_config: may("tokenizer_config.json")?,
            processor_config: may("processor_config.json")?,
            preprocessor_config: may("preprocessor_config.json")?,
            generation_config: may("generation_config.json")?,
        })
    }

    /// How requests become ids with this checkpoint.
    ///
    /// # Errors
    /// When the tokenizer or its settings do not fit `config`.
    pub fn prompter(&self, config: &ModelConfig) -> Result<Prompter, PrompterError> {
        Prompter::from_files(&self.for_prompter(), config)
    }

    pub(crate) fn for_prompter(&self) -> PrompterFiles<'_> {
        PrompterFiles {
            tokenizer: &self.tokenizer,
            tokenizer_config: self.tokenizer_config.as_deref(),
            processor_config: self.processor_config.as_deref(),
            preprocessor_config: self.preprocessor_config.as_deref(),
        }
    }

    /// How the checkpoint likes to be sampled.
    ///
    /// # Errors
    /// When `generation_config.json` cannot be read or is out of range.
    pub fn defaults(&self) -> Result<Defaults, ModelError> {
        Defaults::parse(self.generation_config.as_deref())
    }

    /// Of the files that make ids and pixels of a request, and of the templates in this code.
    fn digest(&self) -> String {
        let mut hash = Sha256::new_with_prefix([TEMPLATES]);
        let files = [&self.tokenizer_config, &self.processor_config, &self.preprocessor_config];
        for file in [Some(&self.tokenizer)].into_iter().chain(files.map(Option::as_ref)) {
            hash.update(file.map_or(u64::MAX, |bytes| bytes.len() as u64).to_le_bytes());
            hash.update(file.map_or(&[][..], |bytes| bytes));
        }
        hash.finalize().iter().take(16).map(|b| format!("{b:02x}")).collect()
    }
}

/// How a checkpoint likes to be sampled where a request does not say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Defaults {
    /// Guidance weight of pictures.
    pub guidance: f32,
    /// Temperature of pictures.
    pub temperature: f32,
}

impl Defaults {
    /// From `generation_config.json`: `guidance_scale` and `temperature`, or Janus-Pro's 5 and 1.
    fn parse(file: Option<&[u8]>) -> Result<Self, ModelError> {
        #[derive(serde::Deserialize)]
        struct File {
            guidance_scale: Option<f32>,
            temperature: Option<f32>,
        }
        let file: File = match file {
            None => File { guidance_scale: None, temperature: None },
            Some(bytes) => serde_json::from_slice(bytes).map_err(|e| ModelError::Generation(e.to_string()))?,
        };
        let (guidance, temperature) = (file.guidance_scale.unwrap_or(5.0), file.temperature.unwrap_or(1.0));
        if !(0.0..=100.0).contains(&guidance) || !(0.0..=2.0).contains(&temperature) {
            return Err(ModelError::Generation(format!(
                "guidance_scale {guidance}, temperature {temperature}: out of range"
            )));
        }
        Ok(Self { guidance, temperature })
    }
}

/// Bytes of weights as they are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub all: u64,
    /// Those that a decoding step of a picture reads.
    pub step: u64,
}

impl Size {
    fn kept(tensors: &Tensors, matrices: &Matrices) -> Self {
        let dense = tensors.iter().map(|(name, kept)| (name, kept.elem_count() * kept.dtype().size_in_bytes()));
        let all = dense.chain(matrices.iter().map(|(name, kept)| (name, kept.bytes())));
        all.map(|(name, bytes)| (name.as_str(), bytes as u64)).collect()
    }
}

/// Of the bytes of each tensor.
impl<'a> FromIterator<(&'a str, u64)> for Size {
    fn from_iter<T: IntoIterator<Item = (&'a str, u64)>>(tensors: T) -> Self {
        tensors.into_iter().fold(Self { all: 0, step: 0 }, |sum, (name, bytes)| Self {
            all: sum.all + bytes,
            step: sum.step + if precision::is_read_to_draw(name) { bytes } else { 0 },
        })
    }
}

/// Weights in their places.
struct Weighed {
    network: Network,
    version: Version,
    tensors: Tensors,
    size: Size,
}

/// A loaded checkpoint. Immutable, shared by all sequences; their caches live outside.
pub struct Model {
    network: Network,
    config: ModelConfig,
    prompter: Arc<Prompter>,
    defaults: Defaults,
    version: Version,
    digest: String,
    tensors: Tensors,
    precision: Precision,
    size: Size,
    /// What it was loaded from, less the weights.
    files: Arc<ModelFiles>,
}

impl Model {
    /// Loads a folder in either layout, computing in f32; weights in `.bin` files are not opened.
    ///
    /// # Errors
    /// Names the file, and the tensors or the field in it, that are missing or wrong.
    pub fn load(dir: &Path, device: &Device) -> Result<Self, ModelError> {
        Self::load_as(dir, Reading::default(), device)
    }

    /// As [`Model::load`], read as `reading` says.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn load_as(dir: &Path, reading: Reading, device: &Device) -> Result<Self, ModelError> {
        let loaded = ModelFiles::read(dir).and_then(|files| Self::read(&files, reading, device));
        loaded.map_err(|error| error.located(dir))
    }

    /// As [`Model::load`], from files already in memory.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn from_files(files: &ModelFiles, device: &Device) -> Result<Self, ModelError> {
        Self::read(files, Reading::default(), device)
    }

    /// As [`Model::from_files`], read as `reading` says.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn read(files: &ModelFiles, reading: Reading, device: &Device) -> Result<Self, ModelError> {
        let checkpoint = Checkpoint::open(files, reading.pickle)?;
        let prompter = files.prompter(&checkpoint.config)?;
        let defaults = files.defaults()?;
        let precision = reading.precision;
        let Weighed { network, version, tensors, size } = Self::weigh(&checkpoint, precision, device)?;
        // What is saved later is saved in the Hugging Face layout, so its files are kept in that.
        let files = match checkpoint.layout {
            Layout::HuggingFace => ModelFiles { weights: Weights::default(), ..files.clone() },
            Layout::DeepSeek => {
                let (config, layout, dtype) = (&checkpoint.config, Layout::HuggingFace, DType::F32);
                Settings { layout, config, files, dtype }.files()?
            }
        };
        let (prompter, digest, config) = (Arc::new(prompter), files.digest(), checkpoint.config);
        let files = Arc::new(files);
        Ok(Self { network, config, prompter, defaults, version, digest, tensors, precision, size, files })
    }

    fn weigh(checkpoint: &Checkpoint<'_>, precision: Precision, device: &Device) -> Result<Weighed, ModelError> {
        let Loaded { tensors, matrices, version } = checkpoint.load(precision, device)?;
        let size = Size::kept(&tensors, &matrices);
        let params = Params::kept(tensors, matrices, device);
        let network = Network::new(&params.root(), &checkpoint.config)?;
        Ok(Weighed { network, version, tensors: params.finish()?, size })
    }

    /// A model of tensors in memory (memory layout), to look at one in training.
    ///
    /// # Errors
    /// When the tensors do not fit the config.
    pub fn from_tensors(
        config: ModelConfig,
        prompter: Prompter,
        defaults: Defaults,
        tensors: Tensors,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let Weighed { network, version, tensors, size } = Self::assemble(tensors, &config, device)?;
        let (prompter, files, precision) = (Arc::new(prompter), Arc::new(ModelFiles::default()), Precision::FULL);
        Ok(Self {
            network,
            config,
            prompter,
            defaults,
            version,
            digest: String::new(),
            tensors,
            precision,
            size,
            files,
        })
    }

    /// This model with other weights (memory layout), kept in full precision.
    ///
    /// # Errors
    /// When they do not fit the config.
    pub fn with_tensors(&self, tensors: Tensors) -> Result<Self, ModelError> {
        Ok(self.with(Self::assemble(tensors, &self.config, self.network.device())?, Precision::FULL))
    }

    /// This model with the weights of a file, as [`Model::weights_file`] makes them, in the same precision.
    ///
    /// # Errors
    /// When the file is damaged or its tensors do not fit the config.
    pub fn with_weights_file(&self, bytes: &[u8]) -> Result<Self, ModelError> {
        let source = Source::bytes(Cow::Borrowed(bytes))?;
        let checkpoint = Checkpoint::of(self.config.clone(), Layout::HuggingFace, source)?;
        Ok(self.with(Self::weigh(&checkpoint, self.precision, self.network.device())?, self.precision))
    }

    fn with(&self, weighed: Weighed, precision: Precision) -> Self {
        let Weighed { network, version, tensors, size } = weighed;
        Self {
            network,
            version,
            tensors,
            precision,
            size,
            config: self.config.clone(),
            prompter: Arc::clone(&self.prompter),
            defaults: self.defaults,
            digest: self.digest.clone(),
            files: Arc::clone(&self.files),
        }
    }

    /// The network of tensors in the memory layout, and their content hash.
    fn assemble(tensors: Tensors, config: &ModelConfig, device: &Device) -> Result<Weighed, ModelError> {
        let version = weights::hash(&weights::split(&tensors, config.text.query_rows())?)?;
        let size = Size::kept(&tensors, &Matrices::new());
        let params = Params::given(tensors, device);
        let network = Network::new(&params.root(), config)?;
        Ok(Weighed { network, version, tensors: params.finish()?, size })
    }

    #[must_use]
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Content hash of the weights.
    #[must_use]
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// Of all that makes ids and pixels of a request: where it differs, the same request is another prompt. Empty for a model
    /// that was not loaded.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Requests → ids → text.
    #[must_use]
    pub fn prompter(&self) -> &Prompter {
        &self.prompter
    }

    #[must_use]
    pub fn defaults(&self) -> Defaults {
        self.defaults
    }

    /// A cache of `rows` slots of `capacity` tokens.
    ///
    /// # Errors
    /// When the memory cannot be allocated.
    pub fn slots(&self, rows: usize, capacity: usize) -> Result<Slots, ModelError> {
        let device = self.network.device();
        let banks = if device.is_cpu() && self.size.step <= SIDE_BY_SIDE { rayon::current_num_threads() } else { 1 };
        Ok(Slots::new(&self.config.text, rows, capacity, banks, self.precision.cache(), device)?)
    }

    /// Understanding features of preprocessed pictures, `[n * image tokens, hidden]`, picture after picture.
    ///
    /// # Errors
    /// When the sizes are not the model's.
    pub fn see(&self, pictures: &[Pixels]) -> Result<Tensor, ModelError> {
        let side = self.config.image_size();
        let numbers: Vec<f32> = pictures.iter().flat_map(|p| p.chw()).copied().collect();
        let pixels = Tensor::from_vec(numbers, (pictures.len(), 3, side, side), self.network.device())?;
        Ok(self.network.see(&pixels)?)
    }

    /// One ragged forward pass: prefill and decode, text, image tokens and features mix freely. Returns the hidden state of the
    /// last position of each span, `[spans, hidden]`.
    ///
    /// # Errors
    /// When a span is empty or does not fit its slot.
    pub fn step(&self, spans: &[Span<'_>], slots: &mut Slots) -> Result<Tensor, ModelError> {
        Ok(self.network.step(spans, slots)?)
    }

    /// `[rows, hidden]` → `[rows, vocabulary]`.
    ///
    /// # Errors
    /// When the device fails.
    pub fn text_logits(&self, hidden: &Tensor) -> Result<Tensor, ModelError> {
        Ok(self.network.text_logits(hidden)?)
    }

    /// `[rows, hidden]` → `[rows, codebook]`.
    ///
    /// # Errors
    /// When the device fails.
    pub fn image_logits(&self, hidden: &Tensor) -> Result<Tensor, ModelError> {
        Ok(self.network.image_logits(hidden)?)
    }

    /// VQ-decodes whole grids of codebook ids; on a CPU each by itself, all of them side by side.
    ///
    /// # Errors
    /// When a grid has not [`ModelConfig::image_tokens`] ids, or an id is no code.
    pub fn paint(&self, codes: &[Vec<u32>]) -> Result<Vec<Picture>, ModelError> {
        let (tokens, side) = (self.config.image_tokens(), self.config.image_size());
        if let Some(bad) = codes.iter().find(|grid| grid.len() != tokens) {
            return Err(candle_core::Error::Msg(format!("a grid of {} ids, not {tokens}", bad.len())).into());
        }
        let at_once = if self.network.device().is_cpu() { 1 } else { codes.len().max(1) };
        let bytes = codes.par_chunks(at_once).map(|grids| to_bytes(&self.network.paint(&grids.concat())?));
        let bytes: Vec<Vec<u8>> = bytes.collect::<candle_core::Result<_>>()?;
        let pictures = bytes.iter().flat_map(|bytes| bytes.chunks_exact(3 * side * side));
        let pictures: Result<_, _> = pictures.map(|rgb| Picture::new(side, side, rgb.to_vec())).collect();
        pictures.map_err(|e| candle_core::Error::Msg(e.to_string()).into())
    }

    /// What the weights are kept as.
    #[must_use]
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Bytes of the weights as they are kept.
    #[must_use]
    pub fn size(&self) -> Size {
        self.size
    }

    /// The weights by internal name, as training and [`save::save`] take them; without matrices that are kept as blocks.
    #[must_use]
    pub fn tensors(&self) -> &Tensors {
        &self.tensors
    }

    /// The network itself, for training and parity.
    #[must_use]
    pub fn network(&self) -> &Network {
        &self.network
    }
}

/// Pixels about [-1, 1] → bytes, clipped and truncated as the reference does.
///
/// # Errors
/// When the tensor cannot be read back.
pub fn to_bytes(pixels: &Tensor) -> candle_core::Result<Vec<u8>> {
    let numbers = pixels.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    Ok(numbers.iter().map(|v| ((v + 1.0) / 2.0 * 255.0).clamp(0.0, 255.0) as u8).collect())
}
