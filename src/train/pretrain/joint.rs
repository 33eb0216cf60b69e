//! Stage 4: drawing and answering together: image tokens after captions, solutions after pictures and questions, and a few
//! look-ups so that they are not forgotten. Captions are dropped exactly as serving builds the unconditional row.

use std::path::Path;
use std::sync::Arc;

use rand::{RngExt, SeedableRng};

use super::super::TrainError;
use super::super::eval::glance;
use super::super::optim::{AdamW, AdamWOptions, cosine};
use super::super::player::Player;
use super::super::run::{Metrics, Stage};
use super::data;
use super::learner::{Learner, rows};
use super::words::{hits, lessons};
use crate::domain::picture::Picture;
use crate::domain::task::{Answer, Draw, Part, Role, Turn};
use crate::engine::{Engine, EngineOptions, Halt};
use crate::model::Defaults;
use crate::model::network::{Chunk, Span};
use crate::model::params::Tensors;
use crate::model::policy;
use crate::model::prompt::DrawPrompt;
use crate::world::{Category, Dice, Form, Kind, Scene, Split, question, render};

/// Tensors that this stage trains: all but the tokenizer's.
pub const TRAINS: [&str; 7] = [
    "model.language_model.",
    "lm_head.",
    "model.vision_model.",
    "model.aligner.",
    "model.generation_embeddings.",
    "model.generation_aligner.",
    "model.generation_head.",
];

/// What is learned, and how long.
#[derive(Clone, Debug)]
pub struct JointOptions {
    pub seed: u64,
    pub steps: u64,
    /// Steps over which the learning rate decays; with more than are taken it ends while there is something left to learn.
    pub schedule: u64,
    /// Pictures to draw, questions to answer, look-up lessons: of each so many a step.
    pub draws: usize,
    pub answers: usize,
    pub lessons: usize,
    pub rate: f64,
    /// Share of captions dropped.
    pub drop: f64,
}

/// How often each caption category is drawn, in the order of `Category::ALL`: the harder the more.
const CATEGORIES: [u32; 6] = [2, 3, 3, 2, 4, 5];

/// How often each kind of question is asked, in the order of `Kind::ALL`.
const KINDS: [u32; 6] = [1, 1, 1, 2, 1, 1];

/// Drawing and answering.
pub struct JointStage {
    learner: Learner,
    optim: AdamW,
    options: JointOptions,
}

impl JointStage {
    /// # Errors
    /// When the optimizer's memory cannot be allocated.
    pub fn new(learner: Learner, options: JointOptions) -> Result<Self, TrainError> {
        let optim = AdamW::new(learner.weights.vars().clone(), AdamWOptions::default())?;
        Ok(Self { learner, optim, options })
    }

    /// # Errors
    /// When memory runs out.
    pub fn finish(self) -> Result<Tensors, TrainError> {
        self.learner.weights.tensors()
    }

    fn draws(&self, dice: &mut Dice) -> Result<(Vec<DrawPrompt>, Vec<Picture>), TrainError> {
        let (mut prompts, mut pictures) = (vec![], vec![]);
        for _ in 0..self.options.draws {
            let (scene, caption) = Scene::draw(Category::pick(&CATEGORIES, dice), Split::Train, dice);
            let mut prompt = self.learner.prompter.draw(&Draw { prompt: caption.text })?;
            if dice.random_bool(self.options.drop) {
                prompt.conditional.clone_from(&prompt.unconditional);
            }
            prompts.push(prompt);
            pictures.push(render(&scene));
        }
        Ok((prompts, pictures))
    }
}

/// A question about a picture as a request.
#[must_use]
pub fn asked(picture: &Arc<Picture>, text: &str) -> Answer {
    let parts = vec![Part::Picture(picture.clone()), Part::Text(text.to_owned())];
    Answer { system: Some(String::new()), turns: vec![Turn { role: Role::User, parts }] }
}

