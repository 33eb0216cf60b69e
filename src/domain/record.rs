//! What the ledger keeps: a request, its samples, and what people say of them.

use std::collections::BTreeMap;

use super::id::{BlobId, CallId, FeedbackId, SampleId};
use super::sample::{Sample, Version};
use super::task::{Answer, Draw, Sampling};

/// What was asked; pictures by the files they came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    Draw(Draw),
    Answer(Answer<BlobId>),
}

/// A request that may be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub id: CallId,
    /// Unix milliseconds.
    pub created_ms: i64,
    pub asked: Asked,
    /// The model as it was asked for.
    pub model: String,
    pub version: Version,
    /// Digest of what makes tokens of a request: prompt templates, tokenizer, preprocessing.
    pub config: String,
    pub prompt_tokens: u32,
    pub by: By,
    /// The client's own notes.
    pub metadata: BTreeMap<String, String>,
}

/// On whose behalf.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct By {
    /// The client's name for its user.
    pub person: Option<String>,
    /// Which key let the request in; empty where none is needed.
    pub key: String,
}

/// One answer or picture of a call.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    pub id: SampleId,
    /// Its place among the call's samples.
    pub at: u32,
    pub sampling: Sampling,
    pub sample: Sample<BlobId>,
    /// Milliseconds from the request to the finished sample.
    pub millis: i64,
}

/// What somebody says of a sample.
#[derive(Clone, Debug, PartialEq)]
pub enum Opinion {
    /// A number in the range that was declared when it was given.
    Rating {
        value: f64,
        least: f64,
        most: f64,
    },
    /// Up, or down.
    Thumb(bool),
    /// Better than these samples of the same task.
    Preferred {
        over: Vec<SampleId>,
    },
    /// The answer that would have been right.
    CorrectAnswer(String),
    /// The picture that would have been right.
    CorrectPicture(BlobId),
    Comment(String),
}

impl Opinion {
    /// What it says of its own sample by itself, 0 (bad) to 1 (good). A comment says nothing, a preference only of samples beside each
    /// other, and a correction that the sample was wrong.
    #[must_use]
    pub fn value(&self) -> Option<f64> {
        match self {
            &Self::Rating { value, least, most } if most > least => {
                Some(((value - least) / (most - least)).clamp(0.0, 1.0))
            }
            &Self::Thumb(up) => Some(f64::from(u8::from(up))),
            Self::CorrectAnswer(_) | Self::CorrectPicture(_) => Some(0.0),
            Self::Rating { .. } | Self::Preferred { .. } | Self::Comment(_) => None,
        }
    }
}

/// An opinion, and whose it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Feedback {
    pub id: FeedbackId,
    /// The client's own key, under which it may send the same again.
    pub client_key: Option<String>,
    pub sample: SampleId,
    pub opinion: Opinion,
    pub rater: Option<String>,
    /// Which key let it in; empty where none is needed.
    pub key: String,
    pub metadata: BTreeMap<String, String>,
    pub created_ms: i64,
    /// When it was last changed.
    pub revised_ms: Option<i64>,
}
