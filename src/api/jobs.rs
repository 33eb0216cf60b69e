//! Fine-tuning jobs: rounds that are asked for with their own data and grader, watched, cancelled, paused. What a job makes is kept and
//! answers by its name, whatever the gate says: who asked for a model gets it, and what everybody gets stays the gate's decision, or an
//! admin's. Knows the ledger's rows; the work is done elsewhere.

use actix_web::{HttpRequest, web};
use serde_json::{Value, json};

use super::auth::{author, key_name};
use super::error::{ApiError, Failures};
use super::files::{again, find as find_file};
use super::keep::now_ms;
use super::wire::error::ErrorBody;
use super::wire::from_json;
use super::wire::job_card::{CheckpointCard, EventCard, JobCard};
use super::wire::jobs::{Filter, PartQuery, Query, Request, Wanted, filter};
use super::wire::stored::Page;
use super::{Service, query};
use crate::domain::id::RoundId;
use crate::domain::job::{File, Job, Level, RoundEvent};
use crate::domain::round::Round;
use crate::reward::grader::row::Row;
use crate::store::{LedgerError, Opened, digest};

/// How long a job that goes on is for the worker that has its checkpoint, in milliseconds.
const FIRST_MS: i64 = 30_000;

/// Opens a job.
#[utoipa::path(
    post,
    path = "/v1/fine_tuning/jobs",
    operation_id = "createFineTuningJob",
    tag = "Fine-tuning",
    request_body = Request,
    responses((status = 200, description = "It is queued; a server that learns takes it up.", body = JobCard), Failures)
)]
pub async fn create(
    service: web::Data<Service>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<web::Json<JobCard>, ApiError> {
    service.admins.check(request.headers())?;
    let body = service.bodies.json(&request, payload).await?;
    let sent = digest(body.bytes())?;
    let mut wanted = service.blocking(move || from_json::<Request>(body.bytes())?.parse(rand::random())).await?;
    let base = service.named(&wanted.model).await?;
    if let Some((grader, _)) = &wanted.grader
        && let Some(other) = grader.models().find(|model| *model != wanted.model)
    {
        let message = format!(
            "`{other}` cannot judge: the judge is what the job begins with, so `score_model` names `{}`.",
            wanted.model
        );
        return Err(ApiError::unsupported_value("method.reinforcement.grader", message));
    }
    let file = match &wanted.file {
        Some(id) => Some(find_file(&service, "training_file", id).await?),
        None => None,
    };
    let mut said = "Learns from what users said".to_owned();
    if let Some(File { blob, name, .. }) = &file {
        let bytes = service.ledger.blobs().get(blob).await?;
        let rows;
        (wanted, rows) = service.blocking(move || checked(wanted, &bytes)).await?;
        said = format!("Checked: {rows} rows of {name}");
        let grader = wanted.grader.as_ref().map(|(_, value)| value.clone());
        wanted.plan.insert("rows".into(), json!({ "file": blob.to_string(), "grader": grader }));
    }
    // A file is learned from whole; what was said stays to be learned from by others.
    let since_ms = if file.is_some() { 0 } else { service.ledger.learned_until().await? };
    let (author, key) = (author(&service.keys, request.headers()), key_name(&service.keys, request.headers()));
    let now = now_ms();
    let round = Round::open(author, Value::Object(wanted.plan).to_string(), since_ms, now);
    let until_ms = if file.is_some() { 0 } else { round.until_ms };
    let asked = serde_json::to_string(&wanted.asked).map_err(|cause| ApiError::internal(&cause))?;
    let job = Job {
        round: Round { base, until_ms, ..round },
        asked,
        metadata: wanted.metadata,
        key,
        digest: sent.to_string(),
    };
    let id = job.id();
    let held = file.map(|file| (file.id, file.blob));
    match service.ledger.open_job(job.clone(), held, again(request.headers())).await? {
        Opened::New => {}
        Opened::Before(id) => return show(&service, find(&service, &id.to_string()).await?),
        Opened::NoFile => {
            return Err(ApiError::no_file("training_file", &wanted.file.unwrap_or_default()));
        }
    }
    tell(&service, &job, Level::Info, format!("Created: {id}")).await;
    tell(&service, &job, Level::Info, said).await;
    if !service.learns {
        let message = "Waits: this server does not learn (`--learn`), so another must take it up";
        tell(&service, &job, Level::Warn, message.to_owned()).await;
    }
    show(&service, job)
}

/// The same, once every row is known to be one that its grader can grade; and how many there are.
fn checked(wanted: Wanted, file: &[u8]) -> Result<(Wanted, usize), ApiError> {
    let wrong = |what: String| ApiError::invalid("training_file", format!("The file cannot be learned from: {what}."));
    let rows = Row::all(file).map_err(wrong)?;
    for (line, row) in &rows {
        if let Some((grader, _)) = &wanted.grader {
            grader.check(row).map_err(|what| wrong(format!("line {line} {what}")))?;
        }
    }
    wanted.check_steps(rows.len())?;
    Ok((wanted, rows.len()))
}

/// Lists jobs, newest first.
#[utoipa::path(
    get,
    path = "/v1/fine_tuning/jobs",
    operation_id = "listFineTuningJobs",
    tag = "Fine-tuning",
    params(Query),
    responses((status = 200, description = "A page of jobs.", body = Page<JobCard>), Failures)
)]
pub async fn list(service: web::Data<Service>, request: HttpRequest) -> Result<web::Json<Page<JobCard>>, ApiError> {
    let Filter { after, limit, metadata } = filter(query(&request)?)?;
    let (jobs, more) = service.ledger.jobs(after, limit, &metadata).await?;
    let cards = jobs.into_iter().map(|job| card(&service, job)).collect::<Result<_, _>>()?;
    Ok(web::Json(Page::new(cards, more, |job: &JobCard| &job.id)))
}

