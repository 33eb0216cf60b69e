//! What is practised: a prompt to draw, a question to answer, or both about one picture, from the world without end. Drawn from a seed;
//! knows nothing of how it is answered.

use std::sync::Arc;

use rand::RngExt;

use crate::reward::answer::QaType;
use crate::reward::{Asked, Wanted};
use crate::world::{Category, Dice, Form, Kind, Scene, Split, question, render};

/// One row of training data.
#[derive(Clone, Debug)]
pub struct Exercise {
    pub draw: Option<Wanted>,
    pub ask: Option<Asked>,
}

/// What a stage practises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Practice {
    /// Drawing and answering about the same picture.
    Unified,
    /// Drawing alone.
    Drawing,
    /// Answering by letter, or in words.
    Answering(QaType),
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
