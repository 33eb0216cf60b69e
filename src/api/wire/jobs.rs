//! Fine-tuning jobs as OpenAI's interface asks for them, and the proof that one can be carried out: which data, which grader, and what the
//! round is set to do. How they are shown is in `job_card`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::{IntoParams, ToSchema};

use super::super::error::ApiError;
use super::rounds::SuiteRequest;
use super::{MAX_SEED, Refused, metadata, refuse};
use crate::domain::id::{EventId, JobId};
use crate::reward::grader::{Grader, SpecError};

/// What stands for the log itself in place of a file.
pub const LEDGER: &str = "ledger";
/// Most steps of a job.
pub const MAX_STEPS: u64 = 10_000;
/// Most jobs, events or checkpoints of a page.
const MAX_PAGE: u32 = 100;
/// Where a grader stands in a request.
const GRADER: &str = "method.reinforcement.grader";

/// A job to be opened: reinforcement from a file and a grader, or from what users said.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = FineTuningJobRequest)]
pub struct Request {
    /// The served model, or a kept version of it (`ulm-demo@7ef41cf1fea9`), to begin with.
    #[schema(required, nullable = false, example = "ulm-demo")]
    model: Option<String>,
    /// A file, or `ledger`: what users said since the last round.
    #[schema(required, nullable = false)]
    training_file: Option<String>,
    #[schema(ignore)]
    validation_file: Refused,
    /// May be left out with `ledger`.
    method: Option<Method>,
    /// OpenAI's older place for `method.reinforcement.hyperparameters`.
    hyperparameters: Option<Hyperparameters>,
    #[schema(ignore)]
    integrations: Refused,
    /// Up to 16 pairs of strings.
    metadata: Option<BTreeMap<String, String>>,
    /// Of the order in which it learns, and of what it draws.
    #[schema(minimum = 0, maximum = 9_007_199_254_740_991_u64)]
    seed: Option<i64>,
    /// Kept and shown; models are named by their version.
    #[schema(max_length = 64)]
    suffix: Option<String>,
    /// Extension: held-out work that the gate judges by.
    suite: Option<SuiteRequest>,
}

/// How to learn.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = FineTuningMethod)]
pub struct Method {
    /// `reinforcement`.
    #[serde(rename = "type")]
    #[schema(required, nullable = false, example = "reinforcement")]
    kind: Option<String>,
    reinforcement: Option<Reinforcement>,
    #[schema(ignore)]
    supervised: Refused,
    #[schema(ignore)]
    dpo: Refused,
}

/// Learning by what samples earn.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Reinforcement {
    /// `string_check`, `text_similarity`, `score_model` (the model itself judges), `multi`; of pictures `verifier`, `caption`, `matching`
    /// and `likeness`. Not with `ledger`, where users are the judges.
    #[schema(value_type = Option<Object>)]
    grader: Option<Value>,
    hyperparameters: Option<Hyperparameters>,
}

/// Numbers, or `auto`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Hyperparameters {
    /// Times that everything is learned from, 1 to 20.
    n_epochs: Option<Auto>,
    /// Rows of a step, 1 to 256.
    batch_size: Option<Auto>,
    /// 0.01 to 100.
    learning_rate_multiplier: Option<Auto>,
    /// Times the samples of each row, 0.25 to 8.
    compute_multiplier: Option<Auto>,
    /// `auto`: the gate judges, once.
    eval_interval: Option<Auto>,
    /// `auto`: `suite` says how much.
    eval_samples: Option<Auto>,
    /// `default`.
    reasoning_effort: Option<String>,
}

/// A number or a word.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged)]
#[schema(as = AutoOrNumber)]
pub enum Auto {
    Number(f64),
    Word(String),
}

/// A grader, read and as it was sent.
pub type Sent = (Grader, Value);

/// A job that can be opened, as far as its request tells.
pub struct Wanted {
    pub model: String,
    /// A file; `None` is the ledger.
    pub file: Option<String>,
    pub grader: Option<Sent>,
    /// What the round does otherwise than usual; of the rows nothing yet.
    pub plan: Map<String, Value>,
    pub metadata: BTreeMap<String, String>,
    pub asked: Asked,
}

/// What was asked for, as it is shown again; kept as JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    pub model: String,
    pub training_file: String,
    pub seed: u64,
    pub suffix: Option<String>,
    pub hyperparameters: Value,
    pub method: Value,
}

