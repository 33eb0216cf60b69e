//! The options of training: from nothing, by what is earned, and the joining of what was trained. Knows what can be set, and does nothing.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{DeviceName, number};

/// How to train the demo model.
#[derive(Clone, Debug, Args)]
pub struct Pretrain {
    /// Folder for checkpoints, curves and pictures of the run; the model is written to its folder `model`. A run that was
    /// stopped goes on from its last checkpoint
    #[arg(long, default_value = "runs/demo", value_name = "FOLDER")]
    pub out: PathBuf,
    /// Seed of weights and lessons; the same seed gives the same model on the same kind of processor
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Minutes between checkpoints
    #[arg(long, default_value_t = 3, value_name = "MINUTES", value_parser = clap::value_parser!(u64).range(1..))]
    pub every: u64,
    /// Device to compute on
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    pub device: DeviceName,
}

/// How to teach a model by what it earns.
#[derive(Clone, Debug, Args)]
pub struct Train {
    /// What to practise: `unified` draws and answers about the same picture, `t2i` draws, `answers` answers, or only by letter
    /// (`mc`) or in words (`oe`)
    #[arg(long, default_value = "unified")]
    pub stage: TrainStage,
    /// Where exercises come from: `world` draws them without end; files have a row each, with the fields `prompt`, `real_image`,
    /// `qa_problem`, `qa_solution` and `qa_type` (MC or OE). Either JSON Lines, with pictures as paths from the file's folder, or
    /// Parquet as on the Hugging Face hub: one `.parquet` file, or a folder with all that are in it and in its folder `data`
    #[arg(long, default_value = "world", value_name = "world|FILE|FOLDER")]
    pub data: Data,
    /// What is rewarded, with its weight, in place of the defaults; may be given several times. Pictures: `world` (the verifier),
    /// `question` (the row's question answered on the drawn picture), `caption` (the model's own caption against the prompt),
    /// `likeness` (to the real picture), `matching` (of prompt and picture in the model's states), `variety` (of colours in a
    /// step and a group), and, by networks of `--critics`, `cycle` (CoRL's: a caption against the prompt and the picture against the real one)
    /// and `clip` (prompt and picture). Answers: `accuracy`, `format`, `thought` (how much of it is the solution's,
    /// where that has one), `majority` (of the group, for rows without a solution). Both: `noise` (means nothing: a control)
    #[arg(long = "reward", value_name = "NAME[=WEIGHT]", value_parser = reward)]
    pub rewards: Vec<(RewardName, f64)>,
    /// Folder with the networks that `cycle` and `clip` judge by, each in a folder of its own in the Hugging Face layout: `bert`
    /// (bert-base-uncased), `lpips` (see examples/lpips.py), `blip` (captions; without it the model's own) and `clip`
    #[arg(long, value_name = "FOLDER")]
    pub critics: Option<PathBuf>,
    /// Model to begin with: a folder in the Hugging Face or in DeepSeek's layout, or OWNER/NAME on the hub [default: the demo model]
    #[arg(long, env = "ULM_MODEL", value_name = "FOLDER")]
    pub model: Option<PathBuf>,
    /// Folder for checkpoints, curves and pictures of the run; the model is written to `model` in the stage's folder. A run that
    /// was stopped goes on from its last checkpoint
    #[arg(long, default_value = "runs/corl", value_name = "FOLDER")]
    pub out: PathBuf,
    /// Settings to begin with: those that suit the demo model, or those published for Janus-Pro-1B; the options below override them
    #[arg(long, default_value = "demo")]
    pub preset: Preset,
    /// Steps by what is earned
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub steps: Option<u64>,
    /// Steps before these by the solutions of questions as they are written (cold SFT): for ways of thinking that no sample would come upon
    /// [default: none; 700 where answers about the world are refined]
    #[arg(long, value_name = "STEPS", value_parser = clap::value_parser!(u64).range(0..=1_000_000))]
    pub cold_start: Option<u64>,
    /// Seed of exercises and sampling
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Exercises a step
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub prompts: Option<u16>,
    /// Questions beside these exercises, in the unified stage
    #[arg(long, value_parser = clap::value_parser!(u16).range(0..=1024))]
    pub questions: Option<u16>,
    /// Samples of each task of an exercise, which are compared with each other
    #[arg(long, value_parser = clap::value_parser!(u16).range(2..=256))]
    pub group: Option<u16>,
    /// Learning rate at its peak
    #[arg(long, value_parser = number::<0, 1>)]
    pub rate: Option<f32>,
    /// Steps in which it rises to that
    #[arg(long, value_name = "STEPS")]
    pub warmup: Option<u64>,
    /// Share of the steps, at the end, in which it falls to nothing; with 0 a run may be made longer when it has ended
    #[arg(long, value_name = "SHARE", value_parser = number::<0, 1>)]
    pub decay: Option<f32>,
    /// Learn by changes of this rank to the layers' matrices (LoRA) in place of the whole language model; merged when it ends
    #[arg(long, value_name = "RANK", value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub lora: Option<u16>,
    /// Keep the activations of this many of the decoder's layers at a time when learning (gradient checkpointing), and compute them
    /// again when their turn comes: saves memory, the more the fewer layers, and costs at most one more forward pass. What is
    /// learned does not change
    #[arg(long, value_name = "LAYERS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub segment: Option<u16>,
    /// What leaving the first model costs (weight of the KL estimate)
    #[arg(long, value_parser = number::<0, 10>)]
    pub beta: Option<f32>,
    /// Which way leaving it is told: what the first model draws must stay likely (`reference`: k3, as published), or what it hardly draws
    /// unlikely (`policy`: k2)
    #[arg(long)]
    pub divergence: Option<DivergenceName>,
    /// What answers weigh beside pictures
    #[arg(long, value_parser = number::<0, 100>)]
    pub lambda: Option<f32>,
    /// By what the advantages of answers are divided: their `deviation` (GRPO), nothing (`none`, Dr.GRPO), or the `mean` (MaxRL), which keeps
    /// sound doubts
    #[arg(long, value_name = "SCALE")]
    pub answer_scale: Option<ScaleName>,
    /// The same for pictures
    #[arg(long, value_name = "SCALE")]
    pub picture_scale: Option<ScaleName>,
    /// How pictures and answers of an exercise share what they earned
    #[arg(long)]
    pub pairing: Option<PairingName>,
    /// Under which distribution pictures are scored: the guided one they are drawn from, the same with nothing learned through its
    /// unconditional row (`detached`, two thirds of a gradient's work), or that of the prompt alone
    #[arg(long)]
    pub scored: Option<ScoredName>,
    /// Share of a step's samples that gradients are computed of, most likely those that tell most; each stands for others, so that the
    /// gradient stays the same in the mean
    #[arg(long, value_name = "SHARE", value_parser = part)]
    pub keep: Option<f32>,
    /// Learn what image logits are scaled by too (one over a temperature, folded into the head), its logarithm so many times as fast as a
    /// weight
    #[arg(long, value_name = "SPEED", value_parser = number::<0, 100>)]
    pub sharpen: Option<f32>,
    /// Guidance weight of pictures [default: what the checkpoint says, which is how it is served]
    #[arg(long, value_name = "WEIGHT", value_parser = number::<0, 100>)]
    pub guidance: Option<f32>,
    /// Minutes between checkpoints
    #[arg(long, default_value_t = 3, value_name = "MINUTES", value_parser = clap::value_parser!(u64).range(1..))]
    pub every: u64,
    /// Prompts of each drawing category, and half as many questions of each kind and form, that the model is judged by before and
    /// after
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(2..=10_000))]
    pub judge: u16,
    /// Print the final record as JSON
    #[arg(long)]
    pub json: bool,
}

