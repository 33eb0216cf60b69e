//! One stage of CoRL as a resumable run: a step draws groups with the weights as they are, scores them, and takes one step of AdamW.
//! Given the same state a step is the same to the last bit on a CPU. Knows nothing of files and commands.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rayon::prelude::*;
use serde::Serialize;
use serde_json::{Map, Value};

use super::super::TrainError;
use super::super::eval::glance;
use super::super::optim::{AdamW, AdamWOptions, Schedule};
use super::super::player::Player;
use super::super::run::{Metrics, Stage};
use super::super::trainable::{Lora, Trainable};
use super::advantage::Coupling;
use super::exercise::{Exercise, Practice, Source};
use super::learn::{Learned, Learner};
use super::lesson::{Lesson, LessonPrompt, Try};
use super::loss::{Aggregate, Objective};
use super::oracle::Eyes;
use super::rollout::roll;
use crate::domain::sample::{Output, Sample};
use crate::domain::task::{Draw, Sampling};
use crate::engine::command::{Lane, Work};
use crate::engine::{Engine, EngineHandle, EngineOptions, Halt};
use crate::model::params::Tensors;
use crate::model::{Defaults, Model};
use crate::reward::{AnswerReward, DrawReward, Drawn, Mix, RewardError, Score};
use crate::world::Dice;

/// The tensors that CoRL trains: the language model.
const TRAINS: [&str; 2] = ["model.language_model.", "lm_head."];

/// Under which distribution pictures are scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Scored {
    /// The one they are drawn from.
    Guided,
    /// The same, but only what the conditional row makes of a prompt learns: two passes less of six for a picture.
    Detached,
    /// That of the conditional row alone, as the published code has it, though they are drawn with guidance.
    Conditional,
}

/// How a stage learns.
#[derive(Clone, Debug, Serialize)]
pub struct CorlOptions {
    pub practice: Practice,
    pub seed: u64,
    /// Steps by what is earned.
    pub steps: u64,
    /// Steps before these by solutions as they are written: the cold SFT of arXiv 2505.17534 (table of stages), for what no sample would ever
    /// come upon.
    pub cold: u64,
    /// Exercises a step.
    pub prompts: usize,
    /// Questions a step beside them, about pictures of their own; what most answers get right tells little, so it takes more of them.
    pub questions: usize,
    /// Groups a step of what was logged.
    pub logged: usize,
    /// Samples of each task of an exercise.
    pub group: usize,
    /// How pictures are drawn.
    pub guidance: f32,
    pub temperature: f32,
    /// Most tokens of an answer.
    pub answer_tokens: usize,
    pub scored: Scored,
    /// Share of a step's samples that gradients are computed of, those first that tell most; each stands for others like it.
    pub keep: f64,
    pub coupling: Coupling,
    pub objective: Objective,
    pub aggregate: Aggregate,
    /// Learns by low-rank changes of the layers' matrices in place of the whole language model.
    pub lora: Option<Lora>,
    /// How fast, beside a weight, the logarithm of what image logits are scaled by learns; 0 where it does not.
    pub sharpen: f64,
    pub schedule: Schedule,
    /// Most positions of one pass forward and back, of which there are as many at once as cores; memory goes with it, and nothing else.
    pub positions: usize,
    /// Layers that such a pass keeps in memory at once, computing the others again when their turn comes; without it all, once.
    pub segment: Option<usize>,
}

/// See the module text.
pub struct CorlStage {
    options: CorlOptions,
    base: Arc<Model>,
    weights: Trainable,
    optim: AdamW,
    engine: EngineHandle,
    /// Nobody else uses the engine, which ends with the stage.
    own: bool,
    source: Source,
    draws: Mix<dyn DrawReward>,
    answers: Mix<dyn AnswerReward>,
    /// What was drawn and judged before.
    logged: Vec<Lesson>,
}

/// A group on its way from prompt to gradient.
struct Group {
    exercise: usize,
    prompt: LessonPrompt,
    samples: Vec<Sample>,
    scores: Vec<Score>,
    advantages: Vec<f64>,
}

impl Group {
    fn is_picture(&self) -> bool {
        matches!(self.prompt, LessonPrompt::Picture(_))
    }
}

impl CorlStage {
    /// Ready to learn from `base` on, with an engine of its own.
    ///
    /// # Errors
    /// When the engine cannot start or memory runs out.
    pub fn new(
        base: Arc<Model>,
        options: CorlOptions,
        source: Source,
        draws: Mix<dyn DrawReward>,
        answers: Mix<dyn AnswerReward>,
    ) -> Result<Self, TrainError> {
        let engine = EngineOptions {
            rows: 64,
            background_rows: 64,
            // All prompts of a step at once, or what evaluation keeps on its way.
            queue: (2 * options.prompts + options.questions).max(64),
            capacity: base.config().text.max_positions,
            prefill: 1024,
            turn: options.group,
        };
        let engine = Engine::spawn(Arc::clone(&base), engine).map_err(|e| TrainError::State(e.to_string()))?;
        let mut stage = Self::over(engine, base, options, source, draws, answers, vec![])?;
        stage.own = true;
        Ok(stage)
    }

