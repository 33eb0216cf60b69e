//! What was forgotten of a person.

use serde::Serialize;
use utoipa::ToSchema;

/// What is gone; `versions` learned from some of it and are as they were.
#[derive(Debug, Serialize, ToSchema)]
pub struct Purged {
    pub calls: u64,
    pub samples: u64,
    pub feedback: u64,
    pub files: u64,
    pub versions: Vec<String>,
}
