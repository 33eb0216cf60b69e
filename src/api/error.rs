//! What can go wrong at the door, and the only place that knows HTTP status codes.
//!
//! Every failure of every route leaves in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`. The official SDKs choose their
//! exception by the status and show `param` and `code`; they retry 408, 409, 429 and everything from 500 up, so a final refusal is never one of those.

use actix_web::http::StatusCode;
use actix_web::http::header::{ALLOW, HeaderName, HeaderValue, RETRY_AFTER};
use actix_web::{HttpResponse, ResponseError};

use crate::engine::{EngineError, SubmitError};
use crate::model::prompt::PromptError;
use crate::store::LedgerError;

use super::wire::error::{ErrorBody, ErrorDetail};
use utoipa::IntoResponses;

/// Longest message and longest parameter name that leave the server: both may quote what the client sent.
const LONGEST: usize = 400;

/// Seconds a client is asked to wait when the queue is full. The SDKs do not retry at all above 120.
const RETRY_SECONDS: u64 = 2;

/// A refusal or a failure, ready to be sent.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    kind: Kind,
    param: Option<String>,
    message: String,
}

/// Every way a request can end without a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The body is no JSON of the right form, or a value is outside its range.
    Invalid,
    /// A required parameter is absent.
    Missing,
    /// A parameter nobody knows.
    Unknown,
    /// A parameter that OpenAI knows and this model cannot honour.
    Unsupported,
    /// A known parameter with a value that this model cannot honour.
    UnsupportedValue,
    /// More tokens than the model's context holds.
    Context,
    /// No key, or a wrong one.
    Key,
    /// No such model.
    Model,
    /// No such route or object.
    Absent,
    /// It stands against what was said before.
    Conflict,
    /// It is well formed and does not fit what it is about.
    Unfit,
    /// The route exists for other methods, named here.
    Method(&'static str),
    /// The client took too long to send its body.
    Slow,
    /// The body is over the limit.
    TooLarge,
    /// The body is of a type this route does not read.
    MediaType,
    /// The queue is full.
    Busy,
    /// Starting or stopping.
    Unavailable,
    /// A fault of the server.
    Internal,
}

/// The failures that routes with a body share, for the description.
#[derive(IntoResponses)]
pub enum Failures {
    /// A parameter is wrong, or cannot be honoured; `param` names it.
    #[response(status = 400)]
    Invalid(ErrorBody),
    /// The key is missing or wrong.
    #[response(status = 401)]
    Key(ErrorBody),
    /// The model is not served here.
    #[response(status = 404)]
    Model(ErrorBody),
    /// The body is over the limit.
    #[response(status = 413)]
    TooLarge(ErrorBody),
    /// The body is not JSON by its `Content-Type`.
    #[response(status = 415)]
    MediaType(ErrorBody),
    /// The queue is full; come back after `Retry-After` seconds.
    #[response(status = 429)]
    Busy(ErrorBody),
    /// A fault of the server.
    #[response(status = 500)]
    Internal(ErrorBody),
    /// The server is stopping.
    #[response(status = 503)]
    Unavailable(ErrorBody),
}

impl ApiError {
    fn new(kind: Kind, param: Option<&str>, message: impl Into<String>) -> Self {
        Self { kind, param: param.map(|p| clip(p.to_owned())), message: clip(message.into()) }
    }

