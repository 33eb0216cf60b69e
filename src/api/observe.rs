//! Around every request: an id that the client and the log share, the time to the first byte, a span.
//! Failures pass through here as replies like any other.
//! Knows no route and no shape.

use std::time::Instant;

use actix_web::Error;
use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::middleware::Next;
use tracing::Instrument;
use uuid::Uuid;

/// Middleware: names the request, times it to its first byte and logs it.
///
/// # Errors
/// Those of the services within.
pub async fn observe(
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let start = Instant::now();
    let id = format!("req_{}", Uuid::now_v7().simple());
    let span = tracing::info_span!("request", id, method = %request.method(), path = request.path());
    let mut response = next.call(request).instrument(span.clone()).await?;
    let millis = start.elapsed().as_millis();
    let _entered = span.enter();
    tracing::info!(status = response.status().as_u16(), millis = u64::try_from(millis).unwrap_or(u64::MAX), "answered");
    let headers = response.headers_mut();
    for (name, value) in [("x-request-id", id), ("openai-processing-ms", millis.to_string())] {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    headers.insert(HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff"));
    Ok(response)
}
