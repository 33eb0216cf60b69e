//! Kept requests, as OpenAI shows stored completions: lists in cursor pages, the reply again with what was noted, the messages.
//! Pictures have the same under their own route. Only shapes, and the proof of a list's query.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::super::error::ApiError;
use super::chat_reply::{Choice, Said, Usage, finish_reason};
use super::{images, label, metadata};
use crate::domain::id::{CallId, SampleId};
use crate::domain::record::Asked;
use crate::domain::sample::Output;
use crate::store::{CallFilter, Kept, Order, Task};

/// Most requests of a page.
const MAX_PAGE: u32 = 100;

/// Which requests to list. Beside these, `metadata[KEY]=VALUE` lists only those with that note.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "the schema of a query; `filter` reads it")]
pub struct Query {
    /// The last id of the page before.
    after: Option<String>,
    /// 1 to 100.
    #[param(minimum = 1, maximum = 100, default = 20)]
    limit: Option<u32>,
    /// `asc` (oldest first) or `desc`.
    #[param(default = "asc")]
    order: Option<String>,
    /// Only requests to this model.
    model: Option<String>,
}

/// The filter that a query says, for requests of `task`.
///
/// # Errors
/// The first parameter that is wrong.
pub fn filter(task: Task, query: Vec<(String, String)>) -> Result<CallFilter, ApiError> {
    let mut filter =
        CallFilter { task, model: None, metadata: BTreeMap::new(), order: Order::Oldest, after: None, limit: 20 };
    for (name, value) in query {
        match name.as_str() {
            "after" => filter.after = Some(value.parse().map_err(|_| ApiError::no_call("after", &value))?),
            "limit" => match value.parse() {
                Ok(limit @ 1..=MAX_PAGE) => filter.limit = limit,
                _ => {
                    return Err(ApiError::invalid(
                        "limit",
                        format!("`limit` must be from 1 to {MAX_PAGE}, not {value}."),
                    ));
                }
            },
            "order" => match value.as_str() {
                "asc" => filter.order = Order::Oldest,
                "desc" => filter.order = Order::Newest,
                _ => return Err(ApiError::invalid("order", "`order` is asc or desc.")),
            },
            "model" => filter.model = label("model", Some(value))?,
            name => match name.strip_prefix("metadata[").and_then(|name| name.strip_suffix(']')) {
                Some(key) => drop(filter.metadata.insert(key.to_owned(), value)),
                None => return Err(ApiError::unknown(name, format!("Unknown parameter: `{name}`."))),
            },
        }
    }
    filter.metadata = metadata(Some(filter.metadata))?;
    Ok(filter)
}

/// New notes for a request.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Notes {
    /// Up to 16 pairs of strings; they take the place of those before.
    #[schema(required, nullable = false)]
    metadata: Option<BTreeMap<String, String>>,
}

impl Notes {
    /// # Errors
    /// When they are absent or too many.
    pub fn parse(self) -> Result<BTreeMap<String, String>, ApiError> {
        metadata(Some(self.metadata.ok_or_else(|| ApiError::missing("metadata"))?))
    }
}

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct Page<T> {
    #[schema(example = "list")]
    pub object: &'static str,
    pub data: Vec<T>,
    #[schema(required)]
    pub first_id: Option<String>,
    #[schema(required)]
    pub last_id: Option<String>,
    pub has_more: bool,
}

impl<T> Page<T> {
    /// `id` tells an item's id.
    pub fn new(data: Vec<T>, has_more: bool, id: impl Fn(&T) -> &str) -> Self {
        let (first_id, last_id) =
            (data.first().map(|item| id(item).to_owned()), data.last().map(|item| id(item).to_owned()));
        Self { object: "list", data, first_id, last_id, has_more }
    }
}

/// A kept answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct StoredChat {
    pub id: String,
    #[schema(example = "chat.completion")]
    pub object: &'static str,
    /// Unix seconds.
    pub created: i64,
    pub model: String,
    pub choices: Vec<Choice>,
    pub usage: Usage,
    pub system_fingerprint: String,
    pub metadata: BTreeMap<String, String>,
    pub seed: u64,
    pub temperature: f32,
    pub top_p: f32,
    #[schema(required)]
    pub user: Option<String>,
    pub service_tier: &'static str,
}