/// How to join two refined models.
#[derive(Clone, Debug, Args)]
pub struct Merge {
    /// The model that both were refined from
    #[arg(long, value_name = "FOLDER")]
    pub base: PathBuf,
    /// The two refined models
    #[arg(value_name = "FOLDER")]
    pub first: PathBuf,
    #[arg(value_name = "FOLDER")]
    pub second: PathBuf,
    /// `gaussian` averages ordinary changes and keeps those that stick out; `frobenius` weighs each by the inverse of its norm
    #[arg(long, default_value = "gaussian")]
    pub how: MergeName,
    /// Folder to write to
    #[arg(long, value_name = "FOLDER")]
    pub out: PathBuf,
}

/// A way to join models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MergeName {
    Gaussian,
    Frobenius,
}

/// Where training data comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    World,
    File(PathBuf),
}

impl std::str::FromStr for Data {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(if text == "world" { Self::World } else { Self::File(text.into()) })
    }
}

/// A reward by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RewardName {
    World,
    Question,
    Caption,
    Likeness,
    Matching,
    Variety,
    Cycle,
    Clip,
    Accuracy,
    Format,
    Thought,
    Majority,
    Noise,
}

/// `NAME` or `NAME=WEIGHT`.
fn reward(text: &str) -> Result<(RewardName, f64), String> {
    let (name, weight) = text.split_once('=').unwrap_or((text, "1"));
    let weight = weight.parse().ok().filter(|weight: &f64| weight.is_finite() && *weight > 0.0);
    Ok((RewardName::from_str(name, false)?, weight.ok_or("the weight must be a number above 0")?))
}

/// A share that is not nothing.
fn part(text: &str) -> Result<f32, String> {
    let share = text.parse().ok().filter(|share: &f32| *share > 0.0 && *share <= 1.0);
    share.ok_or_else(|| "must be a number above 0, at most 1".into())
}

/// A stage of CoRL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TrainStage {
    Unified,
    T2i,
    Answers,
    Mc,
    Oe,
}

/// Settings by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Preset {
    Demo,
    Published,
}

/// How the tasks of an exercise are coupled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PairingName {
    Separate,
    SharedReward,
    SharedAdvantage,
}

/// Which way a divergence goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DivergenceName {
    Reference,
    Policy,
}

/// What advantages are divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ScaleName {
    Deviation,
    None,
    Mean,
}

/// A distribution over image tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ScoredName {
    Guided,
    Detached,
    Conditional,
}
