//! Whether the process lives, and whether it takes work: two questions, because an orchestrator restarts what is dead
//! and only leaves alone what is not ready. Both are open without a key, and name the live weights.
//! Nothing here waits for the engine.

use actix_web::{HttpResponse, web};

use super::Service;
use super::error::ApiError;
use super::wire::health::Health;

/// Lives: always 200 while the process answers at all.
#[utoipa::path(
    get,
    path = "/health",
    tag = "Operations",
    responses((status = 200, description = "The process lives.", body = Health)),
    security(())
)]
pub async fn health(service: web::Data<Service>) -> web::Json<Health> {
    web::Json(report(&service))
}

/// Takes work: 503 while the engine is stopping or has failed.
#[utoipa::path(
    get,
    path = "/ready",
    tag = "Operations",
    responses(
        (status = 200, description = "Requests are taken.", body = Health),
        (status = 503, description = "Requests are not taken.", body = super::wire::error::ErrorBody)
    ),
    security(())
)]
pub async fn ready(service: web::Data<Service>) -> Result<HttpResponse, ApiError> {
    if service.engine.is_alive() {
        Ok(HttpResponse::Ok().json(report(&service)))
    } else {
        Err(ApiError::unavailable("The engine takes no work."))
    }
}

fn report(service: &Service) -> Health {
    let load = service.engine.load();
    Health {
        status: "ok",
        server: env!("CARGO_PKG_VERSION"),
        model: service.name.clone(),
        model_version: service.engine.model().version().0.clone(),
        running: load.running,
        queued: load.queued,
        ledger: if service.ledger.is_up() { "ok" } else { "unavailable" },
        rating: [service.scale.least, service.scale.most],
    }
}
