//! Floor 3: the samples of a group in, a number for each out. Each reward has a name, a version and a range; what lacks something it
//! needs (the real picture, a requirement) is absent for that record, never zero. Knows nothing of learning.

pub mod answer;
pub mod clip;
pub mod cycle;
pub mod format;
pub mod grader;
pub mod human;
pub mod matching;
pub mod pixels;
pub mod similarity;
pub mod thought;
pub mod variety;
pub mod vote;

use std::sync::Arc;

use rayon::prelude::*;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use self::answer::QaType;
pub use self::variety::Variety;
use crate::critic::CriticError;
use crate::domain::picture::Picture;
use crate::domain::task::{Answer, Sampling};
use crate::world::{Requirement, judge};

/// A picture that was asked for.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub prompt: String,
    /// A real picture of the prompt.
    pub real: Option<Arc<Picture>>,
    /// What the picture must show, where a verifier can tell.
    pub requirement: Option<Requirement>,
    /// A question that the real picture answers, where there is one.
    pub question: Option<Asked>,
    /// The keys that its row came with, for graders.
    pub item: Option<Arc<Map<String, Value>>>,
}

impl Wanted {
    /// A picture of `prompt`, of which nothing else is known.
    #[must_use]
    pub fn of(prompt: String) -> Self {
        Self { prompt, real: None, requirement: None, question: None, item: None }
    }
}

/// The pictures of a group, with what was asked for.
#[derive(Clone, Debug)]
pub struct Drawn<'a> {
    pub wanted: &'a Wanted,
    pub pictures: Vec<&'a Picture>,
}

/// A question, mostly about a picture.
#[derive(Clone, Debug)]
pub struct Asked {
    /// All that the model is told.
    pub conversation: Answer,
    /// The words of the question, with the instruction template applied.
    pub problem: String,
    /// `<answer>…</answer>`, perhaps with a `<think>…</think>` before it; `None` for work without labels.
    pub solution: Option<String>,
    pub kind: QaType,
    /// The keys that its row came with, for graders.
    pub item: Option<Arc<Map<String, Value>>>,
}

/// What a reward is called, and what its numbers mean.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Label {
    pub name: &'static str,
    /// Another number when the same sample may score otherwise than before.
    pub version: u32,
    /// Least and most.
    pub range: (f64, f64),
}

