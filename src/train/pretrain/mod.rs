//! Pre-training on the world, from nothing: tokenizer → pictures as codes → words → sight → drawing and answering jointly.
//! Each stage continues from its last checkpoint; a stage that has ended is passed over.

pub mod data;
mod joint;
mod learner;
mod merge;
mod sight;
#[cfg(test)]
mod tests;
mod tokenizer;
mod vq;
mod words;

pub use joint::asked;

use std::path::{Path, PathBuf};
use std::time::Duration;

use candle_core::{DType, Device};
use serde_json::json;

use super::TrainError;
use super::run::{Record, RunOptions, run};
use crate::model::Defaults;
use crate::model::config::{ModelConfig, TextConfig, VisionConfig, VqConfig};
use crate::model::network::Network;
use crate::model::params::{Params, Tensors};
use crate::model::save::save;
#[cfg(test)]
use crate::model::weights;
use joint::{JointOptions, JointStage};
use learner::Learner;
use sight::{SightOptions, SightStage};
use vq::{VqOptions, VqStage};
use words::{WordsOptions, WordsStage};

/// A whole pre-training.
#[derive(Clone, Debug)]
pub struct PretrainOptions {
    /// Where checkpoints, curves and the model go.
    pub dir: PathBuf,
    pub seed: u64,
    /// Time between checkpoints.
    pub every: Duration,
    pub device: Device,
    /// Steps of each stage: vq, words, sight, joint.
    pub steps: [u64; 4],
}

impl PretrainOptions {
    /// The demo model's recipe.
    #[must_use]
    pub fn demo(dir: &Path, device: Device) -> Self {
        Self { dir: dir.to_owned(), seed: 1, every: Duration::from_secs(60), device, steps: [7000, 1500, 400, 2613] }
    }
}

/// The demo model's sizes; `codes` is known once the tokenizer is trained.
fn demo_config(codes: usize, vocabulary: usize, image_token_id: u32) -> ModelConfig {
    ModelConfig {
        text: TextConfig {
            vocab_size: vocabulary,
            hidden_size: 192,
            intermediate_size: 512,
            num_layers: 6,
            num_heads: 6,
            num_kv_heads: 6,
            head_dim: 32,
            max_positions: 512,
            rms_norm_eps: 1e-6,
            rope_theta: 10_000.0,
        },
        vision: VisionConfig {
            hidden_size: 128,
            intermediate_size: 512,
            num_layers: 4,
            num_heads: 4,
            image_size: 64,
            patch_size: 8,
            layer_norm_eps: 1e-6,
        },
        vq: VqConfig {
            codebook_size: codes,
            codebook_dim: 8,
            latent_channels: 64,
            base_channels: 32,
            channel_multiplier: vec![1, 1, 2, 4],
            num_res_blocks: 1,
        },
        image_token_id,
        tied_head: false,
    }
}

/// The guidance weight that scores best, measured with `ulm eval`.
const GUIDANCE: f32 = 1.35;

/// Codes before near-equal ones are merged.
const CODES: usize = 1024;

/// Runs every stage to its end and writes the model to `dir/model`; returns that folder.
///
/// # Errors
/// When a stage fails or the folder cannot be written.
pub fn pretrain(options: &PretrainOptions) -> Result<PathBuf, TrainError> {
    let (device, seed) = (&options.device, options.seed);
    let run_options = RunOptions { dir: options.dir.clone(), every: options.every, device: device.clone() };
    let [vq_steps, words_steps, sight_steps, joint_steps] = options.steps;

    let tokenizer = tokenizer::build(seed)?;
    let (vocabulary, image_token_id) = tokenizer::sizes(&tokenizer)?;

    let before = demo_config(CODES, vocabulary, image_token_id);
    let vq = VqOptions { seed, steps: vq_steps, batch: 8, rate: 2e-3, continuous: vq_steps / 4 };
    let mut stage = VqStage::new(&before.vq, before.image_size(), vq, device)?;
    let mut records = vec![run(&mut stage, &run_options)?];
    let merged = merge::merge(&stage.finish(), &before.vq, seed, device)?;

    let config = demo_config(merged.codes, vocabulary, image_token_id);
    let fresh = Params::fresh(seed, device);
    Network::new(&fresh.root(), &config)?;
    let mut tensors = fresh.finish()?;
    tensors.extend(merged.tensors);

    let learner = |tensors: Tensors, trains: &[&str]| Learner::new(&config, tensors, trains, &tokenizer, device);
    let mut stage = WordsStage::new(
        learner(tensors, &words::TRAINS)?,
        WordsOptions { seed, steps: words_steps, batch: 48, rate: 6e-4 },
    )?;
    records.push(run(&mut stage, &run_options)?);

    let mut stage = SightStage::new(
        learner(stage.finish()?, &sight::TRAINS)?,
        SightOptions { seed, steps: sight_steps, batch: 32, rate: 1.5e-3 },
    )?;
    records.push(run(&mut stage, &run_options)?);

    // Learning from what is earned is to have something to do.
    let schedule = joint_steps * 3300 / 2613;
    let joint = JointOptions {
        seed,
        steps: joint_steps,
        schedule,
        draws: 40,
        answers: 24,
        lessons: 6,
        rate: 1.2e-3,
        drop: 0.1,
    };
    let mut stage = JointStage::new(learner(stage.finish()?, &joint::TRAINS)?, joint)?;
    records.push(run(&mut stage, &run_options)?);

    let dir = run_options.dir.join("model");
    save(&dir, &config, &stage.finish()?, &tokenizer, Defaults { guidance: GUIDANCE, temperature: 1.0 }, DType::F16)
        .map_err(|e| TrainError::State(e.to_string()))?;
    write_log(&dir.join("pretrain.jsonl"), seed, merged.codes, &records)?;
    Ok(dir)
}

/// What made the model, for whoever finds it: the seed, then a line for each stage.
fn write_log(path: &Path, seed: u64, codes: usize, records: &[Record]) -> Result<(), TrainError> {
    let made = json!({"ulm": env!("CARGO_PKG_VERSION"), "seed": seed, "codes": codes});
    let lines = std::iter::once(made).chain(records.iter().map(|record| json!(record)));
    let text: String = lines.map(|line| format!("{line}\n")).collect();
    std::fs::write(path, text).map_err(|source| TrainError::Write { path: path.display().to_string(), source })
}
