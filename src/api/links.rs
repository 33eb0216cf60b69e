//! Links to kept pictures: signed, so that nobody can make one, and good for an hour. They open without a key, because a
//! browser sends none.

use actix_web::HttpRequest;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::keep::now_ms;
use crate::domain::id::SampleId;

/// How long a link works, in seconds.
const LIFETIME: i64 = 3600;

/// The maker and checker of links.
pub struct Links {
    secret: [u8; 64],
}

impl Links {
    pub fn new(secret: [u8; 64]) -> Self {
        Self { secret }
    }

    /// A link to the picture of `id` on the host that `request` was sent to.
    pub fn to(&self, request: &HttpRequest, id: SampleId) -> String {
        let until = now_ms() / 1000 + LIFETIME;
        let host = request.connection_info();
        let signature = self.sign(id, until).finalize().into_bytes();
        let signature: String = signature.iter().map(|b| format!("{b:02x}")).collect();
        format!("{}://{}/v1/samples/{id}/image?until={until}&signature={signature}", host.scheme(), host.host())
    }

    /// Whether this is a link of ours, and still good.
    pub fn open(&self, path: &str, query: &str) -> bool {
        let id = path.strip_prefix("/v1/samples/").and_then(|rest| rest.strip_suffix("/image"));
        let parts = query.strip_prefix("until=").and_then(|rest| rest.split_once("&signature="));
        match (id.map(str::parse), parts.map(|(until, signature)| (until.parse(), signature))) {
            (Some(Ok(id)), Some((Ok(until), signature))) => self.check(id, until, signature),
            _ => false,
        }
    }

    fn check(&self, id: SampleId, until: i64, signature: &str) -> bool {
        let byte = |at: usize| signature.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
        let bytes: Option<Vec<u8>> = (0..signature.len()).step_by(2).map(byte).collect();
        let ours = bytes.is_some_and(|bytes| self.sign(id, until).verify_slice(&bytes).is_ok());
        ours && now_ms() / 1000 <= until
    }

    fn sign(&self, id: SampleId, until: i64) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new(&self.secret.into());
        mac.update(format!("{id} {until}").as_bytes());
        mac
    }
}
