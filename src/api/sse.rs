//! Server-sent events: frames, heartbeats, and the two ends of a stream (`[DONE]`, or an error the SDKs raise).
//! A stream is dropped with its source when the client leaves; heartbeats see to it that this is noticed in silence too.
//! Knows nothing of what it carries.

use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use actix_web::web::Bytes;
use futures_util::{Stream, StreamExt, stream};
use serde::Serialize;

use super::error::ApiError;

/// Silence after which a comment is sent, so that nothing on the way takes the connection for dead and a client that
/// has left is noticed.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// The last frame of a stream that ended well.
pub const DONE: &str = "data: [DONE]\n\n";

/// A reply that sends `frames` as they come; they are dropped when the client leaves.
pub fn reply(frames: impl Stream<Item = String> + 'static) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, HeaderValue::from_static("text/event-stream")))
        .insert_header((CACHE_CONTROL, HeaderValue::from_static("no-cache")))
        .insert_header(("x-accel-buffering", "no"))
        .streaming(beating(frames, HEARTBEAT).map(Ok::<_, ApiError>))
}

/// `frames`, with a comment whenever none came for the time `silence`.
fn beating(frames: impl Stream<Item = String>, silence: Duration) -> impl Stream<Item = Bytes> {
    stream::unfold(Box::pin(frames), move |mut frames| async move {
        let frame = match tokio::time::timeout(silence, frames.next()).await {
            Ok(frame) => Bytes::from(frame?),
            Err(_) => Bytes::from_static(b": heartbeat\n\n"),
        };
        Some((frame, frames))
    })
}

/// Writes `data` as one frame.
pub fn frame(data: &impl Serialize) -> String {
    match serde_json::to_string(data) {
        Ok(json) => format!("data: {json}\n\n"),
        Err(cause) => failure(&ApiError::internal(&cause)),
    }
}

/// The last frame of a stream that failed: an object with an `error`, which the SDKs raise.
pub fn failure(error: &ApiError) -> String {
    format!("data: {}\n\n", serde_json::to_string(&error.body()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[actix_web::test]
    async fn silence_is_filled_with_comments() {
        let slow = stream::iter(["data: 1\n\n", "data: 2\n\n"]).then(|frame| async move {
            tokio::time::sleep(Duration::from_millis(60)).await;
            frame.to_owned()
        });
        let sent: Vec<Bytes> = beating(slow, Duration::from_millis(25)).collect().await;
        let beats = sent.iter().filter(|frame| frame.starts_with(b":")).count();
        assert!((2..=4).contains(&beats), "{sent:?}");
        assert_eq!(sent.len() - beats, 2, "nothing is lost to a heartbeat");
        assert_eq!(sent.last(), Some(&Bytes::from("data: 2\n\n")));
    }
}
