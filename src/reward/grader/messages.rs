//! What a `score_model` grader asks its judge: messages with places to fill, as a conversation. Knows no model.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::spec::{Fields, SpecError, wrong};
use super::template::Template;
use super::{Fault, Given, picture};
use crate::domain::task::{Answer, Part, Role, Turn};

/// Most messages, and most parts of one.
const MOST: usize = 16;

/// One message.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Message {
    /// `None` is the system.
    role: Option<Role>,
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq)]
enum Piece {
    Text(Template),
    /// The sample's own picture, or one of the row as a data URL.
    Picture(Template),
}

impl Message {
    pub(super) fn templates(&self) -> impl Iterator<Item = &Template> {
        self.pieces.iter().map(|piece| match piece {
            Piece::Text(template) | Piece::Picture(template) => template,
        })
    }
}

/// Reads the messages at `path`.
pub(super) fn read(value: &Value, path: &str) -> Result<Vec<Message>, SpecError> {
    let list = value.as_array().filter(|list| (1..=MOST).contains(&list.len()));
    let list = list.ok_or_else(|| wrong(path, format!("`{path}` must be a list of 1 to {MOST} messages.")))?;
    let messages = list.iter().enumerate().map(|(at, value)| message(value, &format!("{path}[{at}]")));
    let messages = messages.collect::<Result<Vec<_>, _>>()?;
    let late = messages.iter().skip_while(|message| message.role.is_none()).any(|message| message.role.is_none());
    if late {
        return Err(wrong(path, format!("`{path}`: system and developer messages can only come first.")));
    }
    match messages.last() {
        Some(Message { role: Some(Role::User), .. }) => Ok(messages),
        _ => Err(wrong(path, format!("The last message of `{path}` must be the user's: the judge answers it."))),
    }
}

fn message(value: &Value, path: &str) -> Result<Message, SpecError> {
    let fields = Fields::of(value, path, &["role", "content", "type"])?;
    let role = match fields.text("role")? {
        "system" | "developer" => None,
        "user" => Some(Role::User),
        "assistant" => Some(Role::Assistant),
        other => {
            let at = fields.at("role");
            return Err(wrong(&at, format!("`{at}` can be system, developer, user or assistant, not `{other}`.")));
        }
    };
    let at = fields.at("content");
    let pieces = match fields.get("content")? {
        Value::Array(parts) if parts.len() <= MOST => {
            parts.iter().enumerate().map(|(i, part)| piece(part, &format!("{at}[{i}]"))).collect::<Result<_, _>>()?
        }
        Value::Array(_) => return Err(wrong(&at, format!("`{at}` has more than {MOST} parts."))),
        part => vec![piece(part, &at)?],
    };
    if role != Some(Role::User) && pieces.iter().any(|piece| matches!(piece, Piece::Picture(_))) {
        return Err(wrong(&at, format!("`{at}`: pictures are taken in the user's messages only.")));
    }
    Ok(Message { role, pieces })
}

fn piece(value: &Value, path: &str) -> Result<Piece, SpecError> {
    let template =
        |text: &str, path: &str| Template::read(text).map_err(|what| wrong(path, format!("`{path}` {what}.")));
    if let Value::String(text) = value {
        return Ok(Piece::Text(template(text, path)?));
    }
    let fields = Fields::of(value, path, &["type", "text", "image_url", "detail"])?;
    match fields.text("type")? {
        "input_text" | "output_text" | "text" => Ok(Piece::Text(template(fields.text("text")?, &fields.at("text"))?)),
        "input_image" => Ok(Piece::Picture(template(fields.text("image_url")?, &fields.at("image_url"))?)),
        other => {
            let at = fields.at("type");
            Err(wrong(&at, format!("`{at}` can be input_text or input_image, not `{other}`.")))
        }
    }
}

/// The conversation about a sample.
pub(super) fn fill(messages: &[Message], item: &Map<String, Value>, sample: Given<'_>) -> Result<Answer, Fault> {
    let answer = super::said(&sample);
    let mut conversation = Answer { system: None, turns: Vec::new() };
    for message in messages {
        let mut parts = Vec::with_capacity(message.pieces.len());
        for piece in &message.pieces {
            parts.push(match (piece, sample) {
                (Piece::Text(text), _) => Part::Text(text.fill(item, answer)?),
                (Piece::Picture(template), Given::Picture(drawn)) if template.is_picture() => {
                    Part::Picture(Arc::new(drawn.clone()))
                }
                (Piece::Picture(template), _) if template.is_picture() => {
                    return Err(Fault::Sample("`sample.output_image` is of pictures".into()));
                }
                (Piece::Picture(template), _) => Part::Picture(Arc::new(picture(template, item)?)),
            });
        }
        match (message.role, conversation.turns.last_mut()) {
            (None, _) => {
                let text =
                    parts.into_iter().filter_map(|part| if let Part::Text(text) = part { Some(text) } else { None });
                let text = text.collect::<Vec<_>>().join("\n");
                let before = conversation.system.take();
                conversation.system = Some(before.map_or_else(|| text.clone(), |before| format!("{before}\n{text}")));
            }
            (Some(role), Some(turn)) if turn.role == role => turn.parts.extend(parts),
            (Some(role), _) => conversation.turns.push(Turn { role, parts }),
        }
    }
    Ok(conversation)
}
