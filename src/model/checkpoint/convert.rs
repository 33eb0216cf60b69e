//! Writes a network as a checkpoint folder of either layout, tensor by tensor: the weights of another checkpoint, or whatever gives
//! numbers. The files beside the weights are written for the layout, so that the published code of each loads the folder.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use candle_core::DType;
use serde_json::{Value, json};

use super::names::{Home, Layout, Piece};
use super::write::{Entry, Sink, Staged, safetensors};
use super::{Checkpoint, deepseek, files};
use crate::model::config::ModelConfig;
use crate::model::prompt::{self, DEEPSEEK_PROCESSOR, Prompter};
use crate::model::save::{decimal, stored_as};
use crate::model::tokens::NAMES;
use crate::model::weights::WeightsError;
use crate::model::{Defaults, ModelError, ModelFiles};

/// A tensor of a layout and the pieces that make it, in the order of its rows.
#[derive(Clone, Debug)]
pub struct Target<'p> {
    pub name: String,
    pub shape: Vec<usize>,
    pub pieces: Vec<&'p Piece>,
}

/// The tensors that `layout` makes of `pieces`, by name.
#[must_use]
pub fn targets<'p>(layout: Layout, pieces: impl Iterator<Item = &'p Piece>) -> BTreeMap<String, Target<'p>> {
    let mut targets: BTreeMap<String, (Target<'p>, Vec<usize>)> = BTreeMap::new();
    for piece in pieces {
        let Home { name, shape, part } = layout.home(piece);
        let (target, order) =
            targets.entry(name.clone()).or_insert_with(|| (Target { name, shape, pieces: Vec::new() }, Vec::new()));
        let at = order.partition_point(|before| *before < part.0);
        order.insert(at, part.0);
        target.pieces.insert(at, piece);
    }
    targets.into_iter().map(|(name, (target, _))| (name, target)).collect()
}

/// What stands beside the weights.
pub struct Settings<'s> {
    pub layout: Layout,
    pub config: &'s ModelConfig,
    pub files: &'s ModelFiles,
    /// What weights are stored as.
    pub dtype: DType,
}

fn pretty(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

impl Settings<'_> {
    /// All files but the weights, `config.json` last.
    ///
    /// # Errors
    /// When the files of the checkpoint do not fit its config, or the layout has no words for it.
    pub fn write(&self) -> Result<Vec<(&'static str, Vec<u8>)>, ModelError> {
        let Self { layout, config, files, dtype } = self;
        let prompter = files.prompter(config)?;
        let (speaks, dtype) = (!prompter.default_system().is_empty(), stored_as(*dtype)?);
        let pictures = prompter.preprocess().to_json();
        let (settings, processor, pictures) = match layout {
            Layout::HuggingFace => {
                (config.to_value(dtype), prompt::processor_config(config, speaks).into_bytes(), pictures)
            }
            Layout::DeepSeek => {
                let mut processor = json!({
                    "processor_class": DEEPSEEK_PROCESSOR,
                    "add_special_token": false,
                    "ignore_id": -100,
                    "image_tag": NAMES[5].1,
                    "mask_prompt": true,
                    "num_image_tokens": config.image_tokens(),
                    "sft_format": "deepseek",
                });
                if !speaks {
                    // The class speaks unless told otherwise, and has no word for it; this program has.
                    processor["use_default_system_prompt"] = json!(false);
                }
                let pictures = json!({
                    "image_processor_type": "VLMImageProcessor",
                    "processor_class": DEEPSEEK_PROCESSOR,
                    "background_color": prompter.preprocess().mean.map(|mean| (mean * 255.0) as u8),
                    "do_normalize": true,
                    "image_size": pictures["size"]["height"],
                    "min_size": pictures["min_size"],
                    "rescale_factor": pictures["rescale_factor"],
                    "image_mean": pictures["image_mean"],
                    "image_std": pictures["image_std"],
                });
                (deepseek::write(config, dtype)?, pretty(&processor), pictures)
            }
        };
        Ok(vec![
            ("tokenizer.json", files.tokenizer.to_vec()),
            ("tokenizer_config.json", self.spelled()),
            ("processor_config.json", processor),
            ("preprocessor_config.json", pretty(&pictures)),
            ("generation_config.json", self.generation(&prompter)?),
            ("config.json", pretty(&settings)),
        ])
    }

    /// The same as the files of a checkpoint without weights.
    ///
    /// # Errors
    /// As [`Settings::write`].
    pub fn files(&self) -> Result<ModelFiles, ModelError> {
        let mut files = ModelFiles::default();
        for (name, bytes) in self.write()? {
            let bytes = Cow::Owned(bytes);
            match name {
                "config.json" => files.config = bytes,
                "tokenizer.json" => files.tokenizer = bytes,
                "tokenizer_config.json" => files.tokenizer_config = Some(bytes),
                "processor_config.json" => files.processor_config = Some(bytes),
                "preprocessor_config.json" => files.preprocessor_config = Some(bytes),
                _ => files.generation_config = Some(bytes),
            }
        }
        Ok(files)
    }

    /// The names of the special tokens, those of the checkpoint where it tells its own.
    fn spelled(&self) -> Vec<u8> {
        let read = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap_or_default();
        let own = self.files.tokenizer_config.as_deref().map(read).unwrap_or_default();
        let mut whole = read(prompt::tokenizer_config(self.config.text.max_positions).as_bytes());
        for (role, _) in NAMES {
            let told = own.get(role).or_else(|| own.pointer(&format!("/extra_special_tokens/{role}")));
            if let Some(told) = told.filter(|told| !told.is_null()) {
                whole[role] = told.clone();
            }
        }
        pretty(&whole)
    }

    fn generation(&self, prompter: &Prompter) -> Result<Vec<u8>, ModelError> {
        if let Some(own) = &self.files.generation_config {
            return Ok(own.to_vec());
        }
        let defaults = Defaults::parse(None)?;
        let mut generation = prompter.generation_config();
        generation["guidance_scale"] = json!(decimal(defaults.guidance));
        generation["temperature"] = json!(decimal(defaults.temperature));
        generation["do_sample"] = json!(defaults.temperature > 0.0);
        Ok(pretty(&generation))
    }
}

