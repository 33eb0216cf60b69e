//! Graders read from JSON: each field proved, what is unknown or cannot be had here refused by name. Knows nothing of grading.

use serde_json::{Map, Value};

use super::formula::Formula;
use super::template::Template;
use super::text::Metric;
use super::{Grader, Kind, Operation, messages};
use crate::domain::task::Sampling;

/// Most parts of a `multi` grader.
const PARTS: usize = 16;
/// Most tokens that a judge answers with, and how many unless told otherwise.
const TOKENS: (u64, usize) = (512, 64);

/// What is wrong with a grader.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SpecError {
    /// Where it stands.
    pub param: String,
    pub message: String,
}

pub(super) fn wrong(param: &str, message: impl Into<String>) -> SpecError {
    SpecError { param: param.to_owned(), message: message.into() }
}

/// The fields of an object at a place.
pub(super) struct Fields<'a> {
    map: &'a Map<String, Value>,
    path: &'a str,
}

impl<'a> Fields<'a> {
    /// # Errors
    /// When it is no object, or has a field that is none of these.
    pub(super) fn of(value: &'a Value, path: &'a str, known: &[&str]) -> Result<Self, SpecError> {
        let map = value.as_object().ok_or_else(|| wrong(path, format!("`{path}` must be an object.")))?;
        let fields = Self { map, path };
        match map.keys().find(|key| !known.contains(&key.as_str())) {
            Some(key) => {
                let at = fields.at(key);
                Err(wrong(&at, format!("Unknown parameter: `{at}`; there are {}.", known.join(", "))))
            }
            None => Ok(fields),
        }
    }

    pub(super) fn at(&self, name: &str) -> String {
        format!("{}.{name}", self.path)
    }

    /// `null` is as good as nothing.
    fn may(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    pub(super) fn get(&self, name: &str) -> Result<&'a Value, SpecError> {
        let at = self.at(name);
        self.may(name).ok_or_else(|| wrong(&at, format!("Missing required parameter: `{at}`.")))
    }

    pub(super) fn text(&self, name: &str) -> Result<&'a str, SpecError> {
        let at = self.at(name);
        self.get(name)?.as_str().ok_or_else(|| wrong(&at, format!("`{at}` must be a string.")))
    }

    fn template(&self, name: &str, default: Option<&str>) -> Result<Template, SpecError> {
        let text = match (self.may(name), default) {
            (None, Some(default)) => default,
            _ => self.text(name)?,
        };
        Template::read(text).map_err(|what| {
            let at = self.at(name);
            wrong(&at, format!("`{at}` {what}."))
        })
    }

    /// A template that stands for a text of the row, not of the sample.
    fn of_row(&self, name: &str, default: Option<&str>) -> Result<Template, SpecError> {
        let template = self.template(name, default)?;
        if template.wants_answer() || template.wants_picture() {
            let at = self.at(name);
            return Err(wrong(
                &at,
                format!("`{at}` is what the sample is held against, so it cannot name the sample."),
            ));
        }
        Ok(template)
    }

    /// What is judged can only be the sample's picture.
    fn image(&self) -> Result<(), SpecError> {
        if self.template("image", Some("{{sample.output_image}}"))?.is_picture() {
            return Ok(());
        }
        let at = self.at("image");
        Err(wrong(&at, format!("`{at}` can only be {{{{sample.output_image}}}}.")))
    }

    fn number(&self, name: &str, least: f64, most: f64) -> Result<Option<f64>, SpecError> {
        let Some(value) = self.may(name) else { return Ok(None) };
        let at = self.at(name);
        match value.as_f64() {
            Some(number) if (least..=most).contains(&number) => Ok(Some(number)),
            _ => Err(wrong(&at, format!("`{at}` must be a number from {least} to {most}."))),
        }
    }

    fn whole(&self, name: &str, least: u64, most: u64) -> Result<Option<u64>, SpecError> {
        let Some(value) = self.may(name) else { return Ok(None) };
        let at = self.at(name);
        match value.as_u64() {
            Some(number) if (least..=most).contains(&number) => Ok(Some(number)),
            _ => Err(wrong(&at, format!("`{at}` must be a whole number from {least} to {most}."))),
        }
    }

    /// One of several words.
    fn choice<T: Copy>(&self, name: &str, all: &[(&str, T)]) -> Result<T, SpecError> {
        let (at, word) = (self.at(name), self.text(name)?);
        let words = || all.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
        let found = all.iter().find(|(known, _)| *known == word).map(|(_, value)| *value);
        found.ok_or_else(|| wrong(&at, format!("`{at}` can be one of {}; not `{word}`.", words())))
    }
}

