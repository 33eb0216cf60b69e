//! Kept requests: listed, shown, annotated, deleted; their pictures; and the right to be forgotten.

use actix_web::http::header::{CACHE_CONTROL, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, web};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::error::{ApiError, Failures};
use super::wire::error::ErrorBody;
use super::wire::from_json;
use super::wire::stored::{
    Deleted, Notes, Page, Query, StoredChat, StoredImages, StoredMessage, StoredPart, StoredUrl, filter,
};
use super::{Service, query};
use crate::domain::id::{CallId, SampleId};
use crate::domain::record::Asked;
use crate::domain::sample::Output;
use crate::domain::task::Part;
use crate::store::{Kept, Purged, Task};

/// Lists kept answers, page by page.
#[utoipa::path(
    get,
    path = "/v1/chat/completions",
    operation_id = "listChatCompletions",
    tag = "Chat",
    params(Query),
    responses((status = 200, description = "A page.", body = Page<StoredChat>), Failures)
)]
pub async fn list_chats(
    service: web::Data<Service>,
    request: HttpRequest,
) -> Result<web::Json<Page<StoredChat>>, ApiError> {
    let (page, more) = list(&service, &request, Task::Chat).await?;
    Ok(web::Json(Page::new(page.into_iter().map(StoredChat::from).collect(), more, |chat| &chat.id)))
}

/// Shows a kept answer.
#[utoipa::path(
    get,
    path = "/v1/chat/completions/{id}",
    operation_id = "getChatCompletion",
    tag = "Chat",
    params(("id" = String, Path, description = "Its id.")),
    responses((status = 200, description = "The answer.", body = StoredChat), Failures)
)]
pub async fn chat(service: web::Data<Service>, id: web::Path<String>) -> Result<web::Json<StoredChat>, ApiError> {
    Ok(web::Json(find(&service, &id, Task::Chat).await?.into()))
}

/// Shows the messages of a kept conversation, the answer left out.
#[utoipa::path(
    get,
    path = "/v1/chat/completions/{id}/messages",
    operation_id = "getChatCompletionMessages",
    tag = "Chat",
    params(("id" = String, Path, description = "Its id.")),
    responses((status = 200, description = "The messages.", body = Page<StoredMessage>), Failures)
)]
pub async fn messages(
    service: web::Data<Service>,
    id: web::Path<String>,
) -> Result<web::Json<Page<StoredMessage>>, ApiError> {
    let Asked::Answer(answer) = find(&service, &id, Task::Chat).await?.call.asked else {
        return Err(ApiError::no_call("id", &id));
    };
    let mut messages = Vec::new();
    let system = answer.system.map(|text| ("system", vec![Part::Text(text)]));
    let turns = answer.turns.into_iter().map(|turn| (turn.role.word(), turn.parts));
    for (at, (role, parts)) in system.into_iter().chain(turns).enumerate() {
        let mut message =
            StoredMessage { id: format!("{id}-{at}"), role, content: String::new(), content_parts: Vec::new() };
        for part in parts {
            message.content_parts.push(match part {
                Part::Text(text) => {
                    message.content += &text;
                    StoredPart::Text { text }
                }
                Part::Picture(blob) => {
                    let file = service.ledger.blobs().get(&blob).await?;
                    let url = format!("data:{};base64,{}", kind(&file), STANDARD.encode(file));
                    StoredPart::ImageUrl { image_url: StoredUrl { url } }
                }
            });
        }
        messages.push(message);
    }
    Ok(web::Json(Page::new(messages, false, |message| &message.id)))
}

/// Replaces the notes of a kept answer.
#[utoipa::path(
    post,
    path = "/v1/chat/completions/{id}",
    operation_id = "updateChatCompletion",
    tag = "Chat",
    params(("id" = String, Path, description = "Its id.")),
    request_body = Notes,
    responses((status = 200, description = "The answer with its new notes.", body = StoredChat), Failures)
)]
pub async fn annotate(
    service: web::Data<Service>,
    request: HttpRequest,
    id: web::Path<String>,
    payload: web::Payload,
) -> Result<web::Json<StoredChat>, ApiError> {
    let body = service.bodies.json(&request, payload).await?;
    let notes = from_json::<Notes>(body.bytes())?.parse()?;
    let call = parse(&id, Task::Chat)?;
    if !service.ledger.annotate(call, notes).await? {
        return Err(ApiError::no_call("id", &id));
    }
    Ok(web::Json(find(&service, &id, Task::Chat).await?.into()))
}

/// Deletes a kept answer, with the feedback on it and files that nothing else holds.
#[utoipa::path(
    delete,
    path = "/v1/chat/completions/{id}",
    operation_id = "deleteChatCompletion",
    tag = "Chat",
    params(("id" = String, Path, description = "Its id.")),
    responses((status = 200, description = "It is gone.", body = Deleted), Failures)
)]
pub async fn delete_chat(service: web::Data<Service>, id: web::Path<String>) -> Result<web::Json<Deleted>, ApiError> {
    delete(&service, &id, Task::Chat).await
}

