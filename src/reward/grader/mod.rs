//! Graders as OpenAI's fine-tuning has them, and those of pictures beside them: what a sample earns, told in JSON by whoever asks for
//! it. `spec` reads them, `template` fills in rows, `formula` joins several, `text` has the measures, `row` the rows, and `graded` makes a
//! reward of a grader. Knows neither HTTP nor learning.

pub mod formula;
pub mod graded;
mod messages;
pub mod row;
mod spec;
pub mod template;
pub mod text;

#[cfg(test)]
mod tests;

use serde_json::{Map, Value};

use self::formula::Formula;
use self::messages::Message;
use self::row::{Row, Task};
use self::template::Template;
use self::text::Metric;
use super::answer::answer_body;
use super::{Captioned, DrawReward, Likeness, Matching, Oracle, RewardError, Verifier, Wanted};
use crate::domain::picture::Picture;
use crate::domain::task::Sampling;
use crate::picture::decode::{self, MAX_PIXELS};
use crate::world::Requirement;

pub use self::spec::SpecError;

/// Longest text whose likeness is measured, in characters: it takes time in the product of two.
const COMPARED: usize = 4096;
/// What a formula may come to, either way.
const WIDEST: f64 = 1000.0;

/// Why one sample has no grade.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Fault {
    /// A place that the row does not fill.
    #[error("{0}")]
    Variable(String),
    /// The sample is not of the kind that is graded.
    #[error("{0}")]
    Sample(String),
    /// What the judging model said is no number of its range.
    #[error("the judge said `{0}`, which is no number of the range")]
    Unparsed(String),
    #[error("{0}")]
    Other(String),
}

/// What came of one sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Grade {
    pub value: Result<f64, Fault>,
    /// Of a `multi` grader, what each part gave.
    pub parts: Vec<(String, f64)>,
}

