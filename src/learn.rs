//! Working on training rounds, wired: a thread beside a server's engine, or a process of its own over the same ledger (`ulm learn`).
//! Knows not how a round is worked on.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context as _, bail};
use uuid::Uuid;

use crate::config::{Learn, When};
use crate::domain::trial::Terms;
use crate::engine::{Engine, EngineHandle, EngineOptions, Halt};
use crate::follow::Follower;
use crate::model::Defaults;
use crate::store::Ledger;
use crate::train::round::Rounds;
use crate::train::round::plan::Policy;
use crate::watch::Watch;
use crate::{api, log, serve};

/// A thread that works on rounds.
pub struct Learner {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Learner {
    /// Works in the background of `engine` from now on; checkpoints are kept below `data`. `canary` is how candidates are tried, `served`
    /// how pictures are drawn for people.
    ///
    /// # Errors
    /// When the folder cannot be used.
    pub fn start(
        data: &Path,
        (when, canary): (&When, Option<Terms>),
        ledger: &Ledger,
        engine: &EngineHandle,
        served: Defaults,
    ) -> anyhow::Result<Self> {
        let [from, to] = when.learn_hours;
        let policy = when.learn_after.map(|feedback| Policy {
            feedback: feedback.into(),
            apart_ms: 60_000 * i64::from(when.learn_apart),
            hours: (from, to),
        });
        let stop = Arc::new(AtomicBool::new(false));
        let dir = data.join("rounds");
        let (owner, lock) = worker(&dir).with_context(|| format!("{} cannot be used", dir.display()))?;
        let rounds = Rounds {
            ledger: ledger.clone(),
            engine: engine.clone(),
            runtime: tokio::runtime::Handle::current(),
            dir,
            owner,
            served,
            policy,
            canary,
            stop: Arc::clone(&stop),
            now_ms: api::now_ms,
        };
        let work = move || {
            let _lock = lock;
            rounds.run();
        };
        let thread = std::thread::Builder::new().name("learn".into()).spawn(work);
        Ok(Self { stop, thread: thread.context("the thread that learns cannot start")? })
    }

    /// Tells it to stop after the step it is in; what it has learned is in its last checkpoint.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Waits until it has stopped. Blocks; not for async workers.
    pub fn join(self) {
        if self.thread.join().is_err() {
            tracing::error!("the thread that learns ended by a panic");
        }
    }
}

/// What a worker with this folder is called: the same after a restart, so that it takes up its round at once; another name where another
/// process works in the folder. The name lasts as long as the file is held.
fn worker(dir: &Path) -> std::io::Result<(String, File)> {
    std::fs::create_dir_all(dir)?;
    let mut file = File::options().read(true).write(true).create(true).truncate(false).open(dir.join("worker"))?;
    let fresh = Uuid::now_v7().to_string();
    if file.try_lock().is_err() {
        return Ok((fresh, file));
    }
    let mut name = String::new();
    file.read_to_string(&mut name)?;
    if name.parse::<Uuid>().is_err() {
        file.set_len(0)?;
        file.write_all(fresh.as_bytes())?;
        file.sync_all()?;
        name = fresh;
    }
    Ok((name, file))
}

/// `ulm learn`: works on the rounds of a ledger until it is told to stop, with an engine that nobody else uses.
///
/// # Errors
/// When the model or the ledger cannot be used.
pub async fn run(options: &Learn) -> anyhow::Result<()> {
    let model = Arc::new(serve::model(options.model.as_deref())?.1);
    let served = model.defaults();
    let ledger = log::open(&options.storage).await?;
    if ledger.live().await?.is_some() && ledger.version(model.version()).await?.is_none() {
        bail!("the servers of this ledger began with another checkpoint than this one; name theirs with `--model`");
    }
    let limits = EngineOptions { rows: 64, background_rows: 64, ..EngineOptions::default() };
    let engine = Engine::spawn(model, limits).context("the engine cannot start")?;
    let follower = Follower::begin(ledger.clone(), engine.clone(), api::now_ms).await?;
    let version = engine.model().version().0.clone();
    let following = tokio::spawn(follower.run());
    let watch = Watch::new(ledger.clone(), options.canary.watch.unwrap_or(true), api::now_ms);
    let watching = tokio::spawn(watch.run());
    let when = (&options.when, options.canary.terms());
    let learner = Learner::start(&options.storage.data, when, &ledger, &engine, served)?;
    tracing::info!(version, "working on rounds");
    tokio::signal::ctrl_c().await.context("signals cannot be heard")?;
    learner.stop();
    following.abort();
    watching.abort();
    engine.halt(Halt::Now);
    tokio::task::spawn_blocking(move || {
        learner.join();
        engine.join();
    })
    .await
    .context("the work could not be waited for")
}
