//! `ulm model`, wired: checkpoints made at random, looked at, checked and converted, with reports and progress. Knows no tensor and no
//! layout's names.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context;
use candle_core::DType;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::commands::print;
use crate::config::{Convert, DtypeName, Info, LayoutName, LikeName, ModelCommand, Pickle, Random, Verify};
use crate::demo;
use crate::fetch::place;
use crate::model::checkpoint::names::Layout;
use crate::model::checkpoint::{Checkpoint, plan, random};
use crate::model::config::ModelConfig;
use crate::model::tokens::{Ids, NAMES};
use crate::model::{ModelError, ModelFiles};
use crate::serve::reading;

/// `ulm model`
///
/// # Errors
/// When a checkpoint cannot be read, is not whole, or cannot be written.
pub fn run(command: &ModelCommand) -> anyhow::Result<()> {
    match command {
        ModelCommand::Fetch(options) => crate::fetch::run(options),
        ModelCommand::Random(options) => random(options),
        ModelCommand::Info(options) => info(options),
        ModelCommand::Verify(options) => verify(options),
        ModelCommand::Convert(options) => convert(options),
    }
}

fn layout(name: LayoutName) -> Layout {
    match name {
        LayoutName::HuggingFace => Layout::HuggingFace,
        LayoutName::DeepSeek => Layout::DeepSeek,
    }
}

/// The type of that name.
pub fn dtype(name: DtypeName) -> DType {
    match name {
        DtypeName::Bf16 => DType::BF16,
        DtypeName::F16 => DType::F16,
        DtypeName::F32 => DType::F32,
    }
}

