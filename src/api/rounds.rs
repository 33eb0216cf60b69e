//! Training rounds: opened by hand, watched, cancelled. Knows the ledger's rows; the work is done elsewhere.

use actix_web::{HttpRequest, HttpResponse, web};

use super::Service;
use super::auth::author;
use super::error::{ApiError, Failures};
use super::keep::now_ms;
use super::wire::error::ErrorBody;
use super::wire::from_json;
use super::wire::rounds::{Opening, Query, Request, RoundCard, RoundList};
use crate::domain::round::Round;

/// Opens a training round.
#[utoipa::path(
    post,
    path = "/v1/rounds",
    operation_id = "createRound",
    tag = "Rounds",
    request_body = Request,
    responses((status = 201, description = "It is open; a server that learns takes it up.", body = RoundCard), Failures)
)]
pub async fn create(
    service: web::Data<Service>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    service.admins.check(request.headers())?;
    let body = service.bodies.json(&request, payload).await?;
    let Opening { since_ms, plan } = service.blocking(move || from_json::<Request>(body.bytes())?.parse()).await?;
    let since_ms = match since_ms {
        Some(since) => since,
        None => service.ledger.learned_until().await?,
    };
    let round = Round::open(author(&service.keys, request.headers()), plan, since_ms, now_ms());
    service.ledger.open_round(round.clone()).await?;
    if !service.learns {
        tracing::info!(round = %round.id, "a round is open; this server does not learn, so another must take it up");
    }
    Ok(HttpResponse::Created().json(RoundCard::from(round)))
}

/// Lists rounds, newest first.
#[utoipa::path(
    get,
    path = "/v1/rounds",
    operation_id = "listRounds",
    tag = "Rounds",
    params(Query),
    responses((status = 200, description = "A page of rounds.", body = RoundList), Failures)
)]
pub async fn list(service: web::Data<Service>, request: HttpRequest) -> Result<web::Json<RoundList>, ApiError> {
    let (after, limit) = super::query::<Query>(&request)?.parse()?;
    let mut rounds = service.ledger.rounds(after, limit + 1).await?;
    let has_more = rounds.len() > limit as usize;
    rounds.truncate(limit as usize);
    Ok(web::Json(RoundList { object: "list", data: rounds.into_iter().map(RoundCard::from).collect(), has_more }))
}

/// Describes a round.
#[utoipa::path(
    get,
    path = "/v1/rounds/{id}",
    operation_id = "retrieveRound",
    tag = "Rounds",
    params(("id" = String, Path, description = "Its id.")),
    responses((status = 200, description = "The round.", body = RoundCard), Failures)
)]
pub async fn retrieve(service: web::Data<Service>, id: web::Path<String>) -> Result<web::Json<RoundCard>, ApiError> {
    Ok(web::Json(find(&service, &id).await?.into()))
}

/// Cancels a round that has not ended.
#[utoipa::path(
    post,
    path = "/v1/rounds/{id}/cancel",
    operation_id = "cancelRound",
    tag = "Rounds",
    params(("id" = String, Path, description = "Its id.")),
    responses(
        (status = 200, description = "It is cancelled; whoever works on it stops after the step it is in.", body = RoundCard),
        (status = 409, description = "It has ended already.", body = ErrorBody),
        Failures
    )
)]
pub async fn cancel(
    service: web::Data<Service>,
    request: HttpRequest,
    id: web::Path<String>,
) -> Result<web::Json<RoundCard>, ApiError> {
    service.admins.check(request.headers())?;
    let round = find(&service, &id).await?;
    if !service.ledger.cancel_round(round.id, now_ms()).await? {
        return Err(ApiError::conflict("id", "This round has ended already."));
    }
    Ok(web::Json(find(&service, &id).await?.into()))
}

async fn find(service: &Service, id: &str) -> Result<Round, ApiError> {
    let none = || ApiError::no_such("round", id);
    service.ledger.round(id.parse().map_err(|_| none())?).await?.ok_or_else(none)
}
