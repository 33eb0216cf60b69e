//! What keeping everything costs: the same answers and pictures with and without the ledger, one after the other in one run;
//! and how many requests and opinions a second it takes from many clients at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail};
use futures_util::future::{try_join, try_join_all};
use serde::Serialize;

use crate::api::now_ms;
use crate::domain::id::{CallId, ChatId, FeedbackId, ImagesId, SampleId};
use crate::domain::picture::Picture;
use crate::domain::record::{Asked, By, Call, Opinion, Record};
use crate::domain::sample::{Finish, Output, Sample, Timings, Version};
use crate::domain::task::{Answer, Draw, Part, Role, Sampling, Turn};
use crate::engine::EngineHandle;
use crate::engine::command::{Event, Lane, Submission, Work};
use crate::store::{Fresh, Kept, Ledger, Rated, Rating, Said, Target};

/// Clients at once.
const CLIENTS: usize = 64;
/// Requests, and opinions, of each.
const EACH: usize = 100;
/// What is asked for.
const PROMPT: &str = "a red circle and a blue square";
const QUESTION: &str = "What color is the picture?";
/// On whose behalf the bench asks, so that it can be forgotten.
const PERSON: &str = "ulm bench";

/// How long something takes, in milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Times {
    pub median_ms: f64,
    pub p99_ms: f64,
}

/// Many writers at once.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Rate {
    pub clients: usize,
    pub writes: usize,
    pub per_second: f64,
    pub times: Times,
}

/// The same work without and with the ledger.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Cost {
    pub without: Times,
    pub with: Times,
    /// By how much keeping lengthens it: median of (with / without - 1) over neighbouring pairs, in percent.
    pub percent: f64,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub answers: Cost,
    pub pictures: Cost,
    pub appends: Rate,
    pub feedback: Rate,
}

impl Report {
    /// A table for people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = String::new();
        for (name, cost) in [("answer", &self.answers), ("picture", &self.pictures)] {
            text += &format!(
                "{name:<8} {:>7.2} ms without, {:>7.2} ms with the ledger: {:+.1} %\n",
                cost.without.median_ms, cost.with.median_ms, cost.percent
            );
        }
        for (name, rate) in [("requests", &self.appends), ("feedback", &self.feedback)] {
            text += &format!(
                "{name:<8} {:>7.0} /s from {} clients, {:.1} ms (p99 {:.1} ms)\n",
                rate.per_second, rate.clients, rate.times.median_ms, rate.times.p99_ms
            );
        }
        text
    }
}

fn times(seconds: &[f64]) -> Times {
    let mut sorted: Vec<f64> = seconds.iter().map(|s| 1e3 * s).collect();
    sorted.sort_by(f64::total_cmp);
    let at = |share: f64| sorted.get((share * (sorted.len().max(1) - 1) as f64).round() as usize).copied();
    Times { median_ms: at(0.5).unwrap_or(f64::NAN), p99_ms: at(0.99).unwrap_or(f64::NAN) }
}

/// Measures an idle engine and a ledger, and forgets what it wrote.
///
/// # Errors
/// When either fails.
pub async fn run(engine: &EngineHandle, ledger: &Ledger, rounds: usize) -> anyhow::Result<Report> {
    let report = measure(engine, ledger, rounds.max(1)).await;
    ledger.purge_person(PERSON).await?;
    report
}

async fn measure(engine: &EngineHandle, ledger: &Ledger, rounds: usize) -> anyhow::Result<Report> {
    let answers = cost(engine, ledger, 20 * rounds, false).await?;
    let pictures = cost(engine, ledger, 10 * rounds, true).await?;
    let (appends, samples) = appends(ledger).await?;
    let feedback = feedback(ledger, &samples).await?;
    Ok(Report { answers, pictures, appends, feedback })
}

async fn cost(engine: &EngineHandle, ledger: &Ledger, pairs: usize, draws: bool) -> anyhow::Result<Cost> {
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for seed in 0..2 + pairs as u64 {
        let (work, _) = request(engine, seed, draws)?;
        let begun = Instant::now();
        generate(engine, work, seed).await?;
        let alone = begun.elapsed().as_secs_f64();
        let (work, shown) = request(engine, seed, draws)?;
        let begun = Instant::now();
        // As the server does it: what came with the request is written while the engine works.
        let shown = async { Ok(try_join_all(shown.into_iter().map(|file| ledger.blobs().put(file))).await?) };
        let ((sampling, sample), shown) = try_join(generate(engine, work, seed), shown).await?;
        keep(ledger, shown, sampling, sample, engine.model().version().clone()).await?;
        if seed >= 2 {
            without.push(alone);
            with.push(begun.elapsed().as_secs_f64());
        }
    }
    let mut more: Vec<f64> = without.iter().zip(&with).map(|(without, with)| 100.0 * (with / without - 1.0)).collect();
    more.sort_by(f64::total_cmp);
    let percent = more.get(more.len() / 2).copied().unwrap_or(f64::NAN);
    Ok(Cost { without: times(&without), with: times(&with), percent })
}

