//! Bad candidates before the gate: weights of the demo model that were spoilt, at work on held-out tasks beside those that were not, and
//! judged as a round judges them. `ULM_BAD` says how many.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use ulm::demo;
use ulm::domain::task::Draw;
use ulm::engine::{Engine, EngineHandle, EngineOptions, Halt};
use ulm::model::params::Tensors;
use ulm::model::{Defaults, Model, ModelError};
use ulm::train::TrainError;
use ulm::train::player::Player;
use ulm::train::round::gate::{Verdict, decide};
use ulm::train::round::judge::{Looks, Suite, compare};
use ulm::world::Colour;

/// Work that a verdict may just rest on: 54 prompts. No questions, in which weights that have forgotten how to end would go on and on.
const SUITE: Suite = Suite { seed: 9, draws: 9, answers: 0 };
/// Noise on weights, as a share of what they are.
const SCALES: [f32; 4] = [0.7, 0.85, 1.0, 3.0];

/// `model` with noise on the decoder's weights.
fn spoilt(model: &Model, scale: f32, seed: u64) -> Model {
    let mut dice = ChaCha8Rng::seed_from_u64(seed);
    let mut tensors: Vec<_> = model.tensors().iter().collect();
    tensors.sort_by_key(|(name, _)| name.as_str());
    let change = |(name, tensor): (&String, &Tensor)| {
        if !name.starts_with("model.language_model.") || tensor.rank() != 2 {
            return (name.clone(), tensor.clone());
        }
        let values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
        let size = (values.iter().map(|value| value * value).sum::<f32>() / values.len() as f32).sqrt();
        // Uniform, with the deviation asked for.
        let width = 3f32.sqrt() * scale * size;
        let noisy = values.into_iter().map(|value| value + width * dice.random_range(-1.0..1.0)).collect::<Vec<_>>();
        (name.clone(), Tensor::from_vec(noisy, tensor.shape(), &Device::Cpu).unwrap())
    };
    model.with_tensors(tensors.into_iter().map(change).collect::<Tensors>()).unwrap()
}

/// `model` with logits of so many times the size: below one it is less sure of everything it draws.
fn dulled(model: &Model, by: f64) -> Result<Model, ModelError> {
    let change = |(name, tensor): (&String, &Tensor)| {
        let hit = name == "model.language_model.norm.weight";
        let tensor = if hit { tensor.affine(by, 0.0).unwrap() } else { tensor.clone() };
        (name.clone(), tensor)
    };
    model.with_tensors(model.tensors().iter().map(change).collect::<Tensors>())
}

/// `model` that takes each colour's word for another's: its pictures are like they were, and wrong.
pub fn muddled(model: &Model) -> Model {
    let name = "model.language_model.embed_tokens.weight";
    let word = |colour: Colour| {
        let prompt = |colour: &str| model.prompter().draw(&Draw { prompt: format!("a {colour} circle") }).unwrap();
        let (with, other) = (prompt(colour.word()), prompt("big"));
        let at = with.conditional.iter().zip(&other.conditional).position(|(a, b)| a != b).unwrap();
        with.conditional[at]
    };
    let words: Vec<u32> = Colour::ALL.into_iter().map(word).collect();
    let table = &model.tensors()[name];
    let mut rows: Vec<u32> = (0..u32::try_from(table.dims()[0]).unwrap()).collect();
    for (at, &word) in words.iter().enumerate() {
        rows[word as usize] = words[(at + 1) % words.len()];
    }
    let rows = Tensor::from_vec(rows, table.dims()[0], &Device::Cpu).unwrap();
    let mut tensors: Tensors = model.tensors().iter().map(|(name, tensor)| (name.clone(), tensor.clone())).collect();
    tensors.insert(name.to_owned(), table.index_select(&rows, 0).unwrap());
    model.with_tensors(tensors).unwrap()
}

fn looks(engine: &EngineHandle, model: Model) -> Result<Looks, TrainError> {
    // A row a picture instead of two: half the time.
    let served = Defaults { guidance: 1.0, ..model.defaults() };
    Looks::of(&Player::beside(engine, Arc::new(model)), SUITE, served)
}

fn judged(live: &Looks, candidate: &Looks, seed: u64) -> Verdict {
    let (measures, guards) = compare(live, candidate, true, false);
    decide(&measures, &guards, seed)
}

/// Candidates of a run.
#[expect(clippy::disallowed_methods, reason = "how long to test is for whoever starts the tests to say")]
fn bad(few: u64) -> u64 {
    std::env::var("ULM_BAD").ok().and_then(|text| text.parse().ok()).unwrap_or(few)
}

#[test]
fn a_bad_candidate_is_never_promoted() {
    let live = Arc::new(demo::load(&Device::Cpu).unwrap());
    let options = EngineOptions { rows: 64, background_rows: 64, ..EngineOptions::default() };
    let engine = Engine::spawn(Arc::clone(&live), options).unwrap();
    let was = looks(&engine, demo::load(&Device::Cpu).unwrap()).unwrap();
    let same = judged(&was, &was, 1);
    assert!(!same.promote && same.reasons[0].contains("chance"), "{:?}", same.reasons);

    assert!(dulled(&live, f64::NAN).is_err(), "what is no number is not even loaded");
    let (tries, mut failed, mut reasons) = (bad(4), 0, std::collections::BTreeMap::new());
    for seed in 0..tries {
        let scale = SCALES[usize::try_from(seed).unwrap() % SCALES.len()];
        let candidate = match seed % 10 {
            // Finite, and what is computed with it is not.
            2 => dulled(&live, 1e37).unwrap(),
            1 => muddled(&live),
            3 => dulled(&live, 0.55).unwrap(),
            _ => spoilt(&live, scale, seed),
        };
        match looks(&engine, candidate) {
            Err(_) => failed += 1,
            Ok(is) => {
                let verdict = judged(&was, &is, seed);
                eprintln!("{seed}: {:.3} → {:.3}", verdict.gain.live, verdict.gain.candidate);
                assert!(!verdict.promote, "candidate {seed}: {verdict:?}");
                assert_eq!(verdict.gain.tasks, 54, "it was not for want of tasks");
                for reason in &verdict.reasons {
                    let what = reason.split(" went").next().unwrap_or_default().to_owned();
                    *reasons.entry(what).or_insert(0) += 1;
                }
            }
        }
    }
    eprintln!("{tries} bad candidates, none promoted; {failed} could not even be judged; refused for {reasons:#?}");
    assert!(failed >= tries / 10, "what draws nothing cannot be judged");
    engine.halt(Halt::Now);
    engine.join();
}
