//! The page: four files inside the binary, nothing from elsewhere, and a policy that holds the browser to it.
//! It uses the public interface alone, so it is also an example of it.
//! Nothing is built, bundled or templated.

use actix_web::HttpResponse;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue};

/// Scripts, styles and requests of this server only; pictures also from the page's own data.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub fn index() -> HttpResponse {
    file("text/html; charset=utf-8", include_str!("index.html"))
}

pub fn style() -> HttpResponse {
    file("text/css; charset=utf-8", include_str!("style.css"))
}

pub fn script() -> HttpResponse {
    file("text/javascript; charset=utf-8", include_str!("app.js"))
}

pub fn learning() -> HttpResponse {
    file("text/javascript; charset=utf-8", include_str!("learn.js"))
}

fn file(kind: &'static str, content: &'static str) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, HeaderValue::from_static(kind)))
        .insert_header((CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)))
        // The files change with the binary and have no version in their names.
        .insert_header((CACHE_CONTROL, HeaderValue::from_static("no-cache")))
        .insert_header(("referrer-policy", "no-referrer"))
        .body(content)
}