/// A prompt, and the files that came with it.
fn request(engine: &EngineHandle, seed: u64, draws: bool) -> anyhow::Result<(Work, Vec<Vec<u8>>)> {
    let model = engine.model();
    if draws {
        return Ok((Work::Draw(model.prompter().draw(&Draw { prompt: PROMPT.into() })?), Vec::new()));
    }
    let side = model.config().image_size();
    let [blue, red, ..] = seed.to_le_bytes();
    let picture = Arc::new(Picture::filled(side, side, [red, 128, blue]));
    let file = picture.rgb().to_vec();
    let parts = vec![Part::Picture(picture), Part::Text(QUESTION.into())];
    let answer = Answer { system: Some(String::new()), turns: vec![Turn { role: Role::User, parts }] };
    Ok((Work::Answer(model.prompter().answer(&answer)?), vec![file]))
}

async fn generate(engine: &EngineHandle, work: Work, seed: u64) -> anyhow::Result<(Sampling, Sample)> {
    let guidance = engine.model().defaults().guidance;
    let sampling = Sampling { seed, max_tokens: 32, guidance, ..Sampling::default() };
    let submission = Submission { work, samplings: vec![sampling.clone()], lane: Lane::Interactive };
    let mut events = engine.submit(submission)?;
    let mut drawn = None;
    while let Some(event) = events.next().await {
        match event {
            Event::Finished { sample, .. } => drawn = Some(sample),
            Event::Failed(error) => bail!("the engine failed: {error}"),
            Event::Done => break,
            Event::Token { .. } => {}
        }
    }
    Ok((sampling, drawn.context("the engine lost a sample")?))
}

/// Keeps a sample as a request of its own; a picture with its pixels, since what a file weighs is the encoder's affair.
async fn keep(
    ledger: &Ledger,
    mut files: Vec<Fresh>,
    sampling: Sampling,
    sample: Sample,
    version: Version,
) -> anyhow::Result<SampleId> {
    let (id, asked) = match &sample.output {
        Output::Picture(picture) => {
            files.push(ledger.blobs().put(picture.rgb().to_vec()).await?);
            (CallId::Images(ImagesId::fresh()), Asked::Draw(Draw { prompt: PROMPT.into() }))
        }
        Output::Text(_) => {
            let shown = files.iter().map(|file| Part::Picture(file.id().clone()));
            let parts = shown.chain([Part::Text(QUESTION.into())]).collect();
            let asked = Asked::Answer(Answer { system: None, turns: vec![Turn { role: Role::User, parts }] });
            (CallId::Chat(ChatId::fresh()), asked)
        }
    };
    let sample = sample.try_map(|_| files.first().map(|file| file.id().clone()).context("no file"))?;
    let call = Call {
        id,
        created_ms: now_ms(),
        asked,
        model: "bench".into(),
        version,
        config: String::new(),
        prompt_tokens: 16,
        by: By { person: Some(PERSON.into()), key: String::new() },
        metadata: BTreeMap::new(),
    };
    let record = Record { id: SampleId::fresh(), at: 0, sampling, sample, millis: 0 };
    let id = record.id;
    ledger.append(Kept { call, records: vec![record] }, &files).await?;
    Ok(id)
}

async fn appends(ledger: &Ledger) -> anyhow::Result<(Rate, Vec<SampleId>)> {
    let sample = || Sample {
        tokens: vec![7; 64],
        log_probs: vec![-1.0; 64],
        conditional_log_probs: Vec::new(),
        seed: 0,
        version: Version("bench".into()),
        finish: Finish::Stop,
        output: Output::Text("<think>star red</think><answer>red</answer>".into()),
        timings: Timings::default(),
    };
    let begun = Instant::now();
    let clients = (0..CLIENTS).map(|_| async {
        let mut done = Vec::with_capacity(EACH);
        for _ in 0..EACH {
            let begun = Instant::now();
            let id = keep(ledger, Vec::new(), Sampling::default(), sample(), Version("bench".into())).await?;
            done.push((begun.elapsed().as_secs_f64(), id));
        }
        anyhow::Ok(done)
    });
    let done: Vec<_> = try_join_all(clients).await?.into_iter().flatten().collect();
    let rate = rate(begun, done.iter().map(|(seconds, _)| *seconds).collect());
    Ok((rate, done.into_iter().map(|(_, id)| id).collect()))
}

async fn feedback(ledger: &Ledger, samples: &[SampleId]) -> anyhow::Result<Rate> {
    let begun = Instant::now();
    let clients = samples.chunks(EACH).map(|samples| async move {
        let mut done = Vec::with_capacity(EACH);
        for &sample in samples {
            let begun = Instant::now();
            let rating = Rating {
                target: Target::Sample(sample),
                opinion: Said::Other(Opinion::Thumb(true)),
                id: FeedbackId::fresh(),
                client_key: None,
                rater: Some(PERSON.into()),
                key: String::new(),
                metadata: BTreeMap::new(),
                created_ms: now_ms(),
            };
            match ledger.rate(rating, &[]).await? {
                Rated::New(_) => done.push(begun.elapsed().as_secs_f64()),
                other => bail!("feedback was not kept: {other:?}"),
            }
        }
        anyhow::Ok(done)
    });
    let done: Vec<f64> = try_join_all(clients).await?.into_iter().flatten().collect();
    Ok(rate(begun, done))
}

fn rate(begun: Instant, done: Vec<f64>) -> Rate {
    let per_second = done.len() as f64 / begun.elapsed().as_secs_f64();
    Rate { clients: CLIENTS, writes: done.len(), per_second, times: times(&done) }
}
