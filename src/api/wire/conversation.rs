//! The messages of a chat: their shape, the proof that they make a conversation, and its pictures.
//! Everything is bounded before it is kept (messages, parts, pictures, text), and every refusal names its place, as in
//! `messages[0].content[1].image_url`. Decoding the pictures is a step of its own, for the blocking pool.

use std::sync::Arc;

use serde::Deserialize;
use serde::de::IgnoredAny;
use utoipa::ToSchema;

use super::super::error::ApiError;
use super::{Refused, TextOr, refuse};
use crate::domain::task::{Answer, Part, Role, Turn};
use crate::picture::decode::{self, MAX_PIXELS};

/// Most messages of a conversation.
pub const MAX_MESSAGES: usize = 512;
/// Most parts of a message.
const MAX_PARTS: usize = 128;
/// Most pictures of a conversation.
const MAX_PICTURES: usize = 16;
/// Most bytes of text in a conversation, before it is counted in tokens.
const MAX_TEXT: usize = 256 << 10;

/// One message.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ChatMessage)]
pub struct Message {
    /// `system` or `developer` (first messages only, text only), `user`, `assistant` (text only).
    #[schema(required, nullable = false, example = "user")]
    role: Option<String>,
    /// A string, or a list of parts.
    #[schema(required, nullable = false, value_type = Content)]
    content: Option<TextOr<MessagePart, MAX_PARTS>>,
    // What the SDK's reply objects carry when they are sent back.
    #[schema(ignore)]
    refusal: Refused,
    #[schema(ignore)]
    annotations: Refused,
    #[schema(ignore)]
    audio: Refused,
    #[schema(ignore)]
    function_call: Refused,
    #[schema(ignore)]
    tool_calls: Refused,
    #[schema(ignore)]
    tool_call_id: Refused,
    #[schema(ignore)]
    name: Refused,
}

/// A piece of a message.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ChatPart)]
#[expect(dead_code, reason = "a cache breakpoint has no effect and is accepted")]
pub struct MessagePart {
    /// `text` or `image_url`.
    #[serde(rename = "type")]
    #[schema(required, nullable = false, example = "text")]
    kind: Option<String>,
    /// With `text`.
    text: Option<String>,
    /// With `image_url`; in messages of the user.
    image_url: Option<ImageUrl>,
    /// Accepted.
    #[schema(value_type = Option<Object>)]
    prompt_cache_breakpoint: Option<IgnoredAny>,
}

/// A picture.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageUrl {
    /// A data URL of a PNG, JPEG, WebP or unanimated GIF. Nothing is fetched from the network.
    #[schema(required, nullable = false, example = "data:image/png;base64,iVBORw0KGgo…")]
    url: Option<String>,
    /// `auto` or `low`: the model sees every picture at one size.
    detail: Option<String>,
}

/// A string, or a list of parts.
#[derive(Deserialize, ToSchema)]
#[serde(untagged)]
#[schema(as = ChatContent)]
#[expect(dead_code, reason = "the schema of a content; TextOr reads it")]
enum Content {
    Text(String),
    Parts(Vec<MessagePart>),
}

/// A conversation whose pictures are data URLs still.
#[derive(Debug, PartialEq)]
pub struct Conversation {
    system: Option<String>,
    turns: Vec<(Role, Vec<Piece>)>,
}

/// A piece of a turn.
#[derive(Debug, PartialEq)]
enum Piece {
    Text(String),
    Picture { param: String, url: String },
}

impl Conversation {
    /// System text and turns; neighbouring messages of one speaker become one turn.
    ///
    /// # Errors
    /// The first message that cannot be honoured, by its place in the request.
    pub fn parse(messages: Vec<Message>) -> Result<Self, ApiError> {
        let mut system: Option<String> = None;
        let mut turns: Vec<(Role, Vec<Piece>)> = Vec::new();
        let (mut text, mut pictures) = (0, 0);
        for (i, message) in messages.into_iter().enumerate() {
            let (speaker, pieces) = message.parse(&format!("messages[{i}]"))?;
            for piece in &pieces {
                match piece {
                    Piece::Text(piece) => text += piece.len(),
                    Piece::Picture { param, .. } if pictures == MAX_PICTURES => {
                        return Err(ApiError::context(
                            param,
                            format!("A conversation holds at most {MAX_PICTURES} pictures."),
                        ));
                    }
                    Piece::Picture { .. } => pictures += 1,
                }
            }
            if text > MAX_TEXT {
                return Err(ApiError::context(
                    "messages",
                    format!("`messages` holds more than {MAX_TEXT} bytes of text."),
                ));
            }
            match (speaker, turns.last_mut()) {
                (Speaker::System, Some(_)) => {
                    return Err(ApiError::unsupported_value(
                        &format!("messages[{i}].role"),
                        "System and developer messages can only come first.",
                    ));
                }
                (Speaker::System, None) => {
                    let text = pieces.into_iter().filter_map(Piece::into_text).collect::<Vec<_>>().join("\n");
                    system = Some(system.map_or_else(|| text.clone(), |before| format!("{before}\n{text}")));
                }
                (Speaker::Turn(role), Some((last, before))) if role == *last => before.extend(pieces),
                (Speaker::Turn(role), _) => turns.push((role, pieces)),
            }
        }
        match turns.last() {
            Some((Role::User, _)) => Ok(Conversation { system, turns }),
            _ => Err(ApiError::invalid("messages", "The last message of `messages` must be the user's.")),
        }
    }

