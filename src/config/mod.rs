//! The command line and the environment: the only file that reads either.
//! Bounds are checked here, so that what comes out can be used as it is; help texts teach.
//! Knows what can be set, and does nothing.

mod canary;
mod model;
mod train;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use self::canary::Canary;
pub use self::model::{
    Convert, DtypeName, Fetch, Info, KeptAs, LayoutName, LikeName, ModelCommand, Pickle, QuantizeName, Random, Verify,
};
pub use self::train::{
    Data, DivergenceName, Merge, MergeName, PairingName, Preset, Pretrain, RewardName, ScaleName, ScoredName, Train,
    TrainStage,
};

/// Serves unified multimodal models, which draw pictures and answer questions about pictures, behind OpenAI's interface.
///
/// Without a command it serves the small demo model that it carries, on http://127.0.0.1:8080, where a page waits to be played
/// with.
#[derive(Debug, Parser)]
#[command(
    version,
    args_conflicts_with_subcommands = true,
    after_help = "\
Try it:
  ulm                                          serve the demo model
  curl http://127.0.0.1:8080/v1/images/generations -H 'Content-Type: application/json' \\
       -d '{\"prompt\": \"a red circle above a blue square\"}'
  ulm serve --model checkpoints/Janus-Pro-1B   serve a folder in the Hugging Face or in DeepSeek's layout
  ulm serve --model deepseek-community/Janus-Pro-1B   the same from the Hugging Face hub, fetched once
  ulm model info checkpoints/Janus-Pro-1B      see what is in it, and what it costs to serve
  ulm pretrain --out runs/demo                 train the demo model from nothing
  ulm serve --learn --learn-after 1000         learn from what users say, a round after every 1000 ratings
  ulm train --stage unified                    teach the demo model by the world's verifier (CoRL)
  ulm eval --suite world                       judge what the model draws and answers
  ulm bench                                    measure how fast it does
  ulm log stats                                see what is kept of requests and feedback
  ulm openapi                                  print the interface's description"
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub serve: Serve,
    #[command(flatten)]
    pub log: Log,
}

/// What `ulm` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve a model (the default command)
    Serve(Serve),
    /// Train the demo model from nothing, on a drawn world of shapes
    Pretrain(Pretrain),
    /// Teach a model by what it earns: CoRL, both tasks together or one refined
    Train(Train),
    /// Work on training rounds in a process of its own, beside servers of the same ledger
    Learn(Learn),
    /// Join two models that were refined from the same one
    Merge(Merge),
    /// Measure how well a model draws and answers, on held-out work
    Eval(Eval),
    /// Measure how fast a model is served, beside one request at a time
    Bench(Bench),
    /// Look at checkpoints, check them, convert them, make random ones
    #[command(subcommand)]
    Model(ModelCommand),
    /// Look at what is kept, take it out, draw it again, forget it
    #[command(subcommand)]
    Log(LogCommand),
    /// Print the interface's description (OpenAPI, YAML)
    Openapi,
}

/// What can be done with the ledger.
#[derive(Clone, Debug, Subcommand)]
pub enum LogCommand {
    /// How much is kept, of which versions, and how much was not kept (JSON)
    Stats {
        #[command(flatten)]
        storage: Storage,
    },
    /// Write every sample with its feedback to `data.jsonl`, and the pictures beside it; Hugging Face's `datasets` loads it with
    /// `load_dataset("json", data_files="FOLDER/data.jsonl")`
    Export {
        #[command(flatten)]
        storage: Storage,
        /// Folder to write to
        #[arg(long, value_name = "FOLDER")]
        out: PathBuf,
    },
    /// Draw kept samples again with the version that drew them, and compare token by token
    Replay {
        #[command(flatten)]
        storage: Storage,
        /// A reply (`chatcmpl-…`, `img-…`), one of its samples (`sample-…`), or `all`
        id: String,
        /// The version that drew it: a folder in the Hugging Face or in DeepSeek's layout, or OWNER/NAME on the hub [default: the demo model]
        #[arg(long, env = "ULM_MODEL", value_name = "FOLDER")]
        model: Option<PathBuf>,
    },
    /// Forget a person, or what is too old or too much
    Purge {
        #[command(flatten)]
        storage: Storage,
        /// The person, as `safety_identifier`, `user` or `rater` named them
        #[arg(long)]
        user: Option<String>,
        #[command(flatten)]
        bounds: Retention,
    },
}

