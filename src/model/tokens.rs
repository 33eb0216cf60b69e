//! The special tokens that the templates name: how each is spelled, and which id a tokenizer gives it. No id is written down here,
//! because checkpoints differ in them; a name that a tokenizer lacks is an error. Knows no template.

use serde_json::Value;
use tokenizers::Tokenizer;

use super::prompt::{PrompterError, PrompterFiles};

/// Field of `tokenizer_config.json`, and the name where it is silent.
pub const NAMES: [(&str, &str); 8] = [
    ("bos_token", "<｜begin▁of▁sentence｜>"),
    ("eos_token", "<｜end▁of▁sentence｜>"),
    ("pad_token", "<｜▁pad▁｜>"),
    ("boi_token", "<begin_of_image>"),
    ("eoi_token", "<end_of_image>"),
    ("image_token", "<image_placeholder>"),
    ("user_token", "<|User|>"),
    ("assistant_token", "<|Assistant|>"),
];

/// Ids of the tokens that the templates name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids {
    pub bos: u32,
    pub eos: u32,
    pub pad: u32,
    pub begin_of_image: u32,
    pub end_of_image: u32,
    pub image: u32,
    pub user: u32,
    pub assistant: u32,
}

impl Ids {
    /// The ids that `tokenizer` gives the names of `spelled`, the `tokenizer_config.json` or null.
    ///
    /// # Errors
    /// When the tokenizer lacks one of the names.
    pub fn resolve(tokenizer: &Tokenizer, spelled: &Value) -> Result<Self, PrompterError> {
        let id = |(role, default): (&'static str, &'static str)| {
            let at = spelled.get(role).or_else(|| spelled.pointer(&format!("/extra_special_tokens/{role}")));
            // A token is spelled as a string or as an object with flags.
            let name = at.and_then(|at| at.as_str().or_else(|| at.get("content")?.as_str())).unwrap_or(default);
            tokenizer.token_to_id(name).ok_or_else(|| PrompterError::MissingToken { role, name: name.to_owned() })
        };
        let [bos, eos, pad, boi, eoi, image, user, assistant] = NAMES;
        Ok(Self {
            bos: id(bos)?,
            eos: id(eos)?,
            pad: id(pad)?,
            begin_of_image: id(boi)?,
            end_of_image: id(eoi)?,
            image: id(image)?,
            user: id(user)?,
            assistant: id(assistant)?,
        })
    }

    /// In the order of [`NAMES`].
    #[must_use]
    pub fn all(self) -> [u32; 8] {
        let Self { bos, eos, pad, begin_of_image, end_of_image, image, user, assistant } = self;
        [bos, eos, pad, begin_of_image, end_of_image, image, user, assistant]
    }

    /// Those of a checkpoint's files.
    ///
    /// # Errors
    /// When a file is broken, or the tokenizer lacks one of the names.
    pub fn read(files: &PrompterFiles<'_>) -> Result<Self, PrompterError> {
        Self::resolve(&open(files.tokenizer)?, &object("tokenizer_config.json", files.tokenizer_config)?)
    }
}

/// The tokenizer of a `tokenizer.json`.
pub(super) fn open(bytes: &[u8]) -> Result<Tokenizer, PrompterError> {
    Tokenizer::from_bytes(bytes).map_err(|e| PrompterError::File { file: "tokenizer.json", reason: e.to_string() })
}

/// The JSON of a settings file; null where there is none.
pub(super) fn object(file: &'static str, bytes: Option<&[u8]>) -> Result<Value, PrompterError> {
    match bytes {
        None => Ok(Value::Null),
        Some(bytes) => serde_json::from_slice(bytes).map_err(|e| PrompterError::File { file, reason: e.to_string() }),
    }
}
