//! What people judged as lessons, on the demo model: advantages by what was said, older weights by their importance, corrections as
//! exercises, and what is left out.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::Device;
use ulm::demo;
use ulm::domain::id::{BlobId, CallId, ChatId, FeedbackId, ImagesId, SampleId};
use ulm::domain::picture::Picture;
use ulm::domain::record::{Asked, By, Call, Feedback, Opinion, Record};
use ulm::domain::sample::{Finish, Output, Sample, Version};
use ulm::domain::task::{Answer, Draw, Part, Role, Sampling, Turn};
use ulm::engine::command::Work;
use ulm::engine::{Engine, EngineOptions};
use ulm::reward;
use ulm::reward::answer::QaType;
use ulm::reward::human::{Heard, Listening, hear};
use ulm::store::{Kept, RatedCall, digest};
use ulm::train::TrainError;
use ulm::train::corl::rollout::roll;
use ulm::train::player::Player;
use ulm::train::round::describer::Describer;
use ulm::train::round::gather::{Lessons, Taking, corrected, is_held_out, lessons, prompts, unlabelled, votes};
use ulm::train::round::liking::Tasted;
use ulm::train::round::own::{Own, guards};
use ulm::train::round::taste::Taste;

use super::swap::changed;

fn blob() -> BlobId {
    digest(b"a picture").unwrap()
}

fn picture(_: &BlobId) -> Result<Arc<Picture>, TrainError> {
    Ok(Arc::new(Picture::filled(64, 64, [200, 30, 30])))
}

fn call(asked: Asked, version: &Version) -> Call {
    let id = match asked {
        Asked::Draw(_) => CallId::Images(ImagesId::fresh()),
        Asked::Answer(_) => CallId::Chat(ChatId::fresh()),
    };
    Call {
        id,
        created_ms: 1,
        asked,
        model: "ulm".into(),
        version: version.clone(),
        config: String::new(),
        prompt_tokens: 1,
        by: By::default(),
        metadata: BTreeMap::new(),
    }
}

fn record(at: u32, sampling: Sampling, sample: Sample<BlobId>) -> Record {
    Record { id: SampleId::fresh(), at, sampling, sample, millis: 1 }
}

fn said(sample: SampleId, opinion: Opinion, rater: &str) -> Feedback {
    Feedback {
        id: FeedbackId::fresh(),
        client_key: None,
        sample,
        opinion,
        rater: Some(rater.into()),
        key: String::new(),
        metadata: BTreeMap::new(),
        created_ms: 1,
        revised_ms: None,
    }
}

/// A prompt like `text` that is learned from.
fn learned(text: &str) -> Draw {
    let some = (0..).map(|n| Draw { prompt: format!("{text}{}", " ".repeat(n)) });
    some.into_iter().find(|draw| !is_held_out(&Asked::Draw(draw.clone()))).unwrap()
}

/// A request drawn by the engine, with a thumb for each picture.
fn drawn(player: &Player, draw: &Draw, thumbs: &[bool]) -> RatedCall {
    let guidance = player.model.defaults().guidance;
    let samplings: Vec<Sampling> =
        (0..thumbs.len() as u64).map(|seed| Sampling { seed, guidance, ..Sampling::default() }).collect();
    let prompt = player.model.prompter().draw(draw).unwrap();
    let samples = roll(player, vec![(Work::Draw(prompt), samplings.clone())]).unwrap().pop().unwrap();
    let records: Vec<Record> = samples
        .into_iter()
        .zip(samplings)
        .enumerate()
        .map(|(at, (sample, sampling))| {
            record(at as u32, sampling, sample.try_map(|_| Ok::<_, TrainError>(blob())).unwrap())
        })
        .collect();
    let feedback = records.iter().zip(thumbs).map(|(record, &up)| said(record.id, Opinion::Thumb(up), "ann")).collect();
    RatedCall { kept: Kept { call: call(Asked::Draw(draw.clone()), player.model.version()), records }, feedback }
}

fn heard(rated: &[RatedCall]) -> BTreeMap<SampleId, Heard> {
    hear(&votes(rated), |_| None, &BTreeMap::new(), Listening { cap: 1.0, ..Listening::default() }).0
}

const TAKING: Taking = Taking { cap: 2.0, hold: 0.0, least: 0.0, pictures: true };