/// Describes a job.
#[utoipa::path(
    get,
    path = "/v1/fine_tuning/jobs/{id}",
    operation_id = "retrieveFineTuningJob",
    tag = "Fine-tuning",
    params(("id" = String, Path, description = "Its id.")),
    responses((status = 200, description = "The job.", body = JobCard), Failures)
)]
pub async fn retrieve(service: web::Data<Service>, id: web::Path<String>) -> Result<web::Json<JobCard>, ApiError> {
    show(&service, find(&service, &id).await?)
}

/// Cancels a job that has not ended.
#[utoipa::path(
    post,
    path = "/v1/fine_tuning/jobs/{id}/cancel",
    operation_id = "cancelFineTuningJob",
    tag = "Fine-tuning",
    params(("id" = String, Path, description = "Its id.")),
    responses(
        (status = 200, description = "It is cancelled; whoever works on it stops after the step it is in.", body = JobCard),
        (status = 409, description = "It has ended already.", body = ErrorBody),
        Failures
    )
)]
pub async fn cancel(
    service: web::Data<Service>,
    request: HttpRequest,
    id: web::Path<String>,
) -> Result<web::Json<JobCard>, ApiError> {
    let change = async |round| service.ledger.cancel_round(round, now_ms()).await;
    by_hand(&service, &request, &id, change, "This job has ended already.", (Level::Warn, "Cancelled by hand")).await
}

/// Pauses a job that has not ended: whoever works on it leaves it behind a checkpoint.
#[utoipa::path(
    post,
    path = "/v1/fine_tuning/jobs/{id}/pause",
    operation_id = "pauseFineTuningJob",
    tag = "Fine-tuning",
    params(("id" = String, Path, description = "Its id.")),
    responses(
        (status = 200, description = "It is paused; the step it is in is the last.", body = JobCard),
        (status = 409, description = "It is paused, or has ended already.", body = ErrorBody),
        Failures
    )
)]
pub async fn pause(
    service: web::Data<Service>,
    request: HttpRequest,
    id: web::Path<String>,
) -> Result<web::Json<JobCard>, ApiError> {
    let change = async |round| service.ledger.pause_round(round).await;
    let refused = "This job is paused, or has ended already.";
    by_hand(&service, &request, &id, change, refused, (Level::Info, "Paused by hand")).await
}

/// Lets a paused job go on, from its checkpoint where the worker that has it is still there.
#[utoipa::path(
    post,
    path = "/v1/fine_tuning/jobs/{id}/resume",
    operation_id = "resumeFineTuningJob",
    tag = "Fine-tuning",
    params(("id" = String, Path, description = "Its id.")),
    responses(
        (status = 200, description = "It goes on.", body = JobCard),
        (status = 409, description = "It is not paused.", body = ErrorBody),
        Failures
    )
)]
pub async fn resume(
    service: web::Data<Service>,
    request: HttpRequest,
    id: web::Path<String>,
) -> Result<web::Json<JobCard>, ApiError> {
    let change = async |round| service.ledger.resume_round(round, now_ms() + FIRST_MS).await;
    by_hand(&service, &request, &id, change, "This job is not paused.", (Level::Info, "Resumed by hand")).await
}

