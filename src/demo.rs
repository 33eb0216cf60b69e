//! The demo model, embedded in the binary: what is served when no folder is named. `models/demo/README.md` tells how it was made
//! and how good it is. Knows its files and its name.

use std::borrow::Cow;

use candle_core::Device;

use crate::model::checkpoint::Weights;
use crate::model::{Model, ModelError, ModelFiles};

/// What clients call it.
pub const NAME: &str = "ulm-demo";

macro_rules! file {
    ($name:literal) => {
        Cow::Borrowed(include_bytes!(concat!("../models/demo/", $name)).as_slice())
    };
}

/// The checkpoint, in the layout of any other.
#[must_use]
pub fn files() -> ModelFiles {
    ModelFiles {
        config: file!("config.json"),
        weights: Weights::Bytes(file!("model.safetensors")),
        tokenizer: file!("tokenizer.json"),
        tokenizer_config: Some(file!("tokenizer_config.json")),
        processor_config: Some(file!("processor_config.json")),
        preprocessor_config: Some(file!("preprocessor_config.json")),
        generation_config: Some(file!("generation_config.json")),
    }
}

/// The model, ready to be served.
///
/// # Errors
/// When the device fails; the files are whole, which a test holds.
pub fn load(device: &Device) -> Result<Model, ModelError> {
    Model::from_files(&files(), device)
}
