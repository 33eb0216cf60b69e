//! Graders tried out before a job depends on them: checked, and run on one sample. The model that judges is the served one, asked as
//! everybody asks it. Knows not what a grade is for.

use std::sync::Arc;
use std::time::Instant;

use actix_web::{HttpRequest, web};

use super::Service;
use super::error::{ApiError, Failures};
use super::wire::from_json;
use super::wire::graders::{Errors, Metadata, Run, RunRequest, Trial, ValidateRequest, Validation};
use crate::domain::picture::Picture;
use crate::domain::sample::Output;
use crate::domain::task::{Answer, Part, Role, Sampling, Turn};
use crate::engine::EngineHandle;
use crate::engine::command::{Event, Lane, Submission, Work};
use crate::model::Model;
use crate::picture::decode::{self, MAX_PIXELS};
use crate::reward::grader::{Given, Grade, Grader};
use crate::reward::{Oracle, RewardError, States};

/// Most tokens of a caption.
const CAPTION: usize = 64;

/// Checks a grader.
#[utoipa::path(
    post,
    path = "/v1/fine_tuning/alpha/graders/validate",
    operation_id = "validateGrader",
    tag = "Fine-tuning",
    request_body = ValidateRequest,
    responses((status = 200, description = "It can be had.", body = Validation), Failures)
)]
pub async fn validate(
    service: web::Data<Service>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<web::Json<Validation>, ApiError> {
    let body = service.bodies.json(&request, payload).await?;
    let (grader, value) = service.blocking(move || from_json::<ValidateRequest>(body.bytes())?.parse()).await?;
    for model in grader.models() {
        service.named(model).await?;
    }
    Ok(web::Json(Validation { grader: value }))
}

/// Grades one sample.
#[utoipa::path(
    post,
    path = "/v1/fine_tuning/alpha/graders/run",
    operation_id = "runGrader",
    tag = "Fine-tuning",
    request_body = RunRequest,
    responses((status = 200, description = "What it earned, or why it earned nothing.", body = Run), Failures)
)]
pub async fn run(
    service: web::Data<Service>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<web::Json<Run>, ApiError> {
    let body = service.bodies.json(&request, payload).await?;
    let trial = service.blocking(move || from_json::<RunRequest>(body.bytes())?.parse()).await?;
    let name = judge_of(&trial.grader)?;
    let model = service.pick(name.as_deref(), None).await?;
    let engine = service.engine.clone();
    // It mostly waits for the engine, whose queue bounds how many do.
    let done = web::block(move || tried(&trial, &Judge { engine, model }, name));
    Ok(web::Json(done.await.map_err(|cause| ApiError::internal(&cause))??))
}

/// The one model that a grader names, if any.
fn judge_of(grader: &Grader) -> Result<Option<String>, ApiError> {
    let mut models = grader.models();
    let first = models.next();
    match models.find(|model| Some(*model) != first) {
        Some(_) => {
            Err(ApiError::unsupported_value("grader", "All `score_model` graders of one must name the same model."))
        }
        None => Ok(first.map(str::to_owned)),
    }
}

fn tried(trial: &Trial, judge: &Judge, name: Option<String>) -> Result<Run, ApiError> {
    let begun = Instant::now();
    let picture = match trial.sample.starts_with("data:image/") {
        true => {
            let picture = decode::data_url(&trial.sample).and_then(|file| decode::picture(&file, MAX_PIXELS));
            Some(picture.map_err(|error| {
                ApiError::invalid("model_sample", format!("The picture at `model_sample` {error}."))
            })?)
        }
        false => None,
    };
    let sample = picture.as_ref().map_or(Given::Answer(&trial.sample), Given::Picture);
    let (mut reward, mut parts, mut errors) = (0.0, Vec::new(), Errors::default());
    match trial.grader.grade(&trial.item, &[sample], judge).map(|mut grades| grades.pop()) {
        Ok(Some(Grade { value, parts: found })) => {
            parts = found;
            match value {
                Ok(value) => reward = value,
                Err(fault) => errors = Errors::of(&fault),
            }
        }
        Ok(None) => errors.unresponsive_reward_error = true,
        Err(error) => {
            errors.model_grader_server_error = true;
            errors.model_grader_server_error_details = Some(error.to_string());
        }
    }
    let scores: std::collections::BTreeMap<_, _> = parts.into_iter().collect();
    Ok(Run {
        reward,
        sub_rewards: scores.clone(),
        metadata: Metadata {
            name: trial.grader.name.clone(),
            kind: trial.grader.kind(),
            execution_time: begun.elapsed().as_secs_f64(),
            scores,
            token_usage: None,
            sampled_model_name: name,
            errors,
        },
        model_grader_token_usage_per_model: serde_json::Map::new(),
    })
}

/// The model, asked in the lane of people. For the blocking pool.
struct Judge {
    engine: EngineHandle,
    model: Arc<Model>,
}

fn failed(error: impl std::fmt::Display) -> RewardError {
    RewardError::Oracle(error.to_string())
}

impl Oracle for Judge {
    fn answers(&self, questions: &[(Arc<Picture>, String)]) -> Result<Vec<String>, RewardError> {
        let sampling = Sampling { temperature: 0.0, max_tokens: CAPTION, ..Sampling::default() };
        let conversation = |(picture, text): &(Arc<Picture>, String)| {
            let parts = vec![Part::Picture(Arc::clone(picture)), Part::Text(text.clone())];
            (Answer { system: Some(String::new()), turns: vec![Turn { role: Role::User, parts }] }, sampling.clone())
        };
        self.replies(questions.iter().map(conversation).collect())
    }

    fn replies(&self, conversations: Vec<(Answer, Sampling)>) -> Result<Vec<String>, RewardError> {
        let mut replies = Vec::with_capacity(conversations.len());
        for (conversation, sampling) in conversations {
            let prompt = self.model.prompter().answer(&conversation).map_err(failed)?;
            let submission =
                Submission { work: Work::Answer(prompt), samplings: vec![sampling], lane: Lane::Interactive };
            let mut events = self.engine.submit_to(&self.model, submission).map_err(failed)?;
            let mut said = None;
            while let Some(event) = events.blocking_next() {
                match event {
                    Event::Finished { sample, .. } => said = Some(sample.output),
                    Event::Failed(error) => return Err(failed(error)),
                    Event::Done => break,
                    Event::Token { .. } => {}
                }
            }
            match said {
                Some(Output::Text(text)) => replies.push(text),
                _ => return Err(failed("the model gave no answer")),
            }
        }
        Ok(replies)
    }

    /// Only whoever trains the network looks into it.
    fn states(&self, _: &str, _: &[&Picture]) -> Result<Vec<States>, RewardError> {
        Err(failed("the network's states are not looked at here"))
    }
}
