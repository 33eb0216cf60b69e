//! How well a model draws and answers: the world's held-out suite through the engine, counts with 95 % intervals. Decides
//! nothing; the gate does.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::player::Player;
use super::pretrain::{asked, data};
use super::run::Metrics;
use super::{TrainError, draw};
use crate::domain::picture::Picture;
use crate::domain::sample::{Output, Sample};
use crate::domain::task::{Draw, Sampling};
use crate::engine::command::{Event, Events, Submission, Work};
use crate::model::{Defaults, Model};
use crate::world::{Background, Split, judge, suite, verify};

/// What to ask, and how to sample the replies.
#[derive(Clone, Copy, Debug)]
pub struct EvalOptions {
    pub seed: u64,
    /// Prompts of each drawing category.
    pub draws: usize,
    /// Questions of each kind and form.
    pub answers: usize,
    pub guidance: f32,
    pub draw_temperature: f32,
    /// 0 is greedy.
    pub answer_temperature: f32,
}

/// So many of so many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Count {
    pub right: usize,
    pub of: usize,
    pub percent: f64,
    /// Wilson's 95 % interval, percent.
    pub interval: [f64; 2],
    /// What blind guessing would get, percent; answers only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guessing: Option<f64>,
}

impl Count {
    /// Counts what `right` says.
    #[must_use]
    pub fn of(outcomes: impl IntoIterator<Item = bool>) -> Self {
        let (mut right, mut of) = (0, 0);
        for outcome in outcomes {
            right += usize::from(outcome);
            of += 1;
        }
        let (n, p) = (of.max(1) as f64, right as f64 / of.max(1) as f64);
        let z = 1.959_964;
        let (centre, scale) = (p + z * z / (2.0 * n), 1.0 + z * z / n);
        let half = z * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
        let bound = |x: f64| 100.0 * (x / scale).clamp(0.0, 1.0);
        let interval = if of == 0 { [0.0, 100.0] } else { [bound(centre - half), bound(centre + half)] };
        Self { right, of, percent: 100.0 * p, interval, guessing: None }
    }
}

/// How evenly pictures spread over what a prompt leaves open; no reward of a single picture sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    /// Entropy of the kinds that were drawn.
    pub bits: f64,
    /// The most it could be.
    pub most_bits: f64,
    pub of: usize,
}

impl Spread {
    /// Counts by kind, of all kinds.
    #[must_use]
    pub fn of(counts: &[usize]) -> Self {
        let of: usize = counts.iter().sum();
        let share = |&count: &usize| count as f64 / of as f64;
        let bits = counts.iter().filter(|&&count| count > 0).map(share).map(|share| -share * share.log2()).sum();
        Self { bits, most_bits: (counts.len().max(1) as f64).log2(), of }
    }
}

/// The suite's outcome. Overall figures leave the unseen pairs out.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub version: String,
    pub guidance: f32,
    pub draw_temperature: f32,
    pub answer_temperature: f32,
    pub drawing: BTreeMap<String, Count>,
    pub answering: BTreeMap<String, Count>,
    /// Replies of the form think, then answer.
    pub format: Count,
    /// Of pictures whose prompts leave it open.
    pub backgrounds: Spread,
    /// Held-out pictures that the verifier still reads whole after the image tokenizer took them apart and put them together.
    pub reconstruction: Count,
}

impl Report {
    /// A table for people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = format!(
            "weights {}…, guidance {}, temperature {} (drawing) {} (answering)\n",
            self.version.chars().take(12).collect::<String>(),
            self.guidance,
            self.draw_temperature,
            self.answer_temperature
        );
        let line = |name: &str, c: &Count| {
            let guessing = c.guessing.map(|g| format!("   guessing {g:.1}")).unwrap_or_default();
            let [low, high] = c.interval;
            format!("  {name:<32} {:>5.1} %  [{low:.1}, {high:.1}]  {}/{}{guessing}\n", c.percent, c.right, c.of)
        };
        text += "drawing\n";
        self.drawing.iter().for_each(|(name, count)| text += &line(name, count));
        let Spread { bits, most_bits, of } = self.backgrounds;
        text += &format!("  {:<32} {bits:>5.2} of {most_bits:.2} bits, {of} pictures\n", "backgrounds left open");
        text += "answering\n";
        self.answering.iter().for_each(|(name, count)| text += &line(name, count));
        text += &line("format", &self.format);
        text + "image tokenizer\n" + &line("scenes read back", &self.reconstruction)
    }
}

