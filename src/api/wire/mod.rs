//! OpenAI's shapes, and the proof that a request is one we can honour.
//!
//! Only files here derive serde on requests and replies. Every request type refuses unknown fields; a `parse` turns it into domain values, and what it
//! returns needs no second look. A field that OpenAI knows and this model cannot honour is declared as [`Refused`] and refused by name.

pub mod chat;
pub mod chat_reply;
pub mod conversation;
pub mod error;
pub mod feedback;
pub mod files;
pub mod graders;
pub mod health;
pub mod images;
pub mod job_card;
pub mod jobs;
pub mod models;
pub mod purged;
pub mod rounds;
pub mod stored;
pub mod versions;

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeOwned, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::error::Category;

use super::error::ApiError;

/// A field that is known and cannot be honoured: anything but `null` is refused by name, and its value is never kept.
pub type Refused = Option<IgnoredAny>;

/// Largest seed a client may give, and a reply may show: what every JSON reader keeps exactly.
pub const MAX_SEED: u64 = (1 << 53) - 1;

/// Reads one JSON object of type `T`; `param` of a failure is the path of the offending value.
///
/// # Errors
/// Bad JSON, an unknown field, a value of another type.
pub fn from_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let cause = error.inner();
        match (path.as_str(), cause.classify()) {
            (_, Category::Eof) => ApiError::malformed(format!("The body is cut short: {cause}.")),
            ("." | "?", _) => {
                ApiError::malformed(format!("The body is not the JSON object this route reads: {cause}."))
            }
            (path, Category::Syntax) => ApiError::invalid(path, format!("`{path}` is no JSON value: {cause}.")),
            (path, _) if cause.to_string().starts_with("unknown field") => {
                ApiError::unknown(path, format!("Unknown parameter: `{path}`."))
            }
            (path, _) => ApiError::invalid(path, format!("`{path}`: {cause}.")),
        }
    })?;
    reader.end().map_err(|cause| ApiError::malformed(format!("The body is not one JSON object: {cause}.")))?;
    Ok(value)
}

/// Refuses every field of the list that was given.
fn refuse(fields: &[(&str, &Refused, &str)]) -> Result<(), ApiError> {
    match fields.iter().find(|(_, value, _)| value.is_some()) {
        Some((name, _, why)) => Err(ApiError::unsupported(name, why)),
        None => Ok(()),
    }
}

/// `value` if it is one of `range`, `default` if it was not given.
fn whole(param: &str, value: Option<i64>, range: std::ops::RangeInclusive<i64>, default: i64) -> Result<i64, ApiError> {
    match value.unwrap_or(default) {
        value if range.contains(&value) => Ok(value),
        value => Err(ApiError::invalid(
            param,
            format!("`{param}` must be from {} to {}, not {value}.", range.start(), range.end()),
        )),
    }
}

/// `value` if it is a finite number of `range`, `default` if it was not given.
fn real(param: &str, value: Option<f64>, range: std::ops::RangeInclusive<f64>, default: f32) -> Result<f32, ApiError> {
    match value {
        None => Ok(default),
        // The bounds are small, so the nearest f32 is the same number for every purpose here.
        Some(value) if range.contains(&value) => Ok(value as f32),
        Some(value) => Err(ApiError::invalid(
            param,
            format!("`{param}` must be from {} to {}, not {value}.", range.start(), range.end()),
        )),
    }
}

/// Seeds of `n` samples: the given (or `fresh`) seed for the first, one more for each that follows.
fn seeds(param: &str, given: Option<i64>, fresh: u32, n: i64) -> Result<Vec<u64>, ApiError> {
    let first = match given {
        None => u64::from(fresh),
        Some(seed) => u64::try_from(seed)
            .ok()
            .filter(|&seed| seed <= MAX_SEED)
            .ok_or_else(|| ApiError::invalid(param, format!("`{param}` must be from 0 to {MAX_SEED}, not {seed}.")))?,
    };
    Ok((0..n.unsigned_abs()).map(|i| (first + i) & MAX_SEED).collect())
}

/// Checks OpenAI's rules for `metadata`: at most 16 pairs, keys to 64 and values to 512 characters.
fn metadata(given: Option<BTreeMap<String, String>>) -> Result<BTreeMap<String, String>, ApiError> {
    let map = given.unwrap_or_default();
    let long = |(key, value): (&String, &String)| key.chars().count() > 64 || value.chars().count() > 512;
    if map.len() > 16 || map.iter().any(long) {
        return Err(ApiError::invalid(
            "metadata",
            "`metadata` holds at most 16 pairs, keys of at most 64 and values of at most 512 characters.",
        ));
    }
    if map.iter().any(|(key, value)| key.contains('\0') || value.contains('\0')) {
        return Err(ApiError::invalid("metadata", "`metadata` holds a null character."));
    }
    Ok(map)
}

/// Checks a short text that is looked up by: at most 512 characters, no null character.
fn label(param: &str, given: Option<String>) -> Result<Option<String>, ApiError> {
    match given {
        Some(text) if text.chars().count() > 512 || text.contains('\0') => {
            Err(ApiError::invalid(param, format!("`{param}` has at most 512 characters, and no null character.")))
        }
        given => Ok(given.filter(|text| !text.is_empty())),
    }
}

/// Whether and how a request wants to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Consent: without it nothing is kept but a count.
    pub store: bool,
    /// On whose behalf the client asks.
    pub person: Option<String>,
    pub metadata: BTreeMap<String, String>,
}

impl Keep {
    fn parse(
        store: Option<bool>,
        safety_identifier: Option<String>,
        user: Option<String>,
        notes: Option<BTreeMap<String, String>>,
    ) -> Result<Self, ApiError> {
        let (safety_identifier, user) = (label("safety_identifier", safety_identifier)?, label("user", user)?);
        Ok(Self { store: store.unwrap_or(true), person: safety_identifier.or(user), metadata: metadata(notes)? })
    }
}

/// A list of at most `MAX` items; the item after the last allowed one ends the reading.
#[derive(Debug)]
pub struct AtMost<T, const MAX: usize>(pub Vec<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for AtMost<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        reader.deserialize_seq(ItemsVisitor::<T, MAX>(PhantomData)).map(AtMost)
    }
}

struct ItemsVisitor<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for ItemsVisitor<T, MAX> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {MAX} items")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            if list.len() == MAX {
                return Err(serde::de::Error::custom(format_args!("the list is longer than {MAX} items")));
            }
            list.push(item);
        }
        Ok(list)
    }
}

/// A text, or a list of at most `MAX` items.
#[derive(Debug)]
pub enum TextOr<T, const MAX: usize> {
    Text(String),
    List(Vec<T>),
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for TextOr<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        reader.deserialize_any(TextOrVisitor::<T, MAX>(PhantomData))
    }
}

struct TextOrVisitor<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for TextOrVisitor<T, MAX> {
    type Value = TextOr<T, MAX>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a string or a list of at most {MAX} items")
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(TextOr::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Self::Value, E> {
        Ok(TextOr::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Self::Value, A::Error> {
        ItemsVisitor::<T, MAX>(PhantomData).visit_seq(items).map(TextOr::List)
    }
}