/// Where things are kept.
#[derive(Clone, Debug, Args)]
pub struct Storage {
    /// Folder for what the server keeps; made if it is missing
    #[arg(long, env = "ULM_DATA", default_value = "data", value_name = "FOLDER")]
    pub data: PathBuf,
    /// Postgres to keep the ledger in (postgres://USER:PASSWORD@HOST/DATABASE) [default: SQLite in the data folder]
    #[arg(long, env = "ULM_DATABASE_URL", value_name = "URL", hide_env_values = true, value_parser = postgres)]
    pub database_url: Option<String>,
    /// Where pictures are kept: a folder, or `s3://BUCKET/PREFIX` with the usual AWS_ variables [default: `blobs` in the data
    /// folder]
    #[arg(long, env = "ULM_BLOBS", value_name = "PLACE")]
    pub blobs: Option<String>,
}

/// How much is kept.
#[derive(Clone, Debug, Args)]
pub struct Retention {
    /// Forget requests older than this many days
    #[arg(long, env = "ULM_RETAIN_DAYS", value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub retain_days: Option<u32>,
    /// Forget the oldest requests when pictures take more than this many MiB
    #[arg(long, env = "ULM_RETAIN_MIB", value_name = "MIB")]
    pub retain_mib: Option<u32>,
}

/// The variables that say how S3 is reached.
#[expect(clippy::disallowed_methods, reason = "their names are Amazon's, and there are dozens")]
pub fn storage_variables() -> impl Iterator<Item = (String, String)> {
    std::env::vars().filter(|(name, _)| name.starts_with("AWS_"))
}

fn postgres(url: &str) -> Result<String, String> {
    if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        Ok(url.to_owned())
    } else {
        Err("must begin with postgres://".into())
    }
}

/// `LEAST:MOST`, two finite numbers.
fn range(text: &str) -> Result<[f64; 2], String> {
    let numbers = text.split_once(':').and_then(|(least, most)| Some([least.parse().ok()?, most.parse().ok()?]));
    match numbers {
        Some([least, most]) if f64::is_finite(least) && f64::is_finite(most) && least < most => Ok([least, most]),
        _ => Err("must be two numbers, LEAST:MOST".into()),
    }
}

/// What to measure the quality of.
#[derive(Clone, Debug, Args)]
pub struct Eval {
    /// Work to judge by: `world` draws held-out captions and answers held-out questions, judged from pixels and exact answers
    #[arg(long, default_value = "world")]
    pub suite: Suite,
    /// Model to judge: a folder in the Hugging Face or in DeepSeek's layout, or OWNER/NAME on the hub [default: the demo model]
    #[arg(long, env = "ULM_MODEL", value_name = "FOLDER")]
    pub model: Option<PathBuf>,
    #[command(flatten)]
    pub pickle: Pickle,
    #[command(flatten)]
    pub kept: KeptAs,
    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
    /// Seed of the work and its sampling
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Prompts of each drawing category
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub draws: u16,
    /// Questions of each kind in each form
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub answers: u16,
    /// Guidance weight of pictures [default: what the checkpoint says]
    #[arg(long, value_name = "WEIGHT", value_parser = number::<0, 100>)]
    pub guidance: Option<f32>,
    /// Temperature of pictures [default: what the checkpoint says]
    #[arg(long, value_parser = number::<0, 2>)]
    pub temperature: Option<f32>,
    /// Temperature of answers; 0 is greedy
    #[arg(long, value_name = "TEMPERATURE", default_value_t = 0.0, value_parser = number::<0, 2>)]
    pub answer_temperature: f32,
    /// Also draw a sheet of fixed prompts into this PNG file
    #[arg(long, value_name = "FILE")]
    pub grid: Option<PathBuf>,
}

/// What to measure the speed of.
#[derive(Clone, Debug, Args)]
pub struct Bench {
    /// Model to measure: a folder in the Hugging Face or in DeepSeek's layout, or OWNER/NAME on the hub [default: the demo model]
    #[arg(long, env = "ULM_MODEL", value_name = "FOLDER")]
    pub model: Option<PathBuf>,
    #[command(flatten)]
    pub pickle: Pickle,
    #[command(flatten)]
    pub kept: KeptAs,
    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
    /// Times that everything is measured; medians are reported
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub rounds: u16,
    /// Guidance weight of pictures [default: what the checkpoint says]
    #[arg(long, value_name = "WEIGHT", value_parser = number::<0, 100>)]
    pub guidance: Option<f32>,
    /// Measure what keeping requests and feedback costs instead; in a folder that is deleted afterwards, or in the Postgres of
    /// `--database-url`, where the rows are deleted afterwards
    #[arg(long)]
    pub ledger: bool,
    /// Measure how fast the model learns instead, and what memory a deep one takes to, whole and in segments of layers
    #[arg(long, conflicts_with = "ledger")]
    pub train: bool,
    /// Measure decoding alone instead: steps of 1 to 32 rows with 600 positions behind each, and what share of the memory's bandwidth they
    /// read weights with
    #[arg(long, conflicts_with_all = ["ledger", "train", "kernels"])]
    pub decoding: bool,
    /// With `--decoding`, run the same shapes in turns in something else
    #[arg(long, requires = "decoding")]
    pub against: Option<Against>,
    /// Python that has it
    #[arg(long, value_name = "PATH", default_value = "python3", requires = "against")]
    pub python: PathBuf,
    /// Measure the products and the attention of a decoder of Janus-Pro-1B's shape instead, on random numbers and without a model,
    /// by what weights and cache are kept as; the best runs are reported
    #[arg(long, conflicts_with_all = ["ledger", "train"])]
    pub kernels: bool,
    /// One of the processes whose memory `--train` compares, with so many layers a segment
    #[arg(long, hide = true, value_name = "LAYERS", requires = "train")]
    pub footprint: Option<usize>,
    /// Postgres to measure with `--ledger` [default: SQLite]
    #[arg(long, env = "ULM_DATABASE_URL", value_name = "URL", hide_env_values = true, value_parser = postgres)]
    pub database_url: Option<String>,
}