    /// Decodes the pictures; their files come along, in order. Slow: for the blocking pool.
    ///
    /// # Errors
    /// The first picture that is none, by its place in the request.
    pub fn decode(self) -> Result<(Answer, Vec<Vec<u8>>), ApiError> {
        let (mut pixels, mut files) = (MAX_PIXELS, Vec::new());
        let mut turns = Vec::new();
        for (role, pieces) in self.turns {
            let mut parts = Vec::new();
            for piece in pieces {
                parts.push(match piece {
                    Piece::Text(text) => Part::Text(text),
                    Piece::Picture { param, url } => {
                        let decoded =
                            decode::data_url(&url).and_then(|file| Ok((decode::picture(&file, pixels)?, file)));
                        let (picture, file) = decoded
                            .map_err(|error| ApiError::invalid(&param, format!("The picture at `{param}` {error}.")))?;
                        pixels = pixels.saturating_sub((picture.width() * picture.height()) as u64);
                        files.push(file);
                        Part::Picture(Arc::new(picture))
                    }
                });
            }
            turns.push(Turn { role, parts });
        }
        Ok((Answer { system: self.system, turns }, files))
    }
}

/// Who a message is from.
#[derive(Clone, Copy)]
enum Speaker {
    System,
    Turn(Role),
}

impl Message {
    fn parse(self, path: &str) -> Result<(Speaker, Vec<Piece>), ApiError> {
        let at = |field: &str| format!("{path}.{field}");
        const TOOLS: &str = "the model calls no tools";
        refuse(&[
            (&at("tool_calls"), &self.tool_calls, TOOLS),
            (&at("tool_call_id"), &self.tool_call_id, TOOLS),
            (&at("function_call"), &self.function_call, TOOLS),
            (&at("audio"), &self.audio, "the model reads text and pictures"),
            (&at("refusal"), &self.refusal, "the model reads text and pictures"),
            (&at("annotations"), &self.annotations, "the model reads text and pictures"),
            (&at("name"), &self.name, "the model knows one user and one assistant"),
        ])?;
        let role = self.role.ok_or_else(|| ApiError::missing(&at("role")))?;
        let speaker = match role.as_str() {
            "system" | "developer" => Speaker::System,
            "user" => Speaker::Turn(Role::User),
            "assistant" => Speaker::Turn(Role::Assistant),
            _ => {
                let message = format!("`{}` can be system, developer, user or assistant, not `{role}`.", at("role"));
                return Err(ApiError::unsupported_value(&at("role"), message));
            }
        };
        let pieces = match self.content.ok_or_else(|| ApiError::missing(&at("content")))? {
            TextOr::Text(text) => vec![Piece::Text(text)],
            TextOr::List(parts) => parts
                .into_iter()
                .enumerate()
                .map(|(j, part)| part.parse(&format!("{path}.content[{j}]")))
                .collect::<Result<_, _>>()?,
        };
        if !matches!(speaker, Speaker::Turn(Role::User))
            && let Some(param) = pieces.iter().find_map(Piece::param)
        {
            return Err(ApiError::unsupported(param, "pictures are taken in the user's messages only"));
        }
        Ok((speaker, pieces))
    }
}

impl MessagePart {
    fn parse(self, path: &str) -> Result<Piece, ApiError> {
        let at = |field: &str| format!("{path}.{field}");
        match self.kind.ok_or_else(|| ApiError::missing(&at("type")))?.as_str() {
            "text" if self.image_url.is_some() => {
                Err(ApiError::unknown(&at("image_url"), "A part of type `text` has no `image_url`."))
            }
            "text" => self.text.map(Piece::Text).ok_or_else(|| ApiError::missing(&at("text"))),
            "image_url" if self.text.is_some() => {
                Err(ApiError::unknown(&at("text"), "A part of type `image_url` has no `text`."))
            }
            "image_url" => {
                let image = self.image_url.ok_or_else(|| ApiError::missing(&at("image_url")))?;
                if image.detail.as_ref().is_some_and(|detail| detail != "auto" && detail != "low") {
                    let message = "`detail` can be auto or low: the model sees every picture at one size.";
                    return Err(ApiError::unsupported_value(&at("image_url.detail"), message));
                }
                let url = image.url.ok_or_else(|| ApiError::missing(&at("image_url.url")))?;
                Ok(Piece::Picture { param: at("image_url"), url })
            }
            kind => Err(ApiError::unsupported_value(
                &at("type"),
                format!("A part's `type` can be text or image_url, not `{kind}`."),
            )),
        }
    }
}

impl Piece {
    fn into_text(self) -> Option<String> {
        match self {
            Self::Text(text) => Some(text),
            Self::Picture { .. } => None,
        }
    }

    /// Where a picture came from.
    fn param(&self) -> Option<&str> {
        match self {
            Self::Text(_) => None,
            Self::Picture { param, .. } => Some(param),
        }
    }
}

#[cfg(test)]
#[path = "conversation_tests.rs"]
mod tests;
