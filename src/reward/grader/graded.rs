//! A grader as a reward of training. Knows no learning.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::super::{AnswerReward, Asked, DrawReward, Label, Oracle, RewardError, States, Wanted};
use super::{Fault, Given, Grade, Grader};
use crate::domain::picture::Picture;
use crate::domain::task::{Answer, Sampling};

/// Earns what a grader says, of rows that came with their items. Whom the grader asks is fixed, so that the judge stays as it was while
/// what it judges learns.
pub struct Graded<O> {
    pub grader: Grader,
    pub judge: O,
}

impl<O: Oracle> Graded<O> {
    fn label(&self) -> Label {
        Label { name: "grader", version: 1, range: self.grader.range() }
    }

    /// What it weighs, so that one more point of the grader is one more point of the total.
    #[must_use]
    pub fn weight(&self) -> f64 {
        let (least, most) = self.grader.range();
        most - least
    }
}

/// A judge that is asked about one group at a time, however many groups are graded at once: it may have room for no more.
pub struct Turns<O>(Mutex<O>);

impl<O> Turns<O> {
    pub fn of(judge: O) -> Self {
        Self(Mutex::new(judge))
    }

    fn turn(&self) -> MutexGuard<'_, O> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<O: Oracle + Send> Oracle for Turns<O> {
    fn answers(&self, questions: &[(Arc<Picture>, String)]) -> Result<Vec<String>, RewardError> {
        self.turn().answers(questions)
    }

    fn replies(&self, conversations: Vec<(Answer, Sampling)>) -> Result<Vec<String>, RewardError> {
        self.turn().replies(conversations)
    }

    fn states(&self, text: &str, pictures: &[&Picture]) -> Result<Vec<States>, RewardError> {
        self.turn().states(text, pictures)
    }
}

/// One number a sample. One that has no grade gets the mean of the others, so that nothing is learned of it; where none has, all earn the
/// least.
///
/// # Errors
/// When the row or the sample is not what the grader is for, which no other sample would change.
fn numbers(grades: Vec<Grade>, least: f64) -> Result<Option<Vec<f64>>, RewardError> {
    if let Some(fault) = grades.iter().find_map(|grade| match &grade.value {
        Err(fault @ (Fault::Variable(_) | Fault::Sample(_))) => Some(fault.to_string()),
        _ => None,
    }) {
        return Err(RewardError::Grader(fault));
    }
    let known: Vec<f64> = grades.iter().filter_map(|grade| grade.value.clone().ok()).collect();
    let mean = if known.is_empty() { least } else { known.iter().sum::<f64>() / known.len() as f64 };
    Ok(Some(grades.into_iter().map(|grade| grade.value.unwrap_or(mean)).collect()))
}

impl<O: Oracle + Send> DrawReward for Graded<O> {
    fn label(&self) -> Label {
        self.label()
    }

    fn score(&self, wanted: &Wanted, group: &[&Picture], _: &dyn Oracle) -> Result<Option<Vec<f64>>, RewardError> {
        let Some(item) = &wanted.item else { return Ok(None) };
        let samples: Vec<_> = group.iter().map(|&picture| Given::Picture(picture)).collect();
        numbers(self.grader.grade(item, &samples, &self.judge)?, self.grader.range().0)
    }
}

impl<O: Oracle + Send> AnswerReward for Graded<O> {
    fn label(&self) -> Label {
        self.label()
    }

    fn score(&self, asked: &Asked, group: &[&str], _: &dyn Oracle) -> Result<Option<Vec<f64>>, RewardError> {
        let Some(item) = &asked.item else { return Ok(None) };
        let samples: Vec<_> = group.iter().map(|said| Given::Answer(said)).collect();
        numbers(self.grader.grade(item, &samples, &self.judge)?, self.grader.range().0)
    }
}
