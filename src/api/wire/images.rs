//! `POST /v1/images/generations`: the request's shape, the proof that it can be honoured, the reply.
//! Beside OpenAI's fields there are `seed`, `cfg_weight` and `temperature`; the native size, guidance and temperature come
//! from the checkpoint, and everything else has one meaning here or is refused.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::super::error::ApiError;
use super::{Keep, Refused, real, refuse, seeds, whole};
use crate::domain::task::{Draw, Sampling};
use crate::picture::encode::Format;

/// Longest prompt in characters, before it is counted in tokens.
const MAX_PROMPT: usize = 32_000;
/// Largest side of a picture sent back.
pub const MAX_SIDE: usize = 1024;

/// Draw pictures of a prompt. Fields that are not listed are refused by name.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ImagesRequest)]
pub struct Request {
    /// What to draw.
    #[schema(
        required,
        nullable = false,
        min_length = 1,
        max_length = 32000,
        example = "a red circle above a blue square"
    )]
    prompt: Option<String>,
    /// The served model or one of its versions; the served model by default.
    model: Option<String>,
    /// How many pictures.
    #[schema(minimum = 1, maximum = 10, default = 1)]
    n: Option<i64>,
    /// `auto` is the model's own size. Any other square size up to 1024x1024 is a Lanczos resampling of the picture the model drew at its own size.
    #[schema(default = "auto", example = "256x256")]
    size: Option<String>,
    /// `b64_json`, or `url`: a link that works for an hour.
    #[schema(default = "b64_json")]
    response_format: Option<String>,
    /// `png`, `jpeg` or `webp` (lossless).
    #[schema(default = "png")]
    output_format: Option<String>,
    /// Quality of a JPEG; the other formats are lossless and take 100 only.
    #[schema(minimum = 0, maximum = 100, default = 100)]
    output_compression: Option<i64>,
    /// Extension: seed of the first picture; each further one of `n` adds 1. Every picture's own seed is returned.
    #[schema(minimum = 0, maximum = 9007199254740991_i64)]
    seed: Option<i64>,
    /// Extension: weight of classifier-free guidance; 1 is none. The checkpoint says the default.
    #[schema(minimum = 0, maximum = 100)]
    cfg_weight: Option<f64>,
    /// Extension: temperature of sampling; 0 is greedy. The checkpoint says the default.
    #[schema(minimum = 0, maximum = 2)]
    temperature: Option<f64>,
    /// `auto` or `standard`: the model knows one quality.
    quality: Option<String>,
    /// `auto` or `opaque`: the model draws no transparency.
    background: Option<String>,
    /// `auto` or `low`: accepted; there is no moderation.
    moderation: Option<String>,
    /// `false` only.
    stream: Option<bool>,
    /// `0` only.
    partial_images: Option<i64>,
    /// Up to 16 pairs of strings.
    metadata: Option<BTreeMap<String, String>>,
    /// `false`: nothing of this request is kept, and it has no `sample_id` to give feedback on.
    #[schema(default = true)]
    store: Option<bool>,
    /// The older name of `safety_identifier`.
    user: Option<String>,
    /// Your name for the person who asks; what was asked on their behalf can be listed and deleted by it.
    safety_identifier: Option<String>,
    #[schema(ignore)]
    style: Refused,
    #[schema(ignore)]
    complexity: Refused,
    #[schema(ignore)]
    frame_count: Refused,
    #[schema(ignore)]
    frame_duration_ms: Refused,
    #[schema(ignore)]
    svg: Refused,
}

/// What the served model draws when a request does not say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Native {
    /// Side of the pictures the model draws, in pixels.
    pub side: usize,
    pub guidance: f32,
    pub temperature: f32,
}

/// A request we can honour.
#[derive(Debug, PartialEq)]
pub struct Drawing {
    pub model: Option<String>,
    pub draw: Draw,
    /// One a picture.
    pub samplings: Vec<Sampling>,
    /// Side of the pictures sent back, in pixels.
    pub side: usize,
    pub format: Format,
    /// Send links instead of files.
    pub links: bool,
    pub keep: Keep,
}

impl Request {
    /// Proves the request; `fresh` seeds it where it has no seed.
    ///
    /// # Errors
    /// The first parameter that is wrong or cannot be honoured.
    pub fn parse(self, native: Native, fresh: u32) -> Result<Drawing, ApiError> {
        refuse(&[
            ("style", &self.style, "the model knows one style"),
            ("complexity", &self.complexity, "the model draws every picture in the same number of steps"),
            ("frame_count", &self.frame_count, "the model draws still pictures"),
            ("frame_duration_ms", &self.frame_duration_ms, "the model draws still pictures"),
            ("svg", &self.svg, "the model draws pixels"),
        ])?;
        if self.stream == Some(true) {
            return Err(ApiError::unsupported("stream", "pictures are sent whole"));
        }
        if self.partial_images.is_some_and(|n| n != 0) {
            return Err(ApiError::unsupported("partial_images", "pictures are sent whole"));
        }
        one_of("response_format", self.response_format.as_deref(), &["b64_json", "url"])?;
        let keep = Keep::parse(self.store, self.safety_identifier, self.user, self.metadata)?;
        let links = self.response_format.as_deref() == Some("url");
        if links && !keep.store {
            return Err(ApiError::invalid(
                "response_format",
                "A picture that is not kept (`store: false`) has no link.",
            ));
        }
        one_of("quality", self.quality.as_deref(), &["auto", "standard"])?;
        one_of("background", self.background.as_deref(), &["auto", "opaque"])?;
        one_of("moderation", self.moderation.as_deref(), &["auto", "low"])?;
        let prompt = self.prompt.ok_or_else(|| ApiError::missing("prompt"))?;
        if prompt.trim().is_empty() {
            return Err(ApiError::invalid("prompt", "`prompt` is empty."));
        }
        if prompt.chars().count() > MAX_PROMPT {
            return Err(ApiError::context("prompt", format!("`prompt` is longer than {MAX_PROMPT} characters.")));
        }
        let n = whole("n", self.n, 1..=10, 1)?;
        let base = Sampling {
            temperature: real("temperature", self.temperature, 0.0..=2.0, native.temperature)?,
            guidance: real("cfg_weight", self.cfg_weight, 0.0..=100.0, native.guidance)?,
            ..Sampling::default()
        };
        let samplings =
            seeds("seed", self.seed, fresh, n)?.into_iter().map(|seed| Sampling { seed, ..base.clone() }).collect();
        Ok(Drawing {
            model: self.model,
            draw: Draw { prompt },
            samplings,
            side: side(self.size.as_deref().unwrap_or("auto"), native.side)?,
            format: format(self.output_format.as_deref().unwrap_or("png"), self.output_compression)?,
            links,
            keep,
        })
    }
}