/// Extension: lists kept pictures, request by request, page by page. Links work for an hour.
#[utoipa::path(
    get,
    path = "/v1/images/generations",
    operation_id = "listImages",
    tag = "Images",
    params(Query),
    responses((status = 200, description = "A page.", body = Page<StoredImages>), Failures)
)]
pub async fn list_images(
    service: web::Data<Service>,
    request: HttpRequest,
) -> Result<web::Json<Page<StoredImages>>, ApiError> {
    let (page, more) = list(&service, &request, Task::Images).await?;
    let shown = page.into_iter().map(|kept| StoredImages::new(kept, |id| service.links.to(&request, id)));
    Ok(web::Json(Page::new(shown.collect(), more, |images| &images.id)))
}

/// Extension: shows the kept pictures of a request. Links work for an hour.
#[utoipa::path(
    get,
    path = "/v1/images/generations/{id}",
    operation_id = "getImages",
    tag = "Images",
    params(("id" = String, Path, description = "Its id.")),
    responses((status = 200, description = "The pictures.", body = StoredImages), Failures)
)]
pub async fn images(
    service: web::Data<Service>,
    request: HttpRequest,
    id: web::Path<String>,
) -> Result<web::Json<StoredImages>, ApiError> {
    let kept = find(&service, &id, Task::Images).await?;
    Ok(web::Json(StoredImages::new(kept, |id| service.links.to(&request, id))))
}

/// Extension: deletes the kept pictures of a request, with the feedback on them.
#[utoipa::path(
    delete,
    path = "/v1/images/generations/{id}",
    operation_id = "deleteImages",
    tag = "Images",
    params(("id" = String, Path, description = "Its id.")),
    responses((status = 200, description = "They are gone.", body = Deleted), Failures)
)]
pub async fn delete_images(service: web::Data<Service>, id: web::Path<String>) -> Result<web::Json<Deleted>, ApiError> {
    delete(&service, &id, Task::Images).await
}

/// Extension: the file of a kept picture; with a key, or by a link that a reply gave.
#[utoipa::path(
    get,
    path = "/v1/samples/{id}/image",
    operation_id = "getSampleImage",
    tag = "Images",
    params(("id" = String, Path, description = "The sample.")),
    responses(
        (status = 200, description = "The file as it was sent.", content_type = "image/png"),
        (status = 404, description = "There is no such picture, or the link is too old.", body = ErrorBody)
    )
)]
pub async fn image(service: web::Data<Service>, id: web::Path<String>) -> Result<HttpResponse, ApiError> {
    let absent = || ApiError::no_sample("id", &id);
    let sample: SampleId = id.parse().map_err(|_| absent())?;
    let kept = service.ledger.call_of(sample).await?.ok_or_else(absent)?;
    let record = kept.records.into_iter().find(|record| record.id == sample).ok_or_else(absent)?;
    let Output::Picture(blob) = record.sample.output else { return Err(absent()) };
    let file = service.ledger.blobs().get(&blob).await?;
    Ok(HttpResponse::Ok()
        .content_type(kind(&file))
        .insert_header((CACHE_CONTROL, HeaderValue::from_static("private, max-age=3600, immutable")))
        .body(file))
}

/// Extension: forgets a person: what was asked on their behalf, files that nothing else holds, and the feedback they gave.
#[utoipa::path(
    delete,
    path = "/v1/users/{user}/data",
    operation_id = "deleteUserData",
    tag = "Operations",
    params(("user" = String, Path, description = "The person, as `safety_identifier`, `user` or `rater` named them.")),
    responses((status = 200, description = "What was forgotten, and the versions that learned from it.", body = super::wire::purged::Purged), Failures)
)]
pub async fn forget(
    service: web::Data<Service>,
    user: web::Path<String>,
) -> Result<web::Json<super::wire::purged::Purged>, ApiError> {
    let Purged { calls, samples, feedback, files, versions } = service.ledger.purge_person(&user).await?;
    Ok(web::Json(super::wire::purged::Purged { calls, samples, feedback, files, versions }))
}

async fn list(service: &Service, request: &HttpRequest, task: Task) -> Result<(Vec<Kept>, bool), ApiError> {
    let filter = filter(task, query(request)?)?;
    Ok(service.ledger.calls(&filter).await?)
}

async fn find(service: &Service, id: &str, task: Task) -> Result<Kept, ApiError> {
    let found = service.ledger.call(parse(id, task)?).await?;
    found.ok_or_else(|| ApiError::no_call("id", id))
}

async fn delete(service: &Service, id: &str, task: Task) -> Result<web::Json<Deleted>, ApiError> {
    let call = parse(id, task)?;
    match service.ledger.delete_call(call).await? {
        Purged { calls: 0, .. } => Err(ApiError::no_call("id", id)),
        _ => Ok(web::Json(Deleted::new(call))),
    }
}

fn parse(id: &str, task: Task) -> Result<CallId, ApiError> {
    match (id.parse(), task) {
        (Ok(id @ CallId::Chat(_)), Task::Chat) | (Ok(id @ CallId::Images(_)), Task::Images) => Ok(id),
        _ => Err(ApiError::no_call("id", id)),
    }
}

/// What kind of file a picture is.
fn kind(file: &[u8]) -> &'static str {
    image::guess_format(file).map_or("application/octet-stream", |format| format.to_mime_type())
}
