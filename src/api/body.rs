//! Reading request bodies: of one type, in bounded memory and time.
//!
//! Each body is bounded, and so are all bodies held at once: bytes are taken from one budget before they are read and given back when the body is
//! dropped. Without it, a few hundred connections could fill the memory with requests that are each within the limit.

use std::sync::Arc;
use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderValue, ORIGIN};
use actix_web::web::{Bytes, BytesMut, Payload};
use futures_util::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::ApiError;

/// How long a body may take to arrive.
const PATIENCE: Duration = Duration::from_secs(60);
/// Unit of the budget in bytes; a semaphore counts in 32 bits.
const UNIT: usize = 1 << 10;

/// The limit of one body and the budget of all.
pub struct Bodies {
    limit: usize,
    budget: Arc<Semaphore>,
}

/// A body with its part of the budget.
pub struct Body {
    bytes: BytesMut,
    _share: Option<OwnedSemaphorePermit>,
}

impl Bodies {
    /// Bodies of at most `limit` bytes, at most eight such at once.
    pub fn new(limit: usize) -> Self {
        let units = limit.div_ceil(UNIT).saturating_mul(8).clamp(1, Semaphore::MAX_PERMITS);
        Self { limit, budget: Arc::new(Semaphore::new(units)) }
    }

    /// Reads the JSON body of `request`.
    ///
    /// # Errors
    /// When it is declared as something else, too large, too slow, cut short, or when the server holds too many bodies already.
    pub async fn json(&self, request: &HttpRequest, payload: Payload) -> Result<Body, ApiError> {
        if !is_json(request) {
            return Err(ApiError::media_type("application/json"));
        }
        self.whole(request, payload).await
    }

    /// Reads the form of `request`, as it is sent. A page of another origin may post forms without asking, so none of its are read.
    ///
    /// # Errors
    /// As [`Bodies::json`], or when a page of another origin sent it.
    pub async fn form(&self, request: &HttpRequest, payload: Payload) -> Result<Body, ApiError> {
        if essence(request) != "multipart/form-data" {
            return Err(ApiError::media_type("multipart/form-data"));
        }
        let text = |name| request.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let host = text(HOST).unwrap_or_default();
        if request.headers().contains_key(ORIGIN)
            && text(ORIGIN).and_then(|origin| origin.split_once("://")).is_none_or(|(_, from)| from != host)
        {
            return Err(ApiError::malformed("A page of another origin cannot send files here."));
        }
        self.whole(request, payload).await
    }

    async fn whole(&self, request: &HttpRequest, payload: Payload) -> Result<Body, ApiError> {
        let declared = request.headers().get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
        if declared.is_some_and(|length: usize| length > self.limit) {
            return Err(ApiError::too_large(self.limit));
        }
        tokio::time::timeout(PATIENCE, self.collect(payload, declared.unwrap_or(0)))
            .await
            .map_err(|_| ApiError::slow())?
    }

    /// Reads the JSON body of `request`, or nothing where it has none.
    ///
    /// # Errors
    /// As [`Bodies::json`].
    pub async fn json_or_none(&self, request: &HttpRequest, payload: Payload) -> Result<Option<Body>, ApiError> {
        if request.headers().contains_key(CONTENT_TYPE) {
            return self.json(request, payload).await.map(Some);
        }
        let body = tokio::time::timeout(PATIENCE, self.collect(payload, 0)).await.map_err(|_| ApiError::slow())??;
        if body.bytes.is_empty() { Ok(None) } else { Err(ApiError::media_type("application/json")) }
    }

    async fn collect(&self, mut payload: Payload, declared: usize) -> Result<Body, ApiError> {
        let mut body = Body { bytes: BytesMut::new(), _share: None };
        let mut share = 0;
        self.grow(&mut body, &mut share, declared)?;
        body.bytes.reserve(declared);
        while let Some(chunk) = payload.next().await {
            let chunk =
                chunk.map_err(|error| ApiError::malformed(format!("The request body is cut short: {error}.")))?;
            let length = body.bytes.len() + chunk.len();
            if length > self.limit {
                return Err(ApiError::too_large(self.limit));
            }
            self.grow(&mut body, &mut share, length)?;
            body.bytes.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    /// Takes what is missing to hold `length` bytes.
    fn grow(&self, body: &mut Body, share: &mut usize, length: usize) -> Result<(), ApiError> {
        let missing = length.div_ceil(UNIT).saturating_sub(*share);
        let units = u32::try_from(missing).map_err(|_| ApiError::too_large(self.limit))?;
        let more = Arc::clone(&self.budget)
            .try_acquire_many_owned(units)
            .map_err(|_| ApiError::busy("The server is reading too many requests; please try again shortly."))?;
        *share += missing;
        match &mut body._share {
            Some(share) => share.merge(more),
            none => *none = Some(more),
        }
        Ok(())
    }
}

impl Body {
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes, which may be read while their part of the budget, given beside them, is held.
    pub fn split(self) -> (Bytes, impl Sized) {
        (self.bytes.freeze(), self._share)
    }
}

/// `application/json` or `application/…+json`. Nothing else is read, so that a page of another origin cannot post here without asking.
fn is_json(request: &HttpRequest) -> bool {
    let essence = essence(request);
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

/// The type of the body, in lower case and without its parameters.
fn essence(request: &HttpRequest) -> String {
    let value = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}
