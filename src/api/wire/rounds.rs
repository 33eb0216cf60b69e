//! Training rounds as the interface takes and shows them. What a round is set to do is proved here and passed on.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::{IntoParams, ToSchema};

use super::super::error::ApiError;
use crate::domain::id::RoundId;
use crate::domain::round::Round;

/// Largest whole number that every JSON reader keeps exactly.
const SAFE: i64 = (1 << 53) - 1;
/// Most rounds of a page.
const MAX_PAGE: u32 = 100;

/// A round to be opened. What is left out is as the server thinks best.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Learn from what was said after this, Unix seconds; by default from what came since the last promoted round.
    #[schema(minimum = 0)]
    since: Option<i64>,
    /// Of the order in which it learns.
    #[schema(minimum = 0, maximum = 9_007_199_254_740_991_u64)]
    seed: Option<i64>,
    /// Times that everything is learned from.
    #[schema(minimum = 1, maximum = 20)]
    epochs: Option<i64>,
    /// Requests that are learned from at once.
    #[schema(minimum = 1, maximum = 256)]
    lessons: Option<i64>,
    /// Exercises of a step from the world of shapes, which a verifier judges; 0 by default.
    #[schema(minimum = 0, maximum = 64)]
    benchmark: Option<i64>,
    /// Questions of a step, by letter, that people asked and did not correct: what most of the model's own answers say is taken for right;
    /// 0 by default.
    #[schema(minimum = 0, maximum = 64)]
    unlabelled: Option<i64>,
    /// Times that a describer learns from pictures that were liked; 0 for no describer.
    #[schema(minimum = 0, maximum = 50)]
    describe: Option<i64>,
    /// Times that it then compares what was liked with what was not, of the same request.
    #[schema(minimum = 0, maximum = 50)]
    compare: Option<i64>,
    /// Where the describer knows well enough what people like: prompts of a step that are drawn anew and judged by it, in place of
    /// pictures that were rated,
    #[schema(minimum = 0, maximum = 64)]
    anew: Option<i64>,
    /// how many such steps,
    #[schema(minimum = 0, maximum = 10000)]
    steps: Option<i64>,
    /// and their learning rate at its peak.
    #[schema(minimum = 0, maximum = 0.01)]
    anew_rate: Option<f64>,
    /// Learning rate at its peak, of what was rated.
    #[schema(minimum = 0, maximum = 0.01)]
    rate: Option<f64>,
    /// What every logged sample earns beside what was said of it, so that the weights stay among what people saw.
    #[schema(minimum = 0, maximum = 10)]
    hold: Option<f64>,
    /// Held-out work that the candidate is judged by.
    suite: Option<SuiteRequest>,
}

/// How much held-out work.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SuiteRequest {
    /// Which work: the same seed gives the same.
    #[schema(minimum = 0, maximum = 9_007_199_254_740_991_u64)]
    seed: i64,
    /// Prompts of each drawing category.
    #[schema(minimum = 10, maximum = 2000)]
    draws: i64,
    /// Questions of each kind and form.
    #[schema(minimum = 5, maximum = 1000)]
    answers: i64,
}

/// A request that may be carried out.
pub struct Opening {
    pub since_ms: Option<i64>,
    pub plan: String,
}

impl Request {
    /// # Errors
    /// The first parameter that is out of range.
    pub fn parse(self) -> Result<Opening, ApiError> {
        let mut plan = Map::new();
        let mut whole = |name: &str, value: Option<i64>, least: i64, most: i64| match value {
            Some(value) if !(least..=most).contains(&value) => {
                Err(ApiError::invalid(name, format!("`{name}` must be from {least} to {most}, not {value}.")))
            }
            Some(value) => {
                plan.insert(name.to_owned(), value.into());
                Ok(())
            }
            None => Ok(()),
        };
        whole("seed", self.seed, 0, SAFE)?;
        whole("epochs", self.epochs, 1, 20)?;
        whole("lessons", self.lessons, 1, 256)?;
        whole("benchmark", self.benchmark, 0, 64)?;
        whole("unlabelled", self.unlabelled, 0, 64)?;
        whole("describe", self.describe, 0, 50)?;
        whole("compare", self.compare, 0, 50)?;
        whole("anew", self.anew, 0, 64)?;
        whole("steps", self.steps, 0, 10_000)?;
        let numbers = [("anew_rate", self.anew_rate, 0.01), ("rate", self.rate, 0.01), ("hold", self.hold, 10.0)];
        for (name, value, most) in numbers {
            let Some(value) = value else { continue };
            if !(0.0..=most).contains(&value) {
                return Err(ApiError::invalid(name, format!("`{name}` must be from 0 to {most}, not {value}.")));
            }
            plan.insert(name.into(), value.into());
        }
        if let Some(suite) = self.suite {
            plan.insert("suite".into(), suite.parse()?);
        }
        let since_ms = match self.since {
            Some(since) if !(0..=SAFE / 1000).contains(&since) => {
                return Err(ApiError::invalid(
                    "since",
                    format!("`since` must be a time in Unix seconds, not {since}."),
                ));
            }
            since => since.map(|since| 1000 * since),
        };
        Ok(Opening { since_ms, plan: Value::Object(plan).to_string() })
    }
}