impl Request {
    /// `fresh` is the seed where none is given.
    ///
    /// # Errors
    /// The first parameter that is wrong or cannot be honoured.
    pub fn parse(self, fresh: u32) -> Result<Wanted, ApiError> {
        refuse(&[
            ("validation_file", &self.validation_file, "the gate judges by held-out work of its own (`suite`)"),
            ("integrations", &self.integrations, "`GET …/events` and the server's metrics tell what happens"),
        ])?;
        let model = self.model.ok_or_else(|| ApiError::missing("model"))?;
        let training_file = self.training_file.ok_or_else(|| ApiError::missing("training_file"))?;
        let file = (training_file != LEDGER).then(|| training_file.clone());
        let (grader, inner) = method(self.method, file.is_some())?;
        let (at, hyperparameters) = match (inner, self.hyperparameters) {
            (Some(_), Some(_)) => {
                let message = "`hyperparameters` are told twice; once is enough, in `method.reinforcement`.";
                return Err(ApiError::invalid("hyperparameters", message));
            }
            (Some(inner), None) => ("method.reinforcement.hyperparameters", inner),
            (None, outer) => ("hyperparameters", outer.unwrap_or_default()),
        };
        let (mut plan, shown) = hyperparameters.parse(at, file.is_some())?;
        let seed = match self.seed {
            None => u64::from(fresh),
            Some(seed) => u64::try_from(seed).ok().filter(|&seed| seed <= MAX_SEED).ok_or_else(|| {
                ApiError::invalid("seed", format!("`seed` must be from 0 to {MAX_SEED}, not {seed}."))
            })?,
        };
        plan.insert("seed".into(), seed.into());
        plan.insert("keep".into(), true.into());
        if let Some(suite) = self.suite {
            plan.insert("suite".into(), suite.parse()?);
        }
        if self.suffix.as_ref().is_some_and(|suffix| suffix.chars().count() > 64 || suffix.contains('\0')) {
            return Err(ApiError::invalid("suffix", "`suffix` has at most 64 characters, and no null character."));
        }
        let shown_grader = grader.as_ref().map(|(_, value)| value.clone());
        let method =
            json!({"type": "reinforcement", "reinforcement": {"grader": shown_grader, "hyperparameters": shown}});
        let asked =
            Asked { model: model.clone(), training_file, seed, suffix: self.suffix, hyperparameters: shown, method };
        Ok(Wanted { model, file, grader, plan, metadata: metadata(self.metadata)?, asked })
    }
}

/// The grader and hyperparameters of a method that can be honoured.
fn method(method: Option<Method>, has_file: bool) -> Result<(Option<Sent>, Option<Hyperparameters>), ApiError> {
    const INSTEAD: &str = "use `reinforcement` with a grader, such as string_check against the answer that is right";
    let method = match method {
        Some(method) => method,
        None if has_file => {
            let message = format!("`method` is `supervised` where it is not told, which is not supported: {INSTEAD}.");
            return Err(ApiError::unsupported_value("method.type", message));
        }
        None => return Ok((None, None)),
    };
    match method.kind.as_deref() {
        Some("reinforcement") => {}
        Some(kind @ ("supervised" | "dpo")) => {
            let message = format!(
                "`{kind}` is not supported: {INSTEAD}; preferences are given as feedback, and `training_file: \"ledger\"` learns from them."
            );
            return Err(ApiError::unsupported_value("method.type", message));
        }
        Some(kind) => {
            return Err(ApiError::unsupported_value(
                "method.type",
                format!("`method.type` can be reinforcement, not `{kind}`."),
            ));
        }
        None => return Err(ApiError::missing("method.type")),
    }
    refuse(&[("method.supervised", &method.supervised, INSTEAD), ("method.dpo", &method.dpo, INSTEAD)])?;
    let Reinforcement { grader, hyperparameters } =
        method.reinforcement.unwrap_or(Reinforcement { grader: None, hyperparameters: None });
    let grader = match (grader.filter(|grader| !grader.is_null()), has_file) {
        (Some(_), false) => return Err(ApiError::unsupported(GRADER, "of the ledger's samples, users are the judges")),
        (None, true) => return Err(ApiError::missing(GRADER)),
        (Some(value), true) => Some((Grader::read(&value, GRADER).map_err(spec)?, value)),
        (None, false) => None,
    };
    Ok((grader, hyperparameters))
}

/// A grader that cannot be had, as the interface says it.
pub fn spec(error: SpecError) -> ApiError {
    let SpecError { param, message } = error;
    match message {
        message if message.starts_with("Unknown parameter") => ApiError::unknown(&param, message),
        message if message.contains("not supported") || message.contains("needs networks") => {
            ApiError::unsupported_value(&param, message)
        }
        message => ApiError::invalid(&param, message),
    }
}

