//! Versions of the weights: listed, promoted and taken back by hand. What is acknowledged is what every server of the ledger will
//! serve; each follows within a second. Knows nothing of how weights are loaded.

use actix_web::http::header::HeaderMap;
use actix_web::{HttpRequest, web};

use super::Service;
use super::auth::author;
use super::error::{ApiError, Failures};
use super::keep::now_ms;
use super::wire::error::ErrorBody;
use super::wire::versions::{PromotionCard, VersionCard, VersionList};
use crate::domain::round::{KnownVersion, Promotion};
use crate::domain::sample::Version;
use crate::store::Promoted;

/// Promotions that a list shows.
const SHOWN: u32 = 100;
/// Fewest digits that name a version.
const DIGITS: usize = 8;

/// Lists all versions.
#[utoipa::path(
    get,
    path = "/v1/versions",
    operation_id = "listVersions",
    tag = "Versions",
    responses((status = 200, description = "All versions, newest first.", body = VersionList), Failures)
)]
pub async fn list(service: web::Data<Service>) -> Result<web::Json<VersionList>, ApiError> {
    let (all, promotions) = (service.ledger.versions().await?, service.ledger.promotions(SHOWN).await?);
    let data = all.into_iter().map(|known| show(&service, known, promotions.first())).collect();
    let promotions = promotions.iter().cloned().map(PromotionCard::from).collect();
    Ok(web::Json(VersionList { object: "list", data, promotions }))
}

/// Describes a version.
#[utoipa::path(
    get,
    path = "/v1/versions/{id}",
    operation_id = "retrieveVersion",
    tag = "Versions",
    params(("id" = String, Path, description = "Its content hash, or at least the first eight digits of it.")),
    responses((status = 200, description = "The version.", body = VersionCard), Failures)
)]
pub async fn retrieve(service: web::Data<Service>, id: web::Path<String>) -> Result<web::Json<VersionCard>, ApiError> {
    let (known, live) = (find(&service, &id).await?, service.ledger.live().await?);
    Ok(web::Json(show(&service, known, live.as_ref())))
}

/// Makes a version live by hand. Running requests end on the weights they began with.
#[utoipa::path(
    post,
    path = "/v1/versions/{id}/promote",
    operation_id = "promoteVersion",
    tag = "Versions",
    params(("id" = String, Path, description = "Its content hash, or at least the first eight digits of it.")),
    responses(
        (status = 200, description = "It is live; every server follows within a second.", body = PromotionCard),
        (status = 409, description = "Its weights are not kept, or another version was promoted just now.", body = ErrorBody),
        Failures
    )
)]
pub async fn promote(
    service: web::Data<Service>,
    request: HttpRequest,
    id: web::Path<String>,
) -> Result<web::Json<PromotionCard>, ApiError> {
    service.admins.check(request.headers())?;
    let (known, live) = (find(&service, &id).await?, service.ledger.live().await?);
    if let Some(live) = live.as_ref().filter(|live| live.version == known.version) {
        return Ok(web::Json(live.clone().into()));
    }
    change(&service, request.headers(), known, live, "promoted by hand").await
}

/// Takes a version back: what was live before it is live again.
#[utoipa::path(
    post,
    path = "/v1/versions/{id}/rollback",
    operation_id = "rollbackVersion",
    tag = "Versions",
    params(("id" = String, Path, description = "The live version.")),
    responses(
        (status = 200, description = "The version before it is live; every server follows within a second.", body = PromotionCard),
        (status = 409, description = "It is not live, or there is none before it.", body = ErrorBody),
        Failures
    )
)]
pub async fn rollback(
    service: web::Data<Service>,
    request: HttpRequest,
    id: web::Path<String>,
) -> Result<web::Json<PromotionCard>, ApiError> {
    service.admins.check(request.headers())?;
    let known = find(&service, &id).await?;
    let history = service.ledger.promotions(SHOWN).await?;
    let live = history.first().filter(|live| live.version == known.version).cloned();
    let live = live.ok_or_else(|| ApiError::conflict("id", "This version is not live, so it cannot be taken back."))?;
    let before = history.iter().find(|before| before.version != known.version);
    let before = before.ok_or_else(|| ApiError::conflict("id", "There is no version before this one."))?;
    let before = service.ledger.version(&before.version).await?.ok_or_else(|| ApiError::no_such("version", &id))?;
    change(&service, request.headers(), before, Some(live), "rolled back by hand").await
}

async fn change(
    service: &Service,
    headers: &HeaderMap,
    known: KnownVersion,
    live: Option<Promotion>,
    why: &str,
) -> Result<web::Json<PromotionCard>, ApiError> {
    if known.weights.is_none() && !is_loaded(service, &known.version) {
        return Err(ApiError::conflict("id", "The weights of this version are not kept any more."));
    }
    let by = author(&service.keys, headers);
    let number = live.map_or(0, |live| live.number);
    match service.ledger.promote(known.version, number, by, why.to_owned(), now_ms()).await? {
        Promoted::Live(promotion) => Ok(web::Json(promotion.into())),
        Promoted::Lost(_) => Err(ApiError::conflict("id", "Another version was promoted just now.")),
        Promoted::Unknown => Err(ApiError::internal(&"a version was forgotten while it was promoted")),
    }
}

/// The version that `id` names, whole or by its first digits.
async fn find(service: &Service, id: &str) -> Result<KnownVersion, ApiError> {
    if let Some(known) = service.ledger.version(&Version(id.to_owned())).await? {
        return Ok(known);
    }
    let all = if id.len() < DIGITS { Vec::new() } else { service.ledger.versions().await? };
    let mut found = all.into_iter().filter(|known| known.version.0.starts_with(id));
    match (found.next(), found.next()) {
        (Some(known), None) => Ok(known),
        (Some(_), Some(_)) => Err(ApiError::invalid("id", "More than one version begins with these digits.")),
        _ => Err(ApiError::no_such("version", id)),
    }
}

fn is_loaded(service: &Service, version: &Version) -> bool {
    service.engine.models().iter().any(|model| model.version() == version)
}

fn show(service: &Service, known: KnownVersion, live: Option<&Promotion>) -> VersionCard {
    let loaded = is_loaded(service, &known.version);
    VersionCard::new(known, live, loaded)
}
