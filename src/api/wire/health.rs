//! `GET /health` and `GET /ready`.

use serde::Serialize;
use utoipa::ToSchema;

/// How the server is.
#[derive(Debug, Serialize, ToSchema)]
pub struct Health {
    #[schema(example = "ok")]
    pub status: &'static str,
    /// Version of the server.
    pub server: &'static str,
    /// Name of the served model.
    pub model: String,
    /// Content hash of its weights.
    pub model_version: String,
    /// Samples being computed.
    pub running: usize,
    /// Samples that wait.
    pub queued: usize,
}