/// Reads the grader at `path`; one of several cannot be several again.
pub(super) fn read(value: &Value, path: &str, may_be_multi: bool) -> Result<Grader, SpecError> {
    let at = format!("{path}.type");
    let kind = value.get("type").and_then(Value::as_str);
    let kind = kind.ok_or_else(|| wrong(&at, format!("Missing required parameter: `{at}`, the kind of grader.")))?;
    let known: &[&str] = match kind {
        "string_check" => &["type", "name", "input", "reference", "operation"],
        "text_similarity" => &["type", "name", "input", "reference", "evaluation_metric"],
        "score_model" => &["type", "name", "model", "input", "range", "sampling_params"],
        "verifier" => &["type", "name", "prompt", "image", "partial"],
        "caption" | "matching" => &["type", "name", "prompt", "image"],
        "likeness" => &["type", "name", "reference", "image"],
        "multi" if may_be_multi => &["type", "name", "graders", "calculate_output"],
        "multi" => return Err(wrong(&at, "A `multi` grader has no `multi` graders.")),
        "label_model" => return Err(wrong(&at, "`label_model` is not supported: use `score_model` with a range.")),
        "python" => {
            return Err(wrong(
                &at,
                "`python` is not supported: this server runs no code of others. Use `multi` with a formula.",
            ));
        }
        "clip" | "cycle" => {
            return Err(wrong(
                &at,
                format!("`{kind}` needs networks that no server of rounds has loaded; `ulm train --critics` has them."),
            ));
        }
        other => {
            return Err(wrong(
                &at,
                format!(
                    "There is no grader `{other}`; there are string_check, text_similarity, score_model, multi, verifier, caption, \
                     matching and likeness."
                ),
            ));
        }
    };
    let fields = Fields::of(value, path, known)?;
    let name = match fields.may("name") {
        None => kind,
        Some(_) => fields.text("name")?,
    };
    if name.chars().count() > 64 || name.contains('\0') {
        return Err(wrong(&fields.at("name"), "A grader's name has at most 64 characters."));
    }
    let kind = match kind {
        "string_check" => Kind::StringCheck {
            input: fields.template("input", None)?,
            reference: fields.template("reference", None)?,
            operation: fields.choice("operation", &Operation::ALL)?,
        },
        "text_similarity" => Kind::TextSimilarity {
            input: fields.template("input", None)?,
            reference: fields.template("reference", None)?,
            metric: metric(&fields)?,
        },
        "score_model" => Kind::ScoreModel {
            model: fields.text("model")?.to_owned(),
            input: messages::read(fields.get("input")?, &fields.at("input"))?,
            range: range(&fields)?,
            sampling: sampling(&fields)?,
        },
        "verifier" => {
            fields.image()?;
            let partial = fields.number("partial", 0.0, 1.0)?.unwrap_or(0.0);
            Kind::Verifier { prompt: fields.of_row("prompt", Some("{{item.prompt}}"))?, partial }
        }
        "caption" => {
            fields.image()?;
            Kind::Caption { prompt: fields.of_row("prompt", Some("{{item.prompt}}"))? }
        }
        "matching" => {
            fields.image()?;
            Kind::Matching { prompt: fields.of_row("prompt", Some("{{item.prompt}}"))? }
        }
        "likeness" => {
            fields.image()?;
            Kind::Likeness { reference: fields.of_row("reference", None)? }
        }
        _ => multi(&fields)?,
    };
    let grader = Grader { name: name.to_owned(), kind };
    // Of texts, the picture has a place only where a picture may stand.
    let is_text = matches!(grader.kind, Kind::StringCheck { .. } | Kind::TextSimilarity { .. });
    if is_text && grader.templates().iter().any(|template| template.wants_picture()) {
        return Err(wrong(path, format!("`{path}` compares texts, and `sample.output_image` is none.")));
    }
    Ok(grader)
}

