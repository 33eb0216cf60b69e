//! Trying a grader out, as OpenAI's interface has it. Only shapes; `reward` reads and runs graders.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::super::error::ApiError;
use super::jobs::spec;
use crate::reward::grader::{Fault, Grader};

/// A grader to be checked.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = GraderValidateRequest)]
pub struct ValidateRequest {
    #[schema(value_type = Object)]
    grader: Option<Value>,
}

impl ValidateRequest {
    /// The grader, read and as it was sent.
    ///
    /// # Errors
    /// The first part of it that is wrong or cannot be had.
    pub fn parse(self) -> Result<(Grader, Value), ApiError> {
        let value = self.grader.ok_or_else(|| ApiError::missing("grader"))?;
        Ok((Grader::read(&value, "grader").map_err(spec)?, value))
    }
}

/// A grader that can be had.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = GraderValidation)]
pub struct Validation {
    #[schema(value_type = Object)]
    pub grader: Value,
}

/// A grader to be run on one sample.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = GraderRunRequest)]
pub struct RunRequest {
    #[schema(value_type = Object)]
    grader: Option<Value>,
    /// What the model said, or the picture that it drew as a data URL.
    #[schema(required, nullable = false)]
    model_sample: Option<String>,
    /// What templates call `item`.
    #[schema(value_type = Option<Object>)]
    item: Option<Map<String, Value>>,
}

/// A run that can be carried out.
pub struct Trial {
    pub grader: Grader,
    pub sample: String,
    pub item: Map<String, Value>,
}

impl RunRequest {
    /// # Errors
    /// The first parameter that is wrong.
    pub fn parse(self) -> Result<Trial, ApiError> {
        let (grader, _) = ValidateRequest { grader: self.grader }.parse()?;
        if grader.wants_states() {
            let why = "`matching` looks into the network, which only a job does; `validate` checks it";
            return Err(ApiError::unsupported("grader.type", why));
        }
        let sample = self.model_sample.ok_or_else(|| ApiError::missing("model_sample"))?;
        Ok(Trial { grader, sample, item: self.item.unwrap_or_default() })
    }
}

/// What came of a run.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = GraderRun)]
pub struct Run {
    /// 0 where there is none; `metadata.errors` says why.
    pub reward: f64,
    /// Of `multi`, what each part gave.
    pub sub_rewards: BTreeMap<String, f64>,
    pub metadata: Metadata,
    #[schema(value_type = Object)]
    pub model_grader_token_usage_per_model: Map<String, Value>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = GraderRunMetadata)]
pub struct Metadata {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Seconds.
    pub execution_time: f64,
    pub scores: BTreeMap<String, f64>,
    #[schema(required)]
    pub token_usage: Option<u64>,
    /// The model that judged.
    #[schema(required)]
    pub sampled_model_name: Option<String>,
    pub errors: Errors,
}

/// What went wrong. Graders that cannot be read are refused instead, and those that run code are not had here.
#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(as = GraderRunErrors)]
pub struct Errors {
    pub formula_parse_error: bool,
    pub invalid_variable_error: bool,
    pub model_grader_parse_error: bool,
    pub model_grader_refusal_error: bool,
    pub model_grader_server_error: bool,
    #[schema(required)]
    pub model_grader_server_error_details: Option<String>,
    pub other_error: bool,
    pub python_grader_runtime_error: bool,
    #[schema(required)]
    pub python_grader_runtime_error_details: Option<String>,
    pub python_grader_server_error: bool,
    #[schema(required)]
    pub python_grader_server_error_type: Option<String>,
    pub sample_parse_error: bool,
    pub truncated_observation_error: bool,
    pub unresponsive_reward_error: bool,
    /// Extension: the same in words.
    #[schema(required)]
    pub details: Option<String>,
}

impl Errors {
    /// Of a sample that has no grade.
    #[must_use]
    pub fn of(fault: &Fault) -> Self {
        let none = Self { details: Some(fault.to_string()), ..Self::default() };
        match fault {
            Fault::Variable(_) => Self { invalid_variable_error: true, ..none },
            Fault::Sample(_) => Self { sample_parse_error: true, ..none },
            Fault::Unparsed(_) => Self { model_grader_parse_error: true, ..none },
            Fault::Other(_) => Self { other_error: true, ..none },
        }
    }
}