    /// Ready to learn from `base` on, drawing in the background of an engine that others use; also from what was `logged`.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn over(
        engine: EngineHandle,
        base: Arc<Model>,
        options: CorlOptions,
        source: Source,
        draws: Mix<dyn DrawReward>,
        answers: Mix<dyn AnswerReward>,
        logged: Vec<Lesson>,
    ) -> Result<Self, TrainError> {
        let device = base.network().device();
        let trains = match options.practice {
            Practice::Drawing => &TRAINS[..1],
            _ => &TRAINS[..],
        };
        let mut weights = Trainable::new(base.config(), base.tensors().clone(), trains, options.lora, device)?;
        if options.sharpen > 0.0 {
            weights = weights.sharpening(options.sharpen)?;
        }
        let options_of_adam = AdamWOptions { beta2: 0.999, weight_decay: 0.0, ..AdamWOptions::default() };
        let optim = AdamW::new(weights.vars().clone(), options_of_adam)?;
        Ok(Self { options, base, weights, optim, engine, own: false, source, draws, answers, logged })
    }

    /// The model as it is now.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn model(&self) -> Result<Model, TrainError> {
        self.base.with_tensors(self.weights.snapshot()?).map_err(|e| TrainError::State(e.to_string()))
    }

    /// Whom to ask for samples of the weights as they are.
    fn player(&self) -> Result<Player, TrainError> {
        let model = Arc::new(self.model()?);
        Ok(match self.own {
            true => Player { model, at_once: usize::MAX, lane: Lane::Background, engine: self.engine.clone() },
            false => Player::beside(&self.engine, model),
        })
    }

    /// Draws the groups of a step.
    fn groups(&self, player: &Player, exercises: &[Exercise], dice: &mut Dice) -> Result<Vec<Group>, TrainError> {
        let o = &self.options;
        let prompter = player.model.prompter();
        let (mut prompts, mut work) = (vec![], vec![]);
        for (exercise, Exercise { draw, ask }) in exercises.iter().enumerate() {
            let mut samplings = |plain: Sampling| -> Vec<Sampling> {
                (0..o.group).map(|_| Sampling { seed: dice.random(), ..plain.clone() }).collect()
            };
            if let Some(wanted) = draw {
                let prompt = prompter.draw(&Draw { prompt: wanted.prompt.clone() })?;
                let plain = Sampling { guidance: o.guidance, temperature: o.temperature, ..Sampling::default() };
                work.push((Work::Draw(prompt.clone()), samplings(plain)));
                prompts.push((exercise, LessonPrompt::Picture(prompt)));
            }
            if let Some(question) = ask {
                let prompt = prompter.answer(&question.conversation)?;
                let plain = Sampling { max_tokens: o.answer_tokens, ..Sampling::default() };
                work.push((Work::Answer(prompt.clone()), samplings(plain)));
                prompts.push((exercise, LessonPrompt::Answer(prompt)));
            }
        }
        let drawn = roll(player, work)?;
        let group =
            |((exercise, prompt), samples)| Group { exercise, prompt, samples, scores: vec![], advantages: vec![] };
        Ok(prompts.into_iter().zip(drawn).map(group).collect())
    }

    /// Gives every sample what it earned: the pictures of a step together, answers by their groups.
    fn score(&self, player: &Player, exercises: &[Exercise], groups: &mut [Group]) -> Result<(), RewardError> {
        let eyes = Eyes { player: player.clone(), answer_tokens: self.options.answer_tokens };
        let mut step = Vec::new();
        for group in groups.iter().filter(|group| group.is_picture()) {
            let wanted = exercises[group.exercise].draw.as_ref().ok_or(RewardError::Nothing)?;
            let pictures = group.samples.iter().filter_map(|sample| match &sample.output {
                Output::Picture(picture) => Some(picture),
                Output::Text(_) => None,
            });
            step.push(Drawn { wanted, pictures: pictures.collect() });
        }
        let answered = |group: &Group| {
            let asked = exercises[group.exercise].ask.as_ref().ok_or(RewardError::Nothing)?;
            let texts = group.samples.iter().filter_map(|sample| match &sample.output {
                Output::Text(text) => Some(text.as_str()),
                Output::Picture(_) => None,
            });
            self.answers.score(asked, &texts.collect::<Vec<_>>(), &eyes)
        };
        let answers: Vec<&Group> = groups.iter().filter(|group| !group.is_picture()).collect();
        let (drawn, answered) = rayon::join(
            || self.draws.score_step(&step, &eyes),
            || answers.into_par_iter().map(answered).collect::<Result<Vec<_>, _>>(),
        );
        let (mut drawn, mut answered) = (drawn?.into_iter(), answered?.into_iter());
        for group in groups {
            let scores = if group.is_picture() { drawn.next() } else { answered.next() };
            group.scores = scores.ok_or(RewardError::Nothing)?;
        }
        Ok(())
    }

    /// Gives every group its advantages, the two of an exercise together.
    fn weigh(&self, exercises: usize, groups: &mut [Group]) {
        let o = &self.options;
        for exercise in 0..exercises {
            let totals = |picture: bool, groups: &[Group]| -> Vec<f64> {
                let of = |group: &&Group| group.exercise == exercise && group.is_picture() == picture;
                groups.iter().filter(of).flat_map(|group| group.scores.iter().map(|score| score.total)).collect()
            };
            let (pictures, answers) = o.coupling.advantages(&totals(true, groups), &totals(false, groups));
            for group in groups.iter_mut().filter(|group| group.exercise == exercise) {
                group.advantages = if group.is_picture() { pictures.clone() } else { answers.clone() };
            }
        }
    }

    /// What a group tells.
    fn lesson(&self, group: Group) -> Lesson {
        let o = &self.options;
        let (guidance, temperature, guided) = match (&group.prompt, o.scored) {
            (LessonPrompt::Picture(_), Scored::Guided | Scored::Detached) => (o.guidance, o.temperature, true),
            (LessonPrompt::Picture(_), Scored::Conditional) => (1.0, o.temperature, false),
            (LessonPrompt::Answer(_), _) => (1.0, 1.0, true),
        };
        let one = |(sample, advantage): (Sample, f64)| Try {
            sampled: if guided { sample.log_probs } else { sample.conditional_log_probs },
            tokens: sample.tokens,
            importance: vec![],
            advantage,
        };
        let tries = group.samples.into_iter().zip(group.advantages).map(one).collect();
        Lesson { prompt: group.prompt, guidance, temperature, tries }
    }

    /// Those of what was logged that have their turn in a step: all of it once in some order, then again in another.
    fn turn(&self, step: u64) -> Vec<usize> {
        let (all, each) = (self.logged.len(), self.options.logged);
        let place = |at: u64| {
            let (time, at) = (at / all as u64, (at % all as u64) as usize);
            let mut order: Vec<usize> = (0..all).collect();
            let mut dice = Dice::seed_from_u64(self.options.seed ^ 0x10_66ed);
            dice.set_stream(time);
            order.shuffle(&mut dice);
            order[at]
        };
        (0..each.min(all) as u64).map(|at| place(step * each as u64 + at)).collect()
    }

    /// A step by solutions as they are written.
    fn cold_step(&mut self, step: u64, exercises: &[Exercise], dice: &mut Dice) -> Result<Metrics, TrainError> {
        let (prompter, weight) = (self.base.prompter(), self.options.coupling.lambda);
        let solved = exercises.iter().filter_map(|exercise| {
            let ask = exercise.ask.as_ref()?;
            Some(Lesson::told(prompter, &ask.conversation, ask.solution.as_deref()?, weight))
        });
        let lessons = solved.collect::<Result<Vec<_>, _>>()?;
        if lessons.is_empty() {
            let why = "a cold start learns solutions of questions, and this step has none: take --cold-start 0";
            return Err(TrainError::State(why.into()));
        }
        let learned = self.learn(&lessons.iter().collect::<Vec<_>>(), dice)?;
        let norm = self.apply(step, &learned)?;
        let likely = (learned.log_prob / learned.tokens.max(1) as f64).exp();
        Ok(vec![("solutions", likely), ("samples", learned.samples as f64), ("norm", norm)])
    }

    /// Steps by the gradients that were added up, if there are any.
    fn apply(&mut self, step: u64, learned: &Learned) -> Result<f64, TrainError> {
        match learned.samples {
            0 => Ok(0.0),
            _ => Ok(self.optim.apply(self.options.schedule.rate(step, self.steps()))?),
        }
    }

    /// Adds up the gradients of all that these lessons tell.
    fn learn(&mut self, lessons: &[&Lesson], dice: &mut Dice) -> Result<Learned, TrainError> {
        let features = lessons.iter().map(|lesson| lesson.features(&self.base)).collect::<Result<Vec<_>, _>>()?;
        let learnings =
            lessons.iter().zip(&features).flat_map(|(lesson, features)| lesson.learnings(features.as_ref()));
        let apart = self.options.scored == Scored::Detached;
        let still = apart.then(|| self.weights.still()).transpose()?;
        let learner = Learner {
            network: &self.weights.network,
            reference: self.base.network(),
            objective: self.options.objective,
            aggregate: self.options.aggregate,
            positions: self.options.positions,
            segment: self.options.segment,
            still: still.as_ref(),
            keep: self.options.keep,
        };
        learner.learn(learnings.collect(), dice, &mut self.optim)
    }
}

