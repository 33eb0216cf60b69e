//! Writes a checkpoint folder in the Hugging Face Janus layout: transformers loads it unmodified, and so does `Model::load`.
//! Nothing is written that could not be loaded, and each file appears whole or not at all. Knows nothing of training.

use std::fs::File;
use std::path::Path;

use candle_core::{DType, Device};
use serde_json::{Value, json};

use super::checkpoint::files::SAFETENSORS as WEIGHTS;
use super::config::ModelConfig;
use super::network::Network;
use super::params::{Params, Tensors};
use super::preprocess::Preprocess;
use super::prompt::{self, Prompter, PrompterFiles};
use super::{Defaults, Model, ModelError, weights};
use crate::domain::sample::Version;

/// PyTorch's name of a type that weights are stored in.
pub(super) fn stored_as(dtype: DType) -> Result<&'static str, ModelError> {
    match dtype {
        DType::F32 => Ok("float32"),
        DType::F16 => Ok("float16"),
        DType::BF16 => Ok("bfloat16"),
        other => Err(candle_core::Error::Msg(format!("weights are not stored as {other:?}")).into()),
    }
}

/// The number as people write it: 1.35, not the digits of its nearest `f32`.
#[must_use]
pub fn decimal(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

fn pretty(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

/// Writes the network of `tensors` (internal names, as [`Params::finish`] and [`super::Model::tensors`] give them) to `dir`, which
/// is made if need be, its weights as `dtype`. Pictures are normalised to [-1, 1] and there is no default system text, as in
/// Janus-Pro. Returns the version that loading it gives.
///
/// # Errors
/// Before anything is written: when tensors are missing, misshapen, left over or not finite as `dtype`, or the tokenizer lacks a
/// token of the templates. Else when the folder cannot be written; `config.json` comes last, so a folder begun is not loaded.
pub fn save(
    dir: &Path,
    config: &ModelConfig,
    tensors: &Tensors,
    tokenizer: &[u8],
    defaults: Defaults,
    dtype: DType,
) -> Result<Version, ModelError> {
    let settings = config.to_value(stored_as(dtype)?);
    let params = Params::given(tensors.clone(), &Device::Cpu);
    Network::new(&params.root(), config)?;
    params.finish()?;
    let tensors = weights::cast(&weights::split(tensors, config.text.query_rows())?, dtype)?;
    let version = weights::hash(&tensors)?;

    let (spelled, processor) =
        (prompt::tokenizer_config(config.text.max_positions), prompt::processor_config(config, false));
    let pictures = pretty(&Preprocess::new(config.image_size()).to_json());
    let files = PrompterFiles {
        tokenizer,
        tokenizer_config: Some(spelled.as_bytes()),
        processor_config: Some(processor.as_bytes()),
        preprocessor_config: Some(&pictures),
    };
    let mut generation = Prompter::from_files(&files, config)?.generation_config();
    generation["guidance_scale"] = json!(decimal(defaults.guidance));
    generation["temperature"] = json!(decimal(defaults.temperature));
    // transformers heeds a temperature only where it samples, and refuses to sample at 0.
    generation["do_sample"] = json!(defaults.temperature > 0.0);
    let generation = pretty(&generation);
    Defaults::parse(Some(&generation))?;

    std::fs::create_dir_all(dir).map_err(weights::write_error(dir))?;
    let weights = weights::to_bytes(&dir.join(WEIGHTS), &tensors)?;
    put(
        dir,
        &[
            (WEIGHTS, &weights),
            ("tokenizer.json", tokenizer),
            ("tokenizer_config.json", spelled.as_bytes()),
            ("processor_config.json", processor.as_bytes()),
            ("preprocessor_config.json", &pictures),
            ("generation_config.json", &generation),
            ("config.json", &pretty(&settings)),
        ],
    )?;
    Ok(version)
}

impl Model {
    /// Writes the checkpoint that this model was loaded from with its present weights, in f32, to `dir`, which is made if need be.
    ///
    /// # Errors
    /// When weights are not finite, or the folder cannot be written; `config.json` comes last, so a folder begun is not loaded.
    pub fn save(&self, dir: &Path) -> Result<(), ModelError> {
        std::fs::create_dir_all(dir).map_err(weights::write_error(dir))?;
        let bytes = self.weights_file()?;
        let files = &self.files;
        let optional = [
            ("tokenizer_config.json", &files.tokenizer_config),
            ("processor_config.json", &files.processor_config),
            ("preprocessor_config.json", &files.preprocessor_config),
            ("generation_config.json", &files.generation_config),
        ];
        let config = pretty(&self.config().to_value(stored_as(DType::F32)?));
        let mut all: Vec<(&str, &[u8])> = vec![(WEIGHTS, &bytes), ("tokenizer.json", &files.tokenizer)];
        all.extend(optional.iter().filter_map(|(name, file)| Some((*name, file.as_deref()?))));
        all.push(("config.json", &config));
        put(dir, &all)
    }

    /// The weights as the file `model.safetensors` of such a folder.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn weights_file(&self) -> Result<Vec<u8>, ModelError> {
        let tensors = weights::split(self.tensors(), self.config().text.query_rows())?;
        Ok(weights::to_bytes(Path::new(WEIGHTS), &weights::cast(&tensors, DType::F32)?)?)
    }
}

/// Writes all files under other names, then gives them theirs in the order given.
fn put(dir: &Path, files: &[(&str, &[u8])]) -> Result<(), ModelError> {
    let mut staged = Vec::with_capacity(files.len());
    let write = |staged: &mut Vec<_>| {
        for (name, bytes) in files {
            let path = dir.join(name);
            staged.push((weights::stage(&path, bytes)?, path));
        }
        for (part, path) in staged.iter() {
            std::fs::rename(part, path).map_err(weights::write_error(path))?;
        }
        // The names are on the disk when the folder is; only Unix opens folders.
        if cfg!(unix) {
            File::open(dir).and_then(|dir| dir.sync_all()).map_err(weights::write_error(dir))?;
        }
        Ok(())
    };
    let written = write(&mut staged);
    if written.is_err() {
        // Those that have their name already are no longer found, and that is well.
        staged.iter().for_each(|(part, _)| drop(std::fs::remove_file(part)));
    }
    written
}
