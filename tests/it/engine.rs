//! The engine with a real small model: what a sample is must not depend on its company, and every submission ends exactly once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use ulm::domain::picture::Picture;
use ulm::domain::sample::{Finish, Output, Sample, Version};
use ulm::domain::task::{Answer, Draw, Part, Role, Sampling, Turn};
use ulm::engine::command::{Event, Events, Lane, Submission, Work};
use ulm::engine::{Engine, EngineError, EngineHandle, EngineOptions, Halt, SubmitError};
use ulm::model::network::{Chunk, Span};
use ulm::model::prompt::{AnswerPrompt, Piece};
use ulm::model::{Model, policy};

use crate::engine_model as small;

fn engine(options: EngineOptions) -> EngineHandle {
    Engine::spawn(small::model(1), options).unwrap()
}

fn draw(model: &Model, prompt: &str) -> Work {
    Work::Draw(model.prompter().draw(&Draw { prompt: prompt.to_owned() }).unwrap())
}

fn ask(model: &Model, question: &str, pictures: &[Picture]) -> Work {
    let mut parts: Vec<Part> = pictures.iter().map(|picture| Part::Picture(Arc::new(picture.clone()))).collect();
    parts.push(Part::Text(question.to_owned()));
    Work::Answer(
        model.prompter().answer(&Answer { system: None, turns: vec![Turn { role: Role::User, parts }] }).unwrap(),
    )
}

fn seeded(seed: u64) -> Sampling {
    Sampling { seed, max_tokens: 12, ..Sampling::default() }
}

fn guided(seed: u64, guidance: f32) -> Sampling {
    Sampling { seed, guidance, ..Sampling::default() }
}

fn submit(engine: &EngineHandle, work: Work, samplings: Vec<Sampling>) -> Events {
    engine.submit(Submission { work, samplings, lane: Lane::Interactive }).unwrap()
}

/// All events of a submission; checks that the terminal one comes last and once.
fn drain(mut events: Events) -> Vec<Event> {
    let all: Vec<Event> = std::iter::from_fn(|| events.blocking_next()).collect();
    let ends = all.iter().filter(|event| matches!(event, Event::Done | Event::Failed(_))).count();
    assert_eq!(ends, 1, "{all:?}");
    assert!(matches!(all.last(), Some(Event::Done | Event::Failed(_))));
    all
}

/// The samples of a submission that is to succeed, by index.
fn samples(events: Events) -> Vec<Sample> {
    let mut found: Vec<(usize, Sample)> = Vec::new();
    for event in drain(events) {
        match event {
            Event::Finished { index, sample } => found.push((index, sample)),
            Event::Failed(error) => panic!("{error}"),
            Event::Token { .. } | Event::Done => {}
        }
    }
    found.sort_by_key(|(index, _)| *index);
    assert!(found.iter().enumerate().all(|(at, (index, _))| at == *index));
    found.into_iter().map(|(_, sample)| sample).collect()
}

fn one(events: Events) -> Sample {
    samples(events).remove(0)
}

fn error(events: Events) -> EngineError {
    match drain(events).pop() {
        Some(Event::Failed(error)) => error,
        other => panic!("{other:?}"),
    }
}

fn wait(what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(20), "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn close(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4)
}

#[test]
fn a_seed_gives_the_same_sample_alone_and_in_a_crowd() {
    let engine = engine(EngineOptions { rows: 8, prefill: 20, ..EngineOptions::default() });
    let model = engine.model();
    let picture = Picture::filled(30, 20, [200, 30, 90]);
    let works = || {
        vec![
            (draw(&model, "a red circle"), guided(3, 5.0)),
            (draw(&model, "a red circle"), guided(4, 1.0)),
            (draw(&model, "two squares"), Sampling { temperature: 0.7, ..guided(5, 2.0) }),
            (ask(&model, "what is it?", std::slice::from_ref(&picture)), seeded(6)),
            (ask(&model, "and this?", &[picture.clone(), picture.clone()]), Sampling { top_p: 0.5, ..seeded(7) }),
            (ask(&model, "count", &[]), Sampling { temperature: 0.3, ..seeded(8) }),
        ]
    };
    let alone: Vec<Sample> =
        works().into_iter().map(|(work, sampling)| one(submit(&engine, work, vec![sampling]))).collect();
    let crowd: Vec<Events> =
        works().into_iter().map(|(work, sampling)| submit(&engine, work, vec![sampling])).collect();
    for (alone, crowd) in alone.into_iter().zip(crowd) {
        let crowd = one(crowd);
        assert_eq!(alone.tokens, crowd.tokens);
        assert!(close(&alone.log_probs, &crowd.log_probs));
        assert!(close(&alone.conditional_log_probs, &crowd.conditional_log_probs));
        assert_eq!(alone.output, crowd.output);
        assert_eq!(&alone.version, model.version());
    }
}

