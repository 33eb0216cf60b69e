//! What clients send to learn from, and rounds that are asked for by name (OpenAI's fine-tuning jobs): a job is a round with what it
//! was asked as. What was asked is a JSON text here.

use std::collections::BTreeMap;

use super::id::{BlobId, EventId, FileId, JobId, RoundId};
use super::round::Round;

/// A file that a client sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub id: FileId,
    /// Unix milliseconds.
    pub created_ms: i64,
    /// Which key sent it.
    pub key: String,
    /// As its sender calls it.
    pub name: String,
    /// What it is for, as the interface words it.
    pub purpose: String,
    pub blob: BlobId,
    pub bytes: i64,
    /// It is no longer there after this, Unix milliseconds.
    pub expires_ms: Option<i64>,
}

/// A round that was asked for by name.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    pub round: Round,
    /// What was asked for, JSON.
    pub asked: String,
    pub metadata: BTreeMap<String, String>,
    /// Which key asked, and what stands for the request when it comes again.
    pub key: String,
    pub digest: String,
}

impl Job {
    #[must_use]
    pub fn id(&self) -> JobId {
        self.round.id.into()
    }
}

/// How much an event matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Info,
    Warn,
    Error,
}

impl Level {
    pub const ALL: [Self; 3] = [Self::Info, Self::Warn, Self::Error];

    /// As it is written and shown.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

/// Something that happened in a round.
#[derive(Clone, Debug, PartialEq)]
pub struct RoundEvent {
    pub id: EventId,
    pub round: RoundId,
    /// Unix milliseconds.
    pub at_ms: i64,
    pub level: Level,
    pub message: String,
    /// The step that was taken, from 1, and its numbers, JSON.
    pub step: Option<i64>,
    pub data: Option<String>,
}

impl RoundEvent {
    /// In words alone.
    #[must_use]
    pub fn say(round: RoundId, at_ms: i64, level: Level, message: String) -> Self {
        Self { id: EventId::fresh(), round, at_ms, level, message, step: None, data: None }
    }
}