/// Lists what happened in a job, newest first.
#[utoipa::path(
    get,
    path = "/v1/fine_tuning/jobs/{id}/events",
    operation_id = "listFineTuningEvents",
    tag = "Fine-tuning",
    params(("id" = String, Path, description = "Its id."), PartQuery),
    responses((status = 200, description = "A page of events.", body = Page<EventCard>), Failures)
)]
pub async fn events(
    service: web::Data<Service>,
    request: HttpRequest,
    id: web::Path<String>,
) -> Result<web::Json<Page<EventCard>>, ApiError> {
    let job = find(&service, &id).await?;
    let (after, limit) = query::<PartQuery>(&request)?.events()?;
    let (events, more) = service.ledger.events(job.round.id, after, limit).await?;
    Ok(web::Json(Page::new(events.into_iter().map(EventCard::from).collect(), more, |event| &event.id)))
}

/// Lists the versions that a job made: the finished one, as long as its weights are kept.
#[utoipa::path(
    get,
    path = "/v1/fine_tuning/jobs/{id}/checkpoints",
    operation_id = "listFineTuningJobCheckpoints",
    tag = "Fine-tuning",
    params(("id" = String, Path, description = "Its id."), PartQuery),
    responses((status = 200, description = "A page of checkpoints.", body = Page<CheckpointCard>), Failures)
)]
pub async fn checkpoints(
    service: web::Data<Service>,
    request: HttpRequest,
    id: web::Path<String>,
) -> Result<web::Json<Page<CheckpointCard>>, ApiError> {
    let job = find(&service, &id).await?;
    let after = query::<PartQuery>(&request)?.checkpoints()?;
    let known = match &job.round.candidate {
        Some(candidate) => service.ledger.version(candidate).await?.filter(|known| known.weights.is_some()),
        None => None,
    };
    let mut cards = Vec::new();
    if let Some(known) = known {
        let name = service.version_name(&known.version);
        let card = CheckpointCard::new(job.id(), &known, name, service.ledger.last_step(job.round.id).await?);
        cards.extend((after.as_deref() != Some(&card.id)).then_some(card));
    }
    Ok(web::Json(Page::new(cards, false, |card| &card.id)))
}

/// Changes what a job does, tells of it and shows the job; `refused` where `change` finds nothing to change.
async fn by_hand(
    service: &Service,
    request: &HttpRequest,
    id: &str,
    change: impl AsyncFnOnce(RoundId) -> Result<bool, LedgerError>,
    refused: &'static str,
    (level, said): (Level, &str),
) -> Result<web::Json<JobCard>, ApiError> {
    service.admins.check(request.headers())?;
    let job = find(service, id).await?;
    if !change(job.round.id).await? {
        return Err(ApiError::conflict("id", refused));
    }
    tell(service, &job, level, said.to_owned()).await;
    show(service, find(service, id).await?)
}

async fn find(service: &Service, id: &str) -> Result<Job, ApiError> {
    let none = || ApiError::no_such("job", id);
    service.ledger.job(id.parse().map_err(|_| none())?).await?.ok_or_else(none)
}

fn card(service: &Service, job: Job) -> Result<JobCard, ApiError> {
    let name = job.round.candidate.as_ref().map(|version| service.version_name(version));
    let id = job.id();
    JobCard::new(job, name).ok_or_else(|| ApiError::internal(&format!("what {id} was asked as cannot be read")))
}

fn show(service: &Service, job: Job) -> Result<web::Json<JobCard>, ApiError> {
    card(service, job).map(web::Json)
}

/// Tells what happened; the job does not depend on it.
async fn tell(service: &Service, job: &Job, level: Level, message: String) {
    let event = RoundEvent::say(job.round.id, now_ms(), level, message);
    if let Err(error) = service.ledger.tell(event).await {
        tracing::warn!(%error, job = %job.id(), "what happened in a job could not be told");
    }
}
