//! Feedback on samples: given, found, changed, withdrawn. What is acknowledged is durable, and sending again is safe.
//! How often a rater may speak is bounded here; what fits a sample is decided by the ledger.

use std::num::NonZeroU32;

use actix_web::{HttpRequest, HttpResponse, web};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use super::Service;
use super::auth::key_name;
use super::error::{ApiError, Failures};
use super::keep::now_ms;
use super::wire::error::ErrorBody;
use super::wire::feedback::{Deleted, List, Query, Reply, Request, Spoken};
use super::wire::from_json;
use crate::domain::id::FeedbackId;
use crate::store::{Fresh, Rated, Rating};

/// Feedback that one rater may give at once, and then each second; and so many times more over one key.
const BURST: NonZeroU32 = NonZeroU32::MIN.saturating_add(59);
const PER_SECOND: NonZeroU32 = NonZeroU32::MIN.saturating_add(3);
const RATERS: NonZeroU32 = NonZeroU32::MIN.saturating_add(49);
/// Raters remembered before those who have been silent are forgotten.
const REMEMBERED: usize = 10_000;

/// How often raters, and keys, may speak.
pub struct Pace {
    raters: DefaultKeyedRateLimiter<String>,
    keys: DefaultKeyedRateLimiter<String>,
}

impl Pace {
    pub fn new() -> Self {
        let quota = |times: NonZeroU32| {
            Quota::per_second(PER_SECOND.saturating_mul(times)).allow_burst(BURST.saturating_mul(times))
        };
        Self { raters: RateLimiter::keyed(quota(NonZeroU32::MIN)), keys: RateLimiter::keyed(quota(RATERS)) }
    }

    /// # Errors
    /// When the rater, or the key, has said too much lately.
    fn check(&self, key: &str, rater: String) -> Result<(), ApiError> {
        if self.raters.len() > REMEMBERED {
            self.raters.retain_recent();
            self.keys.retain_recent();
        }
        let fine = self.keys.check_key(&key.to_owned()).is_ok() && self.raters.check_key(&rater).is_ok();
        if fine { Ok(()) } else { Err(ApiError::busy("Too much feedback from one rater; please try again shortly.")) }
    }
}

/// Says something of a sample.
#[utoipa::path(
    post,
    path = "/v1/feedback",
    operation_id = "createFeedback",
    tag = "Feedback",
    request_body = Request,
    responses(
        (status = 201, description = "It is kept.", body = Reply),
        (status = 200, description = "It was kept before, under the same `feedback_id`.", body = Reply),
        (status = 404, description = "There is no such sample.", body = ErrorBody),
        (status = 409, description = "The `feedback_id` was used for something else.", body = ErrorBody),
        (status = 422, description = "It does not fit the sample.", body = ErrorBody),
        Failures
    )
)]
pub async fn create(
    service: web::Data<Service>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let body = service.bodies.json(&request, payload).await?;
    let scale = service.scale;
    let spoken = service.blocking(move || from_json::<Request>(body.bytes())?.parse(scale)).await?;
    let key = key_name(&service.keys, request.headers());
    service.pace.check(&key, who(&request, &key, spoken.rater.as_deref()))?;
    let Spoken { target, said, file, rater, metadata, client_key } = spoken;
    let files = keep_file(&service, file).await?;
    let rating = Rating {
        target,
        opinion: said,
        id: FeedbackId::fresh(),
        client_key,
        rater,
        key,
        metadata,
        created_ms: now_ms(),
    };
    match service.ledger.rate(rating, &files).await? {
        Rated::New(feedback) => Ok(HttpResponse::Created().json(Reply::from(feedback))),
        other => settled(other),
    }
}

/// Lists what was said of a sample, or of all samples of a reply.
#[utoipa::path(
    get,
    path = "/v1/feedback",
    operation_id = "listFeedback",
    tag = "Feedback",
    params(Query),
    responses((status = 200, description = "All of it, oldest first.", body = List), Failures)
)]
pub async fn list(service: web::Data<Service>, request: HttpRequest) -> Result<web::Json<List>, ApiError> {
    let target = super::query::<Query>(&request)?.parse()?;
    let found = service.ledger.feedback_on(target).await?;
    let found = found.ok_or_else(|| ApiError::no_sample("sample_id", request.query_string()))?;
    Ok(web::Json(List { object: "list", data: found.into_iter().map(Reply::from).collect() }))
}

