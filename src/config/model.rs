//! The options of `ulm model`: checkpoints made at random, looked at, checked and converted.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::hub::HubName;

/// What can be done with checkpoints. A checkpoint is a folder, or `OWNER/NAME` or `OWNER/NAME@REVISION` on the Hugging Face hub, which is fetched when
/// it is not in the hub's cache folder yet.
#[derive(Clone, Debug, Subcommand)]
pub enum ModelCommand {
    /// Fetch a checkpoint from the Hugging Face hub, or go on where that was cut, and print its folder
    Fetch(Fetch),
    /// Write a checkpoint of random weights in the exact shapes of a published one, to measure and to test with
    Random(Random),
    /// Show what a checkpoint holds: network, parameters, files, content hash, special tokens, and what it costs to serve
    Info(Info),
    /// Check a checkpoint to the last number: every tensor is there and of its shape, every value finite, every token named
    Verify(Verify),
    /// Write a checkpoint in another layout, as safetensors
    Convert(Convert),
}

/// A checkpoint on the hub.
///
/// Only the files that are needed come, into the folder that all clients of the hub share (HF_HOME, HF_HUB_CACHE), and each is checked
/// against the hash that the hub lists. HF_TOKEN opens what is private or gated, HF_ENDPOINT names another hub, and HF_HUB_OFFLINE=1 takes what
/// the folder has and asks nobody.
#[derive(Clone, Debug, Args)]
pub struct Fetch {
    /// OWNER/NAME, or OWNER/NAME@REVISION: a branch, a tag, or a commit, which never changes
    #[arg(value_name = "NAME")]
    pub name: HubName,
    #[command(flatten)]
    pub pickle: Pickle,
}

/// A checkpoint of random weights.
///
/// The tokenizer of `janus-pro-…` is not the published one, which needs a download: it knows single bytes, and the special tokens by
/// their published names at their published ids. Of `demo` it is the demo model's own.
#[derive(Clone, Debug, Args)]
pub struct Random {
    /// Whose shapes
    #[arg(long)]
    pub like: LikeName,
    /// Folder to write; it must not exist or be empty
    #[arg(long, value_name = "FOLDER")]
    pub out: PathBuf,
    /// How tensors are called
    #[arg(long, default_value = "huggingface")]
    pub layout: LayoutName,
    /// Seed of the weights; the same network in every layout
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// What numbers are stored as
    #[arg(long, default_value = "bf16")]
    pub dtype: DtypeName,
}

/// A checkpoint to look at.
#[derive(Clone, Debug, Args)]
pub struct Info {
    /// Folder of the checkpoint, or its name on the hub [default: the demo model]
    #[arg(value_name = "FOLDER")]
    pub folder: Option<PathBuf>,
    #[command(flatten)]
    pub pickle: Pickle,
    #[command(flatten)]
    pub kept: KeptAs,
    /// Positions of a row, as in `ulm serve --context`
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u32).range(64..))]
    pub context: u32,
    /// Memory to serve in, in GiB [default: what this machine has free]
    #[arg(long, value_name = "GIB", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub memory: Option<u32>,
    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
}

/// A checkpoint to check.
#[derive(Clone, Debug, Args)]
pub struct Verify {
    /// Folder of the checkpoint, or its name on the hub [default: the demo model]
    #[arg(value_name = "FOLDER")]
    pub folder: Option<PathBuf>,
    #[command(flatten)]
    pub pickle: Pickle,
    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
}

/// A checkpoint to convert.
///
/// DeepSeek's pooling head and buffers, which no network uses, are left out. A vision tower other than Janus-Pro's has its heads told by
/// a field of DeepSeek's config that only this program reads.
#[derive(Clone, Debug, Args)]
pub struct Convert {
    /// Folder of the checkpoint, or its name on the hub
    #[arg(value_name = "FOLDER")]
    pub folder: PathBuf,
    /// Folder to write; it must not exist or be empty
    #[arg(long, value_name = "FOLDER")]
    pub out: PathBuf,
    /// How tensors are called
    #[arg(long, default_value = "huggingface")]
    pub layout: LayoutName,
    /// What numbers are stored as [default: what they are]
    #[arg(long)]
    pub dtype: Option<DtypeName>,
    #[command(flatten)]
    pub pickle: Pickle,
}

/// Whether PyTorch's `.bin` files are opened.
#[derive(Clone, Copy, Debug, Args)]
pub struct Pickle {
    /// Open weights in PyTorch's `.bin` files too. Nothing in them is run: only lists of tensors are understood. Still, open none
    /// that you do not trust
    #[arg(long, env = "ULM_ALLOW_PICKLE")]
    pub allow_pickle: bool,
}

/// What weights are kept as in memory.
#[derive(Clone, Copy, Debug, Args)]
pub struct KeptAs {
    /// What matrices are kept as: `f32` is exact and can learn; `bf16` and `f16` take half of the memory and of the time, since reading weights is
    /// what a step of decoding takes. Whatever it is, what is computed from them is f32
    #[arg(long, env = "ULM_DTYPE", default_value = "f32")]
    pub dtype: DtypeName,
    /// Keep the matrices that every step reads in blocks of small numbers instead: `q8_0` takes a quarter of f32, `q4k` a
    /// seventh, and answers less exactly
    #[arg(long, env = "ULM_QUANTIZE", value_name = "KIND")]
    pub quantize: Option<QuantizeName>,
}

/// Blocks of small numbers, as ggml calls them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum QuantizeName {
    #[value(name = "q8_0")]
    Q8_0,
    #[value(name = "q4k")]
    Q4K,
}

/// Published networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LikeName {
    #[value(name = "janus-pro-1b")]
    JanusPro1b,
    #[value(name = "janus-pro-7b")]
    JanusPro7b,
    /// The demo model
    Demo,
}

/// Layouts of checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LayoutName {
    /// As transformers has it (`model_type: janus`)
    #[value(name = "huggingface", alias = "hf")]
    HuggingFace,
    /// As Janus-Pro was released (`model_type: multi_modality`)
    #[value(name = "deepseek")]
    DeepSeek,
}

/// Types that weights are stored as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DtypeName {
    Bf16,
    F16,
    F32,
}