#[test]
fn pictures_of_one_prompt_are_those_of_their_seeds_though_rows_are_few() {
    let engine = engine(EngineOptions { rows: 5, ..EngineOptions::default() });
    let model = engine.model();
    let samplings: Vec<Sampling> = [(0, 3.0), (1, 3.0), (2, 1.0), (3, 3.0), (4, 0.0), (0, 3.0), (6, 1.0)]
        .map(|(seed, w)| guided(seed, w))
        .to_vec();
    let together = samples(submit(&engine, draw(&model, "a heart"), samplings.clone()));
    assert_eq!(together.len(), samplings.len());
    for (sample, sampling) in together.iter().zip(samplings) {
        let alone = one(submit(&engine, draw(&model, "a heart"), vec![sampling.clone()]));
        assert_eq!((&sample.tokens, sample.seed), (&alone.tokens, sampling.seed));
        assert_eq!(sample.tokens.len(), model.config().image_tokens());
        let Output::Picture(picture) = &sample.output else { panic!("no picture") };
        assert_eq!((picture.width(), picture.height()), (16, 16));
    }
    assert_eq!(together[0].tokens, together[5].tokens, "a seed is a picture");
    assert_ne!(together[0].tokens, together[1].tokens);
    wait("free rows", || engine.load().running == 0);
}

/// What the trainer would find: every position of a picture computed anew, in one pass from the start.
#[test]
fn logged_probabilities_are_those_of_the_policy() {
    let engine = engine(EngineOptions { prefill: 7, ..EngineOptions::default() });
    let model = engine.model();
    let sampling = Sampling { temperature: 0.8, ..guided(11, 4.0) };
    let sample = one(submit(&engine, draw(&model, "a star"), vec![sampling]));
    let prompt = model.prompter().draw(&Draw { prompt: "a star".to_owned() }).unwrap();
    let count = sample.tokens.len();
    let mut slots = model.slots(count, 256).unwrap();
    let mut logits = |ids: &[u32]| -> Tensor {
        let chunks = |at: usize| {
            let codes = (at > 0).then(|| Chunk::Codes(&sample.tokens[..at]));
            std::iter::once(Chunk::Text(ids)).chain(codes).collect()
        };
        let spans: Vec<Span<'_>> = (0..count).map(|at| Span { slot: at, start: 0, chunks: chunks(at) }).collect();
        model.image_logits(&model.step(&spans, &mut slots).unwrap()).unwrap()
    };
    let conditional = logits(&prompt.conditional);
    let unconditional = logits(&prompt.unconditional);
    let guided = policy::guide(&conditional, &unconditional, 4.0).unwrap();
    let of = |logits: &Tensor| -> Vec<f32> {
        let temperature = f64::from(0.8_f32);
        policy::log_prob_of(logits, &sample.tokens, temperature).unwrap().to_vec1().unwrap()
    };
    assert!(close(&of(&guided), &sample.log_probs), "{:?}\n{:?}", of(&guided), sample.log_probs);
    assert!(close(&of(&conditional), &sample.conditional_log_probs));
}

