//! Values as columns: JSON texts and packed numbers, and the way back. A column that cannot be read names itself.
//! Knows no SQL.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::LedgerError;
use crate::domain::id::{BlobId, SampleId};
use crate::domain::record::{Asked, Opinion};
use crate::domain::sample::Finish;
use crate::domain::task::{Answer, Draw, Part, Role, Sampling, Turn};

/// A value as JSON text.
pub(super) fn json(value: &impl Serialize) -> Result<String, LedgerError> {
    serde_json::to_string(value).map_err(|e| LedgerError::Corrupt(format!("a value cannot be written: {e}")))
}

/// JSON text of `column` as a value.
pub(super) fn parse<T: DeserializeOwned>(column: &str, text: &str) -> Result<T, LedgerError> {
    serde_json::from_str(text).map_err(|e| LedgerError::Corrupt(format!("column {column}: {e}")))
}

/// An id of `column`.
pub(super) fn id<T: std::str::FromStr>(column: &str, text: &str) -> Result<T, LedgerError> {
    text.parse().map_err(|_| LedgerError::Corrupt(format!("column {column}: not an id")))
}

/// 32-bit numbers, little-endian.
pub(super) fn pack<T: Copy>(values: &[T], bytes: impl Fn(T) -> [u8; 4]) -> Vec<u8> {
    values.iter().flat_map(|&value| bytes(value)).collect()
}

