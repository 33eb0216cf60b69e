//! The shape of a failure, the same on every route and inside a stream.
//! Which status goes with it is `api::error`'s business; here are only the words.
//! The SDKs show `message`, `param` and `code` to their users.

use serde::Serialize;
use utoipa::ToSchema;

/// Any failure.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    pub error: ErrorDetail,
}

/// What went wrong.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorDetail {
    /// For people.
    pub message: String,
    /// `invalid_request_error`, `rate_limit_error`, `service_unavailable` or `server_error`.
    #[serde(rename = "type")]
    #[schema(example = "invalid_request_error")]
    pub kind: &'static str,
    /// The request parameter at fault, by its path (`messages[0].content[1].image_url`), where there is one.
    #[schema(required)]
    pub param: Option<String>,
    /// For programs.
    #[schema(example = "invalid_value")]
    pub code: &'static str,
}