    /// A value outside its range or of the wrong form.
    pub fn invalid(param: &str, message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, Some(param), message)
    }

    /// A body that is no request at all.
    pub fn malformed(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, None, message)
    }

    /// A required parameter is absent.
    pub fn missing(param: &str) -> Self {
        Self::new(Kind::Missing, Some(param), format!("Missing required parameter: `{param}`."))
    }

    /// A parameter that is part of neither OpenAI's interface nor ours.
    pub fn unknown(param: &str, message: impl Into<String>) -> Self {
        Self::new(Kind::Unknown, Some(param), message)
    }

    /// A known parameter that this server cannot honour.
    pub fn unsupported(param: &str, why: &str) -> Self {
        Self::new(Kind::Unsupported, Some(param), format!("`{param}` is not supported: {why}."))
    }

    /// A known parameter with a value that this server cannot honour.
    pub fn unsupported_value(param: &str, message: impl Into<String>) -> Self {
        Self::new(Kind::UnsupportedValue, Some(param), message)
    }

    /// None of several parameters is there.
    pub fn missing_one_of(params: &[&str]) -> Self {
        let message = format!("Missing required parameter: one of `{}`.", params.join("`, `"));
        Self::new(Kind::Missing, params.first().copied(), message)
    }

    /// There is no such sample, or no such place in it.
    pub fn no_sample(param: &str, id: &str) -> Self {
        let message =
            format!("There is no sample `{id}`; if a reply has several, say which (`image_index`, `choice`).");
        Self::new(Kind::Absent, Some(param), message)
    }

    /// There is no such kept request.
    pub fn no_call(param: &str, id: &str) -> Self {
        Self::new(Kind::Absent, Some(param), format!("There is no kept request `{id}`."))
    }

    /// There is no such feedback, it was withdrawn, or another key gave it.
    pub fn no_feedback(id: &str) -> Self {
        Self::new(Kind::Absent, Some("id"), format!("There is no feedback `{id}`."))
    }

    /// There is no such version, or no such round.
    pub fn no_such(what: &str, id: &str) -> Self {
        Self::new(Kind::Absent, Some("id"), format!("There is no {what} `{id}`."))
    }

    /// There is no such file, or its time is over.
    pub fn no_file(param: &str, id: &str) -> Self {
        Self::new(Kind::Absent, Some(param), format!("There is no file `{id}`."))
    }

    /// It was said otherwise before; sending it again does not help.
    pub fn conflict(param: &str, message: &str) -> Self {
        Self::new(Kind::Conflict, Some(param), message)
    }

    /// It does not fit what it is about.
    pub fn unfit(message: &str) -> Self {
        Self::new(Kind::Unfit, None, message)
    }

    /// More text or pictures than the context holds.
    pub fn context(param: &str, message: impl Into<String>) -> Self {
        Self::new(Kind::Context, Some(param), message)
    }

    /// No key, or a wrong one.
    pub fn key(message: &str) -> Self {
        Self::new(Kind::Key, None, message)
    }

    /// The model asked for is not served here.
    pub fn model(id: &str, served: &str) -> Self {
        Self::new(
            Kind::Model,
            Some("model"),
            format!("The model `{id}` does not exist; this server serves `{served}`."),
        )
    }

    /// No route at this path.
    pub fn absent(path: &str) -> Self {
        Self::new(Kind::Absent, None, format!("There is nothing at `{path}`; `/openapi.yaml` describes what there is."))
    }

    /// The path exists, for the methods of `allow`.
    pub fn method(method: &str, allow: &'static str) -> Self {
        Self::new(Kind::Method(allow), None, format!("`{method}` is not allowed here; use {allow}."))
    }

    /// The body did not arrive in time.
    pub fn slow() -> Self {
        Self::new(Kind::Slow, None, "The request body did not arrive in time.")
    }

    /// The body is over `limit` bytes.
    pub fn too_large(limit: usize) -> Self {
        Self::new(Kind::TooLarge, None, format!("The request body is over the limit of {limit} bytes."))
    }

    /// The body is not of type `wanted`.
    pub fn media_type(wanted: &str) -> Self {
        Self::new(Kind::MediaType, None, format!("The body must be sent with `Content-Type: {wanted}`."))
    }

    /// Too much is under way already.
    pub fn busy(message: &str) -> Self {
        Self::new(Kind::Busy, None, message)
    }

    /// The server is starting or stopping.
    pub fn unavailable(message: &str) -> Self {
        Self::new(Kind::Unavailable, None, message)
    }

    /// A fault of the server; the cause goes to the log, never to the client.
    pub fn internal(cause: &dyn std::fmt::Display) -> Self {
        tracing::error!(%cause, "internal error");
        Self::new(Kind::Internal, None, "The server had an error while processing your request.")
    }

    /// The prompt is not one the model can take; `param` is where it came from.
    pub fn prompt(param: &str, error: &PromptError) -> Self {
        match error {
            PromptError::TooLong { .. } => Self::context(param, format!("`{param}` is too long: {error}.")),
            _ => Self::invalid(param, format!("`{param}` cannot be used: {error}.")),
        }
    }

    /// The engine did not take the work; `param` is where the prompt came from.
    pub fn submit(param: &str, error: &SubmitError) -> Self {
        match error {
            SubmitError::Busy => Self::busy("The server is at capacity; please try again shortly."),
            SubmitError::TooLong { .. } => Self::context(param, format!("`{param}` is too long: {error}.")),
            SubmitError::Invalid { field, .. } => Self::invalid(field, format!("{error}.")),
            SubmitError::Stopped => Self::unavailable("The server is stopping."),
        }
    }

    /// The engine gave up on work it had taken.
    pub fn engine(error: &EngineError) -> Self {
        match error {
            EngineError::Stopped => Self::unavailable("The server stopped before the work was done."),
            fault => Self::internal(fault),
        }
    }

    /// The JSON body of this error.
    pub fn body(&self) -> ErrorBody {
        let (_, kind, code) = self.words();
        ErrorBody { error: ErrorDetail { message: self.message.clone(), kind, param: self.param.clone(), code } }
    }

    /// Status, `type` and `code`.
    fn words(&self) -> (StatusCode, &'static str, &'static str) {
        const REQUEST: &str = "invalid_request_error";
        match self.kind {
            Kind::Invalid => (StatusCode::BAD_REQUEST, REQUEST, "invalid_value"),
            Kind::Missing => (StatusCode::BAD_REQUEST, REQUEST, "missing_required_parameter"),
            Kind::Unknown => (StatusCode::BAD_REQUEST, REQUEST, "unknown_parameter"),
            Kind::Unsupported => (StatusCode::BAD_REQUEST, REQUEST, "unsupported_parameter"),
            Kind::UnsupportedValue => (StatusCode::BAD_REQUEST, REQUEST, "unsupported_value"),
            Kind::Context => (StatusCode::BAD_REQUEST, REQUEST, "context_length_exceeded"),
            Kind::Key => (StatusCode::UNAUTHORIZED, REQUEST, "invalid_api_key"),
            Kind::Model => (StatusCode::NOT_FOUND, REQUEST, "model_not_found"),
            Kind::Absent => (StatusCode::NOT_FOUND, REQUEST, "not_found"),
            Kind::Conflict => (StatusCode::CONFLICT, "conflict_error", "conflict"),
            Kind::Unfit => (StatusCode::UNPROCESSABLE_ENTITY, REQUEST, "does_not_fit"),
            Kind::Method(_) => (StatusCode::METHOD_NOT_ALLOWED, REQUEST, "method_not_allowed"),
            Kind::Slow => (StatusCode::REQUEST_TIMEOUT, REQUEST, "request_timeout"),
            Kind::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, REQUEST, "request_too_large"),
            Kind::MediaType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, REQUEST, "unsupported_media_type"),
            Kind::Busy => (StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", "rate_limit_exceeded"),
            Kind::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "service_unavailable", "server_is_overloaded"),
            Kind::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "server_error", "internal_error"),
        }
    }
}

