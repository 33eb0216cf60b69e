//! Versions of the weights: listed, tried, promoted and taken back by hand. What is acknowledged is what every server of the ledger will
//! serve; each follows within a second. Knows nothing of how weights are loaded, and not when a trial ends by itself.

use actix_web::http::header::HeaderMap;
use actix_web::{HttpRequest, HttpResponse, web};

use super::Service;
use super::auth::author;
use super::error::{ApiError, Failures};
use super::keep::now_ms;
use super::wire::error::ErrorBody;
use super::wire::from_json;
use super::wire::versions::{PromotionCard, Request, TrialCard, VersionCard, VersionList};
use crate::domain::round::{KnownVersion, Promotion};
use crate::domain::sample::Version;
use crate::domain::trial::{Share, Terms, Trial, TrialState};
use crate::store::{Beginning, Begun, Ending, Promoted, Settled};
use crate::trial::of_trial;

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
    let trials = trials(&service, promotions.first()).await?;
    let data = all.into_iter().map(|known| show(&service, known, promotions.first(), &trials)).collect();
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
    let trials = trials(&service, live.as_ref()).await?;
    Ok(web::Json(show(&service, known, live.as_ref(), &trials)))
}

/// Makes a version live by hand, or with `share` puts it on trial. Running requests end on the weights they began with. What is made live
/// ends a trial, be it of this version or of another.
#[utoipa::path(
    post,
    path = "/v1/versions/{id}/promote",
    operation_id = "promoteVersion",
    tag = "Versions",
    params(("id" = String, Path, description = "Its content hash, or at least the first eight digits of it.")),
    request_body = Option<Request>,
    responses(
        (status = 200, description = "It is live; every server follows within a second.", body = PromotionCard),
        (status = 202, description = "It is on trial; every server follows within a second.", body = TrialCard),
        (
            status = 409,
            description = "Its weights are not kept, another version was promoted just now, or with `share` is on trial, or this one is live.",
            body = ErrorBody
        ),
        Failures
    )
)]
pub async fn promote(
    service: web::Data<Service>,
    request: HttpRequest,
    id: web::Path<String>,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    service.admins.check(request.headers())?;
    let body = service.bodies.json_or_none(&request, payload).await?;
    let share = body.map_or(Ok(None), |body| from_json::<Request>(body.bytes())?.parse())?;
    let (known, live) = (find(&service, &id).await?, service.ledger.live().await?);
    let is_live = live.as_ref().filter(|live| live.version == known.version).cloned();
    match (share, is_live) {
        (Some(_), Some(_)) => {
            Err(ApiError::conflict("id", "This version is live, so it cannot be tried beside itself."))
        }
        (Some(share), None) => {
            let trial = try_out(&service, request.headers(), known, live, share).await?;
            Ok(HttpResponse::Accepted().json(TrialCard::new(trial, None)))
        }
        (None, Some(live)) => Ok(HttpResponse::Ok().json(PromotionCard::from(live))),
        (None, None) => {
            let promotion = change(&service, request.headers(), known, live, "promoted by hand").await?;
            Ok(HttpResponse::Ok().json(promotion.into_inner()))
        }
    }
}

/// Takes a version back: what was live before it is live again. One on trial is withdrawn, and what is live stays so.
#[utoipa::path(
    post,
    path = "/v1/versions/{id}/rollback",
    operation_id = "rollbackVersion",
    tag = "Versions",
    params(("id" = String, Path, description = "The live version, or the one on trial.")),
    responses(
        (
            status = 200,
            description = "The version before it is live, or the live one answers everybody; every server follows within a second.",
            body = PromotionCard
        ),
        (status = 409, description = "It is neither live nor on trial, or there is none before it.", body = ErrorBody),
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
    if let Some(live) = history.first().filter(|live| live.version != known.version)
        && withdraw(&service, request.headers(), &known.version).await?
    {
        return Ok(web::Json(live.clone().into()));
    }
    let live = history.first().filter(|live| live.version == known.version).cloned();
    let live = live.ok_or_else(|| {
        ApiError::conflict("id", "This version is neither live nor on trial, so it cannot be taken back.")
    })?;
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
    is_kept(service, &known)?;
    let by = author(&service.keys, headers);
    let number = live.map_or(0, |live| live.number);
    match service.ledger.promote(known.version, number, by, why.to_owned(), now_ms()).await? {
        Promoted::Live(promotion) => Ok(web::Json(promotion.into())),
        Promoted::Lost(_) => Err(ApiError::conflict("id", "Another version was promoted just now.")),
        Promoted::Unknown => Err(ApiError::internal(&"a version was forgotten while it was promoted")),
    }
}

/// Puts a version on trial beside the live one.
async fn try_out(
    service: &Service,
    headers: &HeaderMap,
    known: KnownVersion,
    live: Option<Promotion>,
    share: Share,
) -> Result<Trial, ApiError> {
    is_kept(service, &known)?;
    let beginning = Beginning {
        version: known.version,
        after: live.map_or(0, |live| live.number),
        terms: Terms { share, ..service.trials },
        by: author(&service.keys, headers),
        why: "tried by hand".into(),
        round: None,
        now_ms: now_ms(),
    };
    match service.ledger.begin_trial(beginning).await? {
        Begun::Running(trial) => Ok(trial),
        Begun::Lost => Err(ApiError::conflict("id", "Another version is on trial, or was promoted just now.")),
        Begun::Unknown => Err(ApiError::internal(&"a version was forgotten while it was put on trial")),
    }
}

/// Ends the trial of a version by hand; false when it is not on trial.
async fn withdraw(service: &Service, headers: &HeaderMap, version: &Version) -> Result<bool, ApiError> {
    let running = service.ledger.running_trials().await?;
    let Some(trial) = running.into_iter().find(|trial| trial.version == *version) else { return Ok(false) };
    let said = format!("withdrawn by {}", author(&service.keys, headers));
    let state = TrialState::Withdrawn;
    let ending = Ending { number: trial.number, state, said, promoter: None, now_ms: now_ms() };
    Ok(matches!(service.ledger.settle_trial(ending).await?, Settled::Ended(_)))
}

/// The last trials, newest first, and how those that run stand beside the live version.
async fn trials(service: &Service, live: Option<&Promotion>) -> Result<Vec<TrialCard>, ApiError> {
    let mut cards = Vec::new();
    for trial in service.ledger.trials(SHOWN).await? {
        let standing = match live.filter(|live| trial.state == TrialState::Running && trial.after == live.number) {
            Some(live) => Some(of_trial(&service.ledger, &trial, &live.version).await?),
            None => None,
        };
        cards.push(TrialCard::new(trial, standing));
    }
    Ok(cards)
}

/// Refuses a version whose weights are gone.
fn is_kept(service: &Service, known: &KnownVersion) -> Result<(), ApiError> {
    match known.weights.is_some() || is_loaded(service, &known.version) {
        true => Ok(()),
        false => Err(ApiError::conflict("id", "The weights of this version are not kept any more.")),
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

fn show(service: &Service, known: KnownVersion, live: Option<&Promotion>, trials: &[TrialCard]) -> VersionCard {
    let loaded = is_loaded(service, &known.version);
    let trial = trials.iter().find(|trial| trial.version == known.version.0).cloned();
    VersionCard::new(known, live, loaded, trial)
}