impl Stage for JointStage {
    fn name(&self) -> &'static str {
        "joint"
    }

    fn steps(&self) -> u64 {
        self.options.steps
    }

    fn step(&mut self, step: u64) -> Result<Metrics, TrainError> {
        let mut dice = Dice::seed_from_u64(self.options.seed);
        dice.set_stream(step + 1);
        let (learner, network) = (&self.learner, &self.learner.weights.network);
        let tokens = learner.config.image_tokens();

        let (prompts, pictures) = self.draws(&mut dice)?;
        let codes = network.vq().encode(&data::pixels(&pictures, &learner.device)?)?;
        let mut row = 0;
        let (mut spans, mut code_rows) = (vec![], vec![]);
        for (prompt, codes) in prompts.iter().zip(codes.chunks_exact(tokens)) {
            let first = row + prompt.conditional.len() - 1;
            code_rows.extend((first..first + tokens).map(|row| row as u32));
            row = first + tokens;
            let chunks = vec![Chunk::Text(&prompt.conditional), Chunk::Codes(&codes[..tokens - 1])];
            spans.push(Span { slot: 0, start: 0, chunks });
        }

        let mut asks = vec![];
        for _ in 0..self.options.answers {
            let kind = Kind::pick(&KINDS, &mut dice);
            let form = [Form::Open, Form::Choice, Form::Choice, Form::Plain][dice.random_range(0..4u32) as usize];
            let (scene, question) = question::draw(kind, form, Split::Train, &mut dice);
            let picture = Arc::new(render(&scene));
            let prompt = learner.prompter.answer(&asked(&picture, &question.text))?;
            let mut solution = learner.encode(&question.solution())?.ids;
            solution.push(learner.prompter.end_of_text());
            asks.push((prompt, solution));
        }
        let pixels = data::stack(asks.iter().flat_map(|(prompt, _)| &prompt.pictures), &learner.device)?;
        let seen = network.see(&pixels)?;
        let (mut text_rows, mut text_ids, mut picture) = (vec![], vec![], 0);
        for (prompt, solution) in &asks {
            let mut chunks = prompt.chunks(Some(&seen), picture)?;
            picture += prompt.pictures.len();
            let first = row + prompt.len() - 1;
            text_rows.extend((first..first + solution.len()).map(|row| row as u32));
            text_ids.extend_from_slice(solution);
            row = first + solution.len();
            chunks.push(Chunk::Text(&solution[..solution.len() - 1]));
            spans.push(Span { slot: 0, start: 0, chunks });
        }

        let lessons = lessons(learner, self.options.lessons, row, &mut dice)?;
        spans.extend(lessons.sequences.iter().map(|ids| Span { slot: 0, start: 0, chunks: vec![Chunk::Text(ids)] }));

        let hidden = network.forward(&spans)?;
        let image = network.image_logits(&rows(&hidden, code_rows)?)?;
        let image_loss = policy::log_prob_of(&image, &codes, 1.0)?.mean_all()?.neg()?;
        let text = network.text_logits(&rows(&hidden, text_rows)?)?;
        let text_loss = policy::log_prob_of(&text, &text_ids, 1.0)?.mean_all()?.neg()?;
        let recall = network.text_logits(&rows(&hidden, lessons.rows)?)?;
        let recall_loss = policy::log_prob_of(&recall, &lessons.ids, 1.0)?.mean_all()?.neg()?;
        let loss = ((&image_loss + &text_loss)? + (&recall_loss * 0.2)?)?;
        let rate = cosine(step, self.options.schedule, 50, self.options.rate, 0.05);
        let text_hits = hits(&text, &text_ids)?;
        let recall = hits(&recall, &lessons.ids)?;
        let norm = self.optim.step(&loss.backward()?, rate)?;
        let scalar = |t: &candle_core::Tensor| Ok::<_, TrainError>(f64::from(t.to_scalar::<f32>()?));
        Ok(vec![
            ("image", scalar(&image_loss)?),
            ("text", scalar(&text_loss)?),
            ("text_hits", text_hits),
            ("recall", recall),
            ("norm", norm),
        ])
    }

    fn state(&self) -> Result<Tensors, TrainError> {
        Ok(self.optim.state()?)
    }

    fn restore(&mut self, state: &Tensors) -> Result<(), TrainError> {
        Ok(self.optim.restore(state)?)
    }

    /// A small held-out evaluation without guidance, and pictures of fixed prompts.
    fn look(&self, dir: &Path, _step: u64) -> Result<Metrics, TrainError> {
        let failed = |e: &dyn std::fmt::Display| TrainError::State(e.to_string());
        let model = Arc::new(self.learner.model()?);
        let engine = Engine::spawn(model, EngineOptions::default()).map_err(|e| failed(&e))?;
        let seen =
            glance(&Player::alone(&engine), dir, self.options.seed, Defaults { guidance: 1.0, temperature: 1.0 });
        engine.halt(Halt::Now);
        engine.join();
        seen
    }
}
