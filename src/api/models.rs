//! Which models may be named: the served one by its name, which is whatever is live, and by its name with a version of its weights.
//! What is listed here is exactly what a request's `model` may say.
//! Knows nothing of how a model comes to be live.

use actix_web::{HttpRequest, web};

use super::Service;
use super::error::{ApiError, Failures};
use super::wire::error::ErrorBody;
use super::wire::files::Gone;
use super::wire::models::{ModelCard, ModelList};

/// Lists the served model under its name and under each version that is loaded or kept.
#[utoipa::path(
    get,
    path = "/v1/models",
    operation_id = "listModels",
    tag = "Models",
    responses((status = 200, description = "The names that may be used.", body = ModelList))
)]
pub async fn list(service: web::Data<Service>) -> web::Json<ModelList> {
    web::Json(ModelList { object: "list", data: service.cards().await })
}

/// Describes one model.
#[utoipa::path(
    get,
    path = "/v1/models/{id}",
    operation_id = "retrieveModel",
    tag = "Models",
    params(("id" = String, Path, description = "Its id, percent-encoded.")),
    responses(
        (status = 200, description = "The model.", body = ModelCard),
        (status = 404, description = "The model is not served here.", body = ErrorBody)
    )
)]
pub async fn retrieve(service: web::Data<Service>, id: web::Path<String>) -> Result<web::Json<ModelCard>, ApiError> {
    let card = service.cards().await.into_iter().find(|card| card.id == *id);
    card.map(web::Json).ok_or_else(|| ApiError::model(&id, &service.name))
}

/// Forgets the weights of a version that is not live: of a job's, say, which would otherwise be kept for ever.
#[utoipa::path(
    delete,
    path = "/v1/models/{id}",
    operation_id = "deleteModel",
    tag = "Models",
    params(("id" = String, Path, description = "Its id, percent-encoded: the name with a version.")),
    responses(
        (status = 200, description = "Its weights are gone; what it was is still told (`/v1/versions`).", body = Gone),
        (status = 409, description = "It is live, or a server began with it.", body = ErrorBody),
        Failures
    )
)]
pub async fn delete(
    service: web::Data<Service>,
    request: HttpRequest,
    id: web::Path<String>,
) -> Result<web::Json<Gone>, ApiError> {
    service.admins.check(request.headers())?;
    let live = || ApiError::conflict("id", "This is the live version; promote another first.");
    let version = service.named(&id).await?.ok_or_else(live)?;
    let known = service.ledger.version(&version).await?.filter(|known| known.round.is_some());
    let known = known.ok_or_else(|| ApiError::conflict("id", "A server began with this version, so it stays."))?;
    service.ledger.pin(version.clone(), false).await?;
    if !service.ledger.shed(version.clone()).await? {
        service.ledger.pin(version, known.pinned).await?;
        return Err(live());
    }
    service.engine.retain(|held| *held != version);
    Ok(web::Json(Gone { id: id.into_inner(), object: "model", deleted: true }))
}
