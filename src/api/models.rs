//! Which models may be named: the served one by its name, which is whatever is live, and by its name with a version of its weights.
//! What is listed here is exactly what a request's `model` may say.
//! Knows nothing of how a model comes to be live.

use actix_web::web;

use super::Service;
use super::error::ApiError;
use super::wire::error::ErrorBody;
use super::wire::models::{ModelCard, ModelList};

/// Lists the served model under its name and under each version that is loaded.
#[utoipa::path(
    get,
    path = "/v1/models",
    operation_id = "listModels",
    tag = "Models",
    responses((status = 200, description = "The names that may be used.", body = ModelList))
)]
pub async fn list(service: web::Data<Service>) -> web::Json<ModelList> {
    web::Json(ModelList { object: "list", data: service.cards() })
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
    let card = service.cards().into_iter().find(|card| card.id == *id);
    card.map(web::Json).ok_or_else(|| ApiError::model(&id, &service.name))
}
