//! Fine-tuning jobs, their events and their checkpoints as OpenAI shows them. What was asked is shown as it was asked. Only shapes; the
//! ledger knows the facts.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::jobs::Asked;
use crate::domain::id::JobId;
use crate::domain::job::{Job, RoundEvent};
use crate::domain::round::{KnownVersion, RoundState};

/// A job.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = FineTuningJob)]
pub struct JobCard {
    /// `ftjob-` and the digits of its round.
    pub id: String,
    #[schema(example = "fine_tuning.job")]
    pub object: &'static str,
    /// Unix seconds.
    pub created_at: i64,
    #[schema(required)]
    pub finished_at: Option<i64>,
    #[schema(required)]
    pub estimated_finish: Option<i64>,
    /// The model it began with.
    pub model: String,
    /// What it made, as `model` may name it from now on. Whether it is live too is the gate's decision, or an admin's.
    #[schema(required)]
    pub fine_tuned_model: Option<String>,
    #[schema(example = "ulm")]
    pub organization_id: &'static str,
    /// `queued`, `running`, `succeeded`, `failed`, `cancelled`, or `paused`.
    #[schema(example = "succeeded")]
    pub status: &'static str,
    pub training_file: String,
    #[schema(required)]
    pub validation_file: Option<String>,
    /// Numbers, or `auto`.
    #[schema(value_type = Object)]
    pub hyperparameters: Value,
    #[schema(value_type = Object)]
    pub method: Value,
    pub result_files: Vec<String>,
    #[schema(required)]
    pub trained_tokens: Option<i64>,
    #[schema(required)]
    pub error: Option<JobError>,
    pub seed: u64,
    /// Extension.
    #[schema(required)]
    pub suffix: Option<String>,
    #[schema(required, value_type = Option<Vec<Object>>)]
    pub integrations: Option<Vec<Value>>,
    pub metadata: BTreeMap<String, String>,
    /// Extension: the round that it is (`/v1/rounds/{id}`), which tells what the gate said.
    pub round: String,
    /// Extension: whether the gate made it live.
    pub promoted: bool,
}

/// Why a job failed.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = FineTuningJobError)]
pub struct JobError {
    #[schema(example = "invalid_training_file")]
    pub code: &'static str,
    pub message: String,
    #[schema(required)]
    pub param: Option<&'static str>,
}

impl JobCard {
    /// `name` is what the version that it made is called. `None` where what was asked cannot be read.
    #[must_use]
    pub fn new(job: Job, name: Option<String>) -> Option<Self> {
        let asked: Asked = serde_json::from_str(&job.asked).ok()?;
        let id = job.id().to_string();
        let Job { round, metadata, .. } = job;
        let status = match round.state {
            _ if round.paused && !round.state.is_final() => "paused",
            RoundState::Open => "queued",
            RoundState::Rolling | RoundState::Training | RoundState::Judging | RoundState::Trying => "running",
            // Who asked gets the model that was asked for; what everybody gets is another question.
            RoundState::Promoted | RoundState::Refused => "succeeded",
            RoundState::Failed => "failed",
            RoundState::Cancelled => "cancelled",
        };
        let report: Value =
            round.report.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let error = (round.state == RoundState::Failed).then(|| {
            let message = report["error"].as_str().unwrap_or("it failed").to_owned();
            match message.contains("cannot be learned from") {
                true => JobError { code: "invalid_training_file", message, param: Some("training_file") },
                false => JobError { code: "job_failed", message, param: None },
            }
        });
        Some(Self {
            id,
            object: "fine_tuning.job",
            created_at: round.created_ms / 1000,
            finished_at: round.state.is_final().then_some(round.changed_ms / 1000),
            estimated_finish: None,
            model: asked.model,
            fine_tuned_model: name.filter(|_| status == "succeeded"),
            organization_id: "ulm",
            status,
            training_file: asked.training_file,
            validation_file: None,
            hyperparameters: asked.hyperparameters,
            method: asked.method,
            result_files: Vec::new(),
            trained_tokens: None,
            error,
            seed: asked.seed,
            suffix: asked.suffix,
            integrations: None,
            metadata,
            round: round.id.to_string(),
            promoted: round.state == RoundState::Promoted,
        })
    }
}

/// Something that happened.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = FineTuningJobEvent)]
pub struct EventCard {
    pub id: String,
    #[schema(example = "fine_tuning.job.event")]
    pub object: &'static str,
    /// Unix seconds.
    pub created_at: i64,
    /// `info`, `warn` or `error`.
    #[schema(example = "info")]
    pub level: &'static str,
    pub message: String,
    /// `message`, or `metrics` of a step.
    #[serde(rename = "type")]
    #[schema(example = "metrics")]
    pub kind: &'static str,
    /// The numbers of a step.
    #[schema(required, value_type = Option<Object>)]
    pub data: Option<Value>,
}

impl From<RoundEvent> for EventCard {
    fn from(event: RoundEvent) -> Self {
        Self {
            id: event.id.to_string(),
            object: "fine_tuning.job.event",
            created_at: event.at_ms / 1000,
            level: event.level.word(),
            message: event.message,
            kind: if event.step.is_some() { "metrics" } else { "message" },
            data: event.data.as_deref().and_then(|text| serde_json::from_str(text).ok()),
        }
    }
}

/// Weights that a job made.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = FineTuningJobCheckpoint)]
pub struct CheckpointCard {
    pub id: String,
    #[schema(example = "fine_tuning.job.checkpoint")]
    pub object: &'static str,
    /// Unix seconds.
    pub created_at: i64,
    pub fine_tuned_model_checkpoint: String,
    pub fine_tuning_job_id: String,
    pub step_number: u64,
    /// Of the last step: `train_mean_reward`, `train_loss` and what else was measured.
    #[schema(value_type = Object)]
    pub metrics: Value,
}

impl CheckpointCard {
    /// The finished candidate, called `name`; `last` is the last step that was told of.
    #[must_use]
    pub fn new(job: JobId, known: &KnownVersion, name: String, last: Option<RoundEvent>) -> Self {
        let id = job.to_string();
        let step = last.as_ref().and_then(|event| event.step).and_then(|step| u64::try_from(step).ok());
        let data = last.and_then(|event| event.data);
        let metrics: Map<String, Value> =
            data.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        Self {
            id: id.replacen("ftjob-", "ftckpt-", 1),
            object: "fine_tuning.job.checkpoint",
            created_at: known.created_ms / 1000,
            fine_tuned_model_checkpoint: name,
            fine_tuning_job_id: id,
            step_number: step.unwrap_or(0),
            metrics: Value::Object(metrics),
        }
    }
}
