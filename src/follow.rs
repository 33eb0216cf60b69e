//! The engine follows the ledger: whichever version was promoted last is the one that answers, and one on trial answers its share of the
//! people. Everything that can fail (fetching, checking, loading, a first try) fails beside the running weights, which serve on; what is
//! left is one assignment. Knows no HTTP and no training, and not how a trial is judged.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::domain::round::{KnownVersion, Promotion};
use crate::domain::sample::Version;
use crate::domain::task::{Answer, Draw, Part, Role, Sampling, Turn};
use crate::domain::trial::{Trial, TrialState};
use crate::engine::command::{Event, Lane, Submission, Work};
use crate::engine::{EngineError, EngineHandle, PromoteError, SubmitError};
use crate::kept::{self, KeptError};
use crate::model::precision::Precision;
use crate::model::prompt::PromptError;
use crate::model::{Model, ModelError};
use crate::store::{Ending, Ledger, LedgerError, Promoted};

/// Time between looks at the ledger.
const EVERY: Duration = Duration::from_millis(500);
/// The checkpoint a server begins with is kept in the ledger's files when it is no larger than this; any server can go back to it then.
const KEPT: u64 = 1 << 30;

/// Why a version cannot be served here.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("the ledger does not know version {0}")]
    Unknown(String),
    #[error(transparent)]
    Kept(KeptError),
    #[error("its weights cannot be loaded: {0}")]
    Load(#[from] ModelError),
    #[error(transparent)]
    Promote(#[from] PromoteError),
    #[error("it failed a first try: {0}")]
    Try(String),
    #[error("the engine has no room for a first try")]
    Busy,
    #[error("loading broke off")]
    Broken,
}

impl FollowError {
    /// It may go better next time.
    fn passes(&self) -> bool {
        matches!(self, Self::Ledger(LedgerError::Unavailable(_)) | Self::Busy)
    }
}

impl From<KeptError> for FollowError {
    fn from(error: KeptError) -> Self {
        match error {
            KeptError::Ledger(error) => Self::Ledger(error),
            error => Self::Kept(error),
        }
    }
}

impl From<SubmitError> for FollowError {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::Busy => Self::Busy,
            error => Self::Try(error.to_string()),
        }
    }
}

impl From<EngineError> for FollowError {
    fn from(error: EngineError) -> Self {
        Self::Try(error.to_string())
    }
}

impl From<PromptError> for FollowError {
    fn from(error: PromptError) -> Self {
        Self::Try(error.to_string())
    }
}

/// Keeps an engine on the live version.
pub struct Follower {
    ledger: Ledger,
    engine: EngineHandle,
    /// The checkpoint that the server began with.
    home: Arc<Model>,
    /// The promotion that was dealt with last, well or not.
    seen: i64,
    /// What was live before, to be named, and to go back to without loading.
    before: Option<Version>,
    now_ms: fn() -> i64,
}

impl Follower {
    /// Makes the checkpoint of `engine` known to the ledger. One that it has not seen before becomes live; else the live version
    /// is loaded before this returns, so that a server that was restarted never serves an older one. So is a version on trial, for those
    /// who have had its answers.
    ///
    /// # Errors
    /// When the ledger cannot be used.
    pub async fn begin(ledger: Ledger, engine: EngineHandle, now_ms: fn() -> i64) -> Result<Self, FollowError> {
        let home = engine.model();
        let mut follower = Self { ledger, engine, home, seen: 0, before: None, now_ms };
        let live = follower.begin_live().await?;
        // Else at the next look.
        if let Err(error) = follower.look_at_trial(live.as_ref()).await {
            tracing::warn!(%error, "a trial cannot be followed for now");
        }
        Ok(follower)
    }

    /// What is live now: the ledger's last word, or else the checkpoint that this server was started with.
    async fn begin_live(&mut self) -> Result<Option<Promotion>, FollowError> {
        let version = self.home.version().clone();
        let is_new = self.ledger.version(&version).await?.is_none();
        if is_new {
            self.keep_home().await?;
        }
        let mut live = self.ledger.live().await?;
        if !is_new && let Some(promotion) = &live {
            match self.take(promotion).await {
                Ok(()) => return Ok(live),
                Err(FollowError::Ledger(error)) => return Err(error.into()),
                Err(error) => {
                    tracing::error!(version = promotion.version.0, %error, "the live version cannot be served here")
                }
            }
        }
        // The last word is the operator's, who named this checkpoint. Another server may be saying the same.
        while live.as_ref().is_none_or(|live| live.version != version) {
            let (number, why) =
                (live.as_ref().map_or(0, |live| live.number), "a server was started with it".to_owned());
            live = match self.ledger.promote(version.clone(), number, "operator".into(), why, (self.now_ms)()).await? {
                Promoted::Live(live) | Promoted::Lost(live) => Some(live),
                Promoted::Unknown => return Err(FollowError::Unknown(version.0)),
            };
        }
        self.seen = live.as_ref().map_or(0, |live| live.number);
        Ok(live)
    }

    async fn keep_home(&self) -> Result<(), FollowError> {
        let home = Arc::clone(&self.home);
        // What is not in full precision is not what was loaded, and another server has the same checkpoint.
        let small = home.precision() == Precision::FULL && home.size().all <= KEPT;
        let mut files = Vec::new();
        if small {
            let bytes = blocking(move || Ok(home.weights_file()?)).await?;
            files.push(self.ledger.blobs().put(bytes).await?);
        }
        let known = KnownVersion {
            version: self.home.version().clone(),
            parent: None,
            round: None,
            created_ms: (self.now_ms)(),
            weights: files.first().map(|file| file.id().clone()),
            bytes: files.first().map_or(0, |file| i64::try_from(file.bytes()).unwrap_or(i64::MAX)),
            scores: "{}".into(),
            pinned: true,
        };
        Ok(self.ledger.know(known, &files).await?)
    }

