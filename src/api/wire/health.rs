//! `GET /health` and `GET /ready`.
//! Not OpenAI's: for those who run the server, and for the page.
//! Both reply with the same shape.

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
    /// Requests that wait.
    pub queued: usize,
    /// `ok`, or `unavailable`: then answers go out without ids, and feedback is refused.
    #[schema(example = "ok")]
    pub ledger: &'static str,
    /// The range of ratings.
    #[schema(example = json!([1.0, 5.0]))]
    pub rating: [f64; 2],
}
