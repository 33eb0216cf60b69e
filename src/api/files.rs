//! Files to learn from: sent, listed, shown, deleted. What is in one is checked as it comes, line by line. Knows not how it is learned
//! from.

use actix_web::http::header::{CONTENT_DISPOSITION, CacheControl, CacheDirective, HeaderMap, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, web};

use super::auth::key_name;
use super::error::{ApiError, Failures};
use super::form::parts;
use super::keep::now_ms;
use super::wire::files::{FileCard, Form, Gone, PURPOSE, Query, Upload};
use super::wire::stored::Page;
use super::{Service, query};
use crate::domain::id::FileId;
use crate::domain::job::File;
use crate::reward::grader::row;

/// How long the same request sent again is the same, in milliseconds: the SDKs wait for ten minutes and try three times.
const AGAIN_MS: i64 = 3_600_000;

/// Keeps a file to learn from.
#[utoipa::path(
    post,
    path = "/v1/files",
    operation_id = "createFile",
    tag = "Fine-tuning",
    request_body(content = Form, content_type = "multipart/form-data"),
    responses((status = 200, description = "It is kept.", body = FileCard), Failures)
)]
pub async fn create(
    service: web::Data<Service>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<web::Json<FileCard>, ApiError> {
    service.admins.check(request.headers())?;
    let Upload { name, bytes, expires } = Upload::parse(parts(&service.bodies, &request, payload).await?)?;
    let bytes = service
        .blocking(move || {
            let lines = row::objects(&bytes);
            lines.map_err(|what| ApiError::invalid("file", format!("The file cannot be learned from: {what}.")))?;
            Ok(bytes)
        })
        .await?;
    let fresh = service.ledger.blobs().put(bytes).await?;
    let now = now_ms();
    let file = File {
        id: FileId::fresh(),
        created_ms: now,
        key: key_name(&service.keys, request.headers()),
        name,
        purpose: PURPOSE.to_owned(),
        blob: fresh.id().clone(),
        bytes: i64::try_from(fresh.bytes()).unwrap_or(i64::MAX),
        expires_ms: expires.map(|seconds| now.saturating_add(seconds.saturating_mul(1000))),
    };
    let file = service.ledger.add_file(file, &fresh, again(request.headers())).await?;
    Ok(web::Json(file.into()))
}

/// Lists files.
#[utoipa::path(
    get,
    path = "/v1/files",
    operation_id = "listFiles",
    tag = "Fine-tuning",
    params(Query),
    responses((status = 200, description = "A page of files.", body = Page<FileCard>), Failures)
)]
pub async fn list(service: web::Data<Service>, request: HttpRequest) -> Result<web::Json<Page<FileCard>>, ApiError> {
    let (files, more) = service.ledger.files(&query::<Query>(&request)?.parse()?, now_ms()).await?;
    Ok(web::Json(Page::new(files.into_iter().map(FileCard::from).collect(), more, |file| &file.id)))
}

/// Describes a file.
#[utoipa::path(
    get,
    path = "/v1/files/{id}",
    operation_id = "retrieveFile",
    tag = "Fine-tuning",
    params(("id" = String, Path, description = "Its id.")),
    responses((status = 200, description = "The file.", body = FileCard), Failures)
)]
pub async fn retrieve(service: web::Data<Service>, id: web::Path<String>) -> Result<web::Json<FileCard>, ApiError> {
    Ok(web::Json(find(&service, "id", &id).await?.into()))
}

/// Deletes a file. A job that learns from it goes on.
#[utoipa::path(
    delete,
    path = "/v1/files/{id}",
    operation_id = "deleteFile",
    tag = "Fine-tuning",
    params(("id" = String, Path, description = "Its id.")),
    responses((status = 200, description = "It is gone.", body = Gone), Failures)
)]
pub async fn delete(
    service: web::Data<Service>,
    request: HttpRequest,
    id: web::Path<String>,
) -> Result<web::Json<Gone>, ApiError> {
    service.admins.check(request.headers())?;
    let file = find(&service, "id", &id).await?;
    if !service.ledger.delete_file(file.id).await? {
        return Err(ApiError::no_file("id", &id));
    }
    Ok(web::Json(Gone { id: file.id.to_string(), object: "file", deleted: true }))
}

/// Gives a file back as it was sent.
#[utoipa::path(
    get,
    path = "/v1/files/{id}/content",
    operation_id = "downloadFile",
    tag = "Fine-tuning",
    params(("id" = String, Path, description = "Its id.")),
    responses((status = 200, description = "Its bytes.", content_type = "application/octet-stream"), Failures)
)]
pub async fn content(
    service: web::Data<Service>,
    request: HttpRequest,
    id: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    service.admins.check(request.headers())?;
    let file = find(&service, "id", &id).await?;
    let bytes = service.ledger.blobs().get(&file.blob).await?;
    Ok(HttpResponse::Ok()
        .content_type("application/octet-stream")
        .insert_header((CONTENT_DISPOSITION, HeaderValue::from_static("attachment")))
        .insert_header(CacheControl(vec![CacheDirective::NoStore]))
        .body(bytes))
}

/// The file that `param` names.
pub(super) async fn find(service: &Service, param: &str, id: &str) -> Result<File, ApiError> {
    let none = || ApiError::no_file(param, id);
    service.ledger.file(id.parse().map_err(|_| none())?, now_ms()).await?.ok_or_else(none)
}

/// Since when the same request is the same one, if it says that it comes again.
pub(super) fn again(headers: &HeaderMap) -> Option<i64> {
    let count = headers.get("x-stainless-retry-count")?.to_str().ok()?.parse::<u32>().ok()?;
    (count > 0).then(|| now_ms() - AGAIN_MS)
}
