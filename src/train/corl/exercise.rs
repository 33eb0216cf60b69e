//! What is practised: a prompt to draw, a question to answer, or both about one picture, from the world without end or from a file.
//! A function of seed and place; knows nothing of how it is answered.

use std::sync::Arc;

use rand::{RngExt, SeedableRng};
use serde::Serialize;

use super::super::TrainError;
use super::super::pretrain::asked as about;
use super::rows::Rows;
use super::rows::items::Items;
use crate::reward::answer::QaType;
use crate::reward::{Asked, Wanted};
use crate::world::{Category, Dice, Form, Kind, Scene, Split, question, render};

/// One row of training data.
#[derive(Clone, Debug)]
pub struct Exercise {
    pub draw: Option<Wanted>,
    pub ask: Option<Asked>,
}

/// Where exercises come from.
#[derive(Debug)]
pub enum Source {
    World,
    Rows(Rows),
    /// Of a file that a client sent.
    Items(Items),
    /// These, over and over, and what stands for them.
    Given(Vec<Exercise>, String),
}

impl Source {
    /// What stands for all that it holds.
    #[must_use]
    pub fn digest(&self) -> &str {
        match self {
            Self::World => "world",
            Self::Rows(rows) => rows.digest(),
            Self::Items(items) => items.digest(),
            Self::Given(_, digest) => digest,
        }
    }

    /// Exercises number `from .. from + n` of a course; a function of its arguments.
    ///
    /// # Errors
    /// When rows cannot be used.
    pub fn exercises(&self, practice: Practice, from: u64, n: usize, seed: u64) -> Result<Vec<Exercise>, TrainError> {
        match self {
            Self::World => Ok(course(from, n, seed, |dice| of_world(practice, dice))),
            Self::Rows(rows) => rows.exercises(from, n, seed),
            Self::Items(items) => items.exercises(from, n, seed),
            Self::Given(all, _) => Ok(given(all, from, n)),
        }
    }

    /// The same, questions alone: of the world of every kind, about scenes that suit them.
    ///
    /// # Errors
    /// When rows cannot be used.
    pub fn questions(&self, practice: Practice, from: u64, n: usize, seed: u64) -> Result<Vec<Exercise>, TrainError> {
        match self {
            Self::World => Ok(course(from, n, seed, |dice| question_of_world(practice, dice))),
            Self::Rows(rows) => {
                let rows = rows.exercises(from, n, seed)?;
                Ok(rows.into_iter().map(|exercise| Exercise { draw: None, ..exercise }).collect())
            }
            Self::Items(_) | Self::Given(..) => Ok(vec![]),
        }
    }
}

/// Those whose turn it is.
fn given(all: &[Exercise], from: u64, n: usize) -> Vec<Exercise> {
    let from = (from % all.len().max(1) as u64) as usize;
    all.iter().cycle().skip(from).take(n.min(all.len())).cloned().collect()
}

/// `n` of the world, as chance has them at this place of a course.
fn course(from: u64, n: usize, seed: u64, mut one: impl FnMut(&mut Dice) -> Exercise) -> Vec<Exercise> {
    let mut dice = Dice::seed_from_u64(seed);
    dice.set_stream(from.wrapping_mul(2).wrapping_add(1));
    (0..n).map(|_| one(&mut dice)).collect()
}

/// What a stage practises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Practice {
    /// Drawing and answering about the same picture.
    Unified,
    /// Drawing alone.
    Drawing,
    /// Answering by letter or in words; both where it is not said.
    Answering(Option<QaType>),
}

impl Practice {
    /// Of work that draws, answers, or does both.
    #[must_use]
    pub fn of(draws: bool, answers: bool) -> Self {
        match (draws, answers) {
            (true, true) => Self::Unified,
            (true, false) => Self::Drawing,
            (false, _) => Self::Answering(Some(QaType::Open)),
        }
    }

    /// As commands and folders call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unified => "unified",
            Self::Drawing => "t2i",
            Self::Answering(None) => "answers",
            Self::Answering(Some(QaType::Choice)) => "mc",
            Self::Answering(Some(QaType::Open)) => "oe",
        }
    }
}

/// How often the world asks for each caption category, in the order of `Category::ALL`: the harder the more.
const CATEGORIES: [u32; 6] = [1, 2, 2, 1, 3, 3];
/// And each kind of question, in the order of `Kind::ALL`. All are asked, so that none is forgotten.
const KINDS: [u32; 6] = [1, 3, 1, 1, 3, 2];
/// The same once both tasks were practised together: most of what is wrong after that is of one kind.
const REFINED: [u32; 6] = [1, 2, 1, 1, 6, 1];

fn form(practice: Practice, dice: &mut Dice) -> Form {
    match practice {
        Practice::Answering(Some(QaType::Choice)) => Form::Choice,
        Practice::Answering(Some(QaType::Open)) => Form::Open,
        _ if dice.random_bool(0.5) => Form::Choice,
        _ => Form::Open,
    }
}

/// A question of the world. Those who answer it after the unified stage are taught to think in smaller steps than the demo model was.
fn asked(practice: Practice, scene: &Scene, question: question::Question) -> Asked {
    let solution = match practice {
        Practice::Answering(_) => question.smaller_solution(),
        Practice::Unified | Practice::Drawing => question.solution(),
    };
    Asked {
        conversation: about(&Arc::new(render(scene)), &question.text),
        solution: Some(solution),
        kind: if question.form == Form::Choice { QaType::Choice } else { QaType::Open },
        problem: question.text,
        item: None,
    }
}

fn question_of_world(practice: Practice, dice: &mut Dice) -> Exercise {
    let form = form(practice, dice);
    let kinds = match practice {
        Practice::Answering(_) => &REFINED,
        Practice::Unified | Practice::Drawing => &KINDS,
    };
    let (scene, question) = question::draw(Kind::pick(kinds, dice), form, Split::Train, dice);
    Exercise { draw: None, ask: Some(asked(practice, &scene, question)) }
}

/// Another one of the world's training split.
pub fn of_world(practice: Practice, dice: &mut Dice) -> Exercise {
    if let Practice::Answering(_) = practice {
        return question_of_world(practice, dice);
    }
    let form = form(practice, dice);
    let (scene, caption) = Scene::draw(Category::pick(&CATEGORIES, dice), Split::Train, dice);
    // Not every kind of question can be asked of every scene; counting always can.
    let question = question::ask(&scene, Kind::pick(&KINDS, dice), form, dice);
    let question = question.or_else(|| question::ask(&scene, Kind::Count, form, dice));
    let question = question.map(|question| asked(practice, &scene, question));
    let draw = Wanted {
        real: Some(Arc::new(render(&scene))),
        requirement: Some(caption.requirement),
        question: question.clone(),
        ..Wanted::of(caption.text)
    };
    Exercise { draw: Some(draw), ask: question.filter(|_| practice == Practice::Unified) }
}