/// What decoding is measured beside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Against {
    /// PyTorch, eager: in f32 beside weights in f32, else in bf16
    Torch,
}

/// Suites of held-out work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Suite {
    World,
}

/// A device by name: `cpu`, or `cuda:NUMBER` in a build that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceName {
    Cpu,
    Cuda(usize),
}

impl std::str::FromStr for DeviceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |name: &str| name.strip_prefix(':').map_or(name.is_empty().then_some(0), |n| n.parse().ok());
        match text.strip_prefix("cuda").and_then(number) {
            Some(index) => Ok(Self::Cuda(index)),
            None if text == "cpu" => Ok(Self::Cpu),
            None => Err("must be `cpu`, `cuda` or `cuda:NUMBER`".into()),
        }
    }
}

/// How to serve.
#[derive(Clone, Debug, Args)]
pub struct Serve {
    /// Address to listen on; port 0 takes a free one
    #[arg(long, env = "ULM_LISTEN", default_value = "127.0.0.1:8080", value_name = "ADDRESS:PORT")]
    pub listen: SocketAddr,
    #[command(flatten)]
    pub storage: Storage,
    #[command(flatten)]
    pub retention: Retention,
    /// Range of the ratings that users give
    #[arg(long, env = "ULM_RATING", value_name = "LEAST:MOST", default_value = "1:5", value_parser = range)]
    pub rating: [f64; 2],
    /// Model to serve: a folder in the Hugging Face or in DeepSeek's layout (config.json, model.safetensors, tokenizer.json, ...), or
    /// OWNER/NAME or OWNER/NAME@REVISION on the Hugging Face hub (see `ulm model fetch --help`) [default: the demo model]
    #[arg(long, env = "ULM_MODEL", value_name = "FOLDER")]
    pub model: Option<PathBuf>,
    #[command(flatten)]
    pub pickle: Pickle,
    #[command(flatten)]
    pub kept: KeptAs,
    /// What clients call the model [default: the folder's name, or `ulm-demo`]
    #[arg(long, env = "ULM_NAME")]
    pub name: Option<String>,
    /// Key that clients must send as `Authorization: Bearer KEY`; may be given several times, or with commas in the
    /// environment. Without one everybody may use the server
    #[arg(long = "api-key", env = "ULM_API_KEYS", value_name = "KEY", value_delimiter = ',', hide_env_values = true)]
    pub api_keys: Vec<String>,
    /// Key that versions may be promoted and rounds opened with; it opens all else as well. Without one, whoever may use the server
    /// may do so
    #[arg(
        long = "admin-key",
        env = "ULM_ADMIN_KEYS",
        value_name = "KEY",
        value_delimiter = ',',
        hide_env_values = true
    )]
    pub admin_keys: Vec<String>,
    #[command(flatten)]
    pub learning: Learning,
    /// Samples computed together: an answer takes one row, a picture two (one without guidance)
    #[arg(long, env = "ULM_ROWS", default_value_t = 32, value_parser = clap::value_parser!(u16).range(2..))]
    pub rows: u16,
    /// Requests that may wait for rows; one more is told to come back later (429)
    #[arg(long, env = "ULM_QUEUE", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    pub queue: u16,
    /// Most tokens of a request and its reply together; each costs memory in every row
    #[arg(long, env = "ULM_CONTEXT", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(64..))]
    pub context: u32,
    /// Largest request body in MiB; pictures travel in it
    #[arg(long, env = "ULM_BODY_LIMIT", default_value_t = 32, value_name = "MIB", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub body_limit: u16,
    /// Guidance weight of pictures where a request names none [default: what the checkpoint says]
    #[arg(long, env = "ULM_GUIDANCE", value_name = "WEIGHT", value_parser = number::<0, 100>)]
    pub guidance: Option<f32>,
    /// Temperature of pictures where a request names none [default: what the checkpoint says]
    #[arg(long, env = "ULM_TEMPERATURE", value_parser = number::<0, 2>)]
    pub temperature: Option<f32>,
    /// Temperature of answers where a request names none; 0 is greedy
    #[arg(long, env = "ULM_ANSWER_TEMPERATURE", value_name = "TEMPERATURE", default_value_t = 0.0, value_parser = number::<0, 2>)]
    pub answer_temperature: f32,
}