/// The way back from [`pack`].
pub(super) fn unpack<T>(column: &str, bytes: &[u8], value: impl Fn([u8; 4]) -> T) -> Result<Vec<T>, LedgerError> {
    let (whole, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(LedgerError::Corrupt(format!("column {column}: {} bytes are no 32-bit numbers", bytes.len())));
    }
    Ok(whole.iter().map(|&bytes| value(bytes)).collect())
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum AskedJson {
    Draw { prompt: String },
    Answer { system: Option<String>, turns: Vec<TurnJson> },
}

#[derive(Serialize, Deserialize)]
struct TurnJson {
    role: RoleJson,
    parts: Vec<PartJson>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RoleJson {
    User,
    Assistant,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum PartJson {
    Text(String),
    Picture(String),
}

pub(super) fn asked_text(asked: &Asked) -> Result<String, LedgerError> {
    let part = |part: &Part<BlobId>| match part {
        Part::Text(text) => PartJson::Text(text.clone()),
        Part::Picture(blob) => PartJson::Picture(blob.to_string()),
    };
    let turn = |turn: &Turn<BlobId>| TurnJson {
        role: match turn.role {
            Role::User => RoleJson::User,
            Role::Assistant => RoleJson::Assistant,
        },
        parts: turn.parts.iter().map(part).collect(),
    };
    json(&match asked {
        Asked::Draw(Draw { prompt }) => AskedJson::Draw { prompt: prompt.clone() },
        Asked::Answer(Answer { system, turns }) => {
            AskedJson::Answer { system: system.clone(), turns: turns.iter().map(turn).collect() }
        }
    })
}

pub(super) fn asked(text: &str) -> Result<Asked, LedgerError> {
    let part = |part| match part {
        PartJson::Text(text) => Ok(Part::Text(text)),
        PartJson::Picture(blob) => id("asked", &blob).map(Part::Picture),
    };
    let turn = |turn: TurnJson| {
        let role = match turn.role {
            RoleJson::User => Role::User,
            RoleJson::Assistant => Role::Assistant,
        };
        Ok(Turn { role, parts: turn.parts.into_iter().map(part).collect::<Result<_, LedgerError>>()? })
    };
    Ok(match parse::<AskedJson>("asked", text)? {
        AskedJson::Draw { prompt } => Asked::Draw(Draw { prompt }),
        AskedJson::Answer { system, turns } => {
            Asked::Answer(Answer { system, turns: turns.into_iter().map(turn).collect::<Result<_, LedgerError>>()? })
        }
    })
}

/// The pictures that were sent with a request.
pub(super) fn pictures(asked: &Asked) -> Vec<&BlobId> {
    let Asked::Answer(answer) = asked else { return Vec::new() };
    let parts = answer.turns.iter().flat_map(|turn| &turn.parts);
    parts.filter_map(|part| if let Part::Picture(blob) = part { Some(blob) } else { None }).collect()
}

#[derive(Serialize, Deserialize)]
struct SamplingJson {
    seed: u64,
    temperature: f32,
    top_p: f32,
    guidance: f32,
    max_tokens: u64,
    stop: Vec<String>,
    top_log_probs: u64,
}

pub(super) fn sampling_text(sampling: &Sampling) -> Result<String, LedgerError> {
    let Sampling { seed, temperature, top_p, guidance, max_tokens, stop, top_log_probs } = sampling.clone();
    json(&SamplingJson {
        seed,
        temperature,
        top_p,
        guidance,
        max_tokens: max_tokens as u64,
        stop,
        top_log_probs: top_log_probs as u64,
    })
}

pub(super) fn sampling(text: &str) -> Result<Sampling, LedgerError> {
    let SamplingJson { seed, temperature, top_p, guidance, max_tokens, stop, top_log_probs } = parse("sampling", text)?;
    let size = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    Ok(Sampling {
        seed,
        temperature,
        top_p,
        guidance,
        max_tokens: size(max_tokens),
        stop,
        top_log_probs: size(top_log_probs),
    })
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum OpinionJson {
    Rating { value: f64, least: f64, most: f64 },
    Thumb(bool),
    Preferred { over: Vec<String> },
    CorrectAnswer(String),
    CorrectPicture(String),
    Comment(String),
}

pub(super) fn opinion_text(opinion: &Opinion) -> Result<String, LedgerError> {
    json(&match opinion {
        &Opinion::Rating { value, least, most } => OpinionJson::Rating { value, least, most },
        &Opinion::Thumb(up) => OpinionJson::Thumb(up),
        Opinion::Preferred { over } => OpinionJson::Preferred { over: over.iter().map(SampleId::to_string).collect() },
        Opinion::CorrectAnswer(text) => OpinionJson::CorrectAnswer(text.clone()),
        Opinion::CorrectPicture(blob) => OpinionJson::CorrectPicture(blob.to_string()),
        Opinion::Comment(text) => OpinionJson::Comment(text.clone()),
    })
}

pub(super) fn opinion(text: &str) -> Result<Opinion, LedgerError> {
    Ok(match parse("opinion", text)? {
        OpinionJson::Rating { value, least, most } => Opinion::Rating { value, least, most },
        OpinionJson::Thumb(up) => Opinion::Thumb(up),
        OpinionJson::Preferred { over } => {
            Opinion::Preferred { over: over.iter().map(|text| id("opinion", text)).collect::<Result<_, _>>()? }
        }
        OpinionJson::CorrectAnswer(text) => Opinion::CorrectAnswer(text),
        OpinionJson::CorrectPicture(blob) => Opinion::CorrectPicture(id("opinion", &blob)?),
        OpinionJson::Comment(text) => Opinion::Comment(text),
    })
}

pub(super) fn metadata(text: &str) -> Result<BTreeMap<String, String>, LedgerError> {
    parse("metadata", text)
}

pub(super) fn finish_text(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
    }
}

pub(super) fn finish(text: &str) -> Result<Finish, LedgerError> {
    match text {
        "stop" => Ok(Finish::Stop),
        "length" => Ok(Finish::Length),
        _ => Err(LedgerError::Corrupt("column finish: neither stop nor length".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_as_they_went() {
        let blob: BlobId = "ab".repeat(32).parse().unwrap();
        let turns = vec![
            Turn { role: Role::User, parts: vec![Part::Picture(blob.clone()), Part::Text("what \"is\" it?\n".into())] },
            Turn { role: Role::Assistant, parts: vec![Part::Text("a star".into())] },
        ];
        for value in [
            Asked::Draw(Draw { prompt: "a λ \u{1f980}".into() }),
            Asked::Answer(Answer { system: None, turns: turns.clone() }),
            Asked::Answer(Answer { system: Some(String::new()), turns }),
        ] {
            assert_eq!(asked(&asked_text(&value).unwrap()).unwrap(), value);
        }
        let value = Sampling {
            seed: (1 << 53) - 1,
            temperature: 0.7,
            guidance: 1.35,
            max_tokens: usize::MAX,
            ..Sampling::default()
        };
        assert_eq!(sampling(&sampling_text(&value).unwrap()).unwrap(), value);
        for value in [
            Opinion::Rating { value: 0.1, least: 0.0, most: 1.0 },
            Opinion::Thumb(false),
            Opinion::Preferred { over: vec![SampleId::fresh(), SampleId::fresh()] },
            Opinion::CorrectAnswer("no".into()),
            Opinion::CorrectPicture(blob),
            Opinion::Comment(String::new()),
        ] {
            assert_eq!(opinion(&opinion_text(&value).unwrap()).unwrap(), value);
        }
        let numbers = [0.0, -1.5, f32::MIN];
        assert_eq!(unpack("x", &pack(&numbers, f32::to_le_bytes), f32::from_le_bytes).unwrap(), numbers);
    }

    #[test]
    fn what_cannot_be_read_names_its_column() {
        let told = [
            asked("{}").unwrap_err().to_string(),
            sampling("[").unwrap_err().to_string(),
            opinion(r#"{"preferred":{"over":["x"]}}"#).unwrap_err().to_string(),
            unpack("tokens", &[1, 2, 3], u32::from_le_bytes).unwrap_err().to_string(),
            finish("x").unwrap_err().to_string(),
        ];
        for (error, column) in told.iter().zip(["asked", "sampling", "opinion", "tokens", "finish"]) {
            assert!(error.contains(column), "{error}");
        }
    }
}