/// A sample to be graded.
#[derive(Clone, Copy, Debug)]
pub enum Given<'a> {
    Answer(&'a str),
    Picture(&'a Picture),
}

/// What a sample earns, and how that is found out.
#[derive(Clone, Debug, PartialEq)]
pub struct Grader {
    pub name: String,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    StringCheck {
        input: Template,
        reference: Template,
        operation: Operation,
    },
    TextSimilarity {
        input: Template,
        reference: Template,
        metric: Metric,
    },
    /// The model's own opinion, a number of `range`.
    ScoreModel {
        model: String,
        input: Vec<Message>,
        range: (f64, f64),
        sampling: Sampling,
    },
    Verifier {
        prompt: Template,
        partial: f64,
    },
    Caption {
        prompt: Template,
    },
    Matching {
        prompt: Template,
    },
    Likeness {
        reference: Template,
    },
    Multi {
        graders: Vec<(String, Grader)>,
        formula: Formula,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Equal,
    NotEqual,
    Like,
    ILike,
}

impl Grader {
    /// Reads a grader; `path` is where it stands in what was sent.
    ///
    /// # Errors
    /// The first part of it that is wrong or cannot be had here, by its place.
    pub fn read(value: &Value, path: &str) -> Result<Self, SpecError> {
        spec::read(value, path, true)
    }

    /// As the wire calls it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self.kind {
            Kind::StringCheck { .. } => "string_check",
            Kind::TextSimilarity { .. } => "text_similarity",
            Kind::ScoreModel { .. } => "score_model",
            Kind::Verifier { .. } => "verifier",
            Kind::Caption { .. } => "caption",
            Kind::Matching { .. } => "matching",
            Kind::Likeness { .. } => "likeness",
            Kind::Multi { .. } => "multi",
        }
    }

    /// This one and its parts.
    fn all(&self) -> impl Iterator<Item = &Self> {
        let parts = if let Kind::Multi { graders, .. } = &self.kind { graders.as_slice() } else { &[] };
        std::iter::once(self).chain(parts.iter().map(|(_, part)| part))
    }

    /// The models that are to judge, by name.
    pub fn models(&self) -> impl Iterator<Item = &str> {
        self.all()
            .filter_map(|one| if let Kind::ScoreModel { model, .. } = &one.kind { Some(model.as_str()) } else { None })
    }

    /// It looks at the network's own states, which only whoever trains it has.
    #[must_use]
    pub fn wants_states(&self) -> bool {
        self.all().any(|one| matches!(one.kind, Kind::Matching { .. }))
    }

    /// Least and most that a sample may earn.
    #[must_use]
    pub fn range(&self) -> (f64, f64) {
        match &self.kind {
            Kind::ScoreModel { range, .. } => *range,
            Kind::Verifier { partial, .. } => (0.0, 1.0 + partial),
            Kind::Matching { .. } => (-1.0, 1.0),
            Kind::Multi { .. } => (-WIDEST, WIDEST),
            _ => (0.0, 1.0),
        }
    }

    fn templates(&self) -> Vec<&Template> {
        match &self.kind {
            Kind::StringCheck { input, reference, .. } | Kind::TextSimilarity { input, reference, .. } => {
                vec![input, reference]
            }
            Kind::ScoreModel { input, .. } => input.iter().flat_map(Message::templates).collect(),
            Kind::Verifier { prompt, .. } | Kind::Caption { prompt } | Kind::Matching { prompt } => vec![prompt],
            Kind::Likeness { reference } => vec![reference],
            Kind::Multi { .. } => vec![],
        }
    }

    /// Whether every sample of a row can be graded.
    ///
    /// # Errors
    /// What the row lacks; the message goes on after "line N".
    pub fn check(&self, row: &Row) -> Result<(), String> {
        for one in self.all() {
            let templates = one.templates();
            if let Some(key) = templates.iter().find_map(|template| template.missing(&row.item)) {
                return Err(format!("has no `{key}`, which grader `{}` names", one.name));
            }
            let picture = one.wants_picture() || templates.iter().any(|template| template.wants_picture());
            let answer = templates.iter().any(|template| template.wants_answer());
            match &row.task {
                Task::Draw(_) if answer => {
                    return Err(format!("asks for a picture, and grader `{}` looks at `sample.output_text`", one.name));
                }
                Task::Ask(_) if picture => {
                    return Err(format!("asks for words, and grader `{}` looks at a picture", one.name));
                }
                _ => {}
            }
            match &one.kind {
                Kind::Verifier { prompt, .. } => {
                    requirement(prompt, &row.item).map(drop).map_err(|fault| format!("cannot be graded: {fault}"))?
                }
                Kind::Likeness { reference }
                    if reference.whole(&row.item).is_none_or(|url| !url.starts_with("data:")) =>
                {
                    return Err(format!("has no data URL of a picture where grader `{}` looks for one", one.name));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// It is about pictures alone.
    fn wants_picture(&self) -> bool {
        matches!(
            self.kind,
            Kind::Verifier { .. } | Kind::Caption { .. } | Kind::Matching { .. } | Kind::Likeness { .. }
        )
    }

    /// Grades samples of one row.
    ///
    /// # Errors
    /// When a model that is asked fails.
    pub fn grade(
        &self,
        item: &Map<String, Value>,
        samples: &[Given<'_>],
        oracle: &dyn Oracle,
    ) -> Result<Vec<Grade>, RewardError> {
        let plain = |values: Vec<Result<f64, Fault>>| -> Vec<Grade> {
            values.into_iter().map(|value| Grade { value, parts: vec![] }).collect()
        };
        let each = |grade: &dyn Fn(Option<&str>) -> Result<f64, Fault>| -> Vec<Result<f64, Fault>> {
            samples.iter().map(|sample| grade(said(sample))).collect()
        };
        Ok(match &self.kind {
            Kind::StringCheck { input, reference, operation } => plain(each(&|answer| {
                Ok(f64::from(u8::from(operation.holds(&input.fill(item, answer)?, &reference.fill(item, answer)?))))
            })),
            Kind::TextSimilarity { input, reference, metric } => plain(each(&|answer| {
                let (text, reference) = (input.fill(item, answer)?, reference.fill(item, answer)?);
                if [&text, &reference].iter().any(|text| text.chars().count() > COMPARED) {
                    return Err(Fault::Other(format!("a text has more than {COMPARED} characters")));
                }
                Ok(metric.of(&text, &reference))
            })),
            Kind::ScoreModel { input, range, sampling, .. } => {
                let asked: Vec<_> = samples.iter().map(|sample| messages::fill(input, item, *sample)).collect();
                let work = asked.iter().flatten().map(|answer| (answer.clone(), sampling.clone())).collect();
                let mut replies = oracle.replies(work)?.into_iter();
                let mut judged = |asked: Result<_, Fault>| {
                    asked.and_then(|_| {
                        let said = replies.next().unwrap_or_default();
                        score(&said, *range).ok_or_else(|| Fault::Unparsed(said.chars().take(80).collect()))
                    })
                };
                plain(asked.into_iter().map(&mut judged).collect())
            }
            Kind::Verifier { prompt, partial } => {
                let reward = Verifier { partial: *partial };
                let wanted = requirement(prompt, item)
                    .map(|(prompt, requirement)| Wanted { requirement: Some(requirement), ..Wanted::of(prompt) });
                plain(drawn(&reward, wanted, samples, oracle)?)
            }
            Kind::Caption { prompt } => {
                plain(drawn(&Captioned, prompt.fill(item, None).map(Wanted::of), samples, oracle)?)
            }
            Kind::Matching { prompt } => {
                plain(drawn(&Matching, prompt.fill(item, None).map(Wanted::of), samples, oracle)?)
            }
            Kind::Likeness { reference } => {
                let real = picture(reference, item);
                let wanted = real.map(|real| Wanted { real: Some(real.into()), ..Wanted::of(String::new()) });
                plain(drawn(&Likeness, wanted, samples, oracle)?)
            }
            Kind::Multi { graders, formula } => {
                let parts = graders
                    .iter()
                    .map(|(name, grader)| Ok((name, grader.grade(item, samples, oracle)?)))
                    .collect::<Result<Vec<_>, RewardError>>()?;
                (0..samples.len()).map(|at| joined(&parts, formula, at)).collect()
            }
        })
    }
}

impl Operation {
    const ALL: [(&'static str, Self); 4] =
        [("eq", Self::Equal), ("ne", Self::NotEqual), ("like", Self::Like), ("ilike", Self::ILike)];

    /// `like` asks whether the reference is in the text, `ilike` in either case of letters.
    fn holds(self, text: &str, reference: &str) -> bool {
        match self {
            Self::Equal => text == reference,
            Self::NotEqual => text != reference,
            Self::Like => text.contains(reference),
            Self::ILike => text.to_lowercase().contains(&reference.to_lowercase()),
        }
    }
}

fn said<'a>(sample: &Given<'a>) -> Option<&'a str> {
    if let Given::Answer(text) = sample { Some(text) } else { None }
}

/// What the parts of a `multi` grader come to for the sample at one place.
fn joined(parts: &[(&String, Vec<Grade>)], formula: &Formula, at: usize) -> Grade {
    let mut values = Vec::with_capacity(parts.len());
    let mut named = Vec::with_capacity(parts.len());
    for (name, grades) in parts {
        match grades.get(at).map(|grade| &grade.value) {
            Some(Ok(value)) => {
                values.push(*value);
                named.push(((*name).clone(), *value));
            }
            Some(Err(fault)) => return Grade { value: Err(fault.clone()), parts: named },
            None => return Grade { value: Err(Fault::Other("a part gave no number".into())), parts: named },
        }
    }
    let value = formula.value(&values).filter(|value| value.abs() <= WIDEST);
    let fault = || Fault::Other(format!("the formula comes to no number from -{WIDEST} to {WIDEST}"));
    Grade { value: value.ok_or_else(fault), parts: named }
}

/// Numbers of the pictures by a reward of pictures.
fn drawn(
    reward: &dyn DrawReward,
    wanted: Result<Wanted, Fault>,
    samples: &[Given<'_>],
    oracle: &dyn Oracle,
) -> Result<Vec<Result<f64, Fault>>, RewardError> {
    let wanted = match wanted {
        Ok(wanted) => wanted,
        Err(fault) => return Ok(samples.iter().map(|_| Err(fault.clone())).collect()),
    };
    let pictures: Vec<&Picture> = samples
        .iter()
        .filter_map(|sample| if let Given::Picture(picture) = sample { Some(*picture) } else { None })
        .collect();
    let mut values = match pictures.is_empty() {
        true => Vec::new(),
        false => reward.score(&wanted, &pictures, oracle)?.unwrap_or_default(),
    }
    .into_iter();
    let one = |sample: &Given<'_>| match sample {
        Given::Picture(_) => values.next().ok_or_else(|| Fault::Other("the picture could not be judged".into())),
        Given::Answer(_) => Err(Fault::Sample("this grader looks at a picture".into())),
    };
    Ok(samples.iter().map(one).collect())
}

/// What the verifier is to find, by the caption that a template stands for.
fn requirement(prompt: &Template, item: &Map<String, Value>) -> Result<(String, Requirement), Fault> {
    let prompt = prompt.fill(item, None)?;
    match Requirement::parse(&prompt) {
        Some(requirement) => Ok((prompt, requirement)),
        None => Err(Fault::Other(format!(
            "the verifier reads captions of the world of shapes (`a red star above a circle`), not `{}`",
            prompt.chars().take(80).collect::<String>()
        ))),
    }
}

/// The picture of the data URL that a template stands for.
fn picture(template: &Template, item: &Map<String, Value>) -> Result<Picture, Fault> {
    let url = template.whole(item).ok_or_else(|| Fault::Variable("the row has no such picture".into()))?;
    let decoded = decode::data_url(url).and_then(|file| decode::picture(&file, MAX_PIXELS));
    decoded.map_err(|error| Fault::Variable(format!("the row's picture {error}")))
}

/// The number that a judge gave: all of its answer (between the tags, where it has them), a field `result` or `score` of it in JSON, or the
/// only number in it.
fn score(said: &str, range: (f64, f64)) -> Option<f64> {
    let said = answer_body(said).unwrap_or(said).trim();
    let number = said.parse::<f64>().ok().or_else(|| field(said)).or_else(|| only(said))?;
    (range.0..=range.1).contains(&number).then_some(number)
}

fn field(said: &str) -> Option<f64> {
    let value: Value = serde_json::from_str(said).ok()?;
    ["result", "score"].iter().find_map(|name| value.get(name)?.as_f64())
}

fn only(said: &str) -> Option<f64> {
    let inside = |c: char| c.is_ascii_digit() || c == '.' || c == '-';
    let parts = said.split(|c: char| !inside(c)).map(|part| part.trim_end_matches(['.', '-']));
    let mut numbers = parts.filter(|part| part.chars().any(|c| c.is_ascii_digit()));
    let first = numbers.next()?;
    if numbers.next().is_some() { None } else { first.parse().ok() }
}
