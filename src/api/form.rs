//! The parts of a form (`multipart/form-data`): names, file names and bytes, few and bounded. Knows not what they are for.

use std::convert::Infallible;

use actix_multipart::{Multipart, MultipartError};
use actix_web::HttpRequest;
use actix_web::web::{BytesMut, Payload};
use futures_util::{StreamExt as _, stream};

use super::body::Bodies;
use super::error::ApiError;

/// Most parts of a form.
const MOST: usize = 16;

/// One part.
pub struct Part {
    pub name: String,
    /// Where it is a file: as its sender calls it.
    pub file: Option<String>,
    pub bytes: Vec<u8>,
}

impl Part {
    /// Its text.
    ///
    /// # Errors
    /// When it is a file or no UTF-8.
    pub fn text(self) -> Result<String, ApiError> {
        let name = self.name;
        let wrong = || ApiError::invalid(&name, format!("`{name}` must be a text."));
        if self.file.is_some() {
            return Err(wrong());
        }
        String::from_utf8(self.bytes).map_err(|_| wrong())
    }
}

/// Reads the form of `request`.
///
/// # Errors
/// When it is no form, too large or cut short, or has too many parts.
pub async fn parts(bodies: &Bodies, request: &HttpRequest, payload: Payload) -> Result<Vec<Part>, ApiError> {
    let (bytes, _share) = bodies.form(request, payload).await?.split();
    let broken = |error: MultipartError| ApiError::malformed(format!("The form cannot be read: {error}."));
    let whole =
        stream::once(std::future::ready(Ok::<_, Infallible>(bytes))).map(|bytes| bytes.map_err(|never| match never {}));
    let mut form = Multipart::new(request.headers(), whole);
    let mut parts = Vec::new();
    while let Some(field) = form.next().await {
        let mut field = field.map_err(broken)?;
        if parts.len() == MOST {
            return Err(ApiError::malformed(format!("The form has more than {MOST} parts.")));
        }
        let name = field.name().unwrap_or_default().to_owned();
        let file = field.content_disposition().and_then(|about| about.get_filename()).map(str::to_owned);
        let mut bytes = BytesMut::new();
        while let Some(chunk) = field.next().await {
            bytes.extend_from_slice(&chunk.map_err(broken)?);
        }
        parts.push(Part { name, file, bytes: bytes.into() });
    }
    Ok(parts)
}