/// Refuses `value` unless it is absent or one of `allowed`.
fn one_of(param: &str, value: Option<&str>, allowed: &[&str]) -> Result<(), ApiError> {
    match value {
        Some(value) if !allowed.contains(&value) => Err(ApiError::unsupported_value(
            param,
            format!("`{param}` can be {} here, not `{value}`.", allowed.join(" or ")),
        )),
        _ => Ok(()),
    }
}

/// The side of a square size up to [`MAX_SIDE`].
fn side(size: &str, native: usize) -> Result<usize, ApiError> {
    if size == "auto" {
        return Ok(native);
    }
    let sides = size.split_once('x').and_then(|(width, height)| Some((number(width)?, number(height)?)));
    match sides {
        Some((width, height)) if width == height && (1..=MAX_SIDE.max(native)).contains(&width) => Ok(width),
        _ => Err(ApiError::unsupported_value(
            "size",
            format!(
                "`size` can be auto ({native}x{native}, as the model draws) or any square size up to {MAX_SIDE}x{MAX_SIDE}, not `{size}`."
            ),
        )),
    }
}

/// A plain decimal number: digits alone, no sign and no leading zero.
fn number(digits: &str) -> Option<usize> {
    let plain = digits.bytes().all(|b| b.is_ascii_digit()) && !digits.starts_with('0');
    digits.parse().ok().filter(|_| plain)
}

fn format(name: &str, compression: Option<i64>) -> Result<Format, ApiError> {
    let quality = whole("output_compression", compression, 0..=100, 100)?;
    match (name, quality) {
        ("jpeg", quality) => Ok(Format::Jpeg(u8::try_from(quality).unwrap_or(100).max(1))),
        ("png", 100) => Ok(Format::Png),
        ("webp", 100) => Ok(Format::WebP),
        ("png" | "webp", _) => Err(ApiError::unsupported_value(
            "output_compression",
            format!("`{name}` is lossless here: `output_compression` can be 100 only."),
        )),
        _ => Err(ApiError::unsupported_value(
            "output_format",
            format!("`output_format` can be png, jpeg or webp, not `{name}`."),
        )),
    }
}

/// Drawn pictures.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ImagesReply)]
pub struct Reply {
    /// Extension: the request, where it was kept; feedback may name a picture by it and `image_index`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "img-0193f6a5b1c27d3e8f00112233445566")]
    pub id: Option<String>,
    /// Unix seconds.
    pub created: u64,
    pub data: Vec<Item>,
    #[schema(example = "opaque")]
    pub background: &'static str,
    #[schema(example = "png")]
    pub output_format: &'static str,
    #[schema(example = "standard")]
    pub quality: &'static str,
    #[schema(example = "64x64")]
    pub size: String,
    pub usage: Usage,
}

/// One picture.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ImagesItem)]
pub struct Item {
    /// The file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub b64_json: Option<String>,
    /// Where the file is, for an hour.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Extension: what feedback names the picture by; absent where it was not kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "sample-0193f6a5b1c27d3e8f00112233445566")]
    pub sample_id: Option<String>,
    /// Extension: with this seed and `n: 1` the same picture is drawn again.
    pub seed: u64,
}

/// Tokens of all pictures of a reply.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ImagesUsage)]
pub struct Usage {
    pub input_tokens: usize,
    pub input_tokens_details: TokenDetails,
    pub output_tokens: usize,
    pub output_tokens_details: TokenDetails,
    pub total_tokens: usize,
}

/// Tokens by kind.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ImagesTokenDetails)]
pub struct TokenDetails {
    pub text_tokens: usize,
    pub image_tokens: usize,
}

impl Usage {
    /// A prompt of `text` tokens and pictures of `image` tokens together.
    pub fn new(text: usize, image: usize) -> Self {
        Self {
            input_tokens: text,
            input_tokens_details: TokenDetails { text_tokens: text, image_tokens: 0 },
            output_tokens: image,
            output_tokens_details: TokenDetails { text_tokens: 0, image_tokens: image },
            total_tokens: text + image,
        }
    }
}

impl Format {
    /// Its name in requests and replies.
    pub fn name(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg(_) => "jpeg",
            Self::WebP => "webp",
        }
    }
}

#[cfg(test)]
#[path = "images_tests.rs"]
mod tests;