/// Kept pictures of one request.
#[derive(Debug, Serialize, ToSchema)]
pub struct StoredImages {
    pub id: String,
    #[schema(example = "image.generation")]
    pub object: &'static str,
    /// Unix seconds.
    pub created: i64,
    pub model: String,
    pub prompt: String,
    pub data: Vec<images::Item>,
    /// Content hash of the weights that drew.
    pub version: String,
    pub cfg_weight: f32,
    pub temperature: f32,
    pub metadata: BTreeMap<String, String>,
    #[schema(required)]
    pub user: Option<String>,
}

/// One message of a kept conversation.
#[derive(Debug, Serialize, ToSchema)]
pub struct StoredMessage {
    pub id: String,
    pub role: &'static str,
    /// All text of the message.
    pub content: String,
    pub content_parts: Vec<StoredPart>,
}

/// A piece of a kept message.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum StoredPart {
    Text { text: String },
    ImageUrl { image_url: StoredUrl },
}

/// A picture that was sent, as a data URL.
#[derive(Debug, Serialize, ToSchema)]
pub struct StoredUrl {
    pub url: String,
}

/// A deleted request.
#[derive(Debug, Serialize, ToSchema)]
pub struct Deleted {
    pub id: String,
    #[schema(example = "chat.completion.deleted")]
    pub object: &'static str,
    pub deleted: bool,
}

impl From<Kept> for StoredChat {
    fn from(Kept { call, records }: Kept) -> Self {
        let sampling = records.first().map(|record| record.sampling.clone()).unwrap_or_default();
        let written = records.iter().map(|record| record.sample.tokens.len()).sum();
        let choices = records.into_iter().map(|record| Choice {
            index: record.at as usize,
            finish_reason: finish_reason(record.sample.finish),
            message: Said {
                role: "assistant",
                content: if let Output::Text(text) = record.sample.output { text } else { String::new() },
                refusal: None,
            },
            logprobs: None,
            sample_id: Some(record.id.to_string()),
        });
        Self {
            id: call.id.to_string(),
            object: "chat.completion",
            created: call.created_ms / 1000,
            model: call.model,
            choices: choices.collect(),
            usage: Usage::new(call.prompt_tokens as usize, written),
            system_fingerprint: call.version.0,
            metadata: call.metadata,
            seed: sampling.seed,
            temperature: sampling.temperature,
            top_p: sampling.top_p,
            user: call.by.person,
            service_tier: "default",
        }
    }
}

impl StoredImages {
    /// `link` makes the link to a picture.
    pub fn new(Kept { call, records }: Kept, link: impl Fn(SampleId) -> String) -> Self {
        let sampling = records.first().map(|record| record.sampling.clone()).unwrap_or_default();
        let item = |record: &crate::domain::record::Record| images::Item {
            b64_json: None,
            url: Some(link(record.id)),
            sample_id: Some(record.id.to_string()),
            seed: record.sampling.seed,
        };
        Self {
            id: call.id.to_string(),
            object: "image.generation",
            created: call.created_ms / 1000,
            model: call.model,
            prompt: if let Asked::Draw(draw) = call.asked { draw.prompt } else { String::new() },
            data: records.iter().map(item).collect(),
            version: call.version.0,
            cfg_weight: sampling.guidance,
            temperature: sampling.temperature,
            metadata: call.metadata,
            user: call.by.person,
        }
    }
}

impl Deleted {
    pub fn new(id: CallId) -> Self {
        let object = match id {
            CallId::Chat(_) => "chat.completion.deleted",
            CallId::Images(_) => "image.generation.deleted",
        };
        Self { id: id.to_string(), object, deleted: true }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(pairs: &[(&str, &str)]) -> Result<CallFilter, ApiError> {
        filter(Task::Chat, pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn a_query_is_a_filter() {
        let filter = query(&[("limit", "5"), ("order", "desc"), ("metadata[app]", "x"), ("model", "ulm")]).unwrap();
        assert_eq!((filter.limit, filter.order, filter.model.as_deref()), (5, Order::Newest, Some("ulm")));
        assert_eq!(filter.metadata, BTreeMap::from([("app".to_owned(), "x".to_owned())]));
        for (name, value) in [
            ("limit", "0"),
            ("limit", "101"),
            ("order", "up"),
            ("after", "x"),
            ("colour", "red"),
            ("metadata[a]", "\0"),
        ] {
            assert!(query(&[(name, value)]).is_err(), "{name}={value}");
        }
    }
}