fn metric(fields: &Fields<'_>) -> Result<Metric, SpecError> {
    let at = fields.at("evaluation_metric");
    match fields.text("evaluation_metric")? {
        name @ ("meteor" | "cosine") => {
            let why =
                "it needs word lists or embeddings that this server does not have; rouge_l and fuzzy_match are near";
            Err(wrong(&at, format!("`{name}` is not supported: {why}.")))
        }
        _ => fields.choice("evaluation_metric", &Metric::ALL),
    }
}

fn range(fields: &Fields<'_>) -> Result<(f64, f64), SpecError> {
    let Some(value) = fields.may("range") else { return Ok((0.0, 1.0)) };
    let at = fields.at("range");
    let numbers: Option<Vec<f64>> = value.as_array().and_then(|list| list.iter().map(Value::as_f64).collect());
    match numbers.as_deref() {
        Some(&[least, most]) if least < most && least >= -1000.0 && most <= 1000.0 => Ok((least, most)),
        _ => Err(wrong(&at, format!("`{at}` must be two numbers from -1000 to 1000, the lesser first."))),
    }
}

fn sampling(fields: &Fields<'_>) -> Result<Sampling, SpecError> {
    let greedy = Sampling { temperature: 0.0, max_tokens: TOKENS.1, ..Sampling::default() };
    let Some(value) = fields.may("sampling_params") else { return Ok(greedy) };
    let at = fields.at("sampling_params");
    let fields = Fields::of(value, &at, &["temperature", "top_p", "seed", "max_completions_tokens"])?;
    let top_p = fields.number("top_p", 0.0, 1.0)?.unwrap_or(1.0);
    if top_p == 0.0 {
        return Err(wrong(&fields.at("top_p"), "`top_p` must be above 0."));
    }
    Ok(Sampling {
        // The bounds are small, so the nearest f32 is the same number for every purpose here.
        temperature: fields.number("temperature", 0.0, 2.0)?.unwrap_or(0.0) as f32,
        top_p: top_p as f32,
        seed: fields.whole("seed", 0, (1 << 53) - 1)?.unwrap_or(0),
        max_tokens: fields
            .whole("max_completions_tokens", 1, TOKENS.0)?
            .and_then(|tokens| usize::try_from(tokens).ok())
            .unwrap_or(TOKENS.1),
        ..greedy
    })
}

fn multi(fields: &Fields<'_>) -> Result<Kind, SpecError> {
    let at = fields.at("graders");
    let map = fields.get("graders")?.as_object().filter(|map| (1..=PARTS).contains(&map.len()));
    let map = map.ok_or_else(|| wrong(&at, format!("`{at}` must be an object of 1 to {PARTS} graders by name.")))?;
    let graders = map
        .iter()
        .map(|(name, value)| Ok((name.clone(), read(value, &format!("{at}.{name}"), false)?)))
        .collect::<Result<Vec<_>, SpecError>>()?;
    let names: Vec<&str> = map.keys().map(String::as_str).collect();
    let at = fields.at("calculate_output");
    let formula = Formula::read(fields.text("calculate_output")?, &names);
    Ok(Kind::Multi { graders, formula: formula.map_err(|error| wrong(&at, format!("The formula `{at}` {error}.")))? })
}