impl SuiteRequest {
    /// As a plan has it.
    ///
    /// # Errors
    /// The first number that is out of range.
    pub fn parse(self) -> Result<Value, ApiError> {
        let Self { seed, draws, answers } = self;
        for (name, value, least, most) in
            [("suite.seed", seed, 0, SAFE), ("suite.draws", draws, 10, 2000), ("suite.answers", answers, 5, 1000)]
        {
            if !(least..=most).contains(&value) {
                return Err(ApiError::invalid(name, format!("`{name}` must be from {least} to {most}, not {value}.")));
            }
        }
        Ok(json!({ "seed": seed, "draws": draws, "answers": answers }))
    }
}

/// Which rounds to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Query {
    /// The last id of the page before.
    after: Option<String>,
    /// 1 to 100.
    #[param(minimum = 1, maximum = 100, default = 20)]
    limit: Option<u32>,
}

impl Query {
    /// # Errors
    /// The first parameter that is wrong.
    pub fn parse(self) -> Result<(Option<RoundId>, u32), ApiError> {
        let after = self.after.map(|id| id.parse().map_err(|_| ApiError::no_such("round", &id))).transpose()?;
        match self.limit.unwrap_or(20) {
            limit @ 1..=MAX_PAGE => Ok((after, limit)),
            limit => Err(ApiError::invalid("limit", format!("`limit` must be from 1 to {MAX_PAGE}, not {limit}."))),
        }
    }
}

/// A training round.
#[derive(Debug, Serialize, ToSchema)]
pub struct RoundCard {
    pub id: String,
    #[schema(example = "round")]
    pub object: &'static str,
    /// `open`, `rolling`, `training`, `judging`, `trying`, `promoted`, `refused`, `failed` or `cancelled`.
    #[schema(example = "promoted")]
    pub status: &'static str,
    /// Unix seconds.
    pub created: i64,
    pub changed: i64,
    /// It waits until somebody resumes it.
    pub paused: bool,
    /// Who or what opened it.
    pub by: String,
    /// It learns from what was said after this, Unix seconds, and not after that; both 0 where it learns from a file.
    pub since: i64,
    pub until: i64,
    /// What it was told to do otherwise than usual.
    #[schema(value_type = Object)]
    pub plan: Value,
    /// The version it began with.
    #[schema(required)]
    pub base: Option<String>,
    /// The version it made.
    #[schema(required)]
    pub candidate: Option<String>,
    /// What it learned from, what the gate said, or why it failed.
    #[schema(value_type = Object)]
    pub report: Value,
}

impl From<Round> for RoundCard {
    fn from(round: Round) -> Self {
        let read = |text: &str| serde_json::from_str(text).unwrap_or(Value::Null);
        Self {
            id: round.id.to_string(),
            object: "round",
            status: round.state.word(),
            created: round.created_ms / 1000,
            changed: round.changed_ms / 1000,
            paused: round.paused,
            by: round.by,
            since: round.since_ms / 1000,
            until: round.until_ms / 1000,
            plan: read(&round.plan),
            base: round.base.map(|base| base.0),
            candidate: round.candidate.map(|candidate| candidate.0),
            report: round.report.as_deref().map_or(Value::Null, read),
        }
    }
}

/// Rounds, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct RoundList {
    #[schema(example = "list")]
    pub object: &'static str,
    pub data: Vec<RoundCard>,
    pub has_more: bool,
}