#[test]
fn greedy_replies_do_not_depend_on_the_seed() {
    let engine = engine(EngineOptions::default());
    let model = engine.model();
    let greedy = |seed| Sampling { temperature: 0.0, ..seeded(seed) };
    let answers = samples(submit(&engine, ask(&model, "why?", &[]), vec![greedy(1), greedy(2)]));
    assert_eq!(answers[0].tokens, answers[1].tokens);
    let pictures = samples(submit(&engine, draw(&model, "sky"), vec![greedy(1), greedy(2)]));
    assert_eq!(pictures[0].tokens, pictures[1].tokens);
}

#[test]
fn answer_events_tell_the_whole_answer() {
    let engine = engine(EngineOptions::default());
    let model = engine.model();
    let sampling = Sampling { max_tokens: 40, top_log_probs: 3, ..seeded(5) };
    let events =
        drain(submit(&engine, ask(&model, "say", &[]), vec![sampling.clone(), Sampling { seed: 6, ..sampling }]));
    for wanted in 0..2 {
        let (mut text, mut tokens, mut log_probs) = (String::new(), vec![], vec![]);
        for event in &events {
            match event {
                Event::Token { index, token, text: piece, log_prob, top } if *index == wanted => {
                    text += piece;
                    tokens.push(*token);
                    log_probs.push(*log_prob);
                    assert!(top.len() == 3 && top.is_sorted_by(|a, b| a.1 >= b.1) && top[0].1 >= *log_prob);
                }
                Event::Finished { index, sample } if *index == wanted => {
                    assert_eq!((&sample.tokens, &sample.log_probs), (&tokens, &log_probs));
                    assert_eq!(sample.output, Output::Text(text.clone()));
                    let ended = tokens.last() == Some(&model.prompter().end_of_text());
                    assert!(ended || (sample.finish == Finish::Length && tokens.len() == 40));
                    assert_eq!(text, model.prompter().decode(&tokens));
                }
                _ => {}
            }
        }
        let end = model.prompter().end_of_text();
        assert!(tokens.iter().all(|id| *id == end || (*id as usize) < 256), "only text is drawn: {tokens:?}");
    }
}

#[test]
fn an_answer_ends_before_its_stop_string() {
    let engine = engine(EngineOptions::default());
    let model = engine.model();
    let sampling = Sampling { max_tokens: 60, ..seeded(9) };
    let Output::Text(whole) = one(submit(&engine, ask(&model, "go", &[]), vec![sampling.clone()])).output else {
        panic!("no text")
    };
    let stop: String = whole.chars().skip(10).take(2).collect();
    let sample = one(submit(&engine, ask(&model, "go", &[]), vec![Sampling { stop: vec![stop.clone()], ..sampling }]));
    let before = whole.split(&stop).next().unwrap_or_default().to_owned();
    assert_eq!((sample.output, sample.finish), (Output::Text(before), Finish::Stop));
}

#[test]
fn a_reader_that_leaves_frees_its_rows() {
    let engine = engine(EngineOptions { rows: 2, ..EngineOptions::default() });
    let model = engine.model();
    let long = Sampling { max_tokens: 200, stop: vec![], ..seeded(0) };
    let mut left = submit(&engine, ask(&model, "talk", &[]), vec![long.clone(), long.clone(), long]);
    assert!(matches!(left.blocking_next(), Some(Event::Token { .. })));
    let next = submit(&engine, draw(&model, "tree"), vec![guided(1, 2.0)]);
    drop(left);
    assert_eq!(one(next).tokens.len(), 16);
    wait("an idle engine", || engine.load().running == 0 && engine.load().queued == 0);
}

#[test]
fn a_full_queue_refuses_at_once_and_lanes_have_their_own() {
    let engine = engine(EngineOptions { rows: 2, queue: 1, ..EngineOptions::default() });
    let model = engine.model();
    let two = || vec![guided(1, 2.0), guided(2, 2.0)];
    let many = std::iter::repeat_with(two).take(200).flatten().collect();
    let first = submit(&engine, draw(&model, "sea"), many);
    let again = |lane| engine.submit(Submission { work: draw(&model, "sea"), samplings: two(), lane });
    assert_eq!(again(Lane::Interactive).err(), Some(SubmitError::Busy));
    assert_eq!(engine.load().queued, 1);
    let background = again(Lane::Background).unwrap();
    drop(first);
    assert_eq!(samples(background).len(), 2);
    assert_eq!(samples(again(Lane::Interactive).unwrap()).len(), 2);
}

