//! Brings model, engine and interface together, and takes them down in order: the listener first, then the engine.
//! Everything that can fail (folder, weights, address) fails before the address is printed.
//! Knows no route and no tensor.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::middleware::from_fn;
use actix_web::rt::task::JoinHandle;
use actix_web::{App, HttpServer, rt, web};
use anyhow::{Context, bail};
use candle_core::Device;

use crate::api::{self, Defaults, Options, Scale, Service};
use crate::config::{KeptAs, Pickle, QuantizeName, Serve};
use crate::demo;
use crate::domain::trial::Share;
use crate::engine::{Engine, EngineHandle, EngineOptions, Halt};
use crate::fetch::{Place, place};
use crate::follow::Follower;
use crate::learn::Learner;
use crate::log;
use crate::model::Model;
use crate::model::checkpoint::Reading;
use crate::model::ops::Kind;
use crate::model::precision::Precision;
use crate::models::{bytes, dtype};
use crate::store::Ledger;
use crate::watch::Watch;

/// How long running requests may take to end once the server is told to stop, in seconds.
const GRACE: u64 = 30;
/// How long a client may take to send the head of a request.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long an idle connection is kept; longer than clients and proxies keep theirs.
const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// A checkpoint ready to be served.
pub struct Checkpoint {
    /// What clients call it.
    pub name: String,
    pub model: Arc<Model>,
    pub defaults: Defaults,
}

/// A server that listens.
pub struct Running {
    /// Where; the port is the real one.
    pub address: SocketAddr,
    pub engine: EngineHandle,
    /// To stop the server from elsewhere.
    pub handle: ServerHandle,
    server: JoinHandle<std::io::Result<()>>,
    /// What goes on beside requests, and ends with them.
    beside: Vec<JoinHandle<()>>,
    learning: Option<Learner>,
}

/// Serves until the process is told to stop.
///
/// # Errors
/// When the model cannot be loaded or the address cannot be bound.
pub async fn run(options: &Serve) -> anyhow::Result<()> {
    let (name, model) = model_as(options.model.as_deref(), reading(options.pickle, options.kept))?;
    let kept = kept(&model);
    let checkpoint = Checkpoint::new(options, &name, model);
    let name = checkpoint.name.clone();
    let running = start(options, checkpoint).await?;
    let (address, version) = (running.address, running.engine.model().version().0.clone());
    tracing::info!(%address, model = name, version, "serving");
    let version = env!("CARGO_PKG_VERSION");
    let greeting = format!(
        "ULM Server {version} serves {name}, {kept}\n\n  page  http://{address}/\n  API   http://{address}/v1\n\n"
    );
    // Nobody has to listen: a closed standard output is no reason not to serve.
    let _ = std::io::stdout().lock().write_all(greeting.as_bytes());
    running.join().await
}

/// Starts engine and server in the background of the current actix system; requests and signals are heard from then on.
///
/// # Errors
/// When the engine cannot start or the address cannot be bound.
pub async fn start(options: &Serve, checkpoint: Checkpoint) -> anyhow::Result<Running> {
    let limits = EngineOptions {
        rows: options.rows.into(),
        // So that who comes finds rows free.
        background_rows: usize::from(options.rows) * 3 / 4,
        queue: options.queue.into(),
        capacity: options.context as usize,
        ..EngineOptions::default()
    };
    if options.learning.when.learn_after.is_some() && !options.learning.learn {
        bail!("`--learn-after` says when to open rounds; `--learn` as well, so that they are worked on");
    }
    if options.learning.learn && checkpoint.model.precision() != Precision::FULL {
        bail!(
            "`--learn` needs `--dtype f32` without `--quantize`: a step of learning is smaller than other weights can show"
        );
    }
    let ledger = log::open(&options.storage).await?;
    let secret = links(&ledger).await?;
    let served =
        crate::model::Defaults { guidance: checkpoint.defaults.guidance, temperature: checkpoint.defaults.temperature };
    let engine = Engine::spawn(checkpoint.model, limits).context("the engine cannot start")?;
    let follower = Follower::begin(ledger.clone(), engine.clone(), api::now_ms).await?;
    let (canary, learns) = (&options.learning.canary, options.learning.learn);
    let watch = Watch::new(ledger.clone(), canary.watch.unwrap_or(learns), api::now_ms);
    let beside = vec![
        rt::spawn(log::retain(ledger.clone(), options.retention.clone())),
        rt::spawn(follower.run()),
        rt::spawn(watch.run()),
    ];
    let when = (&options.learning.when, canary.terms());
    let learning = match learns {
        true => Some(Learner::start(&options.storage.data, when, &ledger, &engine, served)?),
        false => None,
    };
    let service = web::Data::new(Service::new(
        engine.clone(),
        ledger,
        Options {
            name: checkpoint.name,
            defaults: checkpoint.defaults,
            keys: options.api_keys.clone(),
            admin_keys: options.admin_keys.clone(),
            body_limit: usize::from(options.body_limit) << 20,
            secret,
            learns,
            trials: canary.terms_with(Share::TENTH),
            scale: Scale { least: options.rating[0], most: options.rating[1] },
        },
    ));
    let server =
        HttpServer::new(move || App::new().configure(api::routes(service.clone())).wrap(from_fn(api::observe)))
            // A client that closes its side has left, and its work is cancelled.
            .h1_allow_half_closed(false)
            .client_request_timeout(PATIENCE)
            .keep_alive(KEEP_ALIVE)
            .shutdown_timeout(GRACE)
            .bind(options.listen)
            .with_context(|| format!("{} cannot be listened on", options.listen))?;
    let address = server.addrs().first().copied().context("the server listens nowhere")?;
    let server = server.run();
    let handle = server.handle();
    let server = rt::spawn(server);
    // Changes nothing, and is answered once the server runs.
    handle.resume().await;
    Ok(Running { address, engine, handle, server, beside, learning })
}

