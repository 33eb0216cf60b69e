//! Floor 2: the only owner of the device. One thread batches the tokens of pictures and answers in the same steps.
//!
//! `EngineHandle::submit` is the whole way in and `Events` the whole way out. The floor knows nothing of HTTP, files and prompts as text: it takes
//! token ids and gives samples.

pub mod command;
pub mod sampler;
pub mod scheduler;

mod batch;
mod context;
mod job;
mod runner;
mod sequence;
mod shelf;
mod text;

use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

use self::command::{Command, Events, Lane, Submission};
use self::job::{Job, Queue, Room};
use self::runner::Runner;
use self::sampler::SamplerError;
use self::scheduler::Limits;
use self::shelf::Shelf;
use crate::domain::sample::Version;
use crate::domain::trial::Split;
use crate::model::{Model, ModelError};

/// Why a submission, or the engine itself, failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EngineError {
    #[error("the model failed: {0}")]
    Model(Arc<ModelError>),
    #[error("nothing could be drawn: {0}")]
    Sampler(#[from] SamplerError),
    #[error("the computation broke off: {0}")]
    Panicked(String),
    #[error("the engine was stopped before the work was done")]
    Stopped,
    #[error("the engine cannot start: {0}")]
    Start(String),
}

impl From<ModelError> for EngineError {
    fn from(error: ModelError) -> Self {
        Self::Model(Arc::new(error))
    }
}

/// Why a submission was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    #[error("too much work waits already; try again later")]
    Busy,
    #[error("prompt and reply need {tokens} positions, the model has {limit}")]
    TooLong { tokens: usize, limit: usize },
    #[error("`{field}` is not usable; supported: {supported}")]
    Invalid { field: &'static str, supported: &'static str },
    #[error("the engine has stopped")]
    Stopped,
}

/// Why weights were not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the new weights are of another model: {0} differs")]
pub struct PromoteError(&'static str);

/// Sizes of an engine.
#[derive(Clone, Copy, Debug)]
pub struct EngineOptions {
    /// Cache rows: a picture takes two (one at guidance 1), an answer one. At least 2.
    pub rows: usize,
    /// Submissions of one lane that may wait for rows; more are refused as busy. At least 1.
    pub queue: usize,
    /// Positions of a row, prompt and reply together; cut to the model's own limit. Each costs memory in every row.
    pub capacity: usize,
    /// Rows that the background lane may hold at once. At least 2.
    pub background_rows: usize,
    /// Prompt positions computed in one step. More starts long prompts sooner, fewer keeps the running rows going smoothly.
    pub prefill: usize,
    /// Samples of one submission that start before the next submission of its lane has its turn.
    pub turn: usize,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self { rows: 32, queue: 64, capacity: 2048, background_rows: 16, prefill: 256, turn: 16 }
    }
}

/// How to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Halt {
    /// Finish all that was submitted.
    Drain = 1,
    /// Fail what is left.
    Now = 2,
}

/// How busy the engine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Samples that hold rows.
    pub running: usize,
    /// Submissions with samples that wait for rows.
    pub queued: usize,
}

/// Starts engines.
pub struct Engine;

impl Engine {
    /// Reserves the cache and starts the thread. It ends by `EngineHandle::halt`, or when the last handle is dropped and all work is done.
    ///
    /// # Errors
    /// When the cache does not fit on the device or the thread cannot start.
    pub fn spawn(model: Arc<Model>, options: EngineOptions) -> Result<EngineHandle, EngineError> {
        let capacity = options.capacity.min(model.config().text.max_positions);
        let rows = options.rows.max(2);
        let slots = model.slots(rows, capacity)?;
        let limits =
            Limits { rows, background_rows: options.background_rows, prefill: options.prefill, turn: options.turn };
        let queues = [Queue::new(options.queue), Queue::new(options.queue)];
        // The tickets bound what is in the channel, so it never fills; one place more is for waking the thread.
        let (commands, receiver) = sync_channel(2 * options.queue.max(1) + 1);
        let room = Room { capacity, image_tokens: model.config().image_tokens() };
        let shared =
            Arc::new(Shared { shelf: Shelf::new(model), halt: AtomicU8::new(0), running: AtomicUsize::new(0) });
        let runner = Runner::new(slots, limits, receiver, Arc::clone(&shared));
        let thread = Builder::new()
            .name("engine".to_owned())
            .spawn(move || {
                let _pool = join_pool();
                runner.run();
            })
            .map_err(|e| EngineError::Start(e.to_string()))?;
        Ok(EngineHandle { room, queues, commands, shared, thread: Arc::new(Mutex::new(Some(thread))) })
    }
}

/// Makes this thread the first of a pool of its own, for as long as the pool is kept. A step is dozens of small parallel loops; each
/// that is begun outside a pool puts its thread to sleep and wakes another, which takes longer than the loop.
fn join_pool() -> Option<rayon::ThreadPool> {
    let pool = rayon::ThreadPoolBuilder::new().use_current_thread().build();
    pool.inspect_err(|error| tracing::warn!(%error, "the engine computes in the common pool")).ok()
}

