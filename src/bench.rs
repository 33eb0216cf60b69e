//! How fast an engine is: pictures and answers a second at several degrees of concurrency, each beside the same requests sent
//! one after another in the same run. Ratios are what counts; absolute figures belong to the machine.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail};
use serde::Serialize;

use crate::domain::picture::Picture;
use crate::domain::task::{Answer, Draw, Part, Role, Sampling, Turn};
use crate::engine::EngineHandle;
use crate::engine::command::{Event, Lane, Submission, Work};

/// Requests at once.
const CONCURRENCY: [usize; 3] = [1, 4, 16];
/// Tokens of each answer; the model is kept from ending it earlier only by chance, so rates count tokens too.
const ANSWER_TOKENS: usize = 32;

/// One row of the report.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub concurrent: usize,
    pub requests: usize,
    pub seconds: f64,
    pub per_second: f64,
    /// Generated tokens (of a picture or of answers) a second.
    pub tokens_per_second: f64,
    /// Throughput divided by that of one request at a time, measured next to it in this run.
    pub times_one_at_a_time: f64,
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub version: String,
    pub guidance: f32,
    /// Median seconds of a picture alone.
    pub picture_seconds: f64,
    /// Median milliseconds from sending a question about a picture to the first token of the answer, alone.
    pub first_token_ms: f64,
    /// Decoding steps a second of one picture alone, prefill and painting included.
    pub steps_per_second: f64,
    pub pictures: Vec<Row>,
    pub answers: Vec<Row>,
}

impl Report {
    /// A table for people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = format!(
            "a picture alone {:.3} s · {:.0} steps/s · first token of an answer {:.1} ms · guidance {}\n",
            self.picture_seconds, self.steps_per_second, self.first_token_ms, self.guidance
        );
        for (name, rows) in [("pictures", &self.pictures), ("answers", &self.answers)] {
            for row in rows {
                text += &format!(
                    "{name:<9} {:>3} at once  {:>7.2} /s  {:>8.0} tokens/s  {:>5.2}x one at a time\n",
                    row.concurrent, row.per_second, row.tokens_per_second, row.times_one_at_a_time
                );
            }
        }
        text
    }
}

struct Bench<'a> {
    handle: &'a EngineHandle,
    guidance: f32,
    rounds: usize,
}

impl Bench<'_> {
    fn draw(&self, seed: u64) -> anyhow::Result<Submission> {
        let prompt = self.handle.model().prompter().draw(&Draw { prompt: "a red circle and a blue square".into() })?;
        let sampling = Sampling { seed, guidance: self.guidance, ..Sampling::default() };
        Ok(Submission { work: Work::Draw(prompt), samplings: vec![sampling], lane: Lane::Interactive })
    }

    fn ask(&self, seed: u64) -> anyhow::Result<Submission> {
        let side = self.handle.model().config().image_size();
        let picture = Part::Picture(Arc::new(Picture::filled(side, side, [200, 30, 30])));
        let parts = vec![picture, Part::Text("What color is the picture?".into())];
        let answer = Answer { system: Some(String::new()), turns: vec![Turn { role: Role::User, parts }] };
        let prompt = self.handle.model().prompter().answer(&answer)?;
        let sampling = Sampling { seed, max_tokens: ANSWER_TOKENS, ..Sampling::default() };
        Ok(Submission { work: Work::Answer(prompt), samplings: vec![sampling], lane: Lane::Interactive })
    }

    /// Sends `n` requests at once and waits for all; (seconds, tokens, seconds to the first token event).
    fn burst(&self, n: usize, make: &dyn Fn(u64) -> anyhow::Result<Submission>) -> anyhow::Result<(f64, usize, f64)> {
        let jobs = (0..n as u64).map(make).collect::<anyhow::Result<Vec<_>>>()?;
        let begun = Instant::now();
        let waiting = jobs.into_iter().map(|job| Ok(self.handle.submit(job)?)).collect::<anyhow::Result<Vec<_>>>()?;
        let (mut tokens, mut first) = (0, f64::INFINITY);
        for mut events in waiting {
            loop {
                match events.blocking_next().context("the engine stopped")? {
                    Event::Token { .. } => first = first.min(begun.elapsed().as_secs_f64()),
                    Event::Finished { sample, .. } => tokens += sample.tokens.len(),
                    Event::Done => break,
                    Event::Failed(e) => bail!("the engine failed: {e}"),
                }
            }
        }
        Ok((begun.elapsed().as_secs_f64(), tokens, first))
    }

    /// Each round measures one at a time and then every concurrency, so that a noisy stretch hits both; medians over rounds.
    fn rows(&self, make: &dyn Fn(u64) -> anyhow::Result<Submission>) -> anyhow::Result<Vec<Row>> {
        let mut measured: Vec<Vec<(f64, usize, f64)>> = vec![vec![]; CONCURRENCY.len()];
        for _ in 0..self.rounds {
            for (at, &n) in CONCURRENCY.iter().enumerate() {
                let mut alone = 0.0;
                for seed in 0..n as u64 {
                    alone += self.burst(1, &|_| make(seed))?.0;
                }
                let (seconds, tokens, _) = self.burst(n, make)?;
                measured[at].push((seconds, tokens, alone / seconds));
            }
        }
        let row = |(runs, &n): (&Vec<(f64, usize, f64)>, &usize)| {
            let seconds = median(runs.iter().map(|run| run.0));
            let tokens = median(runs.iter().map(|run| run.1 as f64));
            Row {
                concurrent: n,
                requests: n * self.rounds,
                seconds,
                per_second: n as f64 / seconds,
                tokens_per_second: tokens / seconds,
                times_one_at_a_time: median(runs.iter().map(|run| run.2)),
            }
        };
        Ok(measured.iter().zip(&CONCURRENCY).map(row).collect())
    }
}

pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Measures an idle engine, `rounds` times over.
///
/// # Errors
/// When the engine fails. Call it outside an async runtime.
pub fn run(handle: &EngineHandle, guidance: f32, rounds: usize) -> anyhow::Result<Report> {
    let bench = Bench { handle, guidance, rounds: rounds.max(1) };
    let (draw, ask) = (|seed| bench.draw(seed), |seed| bench.ask(seed));
    bench.burst(2, &draw)?; // warms caches and allocator
    bench.burst(2, &ask)?;
    let firsts = (0..bench.rounds.max(5)).map(|_| bench.burst(1, &ask)).collect::<anyhow::Result<Vec<_>>>()?;
    let pictures = bench.rows(&draw)?;
    let answers = bench.rows(&ask)?;
    let alone = pictures.first().map_or(f64::NAN, |row| row.seconds);
    Ok(Report {
        version: handle.model().version().0.clone(),
        guidance,
        picture_seconds: alone,
        first_token_ms: 1e3 * median(firsts.into_iter().map(|(_, _, first)| first)),
        steps_per_second: handle.model().config().image_tokens() as f64 / alone,
        pictures,
        answers,
    })
}
