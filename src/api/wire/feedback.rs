//! `/v1/feedback`: what may be said of a sample, the proof that it is one thing said of one sample, and the reply.
//! Whether the sample exists and the opinion fits it is the ledger's to decide.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::super::error::ApiError;
use super::{AtMost, label, metadata};
use crate::domain::id::SampleId;
use crate::domain::record::{Feedback, Opinion};
use crate::picture::decode::{self, MAX_PIXELS};
use crate::store::{Said, Target};

/// Most bytes of a comment, and of an answer given as a correction.
const MAX_TEXT: usize = 16 << 10;
/// Most samples that one is preferred to.
const MAX_OVER: usize = 64;

/// Say one thing of one sample: a rating, a thumb, a preference, a correction or a comment.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = FeedbackRequest)]
pub struct Request {
    /// The sample (`sample_id` of a reply), or the reply itself (its `id`) with `image_index` or `choice`.
    #[schema(example = "sample-0193f6a5b1c27d3e8f00112233445566")]
    sample_id: Option<String>,
    /// Which picture of the reply, from 0; may be left out where there is one.
    #[schema(minimum = 0)]
    image_index: Option<i64>,
    /// Which answer of the reply, from 0; may be left out where there is one.
    #[schema(minimum = 0)]
    choice: Option<i64>,
    /// A number in the range that the server declares (`/health` tells it).
    rating: Option<f64>,
    /// `up` or `down`.
    thumb: Option<String>,
    /// With `over`: this sample is the best. Takes the place of `sample_id`.
    preferred: Option<String>,
    /// With `preferred`: the samples of the same request that are worse.
    #[schema(value_type = Option<Vec<String>>, max_items = 64)]
    over: Option<AtMost<String, MAX_OVER>>,
    /// What would have been right: for an answer its text, for a picture a data URL.
    correction: Option<String>,
    /// Anything.
    #[schema(max_length = 16384)]
    comment: Option<String>,
    /// Your name for the person who says so.
    rater: Option<String>,
    /// Up to 16 pairs of strings.
    metadata: Option<BTreeMap<String, String>>,
    /// Your own key: sent again with the same body it is the same feedback, so a lost reply can be asked for again.
    feedback_id: Option<String>,
}

/// Of which sample feedback is asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Query {
    /// The sample, or the reply itself for all its samples.
    sample_id: Option<String>,
}

/// A range of ratings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    pub least: f64,
    pub most: f64,
}

/// What was said, proved but for the sample.
#[derive(Debug)]
pub struct Spoken {
    pub target: Target,
    pub said: Said,
    /// The file of a corrected picture.
    pub file: Option<Vec<u8>>,
    pub rater: Option<String>,
    pub metadata: BTreeMap<String, String>,
    pub client_key: Option<String>,
}

impl Query {
    /// # Errors
    /// When it names no sample.
    pub fn parse(self) -> Result<Target, ApiError> {
        target("sample_id", &self.sample_id.ok_or_else(|| ApiError::missing("sample_id"))?, None)
    }
}

/// The sample named by `text`.
fn target(param: &str, text: &str, at: Option<u32>) -> Result<Target, ApiError> {
    let unknown = || ApiError::no_sample(param, text);
    match text.parse() {
        Ok(sample) => Ok(Target::Sample(sample)),
        Err(_) => Ok(Target::Of(text.parse().map_err(|_| unknown())?, at)),
    }
}

impl Request {
    /// The same about a sample that is known already.
    #[must_use]
    pub fn about(self, sample: SampleId) -> Self {
        let preferred = self.preferred.map(|_| sample.to_string());
        Self { sample_id: Some(sample.to_string()), image_index: None, choice: None, preferred, ..self }
    }

