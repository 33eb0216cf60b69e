//! `POST /v1/chat/completions`: the reply, whole or in chunks.
//! Required fields are always sent, null where there is nothing to say, because the SDKs read them unasked.
//! Only shapes; what goes into them is decided in `chat`.

use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::sample::Finish;

/// The least log-probability a reply shows: JSON knows no infinity.
const LEAST: f32 = -9999.0;

/// A whole reply.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ChatReply)]
pub struct Reply {
    #[schema(example = "chatcmpl-0193f6a5")]
    pub id: String,
    #[schema(example = "chat.completion")]
    pub object: &'static str,
    /// Unix seconds.
    pub created: u64,
    /// The model as it was asked for.
    pub model: String,
    pub choices: Vec<Choice>,
    pub usage: Usage,
    /// Content hash of the weights that answered.
    pub system_fingerprint: String,
    #[schema(example = "default")]
    pub service_tier: &'static str,
}

/// One answer.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ChatChoice)]
pub struct Choice {
    pub index: usize,
    pub message: Said,
    /// `stop` or `length`.
    #[schema(example = "stop")]
    pub finish_reason: &'static str,
    #[schema(required)]
    pub logprobs: Option<Logprobs>,
    /// Extension: what feedback names the answer by; absent where it was not kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "sample-0193f6a5b1c27d3e8f00112233445566")]
    pub sample_id: Option<String>,
}

/// The assistant's message.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ChatAnswer)]
pub struct Said {
    #[schema(example = "assistant")]
    pub role: &'static str,
    /// As the model wrote it, `<think>…</think><answer>…</answer>` included.
    pub content: String,
    /// Always null.
    #[schema(required)]
    pub refusal: Option<String>,
}

/// Log-probabilities of an answer's tokens.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
#[schema(as = ChatLogprobs)]
pub struct Logprobs {
    pub content: Vec<TokenLogprob>,
    /// Always null.
    #[schema(required)]
    pub refusal: Option<Vec<TokenLogprob>>,
}

/// A token and the likeliest ones at its place.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = ChatTokenLogprob)]
pub struct TokenLogprob {
    #[serde(flatten)]
    pub this: Alternative,
    pub top_logprobs: Vec<Alternative>,
}

/// A token with its natural log-probability under the distribution sampled from.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = ChatAlternative)]
pub struct Alternative {
    pub token: String,
    /// The exact bytes; a token may be part of a character.
    pub bytes: Vec<u8>,
    pub logprob: f32,
}

/// Tokens read and written.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = ChatUsage)]
pub struct Usage {
    /// Text and pictures of the conversation.
    pub prompt_tokens: usize,
    /// Of all answers, end tokens included.
    pub completion_tokens: usize,
    pub total_tokens: usize,
}

/// One piece of a streamed reply.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ChatChunk)]
pub struct Chunk<'a> {
    pub id: &'a str,
    #[schema(example = "chat.completion.chunk")]
    pub object: &'static str,
    pub created: u64,
    pub model: &'a str,
    /// Empty in the chunk of the usage.
    pub choices: Vec<ChunkChoice>,
    pub system_fingerprint: &'a str,
    pub service_tier: &'static str,
    /// Present with `include_usage`: null until the last chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Option<Usage>>,
}

/// One answer's piece.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ChatChunkChoice)]
pub struct ChunkChoice {
    pub index: usize,
    pub delta: Delta,
    /// In the last piece of an answer.
    #[schema(required)]
    pub finish_reason: Option<&'static str>,
    #[schema(required)]
    pub logprobs: Option<Logprobs>,
    /// Extension, in the last piece: what feedback names the answer by; absent where it was not kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample_id: Option<String>,
}

/// What a piece adds.
#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(as = ChatDelta)]
pub struct Delta {
    /// In the first piece of an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
}

impl Usage {
    pub fn new(prompt: usize, completion: usize) -> Self {
        Self { prompt_tokens: prompt, completion_tokens: completion, total_tokens: prompt + completion }
    }
}

impl Alternative {
    /// The token written as `bytes`.
    pub fn new(bytes: Vec<u8>, logprob: f32) -> Self {
        let logprob = if logprob.is_finite() { logprob.max(LEAST) } else { LEAST };
        Self { token: String::from_utf8_lossy(&bytes).into_owned(), bytes, logprob }
    }
}

/// Why an answer ended, in OpenAI's words.
pub fn finish_reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
    }
}
