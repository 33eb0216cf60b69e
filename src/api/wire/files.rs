//! Uploaded files as OpenAI shows them, and the proof that a form sends one that can be kept.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::super::error::ApiError;
use super::super::form::Part;
use crate::domain::job::File;
use crate::store::{FileFilter, Order};

/// The one purpose that files have here.
pub const PURPOSE: &str = "fine-tune";
/// Most files of a page.
const MAX_PAGE: u32 = 10_000;
/// How long a file may be kept for, in seconds.
const TIMES: std::ops::RangeInclusive<i64> = 3600..=2_592_000;

/// A file, sent as `multipart/form-data`.
#[derive(ToSchema)]
#[schema(as = FileRequest)]
#[expect(dead_code, reason = "the schema of a form; `Upload` reads it")]
pub struct Form {
    /// JSON Lines: each line an object with `prompt` (to draw) or `messages` (to answer), and any other keys.
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
    /// `fine-tune`.
    #[schema(example = "fine-tune")]
    purpose: String,
    /// `created_at`.
    #[schema(rename = "expires_after[anchor]")]
    anchor: Option<String>,
    /// After how many seconds the file is deleted.
    #[schema(rename = "expires_after[seconds]", minimum = 3600, maximum = 2592000)]
    seconds: Option<i64>,
}

/// A file that can be kept, once it is seen what is in it.
pub struct Upload {
    pub name: String,
    pub bytes: Vec<u8>,
    /// Seconds from now after which it is deleted.
    pub expires: Option<i64>,
}

impl Upload {
    /// # Errors
    /// The first part that is wrong or missing.
    pub fn parse(parts: Vec<Part>) -> Result<Self, ApiError> {
        let (mut file, mut purpose, mut anchor, mut seconds) = (None, None, None, None);
        for part in parts {
            match part.name.as_str() {
                "file" => file = Some(part),
                "purpose" => purpose = Some(part.text()?),
                "expires_after[anchor]" => anchor = Some(part.text()?),
                "expires_after[seconds]" => seconds = Some(part.text()?),
                name => return Err(ApiError::unknown(name, format!("Unknown parameter: `{name}`."))),
            }
        }
        match purpose.as_deref() {
            Some(PURPOSE) => {}
            Some(other) => {
                let message = format!(
                    "`purpose` can be {PURPOSE}, not `{other}`: pictures to ask about travel in the request, as data URLs."
                );
                return Err(ApiError::unsupported_value("purpose", message));
            }
            None => return Err(ApiError::missing("purpose")),
        }
        let expires = match (anchor.as_deref(), seconds) {
            (None, None) => None,
            (Some("created_at"), Some(text)) => {
                Some(text.parse().ok().filter(|seconds| TIMES.contains(seconds)).ok_or_else(|| {
                    let (least, most) = (TIMES.start(), TIMES.end());
                    ApiError::invalid(
                        "expires_after[seconds]",
                        format!("`expires_after[seconds]` must be from {least} to {most}."),
                    )
                })?)
            }
            (Some("created_at"), None) => return Err(ApiError::missing("expires_after[seconds]")),
            (None, Some(_)) => return Err(ApiError::missing("expires_after[anchor]")),
            (Some(_), _) => {
                let message = "`expires_after[anchor]` can be created_at.";
                return Err(ApiError::unsupported_value("expires_after[anchor]", message));
            }
        };
        let file = file.ok_or_else(|| ApiError::missing("file"))?;
        let name = file.file.unwrap_or_else(|| "file".to_owned());
        if name.chars().count() > 255 || name.contains('\0') {
            return Err(ApiError::invalid(
                "file",
                "The name of `file` has at most 255 characters, and no null character.",
            ));
        }
        Ok(Self { name, bytes: file.bytes, expires })
    }
}

/// Which files to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Query {
    /// Only files of this purpose.
    purpose: Option<String>,
    /// The last id of the page before.
    after: Option<String>,
    /// 1 to 10,000.
    #[param(minimum = 1, maximum = 10000, default = 10000)]
    limit: Option<u32>,
    /// `asc` or `desc` (newest first).
    #[param(default = "desc")]
    order: Option<String>,
}

impl Query {
    /// # Errors
    /// The first parameter that is wrong.
    pub fn parse(self) -> Result<FileFilter, ApiError> {
        let order = match self.order.as_deref() {
            None | Some("desc") => Order::Newest,
            Some("asc") => Order::Oldest,
            Some(_) => return Err(ApiError::invalid("order", "`order` is asc or desc.")),
        };
        let limit = match self.limit.unwrap_or(MAX_PAGE) {
            limit @ 1..=MAX_PAGE => limit,
            limit => {
                return Err(ApiError::invalid("limit", format!("`limit` must be from 1 to {MAX_PAGE}, not {limit}.")));
            }
        };
        let after = self.after.map(|id| id.parse().map_err(|_| ApiError::no_file("after", &id))).transpose()?;
        Ok(FileFilter { purpose: super::label("purpose", self.purpose)?, order, after, limit })
    }
}

/// An uploaded file.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = File)]
pub struct FileCard {
    #[schema(example = "file-0193f6a5b1c27d3e8f00112233445566")]
    pub id: String,
    #[schema(example = "file")]
    pub object: &'static str,
    pub bytes: i64,
    /// Unix seconds.
    pub created_at: i64,
    #[schema(required)]
    pub expires_at: Option<i64>,
    pub filename: String,
    #[schema(example = "fine-tune")]
    pub purpose: String,
    /// `processed`: what cannot be learned from is not kept.
    #[schema(example = "processed")]
    pub status: &'static str,
    #[schema(required)]
    pub status_details: Option<String>,
}

impl From<File> for FileCard {
    fn from(file: File) -> Self {
        Self {
            id: file.id.to_string(),
            object: "file",
            bytes: file.bytes,
            created_at: file.created_ms / 1000,
            expires_at: file.expires_ms.map(|expires| expires / 1000),
            filename: file.name,
            purpose: file.purpose,
            status: "processed",
            status_details: None,
        }
    }
}

/// Something that is gone.
#[derive(Debug, Serialize, ToSchema)]
pub struct Gone {
    pub id: String,
    #[schema(example = "file")]
    pub object: &'static str,
    pub deleted: bool,
}
