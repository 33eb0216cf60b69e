//! What is practised: a prompt to draw, a question to answer, or both about one picture, from the world without end or from a file.
//! A function of seed and place; knows nothing of how it is answered.

use std::sync::Arc;

use rand::{RngExt, SeedableRng};
use serde::Serialize;

use super::super::TrainError;
use super::rows::Rows;
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
}

impl Source {
    /// What stands for all that it holds.
    #[must_use]
    pub fn digest(&self) -> &str {
        match self {
            Self::World => "world",
            Self::Rows(rows) => rows.digest(),
        }
    }

    /// Exercises number `from .. from + n` of a course; a function of its arguments.
    ///
    /// # Errors
    /// When rows cannot be used.
    pub fn exercises(&self, practice: Practice, from: u64, n: usize, seed: u64) -> Result<Vec<Exercise>, TrainError> {
        match self {
            Self::World => {
                let mut dice = Dice::seed_from_u64(seed);
                dice.set_stream(from.wrapping_mul(2).wrapping_add(1));
                Ok((0..n).map(|_| of_world(practice, &mut dice)).collect())
            }
            Self::Rows(rows) => rows.exercises(from, n, seed),
        }
    }
}

/// What a stage practises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Practice {
    /// Drawing and answering about the same picture.
    Unified,
    /// Drawing alone.
    Drawing,
    /// Answering by letter, or in words.
    Answering(QaType),
}

impl Practice {
    /// As commands and folders call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unified => "unified",
            Self::Drawing => "t2i",
            Self::Answering(QaType::Choice) => "mc",
            Self::Answering(QaType::Open) => "oe",
        }
    }
}

/// How often the world asks for each caption category, in the order of `Category::ALL`: the harder the more.
const CATEGORIES: [u32; 6] = [1, 2, 2, 1, 3, 3];

/// Another one of the world's training split.
pub fn of_world(practice: Practice, dice: &mut Dice) -> Exercise {
    let form = match practice {
        Practice::Answering(QaType::Choice) => Form::Choice,
        Practice::Answering(QaType::Open) => Form::Open,
        _ if dice.random_bool(0.5) => Form::Choice,
        _ => Form::Open,
    };
    let kind = Kind::pick(&[1; 6], dice);
    let asked = |scene: &Scene, question: question::Question| Asked {
        picture: Arc::new(render(scene)),
        solution: Some(format!("<answer>{}</answer>", question.answer)),
        problem: question.text,
        kind: if form == Form::Choice { QaType::Choice } else { QaType::Open },
    };
    if let Practice::Answering(_) = practice {
        let (scene, question) = question::draw(kind, form, Split::Train, dice);
        return Exercise { draw: None, ask: Some(asked(&scene, question)) };
    }
    let (scene, caption) = Scene::draw(Category::pick(&CATEGORIES, dice), Split::Train, dice);
    // Not every kind of question can be asked of every scene; counting always can.
    let question = question::ask(&scene, kind, form, dice).or_else(|| question::ask(&scene, Kind::Count, form, dice));
    let question = question.map(|question| asked(&scene, question));
    let draw = Wanted {
        prompt: caption.text,
        real: Some(Arc::new(render(&scene))),
        requirement: Some(caption.requirement),
        question: question.clone(),
    };
    Exercise { draw: Some(draw), ask: question.filter(|_| practice == Practice::Unified) }
}