#[test]
fn what_was_said_becomes_advantages() {
    let model = Arc::new(demo::load(&Device::Cpu).unwrap());
    let engine = Engine::spawn(Arc::clone(&model), EngineOptions::default()).unwrap();
    let player = Player::alone(&engine);
    let rated = [
        drawn(&player, &learned("a red circle"), &[true, false, false, false]),
        drawn(&player, &learned("two stars"), &[true, true]),
        drawn(&player, &learned("a blue heart"), &[true]),
        drawn(&player, &learned("a green cross"), &[false]),
    ];
    let young = |version: &Version| version == model.version();
    let all = lessons(&rated, &heard(&rated), &model, TAKING, young, &mut picture).unwrap();
    // Two that are alike tell nothing; one alone is held against the other that is alone.
    assert_eq!((all.lessons.len(), all.pictures, all.answers, all.too_old), (3, 6, 0, 0));
    assert_eq!(all.samples.len(), 6);
    let mut found: Vec<Vec<f64>> =
        all.lessons.iter().map(|lesson| lesson.tries.iter().map(|one| one.advantage).collect()).collect();
    found.sort_by_key(Vec::len);
    found[..2].sort_by(|a, b| a[0].total_cmp(&b[0]));
    assert_eq!(found[..2], [vec![-1.0], vec![1.0]]);
    assert!((found[2][0] - 1.4997).abs() < 1e-3 && (found[2][1] + 0.4999).abs() < 1e-3, "{found:?}");
    for lesson in &all.lessons {
        assert!((lesson.guidance - model.defaults().guidance).abs() < 1e-6 && lesson.temperature == 1.0);
        assert!(lesson.tries.iter().all(|one| one.importance.is_empty() && one.sampled.len() == one.tokens.len()));
    }

    // Beside what is said, each may earn the same; what tells nothing still tells nothing.
    let held = lessons(&rated, &heard(&rated), &model, Taking { hold: 0.5, ..TAKING }, young, &mut picture).unwrap();
    let advantages = |all: &Lessons| -> Vec<f64> {
        all.lessons.iter().flat_map(|lesson| &lesson.tries).map(|one| one.advantage).collect()
    };
    assert_eq!(advantages(&held), advantages(&all).into_iter().map(|earned| earned + 0.5).collect::<Vec<_>>());

    // What earns too little is left out.
    let some = lessons(&rated, &heard(&rated), &model, Taking { least: 1.2, ..TAKING }, young, &mut picture).unwrap();
    let kept = |earned: f64| if earned.abs() < 1.2 { 0.0 } else { earned };
    assert_eq!(advantages(&some), advantages(&all).into_iter().map(kept).collect::<Vec<_>>());

    // What teaches otherwise is no lesson, but is learned from.
    let other = lessons(&rated, &heard(&rated), &model, Taking { pictures: false, ..TAKING }, young, &mut picture);
    let other = other.unwrap();
    assert_eq!((other.lessons.len(), other.pictures, other.samples.len()), (0, 8, 8));

    // Weights that are not young are not learned from; what other young ones drew weighs what it must.
    let none = lessons(&rated, &heard(&rated), &model, TAKING, |_| false, &mut picture).unwrap();
    assert_eq!((none.lessons.len(), none.too_old), (0, 8));
    let other = changed(&model, 0.02);
    let renewed = lessons(&rated, &heard(&rated), &other, TAKING, young, &mut picture).unwrap();
    for (before, after) in all.lessons.iter().zip(&renewed.lessons) {
        for (before, after) in before.tries.iter().zip(&after.tries) {
            for (at, weight) in after.importance.iter().enumerate() {
                let wanted = (after.sampled[at] - before.sampled[at]).exp().min(2.0);
                assert!((weight - wanted).abs() < 1e-5, "{weight} {wanted}");
            }
            assert!(after.importance.iter().any(|weight| (weight - 1.0).abs() > 1e-3));
        }
    }
}

#[test]
fn the_same_weights_weigh_one() {
    let model = Arc::new(demo::load(&Device::Cpu).unwrap());
    let engine = Engine::spawn(Arc::clone(&model), EngineOptions::default()).unwrap();
    let rated = [drawn(&Player::alone(&engine), &learned("a red circle"), &[true, false])];
    let mut all = lessons(&rated, &heard(&rated), &model, TAKING, |_| true, &mut picture).unwrap();
    all.lessons[0].renew(&model, 2.0).unwrap();
    let weights = all.lessons[0].tries.iter().flat_map(|one| &one.importance);
    assert!(weights.clone().count() > 0 && weights.clone().all(|weight| (weight - 1.0).abs() < 1e-3));
}