/// The way into a running engine; clones share it.
#[derive(Clone)]
pub struct EngineHandle {
    room: Room,
    /// By lane.
    queues: [Arc<Queue>; 2],
    commands: SyncSender<Command>,
    shared: Arc<Shared>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl EngineHandle {
    /// Takes a submission for the live weights or refuses it at once; never blocks.
    ///
    /// # Errors
    /// When the queue of its lane is full, it cannot run to its end in this engine, or the engine has stopped.
    pub fn submit(&self, submission: Submission) -> Result<Events, SubmitError> {
        self.submit_to(&self.model(), submission)
    }

    /// The same for weights that [`EngineHandle::model`] or [`EngineHandle::models`] gave.
    ///
    /// # Errors
    /// As [`EngineHandle::submit`].
    pub fn submit_to(&self, model: &Arc<Model>, submission: Submission) -> Result<Events, SubmitError> {
        self.submit_all(model, vec![submission])?.pop().ok_or(SubmitError::Stopped)
    }

    /// Takes all of these or none, so that they begin in the same step: in an idle engine what they share steps with, and with it
    /// the last bit of their numbers, does not depend on when they came.
    ///
    /// # Errors
    /// As [`EngineHandle::submit`].
    pub fn submit_all(&self, model: &Arc<Model>, submissions: Vec<Submission>) -> Result<Vec<Events>, SubmitError> {
        if self.shared.halt().is_some() {
            return Err(SubmitError::Stopped);
        }
        let [interactive, background] = &self.queues;
        let (mut jobs, mut all) = (Vec::with_capacity(submissions.len()), Vec::with_capacity(submissions.len()));
        for submission in submissions {
            let queue = match submission.lane {
                Lane::Interactive => interactive,
                Lane::Background => background,
            };
            let (job, events) = Job::new(submission, self.room, queue.enter().ok_or(SubmitError::Busy)?)?;
            jobs.push(job);
            all.push(events);
        }
        match self.commands.try_send(Command::Submit(jobs, Arc::clone(model))) {
            Ok(()) => Ok(all),
            Err(TrySendError::Full(_)) => Err(SubmitError::Busy),
            Err(TrySendError::Disconnected(_)) => Err(SubmitError::Stopped),
        }
    }

    /// The live weights: those that answer what does not say otherwise.
    #[must_use]
    pub fn model(&self) -> Arc<Model> {
        self.shared.shelf.live()
    }

    /// The weights that answer `who`: the live ones, or for some people those on trial.
    #[must_use]
    pub fn model_for(&self, who: &str) -> Arc<Model> {
        self.shared.shelf.choose(who)
    }

    /// The weights on trial, and whom they answer.
    #[must_use]
    pub fn trial(&self) -> Option<(Version, Split)> {
        self.shared.shelf.trial()
    }

    /// Lets other weights of the same model answer some people from now on, until others are promoted or the trial is ended.
    ///
    /// # Errors
    /// As [`EngineHandle::promote`].
    pub fn begin_trial(&self, model: Arc<Model>, split: Split) -> Result<(), PromoteError> {
        self.shared.shelf.begin_trial(model, split)
    }

    /// Lets the live weights answer everybody again. Work under way ends on the weights it began with.
    pub fn end_trial(&self) {
        self.shared.shelf.end_trial();
    }

    /// All weights that may be asked for, the live ones first.
    #[must_use]
    pub fn models(&self) -> Vec<Arc<Model>> {
        self.shared.shelf.all()
    }

    /// Makes other weights of the same model answer whatever is submitted from now on; what was submitted before ends on the
    /// weights it began with.
    ///
    /// # Errors
    /// When sizes, prompts or device are not those of the live weights.
    pub fn promote(&self, model: Arc<Model>) -> Result<(), PromoteError> {
        self.shared.shelf.promote(model)
    }

    /// Puts weights of the same model beside the live ones, to be asked for by name.
    ///
    /// # Errors
    /// As [`EngineHandle::promote`].
    pub fn admit(&self, model: Arc<Model>) -> Result<(), PromoteError> {
        self.shared.shelf.admit(model)
    }

    /// Takes away weights beside the live ones that are not wanted and not on trial; work with them goes on to its end.
    pub fn retain(&self, wanted: impl Fn(&Version) -> bool) {
        self.shared.shelf.retain(wanted);
    }

    /// Positions that a prompt and its reply may take together.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.room.capacity
    }

    #[must_use]
    pub fn load(&self) -> Load {
        Load {
            running: self.shared.running.load(Ordering::Relaxed),
            queued: self.queues.iter().map(|queue| queue.waiting()).sum(),
        }
    }

    /// Takes no more submissions and ends the thread, now or when all work is done. `Now` overrides an earlier `Drain`.
    pub fn halt(&self, how: Halt) {
        self.shared.halt.fetch_max(how as u8, Ordering::AcqRel);
        // A full channel means that the thread is awake.
        let _ = self.commands.try_send(Command::Wake);
    }

    /// The thread lives, so that a submission can still be answered.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Waits for the thread to end after `halt`. Blocks; not for async workers.
    pub fn join(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Err(_)) = thread.map(JoinHandle::join) {
            tracing::error!("the engine thread ended by a panic");
        }
    }
}

/// What handles and thread both see.
struct Shared {
    shelf: Shelf,
    /// 0 to go on, else a `Halt`.
    halt: AtomicU8,
    running: AtomicUsize,
}

impl Shared {
    fn halt(&self) -> Option<Halt> {
        [Halt::Drain, Halt::Now].into_iter().find(|&how| how as u8 == self.halt.load(Ordering::Acquire))
    }

    fn set_running(&self, running: usize) {
        self.running.store(running, Ordering::Relaxed);
    }
}