/// Runs `jobs` through the engine, some at a time, and gives back the samples in order.
fn samples(
    player: &Player,
    what: &'static str,
    jobs: impl ExactSizeIterator<Item = Result<Submission, TrainError>>,
) -> Result<Vec<Sample>, TrainError> {
    let bar = ProgressBar::new(jobs.len() as u64).with_prefix(what);
    bar.set_style(
        ProgressStyle::with_template("{prefix:>10} {bar:30} {pos}/{len} (left {eta_precise})")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    let mut waiting: VecDeque<Events> = VecDeque::new();
    let mut samples = Vec::with_capacity(jobs.len());
    let collect = |events: &mut Events| loop {
        match events.blocking_next() {
            Some(Event::Finished { sample, .. }) => break Ok(sample),
            Some(Event::Failed(e)) => break Err(TrainError::State(format!("the engine failed: {e}"))),
            Some(Event::Token { .. }) => {}
            Some(Event::Done) | None => break Err(TrainError::State("the engine gave no sample".into())),
        }
    };
    for job in jobs {
        if waiting.len() >= player.at_once
            && let Some(mut events) = waiting.pop_front()
        {
            samples.push(collect(&mut events)?);
            bar.inc(1);
        }
        let events = player.engine.submit_to(&player.model, job?);
        waiting.push_back(events.map_err(|e| TrainError::State(e.to_string()))?);
    }
    for mut events in waiting {
        samples.push(collect(&mut events)?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(samples)
}

/// One picture of each prompt, seeds counted from 0.
///
/// # Errors
/// When a prompt cannot be drawn or the engine fails. Call it outside an async runtime.
pub fn pictures(player: &Player, prompts: &[&str], guidance: f32) -> Result<Vec<Picture>, TrainError> {
    let jobs = prompts.iter().enumerate().map(|(seed, prompt)| {
        let prompt = player.model.prompter().draw(&Draw { prompt: (*prompt).to_owned() })?;
        let sampling = Sampling { seed: seed as u64, guidance, ..Sampling::default() };
        Ok(player.submission(Work::Draw(prompt), vec![sampling]))
    });
    let drawn = samples(player, "pictures", jobs)?.into_iter().map(|sample| match sample.output {
        Output::Picture(picture) => Ok(picture),
        Output::Text(_) => Err(TrainError::State("the engine answered a drawing prompt in words".into())),
    });
    drawn.collect()
}

/// A small held-out evaluation, and pictures of fixed prompts in `dir/pictures.png`: the shares that are right.
///
/// # Errors
/// When the engine fails or the file cannot be written. Call it outside an async runtime.
pub fn glance(player: &Player, dir: &Path, seed: u64, served: Defaults) -> Result<Metrics, TrainError> {
    let Defaults { guidance, temperature } = served;
    let options =
        EvalOptions { seed, draws: 16, answers: 5, guidance, draw_temperature: temperature, answer_temperature: 0.0 };
    let report = evaluate(player, &options)?;
    draw::grid(&dir.join("pictures.png"), &pictures(player, &SHOWN, guidance)?, 8, 2)?;
    let share = |group: &BTreeMap<String, Count>| group.get(OVERALL).map_or(0.0, |count| count.percent / 100.0);
    Ok(vec![("drawing", share(&report.drawing)), ("answering", share(&report.answering))])
}

/// Prompts of every category, for grids that people look at; eight a category.
pub const SHOWN: [&str; 32] = [
    "a star",
    "a red circle",
    "a blue heart",
    "a green square",
    "an orange cross",
    "a purple triangle",
    "a yellow star",
    "a heart",
    "two circles",
    "three stars",
    "four hearts",
    "two squares",
    "three triangles",
    "four crosses",
    "three circles",
    "two stars",
    "a star and a circle",
    "a heart and a square",
    "a triangle and a cross",
    "a circle and a heart",
    "a star above a circle",
    "a square below a heart",
    "a cross left of a star",
    "a triangle right of a circle",
    "a red star and a blue circle",
    "a green cross and a yellow heart",
    "a purple circle and an orange square",
    "a blue triangle and a red heart",
    "a yellow circle and a purple star",
    "a red star on a black background",
    "three circles on a gray background",
    "a small green circle",
];

/// Draws `items`, each by its own seed.
///
/// # Errors
/// When the engine fails. Call it outside an async runtime.
pub fn drawn(player: &Player, options: &EvalOptions, items: &[suite::DrawItem]) -> Result<Vec<Sample>, TrainError> {
    let jobs = items.iter().map(|item| {
        let sampling = Sampling {
            seed: item.seed,
            temperature: options.draw_temperature,
            guidance: options.guidance,
            ..Sampling::default()
        };
        let prompt = player.model.prompter().draw(&Draw { prompt: item.prompt.clone() })?;
        Ok(player.submission(Work::Draw(prompt), vec![sampling]))
    });
    samples(player, "drawing", jobs)
}

/// Draws the held-out suite: how many pictures of each category show what was asked for, and how the backgrounds spread that were left
/// open.
///
/// # Errors
/// When the engine fails. Call it outside an async runtime.
pub fn drawing(player: &Player, options: &EvalOptions) -> Result<(BTreeMap<String, Count>, Spread), TrainError> {
    let items = suite::drawing(options.seed, options.draws);
    let blank = Picture::filled(1, 1, [0; 3]);
    let mut groups: BTreeMap<String, Vec<bool>> = BTreeMap::new();
    let mut backgrounds = vec![0; Background::ALL.len()];
    for (item, sample) in items.iter().zip(drawn(player, options, &items)?) {
        let picture = if let Output::Picture(picture) = &sample.output { picture } else { &blank };
        let judged = judge(&item.requirement, picture);
        let right = judged.correct;
        if let (None, Some(ground)) = (item.requirement.background, judged.reading.background) {
            backgrounds[ground.index()] += 1;
        }
        let group = if item.split == Split::UnseenPairs { "unseen pairs: " } else { "" };
        groups.entry(format!("{group}{}", item.category.word())).or_default().push(right);
        if item.split != Split::UnseenPairs {
            groups.entry(OVERALL.into()).or_default().push(right);
        }
    }
    let counts = groups.into_iter().map(|(name, right)| (name, Count::of(right))).collect();
    Ok((counts, Spread::of(&backgrounds)))
}

/// Answers `items`, each by its own seed.
///
/// # Errors
/// When the engine fails. Call it outside an async runtime.
pub fn answered(
    player: &Player,
    options: &EvalOptions,
    items: &[suite::AnswerItem],
) -> Result<Vec<Sample>, TrainError> {
    let jobs = items.iter().map(|item| {
        let sampling = Sampling {
            seed: item.seed,
            temperature: options.answer_temperature,
            max_tokens: MOST_TOKENS,
            ..Sampling::default()
        };
        let prompt = player.model.prompter().answer(&asked(&Arc::new(item.picture.clone()), &item.question.text))?;
        Ok(player.submission(Work::Answer(prompt), vec![sampling]))
    });
    samples(player, "answering", jobs)
}

/// Answers the held-out suite: how many answers of each kind and form are right, and how many have the form that was asked for.
fn answering(
    player: &Player,
    options: &EvalOptions,
    items: &[suite::AnswerItem],
) -> Result<(BTreeMap<String, Count>, Count), TrainError> {
    let mut groups: BTreeMap<String, (Vec<bool>, Vec<f64>)> = BTreeMap::new();
    let mut format = vec![];
    for (item, sample) in items.iter().zip(answered(player, options, items)?) {
        let reply = if let Output::Text(text) = &sample.output { text } else { "" };
        let (graded, guessing) = (item.question.grade(reply), item.question.kind.guessing_rate(item.question.form));
        format.push(graded.format);
        let mut count = |group: String| {
            let entry = groups.entry(group).or_default();
            entry.0.push(graded.correct);
            entry.1.push(guessing);
        };
        if item.split == Split::UnseenPairs {
            count("unseen pairs".into());
        } else {
            count(format!("{}, {}", item.question.kind.word(), item.question.form.word()));
            count(OVERALL.into());
        }
    }
    let guessed = |(right, guessing): (Vec<bool>, Vec<f64>)| {
        let mean = guessing.iter().sum::<f64>() / guessing.len().max(1) as f64;
        Count { guessing: Some(100.0 * mean), ..Count::of(right) }
    };
    Ok((groups.into_iter().map(|(name, counts)| (name, guessed(counts))).collect(), Count::of(format)))
}

/// Draws and answers the held-out suite and grades every reply.
///
/// # Errors
/// When the engine fails. Call it outside an async runtime.
pub fn evaluate(player: &Player, options: &EvalOptions) -> Result<Report, TrainError> {
    let model = &player.model;
    let (drawing, backgrounds) = drawing(player, options)?;
    let items = suite::answering(options.seed, options.answers);
    let (answering, format) = answering(player, options, &items)?;
    Ok(Report {
        version: model.version().0.clone(),
        guidance: options.guidance,
        draw_temperature: options.draw_temperature,
        answer_temperature: options.answer_temperature,
        drawing,
        answering,
        format,
        backgrounds,
        reconstruction: Count::of(reconstructions(model, &items)?),
    })
}

/// Whether each scene is read back whole from its picture's tokens.
fn reconstructions(model: &Model, items: &[suite::AnswerItem]) -> Result<Vec<bool>, TrainError> {
    const AT_ONCE: usize = 16;
    let items: Vec<_> = items.iter().filter(|item| item.split == Split::HeldOut).collect();
    let mut read = Vec::with_capacity(items.len());
    for items in items.chunks(AT_ONCE) {
        let pictures: Vec<Picture> = items.iter().map(|item| item.picture.clone()).collect();
        let ids = model.network().vq().encode(&data::pixels(&pictures, model.network().device())?)?;
        for (item, picture) in items.iter().zip(data::unpixels(&model.network().paint(&ids)?)?) {
            read.push(verify::read(&picture).scene().as_ref() == Some(&item.scene));
        }
    }
    Ok(read)
}

/// The group of all categories.
pub const OVERALL: &str = "overall";
/// Longest reply; solutions have about half as many.
const MOST_TOKENS: usize = 96;

#[cfg(test)]
mod tests {
    use super::*;

    /// Against Wilson's interval of 8 in 10 as tabulated: 49.0 to 94.3 %.
    #[test]
    fn the_interval_is_wilsons() {
        let count = Count::of((0..10).map(|i| i < 8));
        assert_eq!((count.right, count.of), (8, 10));
        assert!((count.interval[0] - 49.02).abs() < 0.05 && (count.interval[1] - 94.33).abs() < 0.05);
        assert_eq!(Count::of([]).interval, [0.0, 100.0]);
    }

    #[test]
    fn the_spread_is_an_entropy() {
        assert_eq!(Spread::of(&[5, 5, 5, 5]), Spread { bits: 2.0, most_bits: 2.0, of: 20 });
        assert_eq!(Spread::of(&[0, 7, 0, 0]).bits, 0.0);
        assert!((Spread::of(&[1, 3]).bits - 0.811_278).abs() < 1e-6);
    }
}