#[test]
fn logits_that_are_not_finite_fail_their_submission_alone() {
    let engine = Engine::spawn(small::broken_model(), EngineOptions::default()).unwrap();
    let model = engine.model();
    let picture = submit(&engine, draw(&model, "void"), vec![guided(1, 2.0), guided(2, 2.0)]);
    let answer = submit(&engine, ask(&model, "void", &[]), vec![seeded(1)]);
    for events in [picture, answer] {
        let error = error(events);
        assert!(matches!(error, EngineError::Sampler(_)), "{error}");
        assert!(error.to_string().contains("not finite"), "{error}");
    }
    assert!(engine.is_alive());
    wait("free rows", || engine.load().running == 0);
}

#[test]
fn a_bad_step_fails_and_the_next_one_runs() {
    let engine = engine(EngineOptions::default());
    let model = engine.model();
    let prompt = AnswerPrompt { pieces: vec![Piece::Text(vec![1, 1_000_000])], pictures: vec![], image_tokens: 16 };
    assert!(matches!(error(submit(&engine, Work::Answer(prompt), vec![seeded(1)])), EngineError::Model(_)));
    assert_eq!(one(submit(&engine, draw(&model, "dawn"), vec![guided(1, 3.0)])).tokens.len(), 16);
}

#[test]
fn what_cannot_fit_is_refused() {
    let engine = engine(EngineOptions { capacity: 40, ..EngineOptions::default() });
    let model = engine.model();
    let long = "x".repeat(60);
    let refused =
        engine.submit(Submission { work: draw(&model, &long), samplings: vec![seeded(0)], lane: Lane::Interactive });
    assert!(matches!(refused.err(), Some(SubmitError::TooLong { limit: 40, .. })));
    let answer = one(submit(&engine, ask(&model, "short", &[]), vec![Sampling { max_tokens: 10_000, ..seeded(3) }]));
    assert!(answer.tokens.len() < 40);
}

#[test]
fn draining_finishes_what_was_taken_and_takes_no_more() {
    let engine = engine(EngineOptions { rows: 2, ..EngineOptions::default() });
    let model = engine.model();
    let taken: Vec<Events> =
        (0..4).map(|seed| submit(&engine, draw(&model, "dusk"), vec![guided(seed, 2.0)])).collect();
    engine.halt(Halt::Drain);
    let late =
        engine.submit(Submission { work: draw(&model, "dusk"), samplings: vec![seeded(0)], lane: Lane::Interactive });
    assert_eq!(late.err(), Some(SubmitError::Stopped));
    for events in taken {
        assert_eq!(samples(events).len(), 1);
    }
    engine.join();
    assert!(!engine.is_alive());
}

#[test]
fn halting_now_fails_what_is_left() {
    let engine = engine(EngineOptions { rows: 2, ..EngineOptions::default() });
    let model = engine.model();
    let samplings = vec![guided(0, 2.0); 500];
    let left: Vec<Events> = (0..3).map(|_| submit(&engine, draw(&model, "night"), samplings.clone())).collect();
    engine.halt(Halt::Now);
    for events in left {
        assert!(matches!(error(events), EngineError::Stopped));
    }
    engine.join();
}

#[test]
fn dropped_handles_end_the_thread_after_its_work() {
    let engine = engine(EngineOptions::default());
    let model = engine.model();
    let events = submit(&engine, draw(&model, "last"), vec![guided(0, 2.0)]);
    drop(engine);
    assert_eq!(samples(events).len(), 1);
    wait("the thread to let its model go", || Arc::strong_count(&model) == 1);
}

