//! `POST /v1/chat/completions`: the request's shape and the proof that it can be honoured.
//! What is proved: every parameter in its range, nothing asked for that the model cannot do; the conversation itself is
//! `conversation`'s. Pictures are still data URLs when the proof is done.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;
use utoipa::ToSchema;

use super::super::error::ApiError;
use super::conversation::{Conversation, MAX_MESSAGES, Message};
use super::{AtMost, Keep, Refused, TextOr, real, refuse, seeds, whole};
use crate::domain::task::Sampling;

/// Most stop strings, and the longest of them in bytes.
const MAX_STOPS: usize = 4;
const MAX_STOP: usize = 256;

/// Go on with a conversation. Fields that are not listed are refused by name.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ChatRequest)]
#[expect(dead_code, reason = "fields without effect on the model are declared to be accepted")]
pub struct Request {
    /// The conversation; the last message is the user's.
    #[schema(required, nullable = false, value_type = Vec<Message>, min_items = 1, max_items = 512)]
    messages: Option<AtMost<Message, MAX_MESSAGES>>,
    /// The served model or one of its versions.
    #[schema(required, nullable = false, example = "ulm-demo")]
    model: Option<String>,
    /// Most tokens of the answer; it ends with the context in any case.
    #[schema(minimum = 1)]
    max_completion_tokens: Option<i64>,
    /// The older name of `max_completion_tokens`.
    #[schema(minimum = 1)]
    max_tokens: Option<i64>,
    /// 0 is greedy, and the default unless the server was started with another.
    #[schema(minimum = 0, maximum = 2)]
    temperature: Option<f64>,
    /// Nucleus mass; 0 keeps the likeliest token alone.
    #[schema(minimum = 0, maximum = 1, default = 1)]
    top_p: Option<f64>,
    /// How many answers.
    #[schema(minimum = 1, maximum = 8, default = 1)]
    n: Option<i64>,
    /// One string or up to four; the answer ends before the first of them.
    #[schema(value_type = Option<Stop>)]
    stop: Option<TextOr<String, MAX_STOPS>>,
    /// Seed of the first answer; each further one of `n` adds 1.
    #[schema(minimum = 0, maximum = 9007199254740991_i64)]
    seed: Option<i64>,
    /// Send the answer in pieces, as server-sent events.
    #[schema(default = false)]
    stream: Option<bool>,
    /// For streams only.
    stream_options: Option<StreamOptions>,
    /// Return the log-probability of every token, under the distribution really sampled from (after temperature).
    #[schema(default = false)]
    logprobs: Option<bool>,
    /// How many likeliest tokens to return at each place; needs `logprobs`.
    #[schema(minimum = 0, maximum = 20)]
    top_logprobs: Option<i64>,
    /// `0` only.
    frequency_penalty: Option<f64>,
    /// `0` only.
    presence_penalty: Option<f64>,
    /// Empty only.
    #[schema(value_type = Option<BTreeMap<String, f64>>)]
    logit_bias: Option<BTreeMap<String, IgnoredAny>>,
    /// `{"type": "text"}` only.
    response_format: Option<ResponseFormat>,
    /// `["text"]` only.
    #[schema(value_type = Option<Vec<String>>)]
    modalities: Option<AtMost<String, 2>>,
    /// `auto` or `default`.
    service_tier: Option<String>,
    /// Up to 16 pairs of strings.
    metadata: Option<BTreeMap<String, String>>,
    /// `false`: nothing of this request is kept, and it has no `sample_id` to give feedback on.
    #[schema(default = true)]
    store: Option<bool>,
    /// The older name of `safety_identifier`.
    user: Option<String>,
    /// Your name for the person who asks; what was asked on their behalf can be listed and deleted by it.
    safety_identifier: Option<String>,
    /// Accepted; the model calls no tools.
    parallel_tool_calls: Option<bool>,
    /// Accepted.
    prompt_cache_key: Option<String>,
    /// Accepted.
    prompt_cache_retention: Option<String>,
    /// Accepted.
    #[schema(value_type = Option<Object>)]
    prompt_cache_options: Option<IgnoredAny>,
    /// Accepted; the model thinks as it was trained to.
    reasoning_effort: Option<String>,
    /// Accepted.
    verbosity: Option<String>,
    #[schema(ignore)]
    tools: Refused,
    #[schema(ignore)]
    tool_choice: Refused,
    #[schema(ignore)]
    functions: Refused,
    #[schema(ignore)]
    function_call: Refused,
    #[schema(ignore)]
    audio: Refused,
    #[schema(ignore)]
    prediction: Refused,
    #[schema(ignore)]
    web_search_options: Refused,
    #[schema(ignore)]
    moderation: Refused,
}

/// How a stream is sent.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "obfuscation has no effect and is accepted")]
pub struct StreamOptions {
    /// Send the usage in a chunk of its own before the end.
    #[schema(default = false)]
    include_usage: Option<bool>,
    /// Accepted; chunks are never padded.
    include_obfuscation: Option<bool>,
}

/// What the answer has to look like.
#[derive(Debug, Deserialize, ToSchema)]
pub struct ResponseFormat {
    /// `text`.
    #[serde(rename = "type")]
    #[schema(required, nullable = false, example = "text")]
    kind: Option<String>,
}

/// One string or up to four.
#[derive(Deserialize, ToSchema)]
#[serde(untagged)]
#[schema(as = ChatStop)]
#[expect(dead_code, reason = "the schema of a stop; TextOr reads it")]
enum Stop {
    One(String),
    Many(Vec<String>),
}

/// What the served model does when a request does not say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Native {
    pub temperature: f32,
}

