//! Pictures of a prompt: the request to a prompt, the samples to files with a label inside.
//! All pictures of a request are one submission, so that they share the prompt's prefill; files are made on the blocking
//! pool, and are durable before their ids are told. Editing and varying are refused here, because the model cannot.

use actix_web::http::header::ContentType;
use actix_web::{HttpRequest, HttpResponse, web};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::auth::key_name;
use super::error::{ApiError, Failures};
use super::keep::{Asking, Keeper};
use super::named::Asker;
use super::wire::from_json;
use super::wire::images::{Drawing, Item, Native, Reply, Request, Usage};
use super::{Defaults, Service, collect, now};
use crate::domain::id::SampleId;
use crate::domain::sample::{Output, Sample};
use crate::domain::task::Sampling;
use crate::engine::command::{Lane, Submission, Work};
use crate::picture::encode::{Label, encode};
use crate::store::digest;

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
    // All versions read prompts alike.
    let reader = service.engine.model();
    let Defaults { guidance, temperature, .. } = service.defaults;
    let native = Native { side: reader.config().image_size(), guidance, temperature };
    let key = key_name(&service.keys, request.headers());
    let key_of = key.clone();
    let (drawing, asker, prompt) = service
        .blocking(move || {
            let drawing = from_json::<Request>(body.bytes())?.parse(native, rand::random())?;
            let asker = Asker::of(drawing.keep.person.as_deref(), &key_of, body.bytes())?;
            let prompt = reader.prompter().draw(&drawing.draw).map_err(|error| ApiError::prompt("prompt", &error))?;
            Ok((drawing, asker, prompt))
        })
        .await?;
    let model = service.pick(drawing.model.as_deref(), Some(&asker)).await?;
    let text_tokens = prompt.conditional.len();
    let submission =
        Submission { work: Work::Draw(prompt), samplings: drawing.samplings.clone(), lane: Lane::Interactive };
    let events = service.engine.submit_to(&model, submission).map_err(|error| ApiError::submit("prompt", &error))?;
    let name = drawing.model.as_deref().unwrap_or(&service.name);
    let asking = Asking { model: &model, name, keep: &drawing.keep, key, prompt_tokens: text_tokens };
    let mut keeper = Keeper::drawing(&service, asking, &drawing.draw);

    let samples = collect(events, drawing.samplings.len(), |_| ()).await?;
    let (drawing, files, samples) = service
        .blocking(move || {
            let files = files(&drawing, &samples)?;
            let samples = samples.into_iter().zip(&files).map(|(sample, file)| sample.try_map(|_| digest(file)));
            let samples = samples.collect::<Result<Vec<_>, _>>().map_err(|cause| ApiError::internal(&cause))?;
            Ok((drawing, files, samples))
        })
        .await?;
    let usage = Usage::new(text_tokens, samples.iter().map(|sample| sample.tokens.len()).sum());
    let version = samples.first().map(|sample| sample.version.0.clone()).unwrap_or_default();
    let written = keeper.put(files.clone()).await;
    let drawn = drawing.samplings.iter().cloned().zip(samples).enumerate();
    let drawn = drawn.map(|(at, (sampling, sample))| (at, sampling, sample)).collect();
    let ids = keeper.samples(drawn, written).await;
    let urls = drawing.links.then(|| links(&service, &request, &ids)).transpose()?;
    let id = keeper.is_kept().then(|| keeper.name());
    let reply = service.blocking(move || reply(&drawing, files, id, &ids, urls, usage)).await?;
    let head = &mut HttpResponse::Ok();
    let mut response = head.insert_header(("x-model-version", version)).content_type(ContentType::json()).body(reply);
    keeper.mark().sign(&mut response);
    Ok(response)
}

/// Links to kept pictures.
fn links(service: &Service, request: &HttpRequest, ids: &[Option<SampleId>]) -> Result<Vec<String>, ApiError> {
    let lost = || ApiError::unavailable("The pictures could not be kept, so there are no links to them.");
    ids.iter().map(|id| Ok(service.links.to(request, id.ok_or_else(lost)?))).collect()
}

/// The whole reply as JSON: pictures are large, and this is the blocking pool.
fn reply(
    drawing: &Drawing,
    files: Vec<Vec<u8>>,
    id: Option<String>,
    ids: &[Option<SampleId>],
    urls: Option<Vec<String>>,
    usage: Usage,
) -> Result<Vec<u8>, ApiError> {
    let places = match urls {
        Some(urls) => urls.into_iter().map(|url| (None, Some(url))).collect(),
        None => files.into_iter().map(|file| (Some(STANDARD.encode(file)), None)).collect::<Vec<_>>(),
    };
    let item = |(((b64_json, url), id), sampling): (((_, _), &Option<SampleId>), &Sampling)| Item {
        b64_json,
        url,
        sample_id: id.map(|id| id.to_string()),
        seed: sampling.seed,
    };
    let reply = Reply {
        id,
        created: now(),
        data: places.into_iter().zip(ids).zip(&drawing.samplings).map(item).collect(),
        background: "opaque",
        output_format: drawing.format.name(),
        quality: "standard",
        size: format!("{0}x{0}", drawing.side),
        usage,
    };
    serde_json::to_vec(&reply).map_err(|cause| ApiError::internal(&cause))
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

/// Editing a picture, or varying one: not in this model.
pub async fn edit() -> Result<HttpResponse, ApiError> {
    Err(ApiError::unsupported("image", "the model draws from text and cannot edit or vary a picture"))
}