impl Hyperparameters {
    /// What they are in a plan, and as they are shown.
    fn parse(self, at: &str, has_file: bool) -> Result<(Map<String, Value>, Value), ApiError> {
        let (mut plan, mut shown) = (Map::new(), Map::new());
        let mut take = |name: &str, set: &str, value: Option<Auto>, least: f64, most: f64, whole: bool| {
            let param = format!("{at}.{name}");
            let value = match value {
                None => None,
                Some(Auto::Word(word)) if word == "auto" => None,
                Some(Auto::Number(number)) if (least..=most).contains(&number) && !(whole && number.fract() != 0.0) => {
                    Some(number)
                }
                Some(_) => {
                    let kind = if whole { "a whole number" } else { "a number" };
                    let message = format!("`{param}` must be `auto` or {kind} from {least} to {most}.");
                    return Err(ApiError::invalid(&param, message));
                }
            };
            // The bounds of whole ones are small.
            let value = value.map(|number| if whole { Value::from(number as u64) } else { Value::from(number) });
            if let Some(value) = &value {
                plan.insert(set.to_owned(), value.clone());
            }
            shown.insert(name.to_owned(), value.unwrap_or_else(|| "auto".into()));
            Ok(())
        };
        take("n_epochs", "epochs", self.n_epochs, 1.0, 20.0, true)?;
        take("batch_size", "lessons", self.batch_size, 1.0, 256.0, true)?;
        take("learning_rate_multiplier", "multiplier", self.learning_rate_multiplier, 0.01, 100.0, false)?;
        let none = |name: &str, value: &Option<Auto>, why: &str| match value {
            Some(Auto::Number(_)) => Err(ApiError::unsupported(&format!("{at}.{name}"), why)),
            Some(Auto::Word(word)) if word != "auto" => {
                Err(ApiError::invalid(&format!("{at}.{name}"), format!("`{at}.{name}` can be auto.")))
            }
            _ => Ok(()),
        };
        if has_file {
            take("compute_multiplier", "effort", self.compute_multiplier, 0.25, 8.0, false)?;
        } else {
            none("compute_multiplier", &self.compute_multiplier, "samples of the ledger are drawn already")?;
        }
        none("eval_interval", &self.eval_interval, "the gate judges the candidate, once")?;
        none("eval_samples", &self.eval_samples, "`suite` says how much held-out work the gate judges by")?;
        match self.reasoning_effort.as_deref() {
            None | Some("default") => {}
            Some(_) => {
                return Err(ApiError::unsupported(
                    &format!("{at}.reasoning_effort"),
                    "the model thinks as much as it was taught to",
                ));
            }
        }
        Ok((plan, Value::Object(shown)))
    }
}

impl Wanted {
    /// Checks that so many rows are not too many steps.
    ///
    /// # Errors
    /// When they are.
    pub fn check_steps(&self, rows: usize) -> Result<(), ApiError> {
        let of = |name: &str, usual: u64| self.plan.get(name).and_then(Value::as_u64).unwrap_or(usual);
        let steps = (rows as u64).saturating_mul(of("epochs", 1)).div_ceil(of("lessons", 12).max(1));
        if steps > MAX_STEPS {
            let message = format!(
                "{rows} rows are {steps} steps, more than {MAX_STEPS}: fewer epochs, or more rows a step (`batch_size`)."
            );
            return Err(ApiError::invalid("training_file", message));
        }
        Ok(())
    }
}

/// Which jobs.
pub struct Filter {
    pub after: Option<JobId>,
    pub limit: u32,
    /// Notes that they must have.
    pub metadata: BTreeMap<String, String>,
}

/// The filter that a query says.
///
/// # Errors
/// The first parameter that is wrong.
pub fn filter(query: Vec<(String, String)>) -> Result<Filter, ApiError> {
    let (mut after, mut limit, mut notes) = (None, 20, BTreeMap::new());
    for (name, value) in query {
        match name.as_str() {
            "after" => after = Some(value.parse().map_err(|_| ApiError::no_such("job", &value))?),
            "limit" => limit = self::limit(value.parse().ok())?,
            name => match name.strip_prefix("metadata[").and_then(|name| name.strip_suffix(']')) {
                Some(key) => drop(notes.insert(key.to_owned(), value)),
                None => return Err(ApiError::unknown(name, format!("Unknown parameter: `{name}`."))),
            },
        }
    }
    Ok(Filter { after, limit, metadata: metadata(Some(notes))? })
}

fn limit(given: Option<u32>) -> Result<u32, ApiError> {
    let given = given.filter(|limit| (1..=MAX_PAGE).contains(limit));
    given.ok_or_else(|| ApiError::invalid("limit", format!("`limit` must be from 1 to {MAX_PAGE}.")))
}