/// Finds a feedback.
#[utoipa::path(
    get,
    path = "/v1/feedback/{id}",
    operation_id = "retrieveFeedback",
    tag = "Feedback",
    params(("id" = String, Path, description = "Its id.")),
    responses((status = 200, description = "The feedback.", body = Reply), Failures)
)]
pub async fn retrieve(service: web::Data<Service>, id: web::Path<String>) -> Result<web::Json<Reply>, ApiError> {
    let found = service.ledger.feedback(parse(&id)?).await?;
    found.map(|feedback| web::Json(feedback.into())).ok_or_else(|| ApiError::no_feedback(&id))
}

/// Changes what a feedback says; what it said before is kept as its history. Sample, rater and notes stay.
#[utoipa::path(
    put,
    path = "/v1/feedback/{id}",
    operation_id = "updateFeedback",
    tag = "Feedback",
    params(("id" = String, Path, description = "Its id.")),
    request_body = Request,
    responses((status = 200, description = "The changed feedback.", body = Reply), Failures)
)]
pub async fn update(
    service: web::Data<Service>,
    request: HttpRequest,
    id: web::Path<String>,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let body = service.bodies.json(&request, payload).await?;
    let (id, scale) = (parse(&id)?, service.scale);
    let known = service.ledger.feedback(id).await?;
    let sample = known.ok_or_else(|| ApiError::no_feedback(&id.to_string()))?.sample;
    let spoken = service.blocking(move || from_json::<Request>(body.bytes())?.about(sample).parse(scale)).await?;
    let key = key_name(&service.keys, request.headers());
    service.pace.check(&key, who(&request, &key, None))?;
    let files = keep_file(&service, spoken.file).await?;
    let changed = service.ledger.revise(id, key, spoken.said, now_ms(), &files).await;
    settled(changed?)
}

/// Withdraws a feedback: it is no longer shown or learned from.
#[utoipa::path(
    delete,
    path = "/v1/feedback/{id}",
    operation_id = "deleteFeedback",
    tag = "Feedback",
    params(("id" = String, Path, description = "Its id.")),
    responses((status = 200, description = "It is withdrawn.", body = Deleted), Failures)
)]
pub async fn withdraw(
    service: web::Data<Service>,
    request: HttpRequest,
    id: web::Path<String>,
) -> Result<web::Json<Deleted>, ApiError> {
    let key = key_name(&service.keys, request.headers());
    let gone = service.ledger.withdraw(parse(&id)?, key, now_ms()).await?;
    if !gone {
        return Err(ApiError::no_feedback(&id));
    }
    Ok(web::Json(Deleted { id: id.into_inner(), object: "feedback.deleted", deleted: true }))
}

fn parse(id: &str) -> Result<FeedbackId, ApiError> {
    id.parse().map_err(|_| ApiError::no_feedback(id))
}

/// Whose pace counts: the rater's under a key, or whoever is at the other end.
fn who(request: &HttpRequest, key: &str, rater: Option<&str>) -> String {
    let peer = || request.peer_addr().map(|peer| peer.ip().to_string()).unwrap_or_default();
    format!("{key} {}", rater.map_or_else(peer, str::to_owned))
}

/// Writes the file of a correction.
async fn keep_file(service: &Service, file: Option<Vec<u8>>) -> Result<Vec<Fresh>, ApiError> {
    match file {
        None => Ok(Vec::new()),
        Some(file) => Ok(vec![service.ledger.blobs().put(file).await?]),
    }
}

/// The reply to what became of a feedback, where it was not new.
fn settled(rated: Rated) -> Result<HttpResponse, ApiError> {
    match rated {
        Rated::New(feedback) | Rated::Known(feedback) => Ok(HttpResponse::Ok().json(Reply::from(feedback))),
        Rated::Taken => Err(ApiError::conflict("feedback_id", "This `feedback_id` was used for something else.")),
        Rated::NoSample(id) => Err(ApiError::no_sample("sample_id", &id)),
        Rated::Unfit(why) => Err(ApiError::unfit(&format!("This does not fit the sample: {why}."))),
        Rated::NoFeedback => Err(ApiError::no_feedback("")),
    }
}