/// Whether and when to learn from what users say.
#[derive(Clone, Debug, Args)]
pub struct Learning {
    /// Work on training rounds beside serving: those opened by hand (`POST /v1/rounds`), and with `--learn-after` those that are due
    #[arg(long, env = "ULM_LEARN")]
    pub learn: bool,
    #[command(flatten)]
    pub when: When,
    #[command(flatten)]
    pub canary: Canary,
}

/// Works on training rounds beside the servers of a ledger.
#[derive(Clone, Debug, Args)]
pub struct Learn {
    #[command(flatten)]
    pub storage: Storage,
    #[command(flatten)]
    pub when: When,
    #[command(flatten)]
    pub canary: Canary,
    /// The checkpoint that the servers begin with: a folder in the Hugging Face or in DeepSeek's layout, or OWNER/NAME on the hub [default: the demo model]
    #[arg(long, env = "ULM_MODEL", value_name = "FOLDER")]
    pub model: Option<PathBuf>,
}

/// When rounds are opened without anybody's hand.
#[derive(Clone, Debug, Args)]
pub struct When {
    /// Open a round when so much feedback has been given since the last
    #[arg(long, env = "ULM_LEARN_AFTER", value_name = "FEEDBACK", value_parser = clap::value_parser!(u32).range(1..))]
    pub learn_after: Option<u32>,
    /// Minutes between two such rounds, at least
    #[arg(long, env = "ULM_LEARN_APART", value_name = "MINUTES", default_value_t = 60)]
    pub learn_apart: u32,
    /// Hours of the day (UTC) in which such a round may be opened, FROM-TO; over midnight where FROM is the later
    #[arg(long, env = "ULM_LEARN_HOURS", value_name = "FROM-TO", default_value = "0-24", value_parser = hours)]
    pub learn_hours: [u8; 2],
}

/// `FROM-TO`, two hours of the day.
fn hours(text: &str) -> Result<[u8; 2], String> {
    let hours = text.split_once('-').and_then(|(from, to)| Some([from.parse().ok()?, to.parse().ok()?]));
    match hours {
        Some([from, to]) if from != to && from <= 24 && to <= 24 => Ok([from, to]),
        _ => Err("must be two hours of the day, FROM-TO".into()),
    }
}

/// How to report.
#[derive(Clone, Debug, Args)]
pub struct Log {
    /// What to log: a level (error, warn, info, debug, trace) or directives such as `warn,ulm=debug`
    #[arg(long = "log", env = "ULM_LOG", default_value = "info", global = true, value_name = "FILTER")]
    pub filter: String,
    /// How to log
    #[arg(long = "log-format", env = "ULM_LOG_FORMAT", default_value = "text", global = true, value_name = "FORMAT")]
    pub format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

/// A finite number from `LEAST` to `MOST`.
fn number<const LEAST: u8, const MOST: u8>(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(value) if (f32::from(LEAST)..=f32::from(MOST)).contains(&value) => Ok(value),
        _ => Err(format!("must be a number from {LEAST} to {MOST}")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn serving_is_the_default() {
        let bare = Cli::try_parse_from(["ulm", "--listen", "127.0.0.1:0"]).unwrap();
        assert!(bare.command.is_none() && bare.serve.listen.port() == 0);
        let named = Cli::try_parse_from(["ulm", "serve", "--rows", "4", "--api-key", "a", "--api-key", "b"]).unwrap();
        let Some(Command::Serve(serve)) = named.command else { panic!("not the serve command") };
        assert_eq!((serve.rows, serve.api_keys.len()), (4, 2));
    }

    #[test]
    fn numbers_are_bounded() {
        for value in ["-1", "NaN", "inf", "101", "x"] {
            assert!(Cli::try_parse_from(["ulm", &format!("--guidance={value}")]).is_err(), "{value}");
        }
        let keeps = |share: &str| Cli::try_parse_from(["ulm", "train", &format!("--keep={share}")]).is_ok();
        assert!(keeps("1") && keeps("0.01") && !keeps("0") && !keeps("1.1") && !keeps("NaN"));
    }
}