/// What links to pictures are signed with: the same for all servers of a ledger, and after a restart.
async fn links(ledger: &Ledger) -> anyhow::Result<[u8; 64]> {
    let fresh: [u8; 64] = rand::random();
    let fresh = fresh.iter().map(|b| format!("{b:02x}")).collect();
    let kept = ledger.setting("link_secret", fresh).await?;
    let byte = |at: usize| kept.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    let bytes: Option<Vec<u8>> = (0..kept.len()).step_by(2).map(byte).collect();
    bytes.and_then(|bytes| bytes.try_into().ok()).context("the ledger's setting link_secret is not what it was")
}

impl Running {
    /// Waits until the server has stopped (SIGINT, SIGTERM or its handle), then ends the engine.
    ///
    /// # Errors
    /// When the server fails.
    pub async fn join(self) -> anyhow::Result<()> {
        let ended = self.server.await.context("the server failed")?.context("the server failed");
        self.beside.iter().for_each(JoinHandle::abort);
        self.learning.iter().for_each(Learner::stop);
        self.engine.halt(Halt::Now);
        let (engine, learning) = (self.engine, self.learning);
        let ended_too = move || {
            engine.join();
            learning.into_iter().for_each(Learner::join);
        };
        web::block(ended_too).await.context("the engine could not be waited for")?;
        ended
    }
}

/// How a model's files are to be read.
#[must_use]
pub fn reading(pickle: Pickle, kept: KeptAs) -> Reading {
    let matrices = dtype(kept.dtype);
    let blocks = kept.quantize.map(|name| match name {
        QuantizeName::Q8_0 => Kind::Q8_0,
        QuantizeName::Q4K => Kind::Q4K,
    });
    Reading { precision: Precision { matrices, blocks }, pickle: pickle.allow_pickle }
}

/// What a model takes, in words.
fn kept(model: &Model) -> String {
    let size = model.size();
    format!(
        "kept as {}: {}, of which a step of a picture reads {}",
        model.precision(),
        bytes(size.all),
        bytes(size.step)
    )
}

/// The model in `folder`, or of that name on the hub, and its name; without a folder the demo model.
///
/// # Errors
/// When it cannot be loaded; the message says what to do.
pub fn model(folder: Option<&Path>) -> anyhow::Result<(String, Model)> {
    model_as(folder, Reading::default())
}

/// As [`model`], read as `reading` says.
///
/// # Errors
/// As [`model`].
pub fn model_as(folder: Option<&Path>, reading: Reading) -> anyhow::Result<(String, Model)> {
    let Some(asked) = folder else {
        let demo = Model::read(&demo::files(), reading, &Device::Cpu);
        return Ok((demo::NAME.into(), demo.context("the demo model cannot be loaded")?));
    };
    let Place { folder, name } = place(asked, reading.pickle)?;
    let model = Model::load_as(&folder, reading, &Device::Cpu).with_context(|| {
        format!(
            "{0} is not served; it must hold a whole checkpoint in the Hugging Face or in DeepSeek's layout (config.json, \
             model.safetensors, tokenizer.json): copy or download it again, or train one with `ulm pretrain`",
            folder.display()
        )
    })?;
    Ok((name.unwrap_or_else(|| "model".into()), model))
}

impl Checkpoint {
    /// `model` under the name and with the settings of `options`, or else under `name` and with its own.
    #[must_use]
    pub fn new(options: &Serve, name: &str, model: Model) -> Self {
        let own = model.defaults();
        Self {
            name: options.name.clone().unwrap_or_else(|| name.to_owned()),
            defaults: Defaults {
                guidance: options.guidance.unwrap_or(own.guidance),
                temperature: options.temperature.unwrap_or(own.temperature),
                answer_temperature: options.answer_temperature,
            },
            model: Arc::new(model),
        }
    }
}