/// Why a group has no rewards.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RewardError {
    #[error("reward `{name}` gave {value}, outside {least} to {most}")]
    OutOfRange { name: &'static str, value: f64, least: f64, most: f64 },
    #[error("reward `{name}` gave {given} numbers for {samples} samples")]
    Length { name: &'static str, given: usize, samples: usize },
    #[error("no reward applies to this record: each lacks something it needs")]
    Nothing,
    #[error("the model could not be asked: {0}")]
    Oracle(String),
    #[error("{0}")]
    Critic(String),
    #[error("a row cannot be graded: {0}")]
    Grader(String),
}

impl From<CriticError> for RewardError {
    fn from(error: CriticError) -> Self {
        Self::Critic(error.to_string())
    }
}

/// What a reward may ask a model.
pub trait Oracle: Sync {
    /// Its likeliest answer to each question about its picture.
    ///
    /// # Errors
    /// When the model fails.
    fn answers(&self, questions: &[(Arc<Picture>, String)]) -> Result<Vec<String>, RewardError>;

    /// What it says to each conversation, sampled as is asked for.
    ///
    /// # Errors
    /// When the model fails.
    fn replies(&self, conversations: Vec<(Answer, Sampling)>) -> Result<Vec<String>, RewardError>;

    /// What it makes of each picture with the text behind it, as a user's message.
    ///
    /// # Errors
    /// When the model fails.
    fn states(&self, text: &str, pictures: &[&Picture]) -> Result<Vec<States>, RewardError>;
}

/// Hidden states of a message: a row of `width` numbers for each token.
#[derive(Clone, Debug, PartialEq)]
pub struct States {
    pub width: usize,
    pub picture: Vec<f32>,
    pub text: Vec<f32>,
}

/// Scores the pictures of a group.
pub trait DrawReward: Send + Sync {
    fn label(&self) -> Label;
    /// The networks of its own that it judges by, each with what stands for its files.
    fn critics(&self) -> Vec<(&'static str, &str)> {
        Vec::new()
    }
    /// One number a picture; `None` where the record lacks what it needs.
    ///
    /// # Errors
    /// When the model cannot be asked.
    fn score(&self, wanted: &Wanted, group: &[&Picture], oracle: &dyn Oracle) -> Result<Option<Vec<f64>>, RewardError>;

    /// The same of all groups of a step, for what holds a picture against those of other groups.
    fn score_step(&self, step: &[Drawn<'_>], oracle: &dyn Oracle) -> Vec<Result<Option<Vec<f64>>, RewardError>> {
        step.par_iter().map(|group| self.score(group.wanted, &group.pictures, oracle)).collect()
    }
}

/// Scores the answers of a group.
pub trait AnswerReward: Send + Sync {
    fn label(&self) -> Label;
    /// One number an answer; `None` where the record lacks what it needs.
    ///
    /// # Errors
    /// When the model cannot be asked.
    fn score(&self, asked: &Asked, group: &[&str], oracle: &dyn Oracle) -> Result<Option<Vec<f64>>, RewardError>;
}

/// The world's verifier: 1 for a picture that shows all that was asked for and nothing else, plus `partial` times the share of the
/// facts that hold.
#[derive(Clone, Copy, Debug)]
pub struct Verifier {
    pub partial: f64,
}

impl Default for Verifier {
    fn default() -> Self {
        Self { partial: 0.3 }
    }
}

impl DrawReward for Verifier {
    fn label(&self) -> Label {
        Label { name: "world", version: 1, range: (0.0, 1.0 + self.partial) }
    }

    fn score(&self, wanted: &Wanted, group: &[&Picture], _: &dyn Oracle) -> Result<Option<Vec<f64>>, RewardError> {
        let Some(requirement) = &wanted.requirement else { return Ok(None) };
        let one = |picture: &&Picture| {
            let judged = judge(requirement, picture);
            f64::from(u8::from(judged.correct)) + self.partial * f64::from(judged.fraction)
        };
        Ok(Some(group.iter().map(one).collect()))
    }
}

/// Whether the model, asked the record's question about the drawn picture, answers as it should about the real one.
#[derive(Clone, Copy, Debug)]
pub struct Questioned;

impl DrawReward for Questioned {
    fn label(&self) -> Label {
        Label { name: "question", version: 1, range: (0.0, 1.0) }
    }

    fn score(&self, wanted: &Wanted, group: &[&Picture], oracle: &dyn Oracle) -> Result<Option<Vec<f64>>, RewardError> {
        let Some(Asked { problem, solution: Some(solution), kind, .. }) = &wanted.question else { return Ok(None) };
        let questions: Vec<_> = group.iter().map(|&picture| (Arc::new(picture.clone()), problem.clone())).collect();
        let answers = oracle.answers(&questions)?;
        Ok(Some(answers.iter().map(|said| answer::accuracy(said, problem, solution, *kind)).collect()))
    }
}

/// How alike the prompt and the model's own caption of the picture are, in words (soft Jaccard).
#[derive(Clone, Copy, Debug)]
pub struct Captioned;

/// How the model is asked for a caption (ULM-R1's fork).
const CAPTION: &str = "Describe the main content of the image in one sentence.";

/// What the model says that each picture shows.
fn captions(group: &[&Picture], oracle: &dyn Oracle) -> Result<Vec<String>, RewardError> {
    let questions: Vec<_> = group.iter().map(|&picture| (Arc::new(picture.clone()), CAPTION.to_owned())).collect();
    oracle.answers(&questions)
}

impl DrawReward for Captioned {
    fn label(&self) -> Label {
        Label { name: "caption", version: 1, range: (0.0, 1.0) }
    }

    fn score(&self, wanted: &Wanted, group: &[&Picture], oracle: &dyn Oracle) -> Result<Option<Vec<f64>>, RewardError> {
        let captions = captions(group, oracle)?;
        Ok(Some(captions.iter().map(|caption| similarity::soft_jaccard(&wanted.prompt, caption)).collect()))
    }
}

/// How close the picture is to the real one: 1 - windowed RMSE.
#[derive(Clone, Copy, Debug)]
pub struct Likeness;

impl DrawReward for Likeness {
    fn label(&self) -> Label {
        Label { name: "likeness", version: 1, range: (0.0, 1.0) }
    }

    fn score(&self, wanted: &Wanted, group: &[&Picture], _: &dyn Oracle) -> Result<Option<Vec<f64>>, RewardError> {
        let Some(real) = &wanted.real else { return Ok(None) };
        Ok(group.iter().map(|picture| Some(1.0 - pixels::windowed_rmse(picture, real)?)).collect())
    }
}

/// How well the model's own states of picture and prompt match, token by token: `matching::similarity`.
#[derive(Clone, Copy, Debug)]
pub struct Matching;

impl DrawReward for Matching {
    fn label(&self) -> Label {
        Label { name: "matching", version: 1, range: (-1.0, 1.0) }
    }

    fn score(&self, wanted: &Wanted, group: &[&Picture], oracle: &dyn Oracle) -> Result<Option<Vec<f64>>, RewardError> {
        let states = oracle.states(&wanted.prompt, group)?;
        Ok(Some(states.iter().map(matching::similarity).collect()))
    }
}

/// Whether the answer is the solution, by letter or in words: `answer::accuracy`.
#[derive(Clone, Copy, Debug)]
pub struct Accuracy;

impl AnswerReward for Accuracy {
    fn label(&self) -> Label {
        Label { name: "accuracy", version: 1, range: (0.0, 1.0) }
    }

    fn score(&self, asked: &Asked, group: &[&str], _: &dyn Oracle) -> Result<Option<Vec<f64>>, RewardError> {
        let Some(solution) = &asked.solution else { return Ok(None) };
        let one = |said: &&str| answer::accuracy(said, &asked.problem, solution, asked.kind);
        Ok(Some(group.iter().map(one).collect()))
    }
}

/// Whether the answer thinks first and answers then: `format::format`.
#[derive(Clone, Copy, Debug)]
pub struct Format;

impl AnswerReward for Format {
    fn label(&self) -> Label {
        Label { name: "format", version: 1, range: (0.0, 1.0) }
    }

    fn score(&self, _: &Asked, group: &[&str], _: &dyn Oracle) -> Result<Option<Vec<f64>>, RewardError> {
        Ok(Some(group.iter().map(|said| format::format(said)).collect()))
    }
}

/// How much of the thought is that of the solution, where it has one: `thought::alike`. It holds thoughts to what they say where answers
/// alone would let them drift.
#[derive(Clone, Copy, Debug)]
pub struct Thought;

impl AnswerReward for Thought {
    fn label(&self) -> Label {
        Label { name: "thought", version: 1, range: (0.0, 1.0) }
    }

    fn score(&self, asked: &Asked, group: &[&str], _: &dyn Oracle) -> Result<Option<Vec<f64>>, RewardError> {
        let taught = asked.solution.as_deref().and_then(thought::thinking);
        Ok(taught.map(|taught| group.iter().map(|said| thought::alike(said, taught)).collect()))
    }
}

/// For questions by letter without a solution: whether the answer is that of most of its group (TTRL, arXiv 2504.16084).
#[derive(Clone, Copy, Debug)]
pub struct Majority;

impl AnswerReward for Majority {
    fn label(&self) -> Label {
        Label { name: "majority", version: 1, range: (0.0, 1.0) }
    }

    fn score(&self, asked: &Asked, group: &[&str], _: &dyn Oracle) -> Result<Option<Vec<f64>>, RewardError> {
        if asked.solution.is_some() || asked.kind != QaType::Choice {
            return Ok(None);
        }
        let letters: Vec<_> = group.iter().map(|said| answer::letter(said)).collect();
        Ok(Some(vote::votes(&letters)))
    }
}

/// A number that depends on the sample and means nothing: the control of an experiment, in which nothing may get better.
#[derive(Clone, Copy, Debug)]
pub struct Noise;

impl Noise {
    const LABEL: Label = Label { name: "noise", version: 1, range: (0.0, 1.0) };

    fn of(bytes: &[u8]) -> f64 {
        let hash = Sha256::digest(bytes);
        f64::from(hash.iter().take(4).fold(0u32, |number, &byte| number << 8 | u32::from(byte))) / f64::from(u32::MAX)
    }
}

impl DrawReward for Noise {
    fn label(&self) -> Label {
        Self::LABEL
    }

    fn score(&self, _: &Wanted, group: &[&Picture], _: &dyn Oracle) -> Result<Option<Vec<f64>>, RewardError> {
        Ok(Some(group.iter().map(|picture| Self::of(picture.rgb())).collect()))
    }
}

impl AnswerReward for Noise {
    fn label(&self) -> Label {
        Self::LABEL
    }

    fn score(&self, _: &Asked, group: &[&str], _: &dyn Oracle) -> Result<Option<Vec<f64>>, RewardError> {
        Ok(Some(group.iter().map(|said| Self::of(said.as_bytes())).collect()))
    }
}

/// Rewards of one task with their weights.
pub struct Mix<R: ?Sized>(Vec<(Box<R>, f64)>);

/// What a sample earned.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Score {
    /// Weighted sum of the rewards that apply, each scaled to 0 … 1 by its range.
    pub total: f64,
    /// Each reward as it was given; absent ones are left out.
    pub parts: Vec<(&'static str, f64)>,
}

impl<R: ?Sized> Mix<R> {
    #[must_use]
    pub fn new(rewards: Vec<(Box<R>, f64)>) -> Self {
        Self(rewards)
    }

    /// Adds up what each reward gave for the samples of a group.
    fn sum(
        samples: usize,
        given: impl Iterator<Item = (Label, f64, Option<Vec<f64>>)>,
    ) -> Result<Vec<Score>, RewardError> {
        let mut sums = vec![Score::default(); samples];
        let mut applied = false;
        for (Label { name, range: (least, most), .. }, weight, values) in given {
            let Some(values) = values else { continue };
            if values.len() != samples {
                return Err(RewardError::Length { name, given: values.len(), samples });
            }
            applied = true;
            for (sum, value) in sums.iter_mut().zip(values) {
                // What is not a number is in no range.
                if !(least..=most).contains(&value) {
                    return Err(RewardError::OutOfRange { name, value, least, most });
                }
                sum.total += weight * (value - least) / (most - least);
                sum.parts.push((name, value));
            }
        }
        if applied { Ok(sums) } else { Err(RewardError::Nothing) }
    }
}

impl Mix<dyn DrawReward> {
    /// Each reward with its version, the networks it judges by, and its weight, in words.
    pub fn labels(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|(reward, weight)| {
            let Label { name, version, .. } = reward.label();
            let critics = reward.critics().into_iter().map(|(critic, digest)| format!(" {critic}:{digest}"));
            format!("{name} {version}{} × {weight}", critics.collect::<String>())
        })
    }

    /// What each picture of each group of a step earned.
    ///
    /// # Errors
    /// When a reward is outside its range or not one a sample, or none applies.
    pub fn score_step(&self, step: &[Drawn<'_>], oracle: &dyn Oracle) -> Result<Vec<Vec<Score>>, RewardError> {
        let mut given: Vec<Vec<_>> = step.iter().map(|_| Vec::new()).collect();
        for (reward, weight) in &self.0 {
            for (given, values) in given.iter_mut().zip(reward.score_step(step, oracle)) {
                given.push((reward.label(), *weight, values?));
            }
        }
        step.iter().zip(given).map(|(group, given)| Self::sum(group.pictures.len(), given.into_iter())).collect()
    }
}

impl Mix<dyn AnswerReward> {
    /// Each reward with its version and weight, in words.
    pub fn labels(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|(reward, weight)| {
            let Label { name, version, .. } = reward.label();
            format!("{name} {version} × {weight}")
        })
    }

    /// What each answer of a group earned.
    ///
    /// # Errors
    /// When a reward is outside its range or not one a sample, or none applies.
    pub fn score(&self, asked: &Asked, group: &[&str], oracle: &dyn Oracle) -> Result<Vec<Score>, RewardError> {
        let mut given = Vec::new();
        for (reward, weight) in &self.0 {
            given.push((reward.label(), *weight, reward.score(asked, group, oracle)?));
        }
        Self::sum(group.len(), given.into_iter())
    }
}
