//! Names of what the ledger keeps: time-ordered, unguessable, with a prefix that says what they name.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

/// The text is no id of the kind asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an id of this kind")]
pub struct IdError;

macro_rules! ids {
    ($($(#[$meta:meta])* $name:ident $prefix:literal),+ $(,)?) => { $(
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Uuid);

        impl $name {
            /// A fresh one; later ones sort after earlier ones.
            #[must_use]
            pub fn fresh() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0.simple())
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let digits = text.strip_prefix($prefix).filter(|digits| digits.len() == 32).ok_or(IdError)?;
                if digits.bytes().any(|b| b.is_ascii_uppercase()) {
                    return Err(IdError);
                }
                Uuid::try_parse(digits).map(Self).map_err(|_| IdError)
            }
        }
    )+ };
}

ids! {
    /// A request that was answered in words; OpenAI's prefix.
    ChatId "chatcmpl-",
    /// A request that was answered in pictures.
    ImagesId "img-",
    /// One answer or picture of a request.
    SampleId "sample-",
    /// Something said about samples.
    FeedbackId "feedback-",
    /// A training round.
    RoundId "round-",
    /// The round with the same digits, as those call it who asked for it by name; OpenAI's prefix.
    JobId "ftjob-",
    /// Something that happened in a round; OpenAI's prefix.
    EventId "ftevent-",
    /// A file that a client sent; OpenAI's prefix.
    FileId "file-",
}

impl From<RoundId> for JobId {
    fn from(round: RoundId) -> Self {
        Self(round.0)
    }
}

impl From<JobId> for RoundId {
    fn from(job: JobId) -> Self {
        Self(job.0)
    }
}

/// A request and its samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CallId {
    Chat(ChatId),
    Images(ImagesId),
}

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chat(id) => id.fmt(f),
            Self::Images(id) => id.fmt(f),
        }
    }
}

impl FromStr for CallId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        text.parse().map(Self::Chat).or_else(|_| text.parse().map(Self::Images))
    }
}

/// SHA-256 of a blob's bytes in lower-case hexadecimal: where it is kept, and how it is checked.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlobId(String);

impl BlobId {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for BlobId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() == 64 && text.bytes().all(hex) { Ok(Self(text.to_owned())) } else { Err(IdError) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_as_they_are_written_and_by_their_own_kind_alone() {
        let (chat, images) = (CallId::Chat(ChatId::fresh()), CallId::Images(ImagesId::fresh()));
        assert_eq!(chat.to_string().parse(), Ok(chat));
        assert_eq!(images.to_string().parse(), Ok(images));
        assert!(chat.to_string().parse::<ImagesId>().is_err());
        for bad in [
            "",
            "sample-",
            "sample-0193",
            "sample-zz93f6a5b1c27d3e8f00112233445566",
            "sample-0193F6A5B1C27D3E8F00112233445566",
        ] {
            assert_eq!(bad.parse::<SampleId>(), Err(IdError), "{bad}");
        }
    }

    #[test]
    fn later_ids_sort_after_earlier_ones() {
        let ids: Vec<SampleId> = (0..100).map(|_| SampleId::fresh()).collect();
        assert!(ids.is_sorted());
        assert!(ids.iter().map(ToString::to_string).is_sorted());
    }

    #[test]
    fn a_blob_id_is_a_digest() {
        assert!("a".repeat(64).parse::<BlobId>().is_ok());
        for bad in ["", "../../etc/passwd", &"A".repeat(64), &"a".repeat(63)] {
            assert!(bad.parse::<BlobId>().is_err(), "{bad}");
        }
    }
}