/// Arbitrary company: submissions of all kinds, some abandoned at some point; the others end exactly once and no row is lost.
#[test]
fn every_submission_ends_exactly_once() {
    let engine = engine(EngineOptions {
        rows: 6,
        queue: 1_000,
        background_rows: 3,
        prefill: 9,
        turn: 2,
        ..EngineOptions::default()
    });
    let model = engine.model();
    let picture = Picture::filled(8, 8, [1, 2, 3]);
    let mut state = 7_u64;
    let mut below = |n: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % n
    };
    let mut kept = Vec::new();
    for round in 0..60 {
        let count = 1 + below(4) as usize;
        let samplings =
            |weights: u64| (0..count as u64).map(|at| guided(at, (weights + at) as f32 % 3.0)).collect::<Vec<_>>();
        let (work, samplings) = match below(3) {
            0 => (draw(&model, "x"), samplings(below(3))),
            1 => (
                ask(&model, "y", std::slice::from_ref(&picture)),
                vec![Sampling { max_tokens: 1 + below(20) as usize, ..seeded(round) }; count],
            ),
            _ => (
                Work::Answer(AnswerPrompt {
                    pieces: vec![Piece::Text(vec![2; 30])],
                    pictures: vec![],
                    image_tokens: 16,
                }),
                vec![seeded(round)],
            ),
        };
        let lane = if below(3) == 0 { Lane::Background } else { Lane::Interactive };
        let mut events = engine.submit(Submission { work, samplings, lane }).unwrap();
        match below(4) {
            0 => drop(events),
            1 => drop(events.blocking_next()),
            _ => kept.push((events, count)),
        }
    }
    for (events, count) in kept {
        let finished = drain(events).iter().filter(|event| matches!(event, Event::Finished { .. })).count();
        assert!(finished >= 1 && finished <= count);
    }
    wait("an idle engine", || engine.load().running == 0 && engine.load().queued == 0);
    assert_eq!(samples(submit(&engine, draw(&model, "all rows"), vec![guided(0, 2.0); 3])).len(), 3);
}

#[test]
fn new_weights_take_over_and_running_work_ends_on_the_old() {
    let (old, new) = (small::model(1), small::model(2));
    let works = |model: &Model| {
        let picture = Picture::filled(30, 20, [200, 30, 90]);
        vec![
            (draw(model, "a red circle"), vec![guided(3, 5.0), guided(4, 5.0)]),
            (ask(model, "what is it?", &[picture]), vec![seeded(6)]),
            (draw(model, "a blue circle"), vec![guided(5, 1.0)]),
        ]
    };
    let tokens = |events: Vec<Events>| -> Vec<(Vec<u32>, Version)> {
        events.into_iter().flat_map(samples).map(|sample| (sample.tokens, sample.version)).collect()
    };
    let alone = |model: &Arc<Model>| {
        let engine = Engine::spawn(Arc::clone(model), EngineOptions::default()).unwrap();
        tokens(works(model).into_iter().map(|(work, samplings)| submit(&engine, work, samplings)).collect())
    };
    let (before, after) = (alone(&old), alone(&new));
    assert!(before.iter().all(|(_, version)| version == old.version()));
    assert_ne!(before, after);

    let engine = Engine::spawn(Arc::clone(&old), EngineOptions { rows: 16, ..EngineOptions::default() }).unwrap();
    for _ in 0..8 {
        // Begun in one step, on the old weights; the new ones come while it runs, and then work that runs beside it.
        let crowd =
            works(&old).into_iter().map(|(work, samplings)| Submission { work, samplings, lane: Lane::Interactive });
        let running = engine.submit_all(&old, crowd.collect()).unwrap();
        wait("rows", || engine.load().running > 0);
        engine.promote(Arc::clone(&new)).unwrap();
        assert_eq!(engine.model().version(), new.version());
        let beside = works(&new).into_iter().map(|(work, samplings)| submit(&engine, work, samplings)).collect();
        assert_eq!(tokens(running), before);
        assert_eq!(tokens(beside), after);
        engine.promote(Arc::clone(&old)).unwrap();
    }
}

#[test]
fn weights_of_another_model_are_refused() {
    let engine = engine(EngineOptions::default());
    let other = Arc::new(Model::load(&crate::golden::path("mha"), &Device::Cpu).unwrap());
    assert!(engine.promote(other).unwrap_err().to_string().contains("config.json"));
}