#[test]
fn votes_are_numbers_and_corrections_exercises() {
    let version = Version("a".repeat(64));
    let question = Part::Text("What color is it?".into());
    let turns = vec![Turn { role: Role::User, parts: vec![Part::Picture(blob()), question] }];
    let asked = (0..)
        .map(|n| Asked::Answer(Answer { system: Some(" ".repeat(n)), turns: turns.clone() }))
        .find(|asked| !is_held_out(asked))
        .unwrap();
    let answer = record(
        0,
        Sampling::default(),
        Sample {
            tokens: vec![1],
            log_probs: vec![-0.1],
            conditional_log_probs: vec![],
            seed: 0,
            version: version.clone(),
            finish: Finish::Stop,
            output: Output::Text("blue".into()),
            timings: ulm::domain::sample::Timings::default(),
        },
    );
    let id = answer.id;
    let draw = learned("a red circle");
    let pictures: Vec<Record> = (0..2)
        .map(|at| Record {
            id: SampleId::fresh(),
            sample: Sample { output: Output::Picture(blob()), ..answer.sample.clone() },
            at,
            ..answer.clone()
        })
        .collect();
    let [first, second] = [pictures[0].id, pictures[1].id];
    let rated = [
        RatedCall {
            kept: Kept { call: call(asked, &version), records: vec![answer] },
            feedback: vec![
                said(id, Opinion::CorrectAnswer("red".into()), "ann"),
                said(id, Opinion::Rating { value: 2.0, least: 1.0, most: 5.0 }, "bob"),
                said(id, Opinion::Comment("hm".into()), "bob"),
            ],
        },
        RatedCall {
            kept: Kept { call: call(Asked::Draw(draw.clone()), &version), records: pictures },
            feedback: vec![
                said(first, Opinion::Preferred { over: vec![second] }, "ann"),
                said(second, Opinion::CorrectPicture(blob()), "ann"),
            ],
        },
    ];
    let numbers: Vec<(SampleId, f64)> = votes(&rated).into_iter().map(|vote| (vote.sample, vote.value)).collect();
    assert_eq!(numbers, [(id, 0.0), (id, 0.25), (first, 1.0), (second, 0.0), (second, 0.0)]);
    assert!(corrected(&rated, true, &mut picture).unwrap().is_empty(), "nothing of it is held out");
    assert_eq!((prompts(&rated, true).count(), prompts(&rated, false).count()), (0, 1));
    let exercises = corrected(&rated, false, &mut picture).unwrap();
    let ask = exercises[0].ask.as_ref().unwrap();
    assert_eq!((ask.problem.as_str(), ask.solution.as_deref()), ("What color is it?", Some("<answer>red</answer>")));
    let wanted = exercises[1].draw.as_ref().unwrap();
    assert!(wanted.prompt == draw.prompt && wanted.real.is_some() && exercises.len() == 2);
    // By letter, and not corrected: the model's own majority may teach it. What was corrected is labelled, and words have no majority.
    assert!(unlabelled(&rated, &mut picture).unwrap().is_empty());
    let by_letter = |n: usize| {
        let parts = vec![Part::Picture(blob()), Part::Text(format!("Which{}?\nA. red\nB. blue", " ".repeat(n)))];
        Asked::Answer(Answer { system: None, turns: vec![Turn { role: Role::User, parts }] })
    };
    let asked = (0..).map(by_letter).find(|asked| !is_held_out(asked)).unwrap();
    let rated: Vec<RatedCall> = [vec![], vec![said(id, Opinion::CorrectAnswer("A".into()), "ann")]]
        .map(|feedback| RatedCall { kept: Kept { call: call(asked.clone(), &version), records: vec![] }, feedback })
        .into();
    let found = unlabelled(&rated[..1], &mut picture).unwrap();
    assert!(found.len() == 1 && found[0].ask.as_ref().unwrap().solution.is_none());
    assert!(unlabelled(&rated[1..], &mut picture).unwrap().is_empty());
    // About a tenth of all requests is kept for judging.
    let kept = (0..1000).filter(|n| is_held_out(&Asked::Draw(Draw { prompt: format!("{n}") }))).count();
    assert!((60..150).contains(&kept), "{kept}");
}

/// Held-out requests of users: what both versions make of them guards the gate, where there is enough of them.
#[test]
fn what_is_held_out_is_done_alike_by_both() {
    let model = Arc::new(demo::load(&Device::Cpu).unwrap());
    let engine = Engine::spawn(Arc::clone(&model), EngineOptions::default()).unwrap();
    let player = Player::alone(&engine);
    let colours = ["red", "blue", "green", "yellow"];
    let shapes = ["circle", "star", "heart", "cross", "square"];
    let drawn = |at: usize| Draw { prompt: format!("a {} {}", colours[at % 4], shapes[at / 4]) };
    let corrected = |at: usize| {
        let problem = format!("What color is it{}?", " ".repeat(at));
        let parts = vec![Part::Picture(picture(&blob()).unwrap()), Part::Text(problem.clone())];
        let conversation = Answer { system: None, turns: vec![Turn { role: Role::User, parts }] };
        let solution = Some("<answer>red</answer>".to_owned());
        reward::Asked { conversation, problem, solution, kind: QaType::Open, item: None }
    };
    let describer = Arc::new(Describer::learn(&model, None, &[], 0, 1, |_, _| true).unwrap().unwrap());
    let taste = Tasted { taste: Taste::learn(&[]), describer };
    let mut own =
        Own { prompts: (0..20).map(drawn).collect(), taste: Some(taste), corrected: (0..20).map(corrected).collect() };
    let looks = |own: &Own| own.looks(&player, model.defaults()).unwrap();
    let both = guards(&looks(&own), &looks(&own));
    let names: Vec<&str> = both.iter().map(|guard| guard.name.as_str()).collect();
    assert_eq!(names, ["taste of held-out requests", "held-out corrections"]);
    assert!(both.iter().all(|guard| guard.live == guard.candidate), "{both:?}");
    assert_eq!(both[0].live, 0.5, "a taste that knows nothing");
    own.prompts.pop();
    own.corrected.pop();
    assert!(guards(&looks(&own), &looks(&own)).is_empty(), "too few tell nothing");
}