/// The ledger did not do it.
impl From<LedgerError> for ApiError {
    fn from(error: LedgerError) -> Self {
        match error {
            LedgerError::Unavailable(cause) => {
                tracing::warn!(cause, "the ledger is not available");
                Self::unavailable("The ledger is not available, so nothing was kept; please try again shortly.")
            }
            fault => Self::internal(&fault),
        }
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        self.words().0
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status_code()).json(self.body());
        let headers = response.headers_mut();
        match self.kind {
            Kind::Method(allow) => {
                headers.insert(ALLOW, HeaderValue::from_static(allow));
            }
            Kind::Conflict => {
                headers.insert(HeaderName::from_static("x-should-retry"), HeaderValue::from_static("false"));
            }
            Kind::Busy | Kind::Unavailable => {
                headers.insert(RETRY_AFTER, HeaderValue::from(RETRY_SECONDS));
            }
            _ => {}
        }
        response
    }
}

/// Shortens text that may quote a hostile request.
fn clip(mut text: String) -> String {
    if text.len() > LONGEST {
        let end = (0..=LONGEST).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_input_is_clipped_at_a_character() {
        let error = ApiError::invalid("x", "é".repeat(5000));
        assert!(error.to_string().len() < LONGEST + 4);
        assert!(error.to_string().ends_with('…'));
    }

    #[test]
    fn only_what_may_be_retried_is_retried() {
        assert_eq!(ApiError::busy("").status_code(), StatusCode::TOO_MANY_REQUESTS);
        let response = ApiError::busy("").error_response();
        assert_eq!(response.headers().get(RETRY_AFTER), Some(&HeaderValue::from(RETRY_SECONDS)));
        assert_eq!(
            ApiError::method("PUT", "GET, POST").error_response().headers().get(ALLOW),
            Some(&HeaderValue::from_static("GET, POST"))
        );
    }
}
