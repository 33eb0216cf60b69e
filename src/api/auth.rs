//! Bearer keys, and the middleware that asks for one before anything else of a request is looked at.
//! A key is right or wrong: there are no users and no roles here. Keys are kept as digests, and comparing takes the same
//! time whatever is sent.

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{AUTHORIZATION, HeaderMap};
use actix_web::middleware::Next;
use actix_web::{Error, ResponseError, web};
use sha2::{Digest, Sha256};

use super::Service;
use super::error::ApiError;

/// The keys that open `/v1`; none means that everyone may come in.
#[derive(Clone, Default)]
pub struct Keys(Vec<[u8; 32]>);

impl Keys {
    pub fn new(keys: &[String]) -> Self {
        Self(keys.iter().map(|key| digest(key.as_bytes())).collect())
    }

    /// These and `more`; none, where there are none of these, because then everyone may come in.
    pub fn with(mut self, more: &[String]) -> Self {
        if !self.0.is_empty() {
            self.0.extend(Self::new(more).0);
        }
        self
    }

    /// Checks the `Authorization` header.
    ///
    /// # Errors
    /// When keys are asked for and none, or a wrong one, is given.
    pub fn check(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        if self.0.is_empty() {
            return Ok(());
        }
        let header = headers
            .get(AUTHORIZATION)
            .ok_or_else(|| ApiError::key("You didn't provide an API key; send it as `Authorization: Bearer KEY`."))?;
        let wrong = || ApiError::key("Incorrect API key provided.");
        let (scheme, key) = header.to_str().ok().and_then(|value| value.split_once(' ')).ok_or_else(wrong)?;
        // Digests are compared, all of every key: the time it takes says nothing about a key.
        let given = digest(key.trim().as_bytes());
        let known = self.0.iter().fold(false, |known, key| known | same(key, &given));
        if known && scheme.eq_ignore_ascii_case("bearer") { Ok(()) } else { Err(wrong()) }
    }
}

/// Which key a request came with, as the ledger and the log may call it; empty where none is needed.
pub fn key_name(keys: &Keys, headers: &HeaderMap) -> String {
    let header = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    match header.and_then(|value| value.split_once(' ')) {
        Some((_, key)) if !keys.0.is_empty() => {
            digest(key.trim().as_bytes()).iter().take(6).map(|b| format!("{b:02x}")).collect()
        }
        _ => String::new(),
    }
}

/// Whose hand changes something, as the ledger tells it.
pub fn author(keys: &Keys, headers: &HeaderMap) -> String {
    let key = key_name(keys, headers);
    if key.is_empty() { "somebody".to_owned() } else { format!("key {key}") }
}

/// Middleware: lets in who has a key.
///
/// # Errors
/// Those of the services within; a wrong key is a reply.
pub async fn guard<B: MessageBody>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, Error> {
    let allowed = match request.app_data::<web::Data<Service>>() {
        Some(service) if service.links.open(request.path(), request.query_string()) => Ok(()),
        Some(service) => service.keys.check(request.headers()),
        None => Err(ApiError::internal(&"the service is not set up")),
    };
    match allowed {
        Ok(()) => next.call(request).await.map(ServiceResponse::map_into_left_body),
        Err(error) => Ok(request.into_response(error.error_response()).map_into_right_body()),
    }
}

fn digest(key: &[u8]) -> [u8; 32] {
    Sha256::digest(key).into()
}

fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;

    use super::*;

    fn try_key(keys: &[&str], header: Option<&'static str>) -> bool {
        let mut headers = HeaderMap::new();
        if let Some(value) = header {
            headers.insert(AUTHORIZATION, HeaderValue::from_static(value));
        }
        Keys::new(&keys.iter().map(|&key| key.to_owned()).collect::<Vec<_>>()).check(&headers).is_ok()
    }

    #[test]
    fn only_a_right_key_opens() {
        assert!(try_key(&[], None) && try_key(&[], Some("Bearer anything")));
        assert!(try_key(&["a", "b"], Some("Bearer b")) && try_key(&["a"], Some("bearer a")));
        for header in [None, Some("Bearer c"), Some("Bearer"), Some("b"), Some("Basic b"), Some("Bearer ")] {
            assert!(!try_key(&["a", "b"], header), "{header:?}");
        }
    }
}
