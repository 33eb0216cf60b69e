//! Keeping a request and its samples, from its arrival to its last sample. No id is told before its row is durable; where the
//! ledger is away the answer goes out without one and says so.
//! Knows no route: handlers tell it what was asked and what came of it.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use actix_web::HttpResponse;
use actix_web::http::header::{HeaderName, HeaderValue};
use futures_util::future::try_join_all;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::Service;
use super::wire::Keep;
use crate::domain::id::{BlobId, CallId, ChatId, ImagesId, SampleId};
use crate::domain::record::{Asked, By, Call, Record};
use crate::domain::sample::Sample;
use crate::domain::task::{Answer, Draw, Sampling};
use crate::model::Model;
use crate::store::{Fresh, Kept, Ledger, LedgerError, digest};

/// A request on its way into the ledger.
pub struct Keeper {
    ledger: Ledger,
    id: CallId,
    /// What is not written yet.
    call: Option<Call>,
    /// Files of the request, written beside the work.
    files: Option<JoinHandle<Result<Vec<Fresh>, LedgerError>>>,
    fate: Fate,
    arrived: Instant,
}

/// Whether a request is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Kept,
    /// Its client wants it so.
    Declined,
    /// The ledger was away.
    Lost,
}

/// A header about the ledger.
pub struct Mark(Option<(&'static str, String)>);

impl Mark {
    /// Puts it on a reply.
    pub fn sign(self, reply: &mut HttpResponse) {
        if let Mark(Some((name, value))) = self
            && let Ok(value) = HeaderValue::try_from(value)
        {
            reply.headers_mut().insert(HeaderName::from_static(name), value);
        }
    }
}

/// Unix milliseconds.
pub fn now_ms() -> i64 {
    let passed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(passed.as_millis()).unwrap_or(i64::MAX)
}

/// Who asks, and of which model.
pub struct Asking<'a> {
    pub model: &'a Model,
    /// The model as it was asked for.
    pub name: &'a str,
    pub keep: &'a Keep,
    /// Which key let the request in.
    pub key: String,
    pub prompt_tokens: usize,
}

impl Keeper {
    /// For a drawing.
    pub fn drawing(service: &Service, asking: Asking<'_>, draw: &Draw) -> Self {
        Self::new(service, asking, CallId::Images(ImagesId::fresh()), Asked::Draw(draw.clone()))
    }

    /// For an answer to `asked`, whose pictures came as `files`.
    pub fn answering(service: &Service, asking: Asking<'_>, asked: Answer<BlobId>, files: Vec<Vec<u8>>) -> Self {
        let mut keeper = Self::new(service, asking, CallId::Chat(ChatId::fresh()), Asked::Answer(asked));
        if keeper.fate == Fate::Kept && !files.is_empty() {
            keeper.files = Some(tokio::spawn(put(service.ledger.clone(), files)));
        }
        keeper
    }

    fn new(service: &Service, asking: Asking<'_>, id: CallId, asked: Asked) -> Self {
        let Asking { model, name, keep, key, prompt_tokens } = asking;
        let call = Call {
            id,
            created_ms: now_ms(),
            asked,
            model: name.to_owned(),
            version: model.version().clone(),
            config: model.digest().to_owned(),
            prompt_tokens: u32::try_from(prompt_tokens).unwrap_or(u32::MAX),
            by: By { person: keep.person.clone(), key },
            metadata: keep.metadata.clone(),
        };
        let fate = if keep.store { Fate::Kept } else { Fate::Declined };
        if fate == Fate::Declined {
            count(&service.ledger, id);
        }
        Self { ledger: service.ledger.clone(), id, call: Some(call), files: None, fate, arrived: Instant::now() }
    }

    /// Makes the request durable before anything of it is told.
    pub async fn begin(&mut self) {
        if self.fate != Fate::Kept {
            return;
        }
        let Some(call) = self.call.take() else { return };
        let begun = match self.written().await {
            Ok(files) => self.ledger.begin(call, &files).await,
            Err(error) => Err(error),
        };
        if let Err(error) = begun {
            self.lose(&error);
        }
    }

    /// Makes samples durable, by their place in the request, and gives them their ids; none where they are not kept.
    pub async fn samples(
        &mut self,
        samples: Vec<(usize, Sampling, Sample<BlobId>)>,
        mut files: Vec<Fresh>,
    ) -> Vec<Option<SampleId>> {
        let none = vec![None; samples.len()];
        if self.fate != Fate::Kept {
            return none;
        }
        let millis = i64::try_from(self.arrived.elapsed().as_millis()).unwrap_or(i64::MAX);
        let record = |(at, sampling, sample)| Record {
            id: SampleId::fresh(),
            at: u32::try_from(at).unwrap_or(u32::MAX),
            sampling,
            sample,
            millis,
        };
        let records: Vec<Record> = samples.into_iter().map(record).collect();
        let ids = records.iter().map(|record| Some(record.id)).collect();
        let kept = async {
            let Some(call) = self.call.take() else { return self.ledger.finish(self.id, records, &files).await };
            files.extend(self.written().await?);
            self.ledger.append(Kept { call, records }, &files).await
        };
        match kept.await {
            Ok(()) => ids,
            Err(error) => {
                self.lose(&error);
                none
            }
        }
    }

    /// What the reply is called: by its id, where that is a promise.
    pub fn name(&self) -> String {
        match (self.fate, self.id) {
            (Fate::Kept, id) => id.to_string(),
            (_, CallId::Chat(_)) => format!("chatcmpl-unkept-{}", Uuid::now_v7().simple()),
            (_, CallId::Images(_)) => format!("img-unkept-{}", Uuid::now_v7().simple()),
        }
    }

    /// Whether the request is kept, as far as is known now.
    pub fn is_kept(&self) -> bool {
        self.fate == Fate::Kept
    }

    /// What the head of a reply says: under which id it is kept, or that the ledger is away.
    pub fn mark(&self) -> Mark {
        match self.fate {
            Fate::Kept => Mark(Some(("x-inference-id", self.id.to_string()))),
            Fate::Lost => Mark(Some(("x-ulm-ledger", "unavailable".to_owned()))),
            Fate::Declined => Mark(None),
        }
    }

    /// The files of the request, once they are durable.
    async fn written(&mut self) -> Result<Vec<Fresh>, LedgerError> {
        match self.files.take() {
            None => Ok(Vec::new()),
            Some(files) => files.await.map_err(|e| LedgerError::Unavailable(e.to_string()))?,
        }
    }

    /// Writes the files of samples; none where they are not kept.
    pub async fn put(&mut self, files: Vec<Vec<u8>>) -> Vec<Fresh> {
        if self.fate != Fate::Kept {
            return Vec::new();
        }
        put(self.ledger.clone(), files).await.unwrap_or_else(|error| {
            self.lose(&error);
            Vec::new()
        })
    }

    fn lose(&mut self, error: &LedgerError) {
        tracing::warn!(%error, "a request is answered without being kept");
        self.fate = Fate::Lost;
    }
}

async fn put(ledger: Ledger, files: Vec<Vec<u8>>) -> Result<Vec<Fresh>, LedgerError> {
    try_join_all(files.into_iter().map(|file| ledger.blobs().put(file))).await
}

/// Counts a request that is not kept; nobody waits for it.
fn count(ledger: &Ledger, id: CallId) {
    let (ledger, name) = (ledger.clone(), if matches!(id, CallId::Chat(_)) { "chat" } else { "images" });
    actix_web::rt::spawn(async move {
        let day = now_ms() / 86_400_000;
        if let Err(error) = ledger.count(day.to_string(), name).await {
            tracing::warn!(%error, "a request was not counted");
        }
    });
}

/// The same conversation with its pictures named by their digests. Slow: for the blocking pool.
pub fn by_digest(answer: &Answer, files: &[Vec<u8>]) -> Result<Answer<BlobId>, LedgerError> {
    let mut files = files.iter();
    answer.clone().try_map(|_| {
        let file = files.next().ok_or_else(|| LedgerError::Corrupt("a picture without a file".into()))?;
        digest(file)
    })
}
