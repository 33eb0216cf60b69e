//! The engine follows the ledger: whichever version was promoted last is the one that answers. Everything that can fail (fetching,
//! checking, loading, a first try) fails beside the running weights, which serve on; what is left is one assignment.
//! Knows no HTTP and no training.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::domain::id::BlobId;
use crate::domain::round::{KnownVersion, Promotion};
use crate::domain::sample::Version;
use crate::domain::task::{Answer, Draw, Part, Role, Sampling, Turn};
use crate::engine::command::{Event, Lane, Submission, Work};
use crate::engine::{EngineError, EngineHandle, PromoteError, SubmitError};
use crate::model::prompt::PromptError;
use crate::model::{Model, ModelError};
use crate::store::{Ledger, LedgerError, Promoted};

/// Time between looks at the ledger.
const EVERY: Duration = Duration::from_millis(500);
/// The checkpoint a server begins with is kept in the ledger's files when it is no larger than this; any server can go back to it then.
const KEPT: usize = 1 << 30;

/// Why a version cannot be served here.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("the ledger does not know version {0}")]
    Unknown(String),
    #[error("the weights of version {0} are not kept, and it is not the checkpoint that this server began with")]
    Gone(String),
    #[error("the weights kept as version {version} are those of {found}")]
    Other { version: String, found: String },
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
}

impl Follower {
    /// Makes the checkpoint of `engine` known to the ledger. One that it has not seen before becomes live; else the live version
    /// is loaded before this returns, so that a server that was restarted never serves an older one.
    ///
    /// # Errors
    /// When the ledger cannot be used.
    pub async fn begin(ledger: Ledger, engine: EngineHandle, now_ms: i64) -> Result<Self, FollowError> {
        let home = engine.model();
        let mut follower = Self { ledger, engine, home, seen: 0 };
        let version = follower.home.version().clone();
        let is_new = follower.ledger.version(&version).await?.is_none();
        if is_new {
            follower.keep_home(now_ms).await?;
        }
        let mut live = follower.ledger.live().await?;
        if !is_new && let Some(live) = &live {
            match follower.take(live).await {
                Ok(()) => return Ok(follower),
                Err(FollowError::Ledger(error)) => return Err(error.into()),
                Err(error) => {
                    tracing::error!(version = live.version.0, %error, "the live version cannot be served here")
                }
            }
        }
        // The last word is the operator's, who named this checkpoint. Another server may be saying the same.
        while live.as_ref().is_none_or(|live| live.version != version) {
            let (number, why) = (live.map_or(0, |live| live.number), "a server was started with it".to_owned());
            live = match follower.ledger.promote(version.clone(), number, "operator".into(), why, now_ms).await? {
                Promoted::Live(live) | Promoted::Lost(live) => Some(live),
                Promoted::Unknown => return Err(FollowError::Unknown(version.0)),
            };
        }
        follower.seen = live.map_or(0, |live| live.number);
        Ok(follower)
    }

    async fn keep_home(&self, now_ms: i64) -> Result<(), FollowError> {
        let home = Arc::clone(&self.home);
        let small = home.tensors().values().map(|tensor| 4 * tensor.elem_count()).sum::<usize>() <= KEPT;
        let mut files = Vec::new();
        if small {
            let bytes = blocking(move || Ok(home.weights_file()?)).await?;
            files.push(self.ledger.blobs().put(bytes).await?);
        }
        let known = KnownVersion {
            version: self.home.version().clone(),
            parent: None,
            round: None,
            created_ms: now_ms,
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
        let Some(live) = self.ledger.live().await?.filter(|live| live.number != self.seen) else { return Ok(()) };
        match self.take(&live).await {
            Ok(()) => Ok(()),
            // These pass.
            Err(error @ (FollowError::Ledger(LedgerError::Unavailable(_)) | FollowError::Busy)) => Err(error),
            Err(error) => {
                self.seen = live.number;
                tracing::error!(version = live.version.0, %error, "the live version cannot be served here; the one before goes on");
                Ok(())
            }
        }
    }

    async fn take(&mut self, live: &Promotion) -> Result<(), FollowError> {
        let before = self.engine.model();
        if before.version() != &live.version {
            let model = self.model(&live.version).await?;
            self.engine.admit(Arc::clone(&model))?;
            let tried = first_try(&self.engine, &model).await;
            if tried.is_ok() {
                self.engine.promote(model)?;
                // To be named, and to go back to without loading.
                self.engine.admit(Arc::clone(&before))?;
            }
            let kept = if tried.is_ok() { before.version() } else { self.home.version() };
            self.engine.retain(|version| version == kept || version == self.home.version());
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
        let known = self.ledger.version(version).await?;
        let known = known.ok_or_else(|| FollowError::Unknown(version.0.clone()))?;
        let weights: BlobId = known.weights.ok_or_else(|| FollowError::Gone(version.0.clone()))?;
        let bytes = self.ledger.blobs().get(&weights).await?;
        let home = Arc::clone(&self.home);
        let model = blocking(move || Ok(home.with_weights_file(&bytes)?)).await?;
        if model.version() != version {
            return Err(FollowError::Other { version: version.0.clone(), found: model.version().0.clone() });
        }
        Ok(Arc::new(model))
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