    /// Follows for as long as it is polled.
    pub async fn run(mut self) {
        let mut lost = false;
        loop {
            tokio::time::sleep(EVERY).await;
            match self.look().await {
                Ok(()) => lost = false,
                Err(error) if lost => tracing::debug!(%error, "the live version still cannot be followed"),
                Err(error) => {
                    tracing::warn!(%error, "the live version cannot be followed for now");
                    lost = true;
                }
            }
        }
    }

    /// Takes over what was promoted since the last look. A version that cannot be served here is told of once.
    async fn look(&mut self) -> Result<(), FollowError> {
        let live = self.ledger.live().await?;
        if let Some(live) = live.as_ref().filter(|live| live.number != self.seen) {
            match self.take(live).await {
                Ok(()) => {}
                Err(error) if error.passes() => return Err(error),
                Err(error) => {
                    self.seen = live.number;
                    tracing::error!(version = live.version.0, %error, "the live version cannot be served here; the one before goes on");
                }
            }
        }
        self.look_at_trial(live.as_ref()).await
    }

    /// Begins and ends here what has begun and ended in the ledger. A trial whose version cannot be served is over for every server.
    async fn look_at_trial(&self, live: Option<&Promotion>) -> Result<(), FollowError> {
        // What is served here is what it would be held against.
        let live = live.filter(|live| *self.engine.model().version() == live.version);
        let running = self.ledger.running_trials().await?;
        let trial = running.into_iter().find(|trial| live.is_some_and(|live| live.number == trial.after));
        let wanted = trial.as_ref().map(Trial::split);
        let here = self.engine.trial().map(|(_, split)| split);
        if here == wanted {
            return Ok(());
        }
        if here.is_some() {
            self.engine.end_trial();
            self.engine.retain(|version| Some(version) == self.before.as_ref() || version == self.home.version());
            tracing::info!("a trial is over here");
        }
        let Some(trial) = trial else { return Ok(()) };
        match self.begin_trial(&trial).await {
            Err(error) if !error.passes() => {
                tracing::error!(version = trial.version.0, %error, "a version on trial cannot be served");
                let (state, said) = (TrialState::Withdrawn, format!("it cannot be served: {error}"));
                let ending = Ending { number: trial.number, state, said, promoter: None, now_ms: (self.now_ms)() };
                self.ledger.settle_trial(ending).await?;
                Ok(())
            }
            begun => begun,
        }
    }

    async fn begin_trial(&self, trial: &Trial) -> Result<(), FollowError> {
        let model = self.model(&trial.version).await?;
        self.engine.admit(Arc::clone(&model))?;
        let tried = first_try(&self.engine, &model).await;
        if tried.is_ok() {
            self.engine.begin_trial(model, trial.split())?;
            let (number, share) = (trial.number, trial.terms.share.get());
            tracing::info!(number, version = trial.version.0, share, by = trial.by, "on trial");
        } else {
            self.engine.retain(|version| Some(version) == self.before.as_ref() || version == self.home.version());
        }
        tried
    }

    async fn take(&mut self, live: &Promotion) -> Result<(), FollowError> {
        let before = self.engine.model();
        if before.version() != &live.version {
            let model = self.model(&live.version).await?;
            self.engine.admit(Arc::clone(&model))?;
            let tried = first_try(&self.engine, &model).await;
            if tried.is_ok() {
                self.engine.promote(model)?;
                self.engine.admit(Arc::clone(&before))?;
                self.before = Some(before.version().clone());
            }
            let kept = if tried.is_ok() { self.before.as_ref() } else { None };
            self.engine.retain(|version| Some(version) == kept || version == self.home.version());
            tried?;
            tracing::info!(number = live.number, version = live.version.0, by = live.by, why = live.why, "promoted");
        }
        self.seen = live.number;
        Ok(())
    }

    /// The model of a version, loaded and checked.
    async fn model(&self, version: &Version) -> Result<Arc<Model>, FollowError> {
        let loaded = self.engine.models().into_iter().chain([Arc::clone(&self.home)]);
        if let Some(model) = loaded.into_iter().find(|model| model.version() == version) {
            return Ok(model);
        }
        Ok(kept::load(&self.ledger, Arc::clone(&self.home), version).await?)
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FollowError> + Send + 'static,
) -> Result<T, FollowError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| FollowError::Broken)?
}

/// How long a first try waits for room in the engine, and how often it looks.
const ROOM: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(10);

/// One picture and a few words with `model`, before anybody else gets any. In the lane of people: the other one stands still where
/// people always wait.
async fn first_try(engine: &EngineHandle, model: &Arc<Model>) -> Result<(), FollowError> {
    let prompt = "a picture";
    let parts = vec![Part::Text(prompt.to_owned())];
    let answer = Answer { system: None, turns: vec![Turn { role: Role::User, parts }] };
    let works = [
        Work::Draw(model.prompter().draw(&Draw { prompt: prompt.to_owned() })?),
        Work::Answer(model.prompter().answer(&answer)?),
    ];
    for work in works {
        let samplings = vec![Sampling { guidance: model.defaults().guidance, max_tokens: 4, ..Sampling::default() }];
        let begun = Instant::now();
        let mut events = loop {
            let submission = Submission { work: work.clone(), samplings: samplings.clone(), lane: Lane::Interactive };
            match engine.submit_to(model, submission) {
                Err(SubmitError::Busy) if begun.elapsed() < ROOM => tokio::time::sleep(LOOK).await,
                events => break events?,
            }
        };
        while let Some(event) = events.next().await {
            if let Event::Failed(error) = event {
                return Err(error.into());
            }
        }
    }
    Ok(())
}
