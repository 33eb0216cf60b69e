//! Answers about pictures and text: the request to a prompt, the engine's events to a reply, whole or streamed.
//! A streamed reply holds the submission's events; when the client leaves it is dropped, and the work with it.
//! Knows nothing of how a request is proved (`wire`) or how tokens are drawn (the engine).

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use futures_util::{Stream, stream};

use super::auth::key_name;
use super::error::{ApiError, Failures};
use super::keep::{Asking, Keeper, by_digest};
use super::named::Asker;
use super::wire::chat::{Chat, Form, Native, Request};
use super::wire::chat_reply::{
    Alternative, Choice, Chunk, ChunkChoice, Delta, Logprobs, Reply, Said, TokenLogprob, Usage, finish_reason,
};
use super::wire::from_json;
use super::{Service, collect, now, sse};
use crate::domain::id::{BlobId, SampleId};
use crate::domain::sample::{Output, Sample};
use crate::domain::task::Sampling;
use crate::engine::command::{Event, Events, Lane, Submission, Work};
use crate::model::Model;

/// What every part of one reply says of itself.
struct Head {
    id: String,
    created: u64,
    model: String,
    version: String,
    prompt_tokens: usize,
}

/// Goes on with a conversation.
#[utoipa::path(
    post,
    path = "/v1/chat/completions",
    operation_id = "createChatCompletion",
    tag = "Chat",
    request_body = Request,
    responses(
        (
            status = 200,
            description = "The reply, or with `stream` a stream of chunks that ends with `data: [DONE]`.",
            content((Reply = "application/json"), (Chunk = "text/event-stream")),
            headers(("x-model-version" = String, description = "Content hash of the weights that answered."))
        ),
        Failures
    )
)]
pub async fn create(
    service: web::Data<Service>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, ApiError> {
    let body = service.bodies.json(&request, payload).await?;
    // All versions read prompts alike.
    let reader = service.engine.model();
    let native = Native { temperature: service.defaults.answer_temperature };
    let key = key_name(&service.keys, request.headers());
    let key_of = key.clone();
    let (name, asker, samplings, form, keep, prompt, asked, files) = service
        .blocking(move || {
            let chat = from_json::<Request>(body.bytes())?.parse(native, rand::random())?;
            let Chat { model: name, conversation, samplings, form, keep } = chat;
            let asker = Asker::of(keep.person.as_deref(), &key_of, body.bytes())?;
            drop(body);
            let (answer, files) = conversation.decode()?;
            let prompt = reader.prompter().answer(&answer).map_err(|error| ApiError::prompt("messages", &error))?;
            let asked = by_digest(&answer, &files).map_err(|cause| ApiError::internal(&cause))?;
            Ok((name, asker, samplings, form, keep, prompt, asked, files))
        })
        .await?;
    let model = service.pick(Some(&name), Some(&asker)).await?;
    let prompt_tokens = prompt.len();
    let n = samplings.len();
    let submission = Submission { work: Work::Answer(prompt), samplings: samplings.clone(), lane: Lane::Interactive };
    let events = service.engine.submit_to(&model, submission).map_err(|error| ApiError::submit("messages", &error))?;
    let asking = Asking { model: &model, name: &name, keep: &keep, key, prompt_tokens };
    let mut keeper = Keeper::answering(&service, asking, asked, files);
    let head =
        Head { id: String::new(), created: now(), model: name, version: model.version().0.clone(), prompt_tokens };
    let version = head.version.clone();
    let mut response = if form.stream {
        // The first chunk tells the id.
        keeper.begin().await;
        let head = Head { id: keeper.name(), ..head };
        let signed = keeper.mark();
        let logprobs = vec![Logprobs::default(); n];
        let mut response =
            sse::reply(chunks(Answering { events, head, form, model, samplings, keeper, logprobs, written: 0 }));
        signed.sign(&mut response);
        response
    } else {
        let reply = whole(events, samplings, head, form, &model, &mut keeper).await?;
        let mut response = HttpResponse::Ok().json(reply);
        keeper.mark().sign(&mut response);
        response
    };
    if let Ok(version) = version.try_into() {
        response.headers_mut().insert(actix_web::http::header::HeaderName::from_static("x-model-version"), version);
    }
    Ok(response)
}

/// Waits for all answers, and until they are kept.
async fn whole(
    events: Events,
    samplings: Vec<Sampling>,
    head: Head,
    form: Form,
    model: &Model,
    keeper: &mut Keeper,
) -> Result<Reply, ApiError> {
    let n = samplings.len();
    let mut logprobs = vec![Logprobs::default(); n];
    let note = |event| {
        if let Event::Token { index, token, log_prob, top, .. } = event
            && form.logprobs
            && let Some(logprobs) = logprobs.get_mut(index)
        {
            logprobs.content.extend(logprob(model, token, log_prob, &top));
        }
    };
    let samples = collect(events, n, note).await?;
    let written = samples.iter().map(|sample| sample.tokens.len()).sum();
    let mut said = Vec::with_capacity(n);
    let mut records = Vec::with_capacity(n);
    for (at, (sample, sampling)) in samples.into_iter().zip(samplings).enumerate() {
        let (text, sample) = in_words(sample)?;
        said.push((text, sample.finish));
        records.push((at, sampling, sample));
    }
    let ids = keeper.samples(records, Vec::new()).await;
    let choice = |(index, (((content, finish), logprobs), id)): (usize, ((_, Logprobs), Option<SampleId>))| Choice {
        index,
        message: Said { role: "assistant", content, refusal: None },
        finish_reason: finish_reason(finish),
        logprobs: form.logprobs.then_some(logprobs),
        sample_id: id.map(|id| id.to_string()),
    };
    Ok(Reply {
        choices: said.into_iter().zip(logprobs).zip(ids).enumerate().map(choice).collect(),
        usage: Usage::new(head.prompt_tokens, written),
        id: keeper.name(),
        object: "chat.completion",
        created: head.created,
        model: head.model,
        system_fingerprint: head.version,
        service_tier: "default",
    })
}

/// What an answer says, and the answer as the ledger takes it.
fn in_words(sample: Sample) -> Result<(String, Sample<BlobId>), ApiError> {
    let sample = sample.try_map(|_| Err(ApiError::internal(&"an answer came back as a picture")))?;
    let text = if let Output::Text(text) = &sample.output { text.clone() } else { String::new() };
    Ok((text, sample))
}

/// A token as replies show it, unless it only ends the answer.
fn logprob(model: &Model, token: u32, log_prob: f32, top: &[(u32, f32)]) -> Option<TokenLogprob> {
    let prompter = model.prompter();
    let show = |token, log_prob| Alternative::new(prompter.token_bytes(token), log_prob);
    (token != prompter.end_of_text()).then(|| TokenLogprob {
        this: show(token, log_prob),
        top_logprobs: top.iter().map(|&(token, log_prob)| show(token, log_prob)).collect(),
    })
}

/// A streamed reply under way.
struct Answering {
    events: Events,
    head: Head,
    form: Form,
    model: Arc<Model>,
    samplings: Vec<Sampling>,
    keeper: Keeper,
    /// By answer: of tokens whose text is still to come.
    logprobs: Vec<Logprobs>,
    written: usize,
}

/// The frames of a reply, from the first piece of every answer to the end of the stream.
fn chunks(answering: Answering) -> impl Stream<Item = String> {
    let first = (0..answering.logprobs.len())
        .map(|index| {
            let delta = Delta { role: Some("assistant"), content: Some(String::new()) };
            answering
                .chunk(vec![ChunkChoice { index, delta, finish_reason: None, logprobs: None, sample_id: None }], None)
        })
        .collect::<String>();
    let rest = stream::unfold(Some(answering), |answering| async {
        let mut answering = answering?;
        let (frames, ended) = answering.next().await;
        Some((frames, (!ended).then_some(answering)))
    });
    futures_util::StreamExt::chain(stream::once(std::future::ready(first)), rest)
}

impl Answering {
    /// The next frames, and whether they are the last.
    async fn next(&mut self) -> (String, bool) {
        loop {
            match self.events.next().await {
                Some(Event::Token { index, token, text, log_prob, top }) => {
                    if let Some(logprobs) = self.logprobs.get_mut(index).filter(|_| self.form.logprobs) {
                        logprobs.content.extend(logprob(&self.model, token, log_prob, &top));
                    }
                    if !text.is_empty() {
                        return (self.piece(index, text), false);
                    }
                }
                Some(Event::Finished { index, sample }) => {
                    self.written += sample.tokens.len();
                    // Tokens that never became text: of a stop string, or of half a character.
                    let left = self.logprobs.get(index).is_some_and(|logprobs| !logprobs.content.is_empty());
                    let mut frames = if left { self.piece(index, String::new()) } else { String::new() };
                    let finish_reason = Some(finish_reason(sample.finish));
                    let sample_id = match self.keep(index, sample).await {
                        Ok(id) => id.map(|id| id.to_string()),
                        Err(error) => return (frames + &sse::failure(&error), true),
                    };
                    let last = ChunkChoice { index, delta: Delta::default(), finish_reason, logprobs: None, sample_id };
                    frames += &self.chunk(vec![last], None);
                    return (frames, false);
                }
                Some(Event::Done) => {
                    let usage = Usage::new(self.head.prompt_tokens, self.written);
                    let usage =
                        if self.form.include_usage { self.chunk(Vec::new(), Some(usage)) } else { String::new() };
                    return (usage + sse::DONE, true);
                }
                Some(Event::Failed(error)) => return (sse::failure(&ApiError::engine(&error)), true),
                None => return (sse::failure(&ApiError::internal(&"the engine lost an answer")), true),
            }
        }
    }

    /// Keeps a finished answer, before its last piece is sent.
    async fn keep(&mut self, index: usize, sample: Sample) -> Result<Option<SampleId>, ApiError> {
        let (_, sample) = in_words(sample)?;
        let sampling = self.samplings.get(index).cloned().unwrap_or_default();
        Ok(self.keeper.samples(vec![(index, sampling, sample)], Vec::new()).await.pop().flatten())
    }

    /// A frame that adds `text` to an answer.
    fn piece(&mut self, index: usize, text: String) -> String {
        let logprobs = self.logprobs.get_mut(index).filter(|_| self.form.logprobs).map(std::mem::take);
        let delta = Delta { role: None, content: Some(text) };
        self.chunk(vec![ChunkChoice { index, delta, finish_reason: None, logprobs, sample_id: None }], None)
    }

    fn chunk(&self, choices: Vec<ChunkChoice>, usage: Option<Usage>) -> String {
        sse::frame(&Chunk {
            id: &self.head.id,
            object: "chat.completion.chunk",
            created: self.head.created,
            model: &self.head.model,
            choices,
            system_fingerprint: &self.head.version,
            service_tier: "default",
            usage: self.form.include_usage.then_some(usage),
        })
    }
}
