//! Pictures of a prompt: the request to a prompt, the samples to files with a label inside.
//! All pictures of a request are one submission, so that they share the prompt's prefill; files are made on the blocking
//! pool. Editing and varying are refused here, because the model cannot.

use actix_web::http::header::ContentType;
use actix_web::{HttpRequest, HttpResponse, web};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::error::{ApiError, Failures};
use super::picture::encode::{Label, encode};
use super::wire::from_json;
use super::wire::images::{Drawing, Item, Native, Reply, Request, Usage};
use super::{Defaults, Service, collect, now};
use crate::domain::sample::{Output, Sample};
use crate::engine::command::{Lane, Submission, Work};

/// Draws pictures of a prompt.
#[utoipa::path(
    post,
    path = "/v1/images/generations",
    operation_id = "createImage",
    tag = "Images",
    request_body = Request,
    responses(
        (
            status = 200,
            description = "The pictures.",
            body = Reply,
            headers(("x-model-version" = String, description = "Content hash of the weights that drew."))
        ),
        Failures
    )
)]
pub async fn generate(
    service: web::Data<Service>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let body = service.bodies.json(&request, payload).await?;
    let model = service.engine.model();
    let Defaults { guidance, temperature, .. } = service.defaults;
    let native = Native { side: model.config().image_size(), guidance, temperature };
    let (drawing, prompt) = service
        .blocking(move || {
            let drawing = from_json::<Request>(body.bytes())?.parse(native, rand::random())?;
            let prompt = model.prompter().draw(&drawing.draw).map_err(|error| ApiError::prompt("prompt", &error))?;
            Ok((drawing, prompt))
        })
        .await?;
    service.check_model(drawing.model.as_deref())?;
    let text_tokens = prompt.conditional.len();
    let submission =
        Submission { work: Work::Draw(prompt), samplings: drawing.samplings.clone(), lane: Lane::Interactive };
    let events = service.engine.submit(submission).map_err(|error| ApiError::submit("prompt", &error))?;
    let samples = collect(events, drawing.samplings.len(), |_| ()).await?;
    let version = samples.first().map(|sample| sample.version.0.clone()).unwrap_or_default();
    let reply = service.blocking(move || reply(&drawing, samples, text_tokens)).await?;
    Ok(HttpResponse::Ok().insert_header(("x-model-version", version)).content_type(ContentType::json()).body(reply))
}

/// The whole reply as JSON: pictures are large, and this is the blocking pool.
fn reply(drawing: &Drawing, samples: Vec<Sample>, text_tokens: usize) -> Result<Vec<u8>, ApiError> {
    let image_tokens = samples.iter().map(|sample| sample.tokens.len()).sum();
    let mut data = Vec::new();
    for (sample, sampling) in samples.into_iter().zip(&drawing.samplings) {
        let Output::Picture(picture) = sample.output else {
            return Err(ApiError::internal(&"a drawing came back as text"));
        };
        let label = Label {
            version: sample.version.0,
            seed: sample.seed,
            guidance: sampling.guidance,
            temperature: sampling.temperature,
        };
        let file =
            encode(&picture, drawing.side, drawing.format, &label).map_err(|cause| ApiError::internal(&cause))?;
        data.push(Item { b64_json: STANDARD.encode(file), seed: sample.seed });
    }
    let reply = Reply {
        created: now(),
        data,
        background: "opaque",
        output_format: drawing.format.name(),
        quality: "standard",
        size: format!("{0}x{0}", drawing.side),
        usage: Usage::new(text_tokens, image_tokens),
    };
    serde_json::to_vec(&reply).map_err(|cause| ApiError::internal(&cause))
}

/// Editing a picture, or varying one: not in this model.
pub async fn edit() -> Result<HttpResponse, ApiError> {
    Err(ApiError::unsupported("image", "the model draws from text and cannot edit or vary a picture"))
}