/// Writes the folder `to`: `entries` with the numbers that `fill` gives, and `settings` beside them. Nothing is under the name of `to`
/// before all is on the disk.
///
/// # Errors
/// When `to` holds something already, `fill` fails, or the disk does.
pub fn write(
    to: &Path,
    settings: &Settings<'_>,
    mut entries: Vec<Entry>,
    fill: impl FnMut(&Entry, &mut Sink<'_>) -> Result<(), WeightsError>,
) -> Result<(), ModelError> {
    let beside = settings.write()?;
    let staged = Staged::begin(to)?;
    safetensors(&staged.path(files::SAFETENSORS), &mut entries, fill)?;
    for (name, bytes) in &beside {
        staged.put(name, bytes)?;
    }
    Ok(staged.finish()?)
}

impl Checkpoint<'_> {
    /// Writes this checkpoint to the folder `to` in `layout`, its weights as `dtype` or as they are stored. `tick` hears how many numbers
    /// have passed. `files` are those it was opened from.
    ///
    /// # Errors
    /// When a weight cannot be read, is not finite or does not fit `dtype`, the layout has no words for the network, `to` holds something
    /// already, or the disk fails; then nothing is left under its name.
    pub fn convert(
        &self,
        files: &ModelFiles,
        to: &Path,
        layout: Layout,
        dtype: Option<DType>,
        tick: &dyn Fn(u64),
    ) -> Result<(), ModelError> {
        let homes: BTreeMap<&str, &Home> =
            self.plan.pieces().iter().map(|(piece, home)| (piece.name.as_str(), home)).collect();
        let kept = |piece: &Piece| {
            let stored = homes.get(piece.name.as_str()).and_then(|home| self.source.tensors().get(&home.name));
            match stored.and_then(|stored| stored.numeric(&piece.name).ok()) {
                Some(half @ (DType::F16 | DType::BF16)) => half,
                _ => DType::F32,
            }
        };
        let targets = targets(layout, self.plan.pieces().iter().map(|(piece, _)| piece));
        let entry = |target: &Target<'_>| {
            let own = target.pieces.first().map_or(DType::F32, |piece| kept(piece));
            Entry { name: target.name.clone(), shape: target.shape.clone(), dtype: dtype.unwrap_or(own) }
        };
        let entries: Vec<Entry> = targets.values().map(entry).collect();
        let settings = Settings { layout, config: &self.config, files, dtype: most(&entries) };
        write(to, &settings, entries, |entry, sink| {
            let pieces = targets.get(&entry.name).map_or(&[][..], |target| &target.pieces);
            for home in pieces.iter().filter_map(|piece| homes.get(piece.name.as_str())) {
                self.source.numbers(&home.name, home.part, |values| {
                    if let Some(value) = values.iter().find(|value| !value.is_finite()) {
                        return Err(crate::model::weights::bad(&home.name, format!("holds the value {value}")));
                    }
                    tick(values.len() as u64);
                    sink(values)
                })?;
            }
            Ok(())
        })
    }
}

/// The type that most numbers have.
fn most(entries: &[Entry]) -> DType {
    let count = |dtype| {
        let of = entries.iter().filter(|entry| entry.dtype == dtype);
        of.map(|entry| entry.shape.iter().product::<usize>()).sum::<usize>()
    };
    [DType::F32, DType::F16, DType::BF16].into_iter().max_by_key(|dtype| count(*dtype)).unwrap_or(DType::F32)
}