/// A request we can honour, but for its pictures, which are not decoded yet.
#[derive(Debug, PartialEq)]
pub struct Chat {
    pub model: String,
    pub conversation: Conversation,
    /// One an answer; `max_tokens` is `usize::MAX` where the request sets no bound.
    pub samplings: Vec<Sampling>,
    pub form: Form,
    pub keep: Keep,
}

/// How the reply is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    pub stream: bool,
    pub include_usage: bool,
    pub logprobs: bool,
}

impl Request {
    /// Proves the request; `fresh` seeds it where it has no seed.
    ///
    /// # Errors
    /// The first parameter that is wrong or cannot be honoured.
    pub fn parse(self, native: Native, fresh: u32) -> Result<Chat, ApiError> {
        self.honourable()?;
        let n = whole("n", self.n, 1..=8, 1)?;
        let logprobs = self.logprobs.unwrap_or(false);
        let top = whole("top_logprobs", self.top_logprobs, 0..=20, 0)?;
        if top > 0 && !logprobs {
            return Err(ApiError::invalid("top_logprobs", "`top_logprobs` needs `logprobs` to be true."));
        }
        let base = Sampling {
            temperature: real("temperature", self.temperature, 0.0..=2.0, native.temperature)?,
            top_p: real("top_p", self.top_p, 0.0..=1.0, 1.0)?.max(f32::MIN_POSITIVE),
            max_tokens: longest(self.max_completion_tokens, self.max_tokens)?,
            stop: stops(self.stop)?,
            top_log_probs: usize::try_from(top).unwrap_or(0),
            ..Sampling::default()
        };
        let stream = self.stream.unwrap_or(false);
        if self.stream_options.is_some() && !stream {
            return Err(ApiError::invalid("stream_options", "`stream_options` needs `stream` to be true."));
        }
        let messages = self.messages.ok_or_else(|| ApiError::missing("messages"))?;
        let keep = Keep::parse(self.store, self.safety_identifier, self.user, self.metadata)?;
        Ok(Chat {
            model: self.model.ok_or_else(|| ApiError::missing("model"))?,
            conversation: Conversation::parse(messages.0)?,
            samplings: seeds("seed", self.seed, fresh, n)?
                .into_iter()
                .map(|seed| Sampling { seed, ..base.clone() })
                .collect(),
            keep,
            form: Form {
                stream,
                include_usage: self.stream_options.and_then(|options| options.include_usage).unwrap_or(false),
                logprobs,
            },
        })
    }

    /// Refuses what this model cannot do.
    fn honourable(&self) -> Result<(), ApiError> {
        const TOOLS: &str = "the model calls no tools";
        const TEXT: &str = "the model answers in text";
        refuse(&[
            ("tools", &self.tools, TOOLS),
            ("tool_choice", &self.tool_choice, TOOLS),
            ("functions", &self.functions, TOOLS),
            ("function_call", &self.function_call, TOOLS),
            ("web_search_options", &self.web_search_options, TOOLS),
            ("audio", &self.audio, TEXT),
            ("prediction", &self.prediction, "answers are always drawn from the model token by token"),
            ("moderation", &self.moderation, "there is no moderation"),
        ])?;
        for (name, value) in
            [("frequency_penalty", self.frequency_penalty), ("presence_penalty", self.presence_penalty)]
        {
            if value.is_some_and(|value| value != 0.0) {
                return Err(ApiError::unsupported(name, "answers are drawn from the model's own distribution"));
            }
        }
        if self.logit_bias.as_ref().is_some_and(|bias| !bias.is_empty()) {
            return Err(ApiError::unsupported("logit_bias", "answers are drawn from the model's own distribution"));
        }
        if self.response_format.as_ref().is_some_and(|format| format.kind.as_deref() != Some("text")) {
            return Err(ApiError::unsupported_value(
                "response_format",
                "`response_format` can be {\"type\": \"text\"} only: the model answers in free text.",
            ));
        }
        if self.modalities.as_ref().is_some_and(|modalities| modalities.0 != ["text"]) {
            return Err(ApiError::unsupported_value("modalities", "`modalities` can be [\"text\"] only."));
        }
        if self.service_tier.as_ref().is_some_and(|tier| tier != "auto" && tier != "default") {
            return Err(ApiError::unsupported_value("service_tier", "`service_tier` can be auto or default."));
        }
        Ok(())
    }
}

/// The bound of an answer's length, by its new or its old name.
fn longest(new: Option<i64>, old: Option<i64>) -> Result<usize, ApiError> {
    let param = if new.is_some() { "max_completion_tokens" } else { "max_tokens" };
    if let (Some(new), Some(old)) = (new, old)
        && new != old
    {
        return Err(ApiError::invalid(
            "max_tokens",
            "`max_tokens` and `max_completion_tokens` say different things; give one of them.",
        ));
    }
    match new.or(old) {
        None => Ok(usize::MAX),
        Some(_) => Ok(usize::try_from(whole(param, new.or(old), 1..=i64::from(u32::MAX), 1)?).unwrap_or(usize::MAX)),
    }
}

/// The stop strings.
fn stops(given: Option<TextOr<String, MAX_STOPS>>) -> Result<Vec<String>, ApiError> {
    let stops = match given {
        None => Vec::new(),
        Some(TextOr::Text(stop)) => vec![stop],
        Some(TextOr::List(stops)) => stops,
    };
    if stops.iter().any(|stop| stop.is_empty() || stop.len() > MAX_STOP) {
        return Err(ApiError::invalid("stop", format!("Each string of `stop` is 1 to {MAX_STOP} bytes long.")));
    }
    Ok(stops)
}

#[cfg(test)]
#[path = "chat_tests.rs"]
mod tests;