/// Which jobs to list. Beside these, `metadata[KEY]=VALUE` lists only those with that note.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "the schema of a query; `filter` reads it")]
pub struct Query {
    /// The last id of the page before.
    after: Option<String>,
    /// 1 to 100.
    #[param(minimum = 1, maximum = 100, default = 20)]
    limit: Option<u32>,
}

/// Which events or checkpoints of a job to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PartQuery {
    /// The last id of the page before.
    after: Option<String>,
    /// 1 to 100.
    #[param(minimum = 1, maximum = 100, default = 20)]
    limit: Option<u32>,
}

impl PartQuery {
    /// Of events.
    ///
    /// # Errors
    /// The first parameter that is wrong.
    pub fn events(self) -> Result<(Option<EventId>, u32), ApiError> {
        let after = self.after.map(|id| id.parse().map_err(|_| ApiError::no_such("event", &id))).transpose()?;
        Ok((after, limit(self.limit.or(Some(20)))?))
    }

    /// Of checkpoints: whether the page is behind the first.
    ///
    /// # Errors
    /// The first parameter that is wrong.
    pub fn checkpoints(self) -> Result<Option<String>, ApiError> {
        limit(self.limit.or(Some(20)))?;
        Ok(self.after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(value: Value) -> Result<Wanted, ApiError> {
        super::super::from_json::<Request>(value.to_string().as_bytes())?.parse(7)
    }

    #[test]
    fn a_job_is_a_plan() {
        let grader = json!({"type": "verifier"});
        let wanted = parse(json!({"model": "m", "training_file": "file-1", "suffix": "s", "metadata": {"a": "b"}, "method":
            {"type": "reinforcement", "reinforcement": {"grader": grader, "hyperparameters": {"n_epochs": 2, "batch_size": "auto",
            "learning_rate_multiplier": 0.5, "compute_multiplier": 2}}}}))
        .unwrap();
        let plan = json!({"epochs": 2, "multiplier": 0.5, "effort": 2.0, "seed": 7, "keep": true});
        assert_eq!(Value::Object(wanted.plan.clone()), plan);
        assert_eq!(wanted.asked.hyperparameters["batch_size"], "auto");
        assert_eq!(wanted.asked.method["reinforcement"]["grader"], grader);
        assert!(wanted.check_steps(60_000).is_ok() && wanted.check_steps(60_001).is_err());
        let ledger = parse(json!({"model": "m", "training_file": "ledger", "seed": 3})).unwrap();
        assert!(ledger.file.is_none() && ledger.grader.is_none() && ledger.asked.seed == 3);
    }

    #[test]
    fn what_cannot_be_honoured_is_told() {
        let of = |reinforcement: Value| json!({"model": "m", "training_file": "f", "method": {"type": "reinforcement", "reinforcement": reinforcement}});
        let number =
            |name: &str, value: Value| of(json!({"grader": {"type": "verifier"}, "hyperparameters": {name: value}}));
        for (value, told) in [
            (json!({"training_file": "f"}), "`model`"),
            (json!({"model": "m"}), "`training_file`"),
            (json!({"model": "m", "training_file": "f"}), "`supervised`"),
            (json!({"model": "m", "training_file": "f", "method": {"type": "dpo"}}), "`dpo` is not supported"),
            (json!({"model": "m", "training_file": "f", "method": {"type": "x"}}), "can be reinforcement"),
            (json!({"model": "m", "training_file": "f", "validation_file": "g"}), "validation_file"),
            (json!({"model": "m", "training_file": "f", "integrations": []}), "integrations"),
            (of(json!({})), "grader"),
            (of(json!({"grader": {"type": "python"}})), "`python` is not supported"),
            (
                json!({"model": "m", "training_file": "ledger", "method": {"type": "reinforcement", "reinforcement": {"grader": {"type": "verifier"}}}}),
                "users are the judges",
            ),
            (number("n_epochs", json!(0)), "from 1 to 20"),
            (number("n_epochs", json!(1.5)), "whole number"),
            (number("batch_size", json!("many")), "`auto` or"),
            (number("eval_interval", json!(3)), "the gate judges"),
            (number("reasoning_effort", json!("high")), "reasoning_effort"),
            (json!({"model": "m", "training_file": "ledger", "seed": -1}), "`seed`"),
            (json!({"model": "m", "training_file": "ledger", "suffix": "x".repeat(65)}), "`suffix`"),
            (json!({"model": "m", "training_file": "ledger", "colour": 1}), "Unknown parameter"),
        ] {
            let error = parse(value.clone()).map(drop).unwrap_err().to_string();
            assert!(error.contains(told), "{value}: {error}");
        }
    }
}