/// A bar of `numbers` that have to pass.
fn bar(what: &'static str, numbers: u64) -> ProgressBar {
    let bar = ProgressBar::new(numbers).with_message(what);
    match ProgressStyle::with_template("{msg} {wide_bar} {percent} % {eta}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn random(options: &Random) -> anyhow::Result<()> {
    let published = || ModelFiles { tokenizer: random::tokenizer().into(), ..ModelFiles::default() };
    let (config, files) = match options.like {
        LikeName::JanusPro1b => (random::janus_pro_1b(), published()),
        LikeName::JanusPro7b => (random::janus_pro_7b(), published()),
        LikeName::Demo => (ModelConfig::from_json(&demo::files().config)?, demo::files()),
    };
    let bar = bar("writing", random::numbers(&config)?);
    let like = (options.seed, dtype(options.dtype));
    random::checkpoint(&options.out, (&config, &files), layout(options.layout), like, &|more| bar.inc(more))?;
    bar.finish_and_clear();
    writeln!(
        std::io::stdout(),
        "{0} holds random weights in the {1} layout\n  ulm model verify {0}",
        options.out.display(),
        layout(options.layout).word()
    )?;
    Ok(())
}

fn convert(options: &Convert) -> anyhow::Result<()> {
    let from = place(&options.folder, options.pickle.allow_pickle)?.folder;
    let located = |error: ModelError| error.located(&from);
    let files = ModelFiles::read(&from).map_err(located)?;
    let checkpoint = Checkpoint::open(&files, options.pickle.allow_pickle).map_err(located)?;
    let bar = bar("converting", checkpoint.plan.numbers());
    let (to, dtype) = (layout(options.layout), options.dtype.map(dtype));
    checkpoint
        .convert(&files, &options.out, to, dtype, &|more| bar.inc(more))
        .with_context(|| format!("{} is not converted", options.folder.display()))?;
    bar.finish_and_clear();
    writeln!(
        std::io::stdout(),
        "{0} holds it in the {1} layout\n  ulm model verify {0}",
        options.out.display(),
        to.word()
    )?;
    Ok(())
}

/// The files of a checkpoint, or the demo model's, and the folder.
fn files(asked: Option<&Path>, pickle: Pickle) -> anyhow::Result<(ModelFiles, PathBuf)> {
    let Some(asked) = asked else { return Ok((demo::files(), demo::NAME.into())) };
    let folder = place(asked, pickle.allow_pickle)?.folder;
    Ok((ModelFiles::read(&folder).map_err(|error| error.located(&folder))?, folder))
}

/// What was found in a checkpoint.
#[derive(Serialize)]
struct Found {
    model: String,
    layout: &'static str,
    files: BTreeMap<String, u64>,
    /// Bytes of the files together.
    bytes: u64,
    /// Types that numbers are stored as.
    stored_as: BTreeSet<String>,
    tensors: Tensors,
    parameters: Parameters,
    /// Content hash; the same network in another layout has the same.
    version: String,
    tokens: Vec<Token>,
}

/// Tensors in the files.
#[derive(Serialize)]
struct Tensors {
    stored: usize,
    /// Those that the network is made of.
    network: usize,
    /// Those that are known to be of no use.
    skipped: usize,
}

#[derive(Serialize)]
struct Parameters {
    network: u64,
    /// Of the pooling head, which is never run.
    unused: u64,
    total: u64,
}

#[derive(Serialize)]
struct Token {
    role: &'static str,
    id: u32,
}

/// Reads a checkpoint to the last number.
fn look(folder: Option<&Path>, pickle: Pickle) -> anyhow::Result<(Found, ModelConfig)> {
    let (files, place) = files(folder, pickle)?;
    let located = |error: ModelError| error.located(&place);
    let checkpoint = Checkpoint::open(&files, pickle.allow_pickle).map_err(located)?;
    // What serving would read of the files beside the weights.
    files.prompter(&checkpoint.config).map_err(|error| located(error.into()))?;
    files.defaults().map_err(located)?;
    let ids = Ids::read(&files.for_prompter()).map_err(|error| located(error.into()))?;
    let Checkpoint { layout, config, source, plan } = &checkpoint;
    let bar = bar("reading", plan.numbers());
    let version = checkpoint.version(&|more| bar.inc(more)).map_err(located)?;
    bar.finish_and_clear();
    let numbers = |name: &String| source.tensors().get(name).map_or(0, |stored| stored.len() as u64);
    let unused = plan.skipped().iter().filter(|name| layout.learned(name)).map(numbers).sum();
    let files: BTreeMap<String, u64> = source.files().map(|(name, bytes)| (name.to_owned(), bytes)).collect();
    let (stored, skipped) = (source.tensors().len(), plan.skipped().len());
    let found = Found {
        model: place.display().to_string(),
        layout: layout.word(),
        bytes: files.values().sum(),
        files,
        stored_as: source.tensors().values().map(|stored| stored.kind.to_lowercase()).collect(),
        tensors: Tensors { stored, network: stored - skipped, skipped },
        parameters: Parameters { network: plan.numbers(), unused, total: plan.numbers() + unused },
        version: version.0,
        tokens: NAMES.iter().zip(ids.all()).map(|((role, _), id)| Token { role, id }).collect(),
    };
    Ok((found, config.clone()))
}

impl Found {
    fn table(&self) -> String {
        let Self { tensors, parameters, .. } = self;
        let tokens: Vec<_> = self.tokens.iter().map(|token| format!("{} {}", token.role, token.id)).collect();
        let kinds: Vec<_> = self.stored_as.iter().map(String::as_str).collect();
        format!(
            "model       {}, {} layout\n\
             files       {}, {} as {}\n\
             tensors     {} stored: {} of the network, {} skipped\n\
             parameters  {} of the network, {} unused: {} in all\n\
             version     {}\n\
             tokens      {}\n",
            self.model,
            self.layout,
            self.files.keys().cloned().collect::<Vec<_>>().join(", "),
            bytes(self.bytes),
            kinds.join(", "),
            tensors.stored,
            tensors.network,
            tensors.skipped,
            thousands(parameters.network),
            thousands(parameters.unused),
            thousands(parameters.total),
            self.version,
            tokens.join(", "),
        )
    }
}

fn verify(options: &Verify) -> anyhow::Result<()> {
    let (found, _) = look(options.folder.as_deref(), options.pickle)?;
    let table = format!(
        "{}whole: every tensor is there and of its shape, every number finite, every token named\n",
        found.table()
    );
    print(options.json, &found, &table)
}

/// What it costs to serve a checkpoint on the CPU.
#[derive(Serialize)]
struct Serving {
    kept_as: String,
    weights_bytes: u64,
    /// Those that a decoding step of a picture reads.
    step_bytes: u64,
    context: u64,
    /// Keys and values of one row: an answer takes one, a picture two.
    row_bytes: u64,
    memory_bytes: Option<u64>,
    rows_that_fit: Option<u64>,
}

#[derive(Serialize)]
struct Described {
    #[serde(flatten)]
    found: Found,
    /// As transformers' config has it.
    config: serde_json::Value,
    serving: Serving,
}

fn info(options: &Info) -> anyhow::Result<()> {
    let (found, config) = look(options.folder.as_deref(), options.pickle)?;
    let precision = reading(options.pickle, options.kept).precision;
    let weights = plan::size(&config, precision)?;
    let (text, vision, vq) = (&config.text, &config.vision, &config.vq);
    let width = precision.cache().size_in_bytes() as u64;
    let context = u64::from(options.context).min(text.max_positions as u64);
    let row_bytes = context * width * text.cached_numbers() as u64;
    let memory_bytes = options.memory.map(|gib| u64::from(gib) << 30).or_else(free_memory);
    let rows_that_fit = memory_bytes.map(|memory| memory.saturating_sub(weights.all) / row_bytes.max(1));
    let serving = Serving {
        kept_as: precision.to_string(),
        weights_bytes: weights.all,
        step_bytes: weights.step,
        context,
        row_bytes,
        memory_bytes,
        rows_that_fit,
    };
    let fit = match (rows_that_fit, memory_bytes) {
        (Some(rows), Some(memory)) => format!("{rows} rows fit in {}", bytes(memory)),
        _ => "how much memory is free is not known here (`--memory`)".to_owned(),
    };
    let table = format!(
        "{}decoder     {} layers of {}, {} heads of {} ({} key-value), MLP {}, vocabulary {}, context {}\n\
         vision      {} layers of {}, {} heads, {} pixels in patches of {}\n\
         pictures    {} pixels, {} tokens of {} codes of {} numbers\n\
         serving     {} of weights as {precision}, of which a step of a picture reads {}; {} a row of {context} positions; {fit}\n",
        found.table(),
        text.num_layers,
        text.hidden_size,
        text.num_heads,
        text.head_dim,
        text.num_kv_heads,
        text.intermediate_size,
        text.vocab_size,
        text.max_positions,
        vision.num_layers,
        vision.hidden_size,
        vision.num_heads,
        vision.image_size,
        vision.patch_size,
        config.image_size(),
        config.image_tokens(),
        vq.codebook_size,
        vq.codebook_dim,
        bytes(weights.all),
        bytes(weights.step),
        bytes(row_bytes),
    );
    print(options.json, &Described { found, config: config.to_value("float32"), serving }, &table)
}

/// Bytes of memory that new work may take, where the system tells (Linux).
fn free_memory() -> Option<u64> {
    let told = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = told.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// `4.18 GB`
pub fn bytes(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}

/// `2,089,232,011`
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_numbers_are_read_at_a_glance() {
        assert_eq!(
            ["0", "999", "1,000", "2,089,232,011"],
            [0, 999, 1000, 2_089_232_011].map(thousands).each_ref().map(String::as_str)
        );
        assert_eq!(
            ["0.5 kB", "65.5 kB", "1.0 MB", "4.18 GB"],
            [500, 65_536, 1_048_576, 4_178_464_022].map(bytes).each_ref().map(String::as_str)
        );
    }
}