impl Stage for CorlStage {
    fn name(&self) -> &'static str {
        self.options.practice.name()
    }

    fn steps(&self) -> u64 {
        self.options.cold + self.options.steps
    }

    fn settings(&self) -> Map<String, Value> {
        let mut settings = match serde_json::to_value(&self.options) {
            Ok(Value::Object(settings)) => settings,
            _ => Map::new(),
        };
        // A run whose rate does not depend on its end may be made longer, and memory has no say in what is learned.
        if self.options.schedule.decay == 0.0 {
            settings.remove("steps");
        }
        settings.remove("positions");
        settings.remove("segment");
        settings.insert("stage".into(), self.name().into());
        settings.insert("model".into(), self.base.version().0.as_str().into());
        settings.insert("data".into(), self.source.digest().into());
        settings.insert("lessons".into(), self.logged.len().into());
        settings.insert("rewards".into(), self.draws.labels().chain(self.answers.labels()).collect());
        settings
    }

    fn step(&mut self, step: u64) -> Result<Metrics, TrainError> {
        let mut dice = Dice::seed_from_u64(self.options.seed);
        dice.set_stream(2 * step + 2);
        self.weights.refresh()?;
        let o = &self.options;
        let mut exercises = self.source.exercises(o.practice, step * o.prompts as u64, o.prompts, o.seed)?;
        exercises.extend(self.source.questions(o.practice, step * o.questions as u64, o.questions, !o.seed)?);
        if step < o.cold {
            return self.cold_step(step, &exercises, &mut dice);
        }
        let mut groups = vec![];
        if !exercises.is_empty() {
            let player = self.player()?;
            groups = self.groups(&player, &exercises, &mut dice)?;
            self.score(&player, &exercises, &mut groups).map_err(|e| TrainError::State(e.to_string()))?;
            self.weigh(exercises.len(), &mut groups);
        }
        let mut metrics = rewards(&groups);
        let fresh: Vec<Lesson> = groups.into_iter().map(|group| self.lesson(group)).collect();
        let turn = self.turn(step);
        // The gradient is kept by `self`, so what it is of cannot be.
        let logged = std::mem::take(&mut self.logged);
        let lessons: Vec<&Lesson> = fresh.iter().chain(turn.iter().filter_map(|&at| logged.get(at))).collect();
        let mute = lessons.iter().filter(|lesson| lesson.is_mute()).count();
        metrics.push(("mute_groups", mute as f64 / lessons.len().max(1) as f64));
        let learned = self.learn(&lessons, &mut dice);
        self.logged = logged;
        let learned = learned?;
        let norm = self.apply(step, &learned)?;
        metrics.extend([
            ("samples", learned.samples as f64),
            ("scored", learned.scored as f64),
            ("loss", learned.loss),
            ("norm", norm),
            ("drift", learned.drift / learned.tokens.max(1) as f64),
            ("most_drift", learned.most),
        ]);
        if self.options.objective.beta != 0.0 {
            metrics.push(("kl", learned.kl));
        }
        Ok(metrics)
    }

    fn state(&self) -> Result<Tensors, TrainError> {
        Ok(self.optim.state()?)
    }

    fn restore(&mut self, state: &Tensors) -> Result<(), TrainError> {
        Ok(self.optim.restore(state)?)
    }

    /// A small held-out evaluation as the model is served, and pictures of fixed prompts.
    fn look(&self, dir: &Path, _step: u64) -> Result<Metrics, TrainError> {
        // What another engine is used for has its own judges.
        if !self.own {
            return Ok(vec![]);
        }
        let served = Defaults { guidance: self.options.guidance, temperature: self.options.temperature };
        glance(&Player { at_once: 32, ..self.player()? }, dir, self.options.seed, served)
    }
}

impl Drop for CorlStage {
    fn drop(&mut self) {
        if self.own {
            self.engine.halt(Halt::Now);
        }
    }
}

/// The mean of each reward.
fn rewards(groups: &[Group]) -> Metrics {
    let mut sums: BTreeMap<&'static str, (f64, usize)> = BTreeMap::new();
    for (name, value) in groups.iter().flat_map(|group| &group.scores).flat_map(|score| &score.parts) {
        let sum = sums.entry(name).or_default();
        *sum = (sum.0 + value, sum.1 + 1);
    }
    sums.into_iter().map(|(name, (sum, n))| (name, sum / n as f64)).collect()
}