    /// Proves the request. Slow where a picture corrects one: for the blocking pool.
    ///
    /// # Errors
    /// The first parameter that is wrong.
    pub fn parse(self, scale: Scale) -> Result<Spoken, ApiError> {
        let (param, place) =
            if self.choice.is_some() { ("choice", self.choice) } else { ("image_index", self.image_index) };
        let at = match place {
            None => None,
            Some(at) => Some(
                u32::try_from(at)
                    .map_err(|_| ApiError::invalid(param, format!("`{param}` counts from 0, not {at}.")))?,
            ),
        };
        let given = [
            ("rating", self.rating.is_some()),
            ("thumb", self.thumb.is_some()),
            ("preferred", self.preferred.is_some()),
            ("correction", self.correction.is_some()),
            ("comment", self.comment.is_some()),
        ];
        let mut given = given.into_iter().filter_map(|(name, given)| given.then_some(name));
        match (given.next(), given.next()) {
            (None, _) => {
                return Err(ApiError::missing_one_of(&["rating", "thumb", "preferred", "correction", "comment"]));
            }
            (Some(one), Some(other)) => {
                return Err(ApiError::invalid(other, format!("Say one thing at a time: `{one}` or `{other}`.")));
            }
            _ => {}
        }
        if self.over.is_some() && self.preferred.is_none() {
            return Err(ApiError::invalid("over", "`over` goes with `preferred`."));
        }
        let (mut file, mut about) = (None, ("sample_id", self.sample_id));
        let said = if let Some(preferred) = self.preferred {
            let over = self.over.filter(|over| !over.0.is_empty()).ok_or_else(|| ApiError::missing("over"))?.0;
            about = ("preferred", Some(preferred));
            Said::Preferred { over: over.iter().map(|id| target("over", id, None)).collect::<Result<_, _>>()? }
        } else {
            Said::Other(if let Some(value) = self.rating {
                let Scale { least, most } = scale;
                if !(least..=most).contains(&value) {
                    return Err(ApiError::invalid(
                        "rating",
                        format!("`rating` must be from {least} to {most}, not {value}."),
                    ));
                }
                Opinion::Rating { value, least, most }
            } else if let Some(thumb) = self.thumb {
                match thumb.as_str() {
                    "up" => Opinion::Thumb(true),
                    "down" => Opinion::Thumb(false),
                    _ => return Err(ApiError::invalid("thumb", "`thumb` is up or down.")),
                }
            } else if let Some(correction) = self.correction {
                if correction.get(..5).is_some_and(|head| head.eq_ignore_ascii_case("data:")) {
                    let read =
                        decode::data_url(&correction).and_then(|file| decode::picture(&file, MAX_PIXELS).map(|_| file));
                    let bytes =
                        read.map_err(|e| ApiError::invalid("correction", format!("The picture at `correction` {e}.")))?;
                    let id = crate::store::digest(&bytes).map_err(|cause| ApiError::internal(&cause))?;
                    file = Some(bytes);
                    Opinion::CorrectPicture(id)
                } else {
                    Opinion::CorrectAnswer(text("correction", correction)?)
                }
            } else {
                Opinion::Comment(text("comment", self.comment.unwrap_or_default())?)
            })
        };
        let (param, id) = about;
        let id = id.ok_or_else(|| ApiError::missing("sample_id"))?;
        Ok(Spoken {
            target: target(param, &id, at)?,
            said,
            file,
            rater: label("rater", self.rater)?,
            metadata: metadata(self.metadata)?,
            client_key: label("feedback_id", self.feedback_id)?,
        })
    }
}

fn text(param: &str, text: String) -> Result<String, ApiError> {
    if text.trim().is_empty() {
        return Err(ApiError::invalid(param, format!("`{param}` is empty.")));
    }
    if text.len() > MAX_TEXT {
        return Err(ApiError::invalid(param, format!("`{param}` is longer than {MAX_TEXT} bytes.")));
    }
    Ok(text)
}

/// A kept feedback.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Feedback)]
pub struct Reply {
    #[schema(example = "feedback-0193f6a5b1c27d3e8f00112233445566")]
    pub id: String,
    #[schema(example = "feedback")]
    pub object: &'static str,
    /// Unix seconds.
    pub created_at: i64,
    /// When it was last changed, in Unix seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revised_at: Option<i64>,
    pub sample_id: String,
    /// What was said, under the name it was sent by.
    #[serde(flatten)]
    pub opinion: Shown,
    #[schema(required)]
    pub rater: Option<String>,
    pub metadata: BTreeMap<String, String>,
    /// The client's own key.
    #[schema(required)]
    pub feedback_id: Option<String>,
}

/// What was said.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = FeedbackOpinion)]
pub enum Shown {
    Rating {
        rating: f64,
        range: [f64; 2],
    },
    Thumb {
        thumb: &'static str,
    },
    Preferred {
        preferred: String,
        over: Vec<String>,
    },
    Correction {
        correction: String,
    },
    /// SHA-256 of the picture's file.
    CorrectionImage {
        correction_image: String,
    },
    Comment {
        comment: String,
    },
}

/// All feedback on a sample.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = FeedbackList)]
pub struct List {
    #[schema(example = "list")]
    pub object: &'static str,
    pub data: Vec<Reply>,
}

/// A withdrawn feedback.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = FeedbackDeleted)]
pub struct Deleted {
    pub id: String,
    #[schema(example = "feedback.deleted")]
    pub object: &'static str,
    pub deleted: bool,
}

impl From<Feedback> for Reply {
    fn from(feedback: Feedback) -> Self {
        let sample_id = feedback.sample.to_string();
        let opinion = match feedback.opinion {
            Opinion::Rating { value, least, most } => Shown::Rating { rating: value, range: [least, most] },
            Opinion::Thumb(up) => Shown::Thumb { thumb: if up { "up" } else { "down" } },
            Opinion::Preferred { over } => {
                Shown::Preferred { preferred: sample_id.clone(), over: over.iter().map(ToString::to_string).collect() }
            }
            Opinion::CorrectAnswer(correction) => Shown::Correction { correction },
            Opinion::CorrectPicture(blob) => Shown::CorrectionImage { correction_image: blob.to_string() },
            Opinion::Comment(comment) => Shown::Comment { comment },
        };
        Self {
            id: feedback.id.to_string(),
            object: "feedback",
            created_at: feedback.created_ms / 1000,
            revised_at: feedback.revised_ms.map(|ms| ms / 1000),
            sample_id,
            opinion,
            rater: feedback.rater,
            metadata: feedback.metadata,
            feedback_id: feedback.client_key,
        }
    }
}
