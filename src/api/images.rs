//! Pictures of a prompt: the request to a prompt, the samples to files with a label inside.
//! All pictures of a request are one submission, so that they share the prompt's prefill; files are made on the blocking
//! pool, and are durable before their ids are told. Editing and varying are refused here, because the model cannot.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::auth::key_name;
use super::error::{ApiError, Failures};
use super::keep::Keeper;
use super::picture::encode::{Label, encode};
use super::wire::from_json;
use super::wire::images::{Drawing, Item, Native, Reply, Request, Usage};
use super::{Defaults, Service, collect, now};
use crate::domain::id::{BlobId, SampleId};
use crate::domain::sample::{Output, Sample};
use crate::domain::task::Sampling;
use crate::engine::command::{Lane, Submission, Work};
use crate::store::{LedgerError, digest};

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
    let seer = Arc::clone(&model);
    let Defaults { guidance, temperature, .. } = service.defaults;
    let native = Native { side: model.config().image_size(), guidance, temperature };
    let (drawing, prompt) = service
        .blocking(move || {
            let drawing = from_json::<Request>(body.bytes())?.parse(native, rand::random())?;
            let prompt = seer.prompter().draw(&drawing.draw).map_err(|error| ApiError::prompt("prompt", &error))?;
            Ok((drawing, prompt))
        })
        .await?;
    service.check_model(drawing.model.as_deref())?;
    let text_tokens = prompt.conditional.len();
    let submission =
        Submission { work: Work::Draw(prompt), samplings: drawing.samplings.clone(), lane: Lane::Interactive };
    let events = service.engine.submit(submission).map_err(|error| ApiError::submit("prompt", &error))?;
    let samples = collect(events, drawing.samplings.len(), |_| ()).await?;
    let name = drawing.model.as_deref().unwrap_or(&service.name);
    let key = key_name(&service.keys, request.headers());
    let mut keeper = Keeper::drawing(&service, &model, name, &drawing.keep, key, &drawing.draw, text_tokens);
    let (drawing, files, samples) = service
        .blocking(move || {
            let files = files(&drawing, &samples)?;
            let samples = samples.into_iter().zip(&files).map(|(sample, file)| by_digest(sample, file));
            let samples = samples.collect::<Result<Vec<_>, _>>().map_err(|cause| ApiError::internal(&cause))?;
            Ok((drawing, files, samples))
        })
        .await?;
    let image_tokens = samples.iter().map(|sample| sample.tokens.len()).sum();
    let version = samples.first().map(|sample| sample.version.0.clone()).unwrap_or_default();
    let written = keeper.put(files.clone()).await;
    let placed = drawing
        .samplings
        .iter()
        .cloned()
        .zip(samples)
        .enumerate()
        .map(|(at, (sampling, sample))| (at, sampling, sample));
    let ids = keeper.samples(placed.collect(), written).await;
    let data = if drawing.links {
        let link = |(id, sampling): (Option<SampleId>, &Sampling)| {
            let id =
                id.ok_or_else(|| ApiError::unavailable("The picture could not be kept, so there is no link to it."))?;
            let url = service.links.to(&request, id);
            Ok(Item { b64_json: None, url: Some(url), sample_id: Some(id.to_string()), seed: sampling.seed })
        };
        ids.into_iter().zip(&drawing.samplings).map(link).collect::<Result<_, ApiError>>()?
    } else {
        let item = |((id, file), sampling): ((Option<SampleId>, Vec<u8>), &Sampling)| Item {
            b64_json: Some(STANDARD.encode(file)),
            url: None,
            sample_id: id.map(|id| id.to_string()),
            seed: sampling.seed,
        };
        ids.into_iter().zip(files).zip(&drawing.samplings).map(item).collect()
    };
    let reply = Reply {
        id: keeper.is_kept().then(|| keeper.name()),
        created: now(),
        data,
        background: "opaque",
        output_format: drawing.format.name(),
        quality: "standard",
        size: format!("{0}x{0}", drawing.side),
        usage: Usage::new(text_tokens, image_tokens),
    };
    let mut response = HttpResponse::Ok().insert_header(("x-model-version", version)).json(reply);
    keeper.mark().sign(&mut response);
    Ok(response)
}

/// The pictures as files, each with a label of how it was drawn.
fn files(drawing: &Drawing, samples: &[Sample]) -> Result<Vec<Vec<u8>>, ApiError> {
    let file = |(sample, sampling): (&Sample, &Sampling)| {
        let Output::Picture(picture) = &sample.output else {
            return Err(ApiError::internal(&"a drawing came back as text"));
        };
        let label = Label {
            version: sample.version.0.clone(),
            seed: sample.seed,
            guidance: sampling.guidance,
            temperature: sampling.temperature,
        };
        encode(picture, drawing.side, drawing.format, &label).map_err(|cause| ApiError::internal(&cause))
    };
    samples.iter().zip(&drawing.samplings).map(file).collect()
}

/// The sample with its picture named by its file.
fn by_digest(sample: Sample, file: &[u8]) -> Result<Sample<BlobId>, LedgerError> {
    Ok(Sample {
        output: Output::Picture(digest(file)?),
        tokens: sample.tokens,
        log_probs: sample.log_probs,
        conditional_log_probs: sample.conditional_log_probs,
        seed: sample.seed,
        version: sample.version,
        finish: sample.finish,
    })
}

/// Editing a picture, or varying one: not in this model.
pub async fn edit() -> Result<HttpResponse, ApiError> {
    Err(ApiError::unsupported("image", "the model draws from text and cannot edit or vary a picture"))
}
