//! Every stage learns, and continues from a checkpoint as if it had not been stopped.

use std::sync::LazyLock;

use super::*;
use crate::train::run::Stage;

const SEED: u64 = 3;

static TOKENIZER: LazyLock<Vec<u8>> = LazyLock::new(|| tokenizer::build(SEED).unwrap());

fn learner(trains: &[&str]) -> Learner {
    let tokenizer = TOKENIZER.clone();
    let (vocabulary, image_token_id) = tokenizer::sizes(&tokenizer).unwrap();
    let config = demo_config(32, vocabulary, image_token_id);
    let fresh = Params::fresh(SEED, &Device::Cpu);
    Network::new(&fresh.root(), &config).unwrap();
    Learner::new(&config, fresh.finish().unwrap(), trains, &tokenizer, &Device::Cpu).unwrap()
}

/// Four steps straight; and two, a checkpoint through a file, and two more with a stage made anew: the same to the last bit.
fn continues(make: &dyn Fn() -> Box<dyn Stage>) {
    let steps = |stage: &mut dyn Stage, range: std::ops::Range<u64>| {
        let metrics: Vec<_> = range.map(|step| stage.step(step).unwrap()).collect();
        let losses = metrics.iter().flatten().map(|(_, value)| *value);
        assert!(losses.clone().all(f64::is_finite));
        losses.collect::<Vec<f64>>()
    };
    let mut straight = make();
    let wanted = steps(&mut *straight, 0..4);

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.safetensors");
    let mut first = make();
    let mut got = steps(&mut *first, 0..2);
    weights::write(&path, &first.state().unwrap(), DType::F32).unwrap();
    let mut second = make();
    second.restore(&weights::read(&path, DType::F32, &Device::Cpu).unwrap()).unwrap();
    got.extend(steps(&mut *second, 2..4));
    assert_eq!(got, wanted);

    let (a, b) = (straight.state().unwrap(), second.state().unwrap());
    assert!(a.keys().eq(b.keys()));
    for (name, tensor) in &a {
        let flat = |t: &candle_core::Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(flat(tensor), flat(&b[name]), "{name}");
    }
}

#[test]
fn vq_continues() {
    let config = demo_config(32, 640, 0);
    // Quantisation begins between the checkpoint and the end.
    let options = VqOptions { seed: SEED, steps: 4, batch: 2, rate: 1e-3, continuous: 3 };
    continues(&|| Box::new(VqStage::new(&config.vq, 64, options.clone(), &Device::Cpu).unwrap()));
}

#[test]
fn words_continue() {
    let options = WordsOptions { seed: SEED, steps: 4, batch: 4, rate: 1e-3 };
    continues(&|| Box::new(WordsStage::new(learner(&words::TRAINS), options.clone()).unwrap()));
}

#[test]
fn sight_continues() {
    let options = SightOptions { seed: SEED, steps: 4, batch: 2, rate: 1e-3 };
    continues(&|| Box::new(SightStage::new(learner(&sight::TRAINS), options.clone()).unwrap()));
}

#[test]
fn joint_continues() {
    let options =
        JointOptions { seed: SEED, steps: 4, schedule: 4, draws: 2, answers: 2, lessons: 1, rate: 1e-3, drop: 0.5 };
    continues(&|| Box::new(JointStage::new(learner(&joint::TRAINS), options.clone()).unwrap()));
}

/// A few steps of look-ups lower their loss: the loop really learns.
#[test]
fn words_are_learned() {
    let options = WordsOptions { seed: SEED, steps: 40, batch: 8, rate: 1e-3 };
    let mut stage = WordsStage::new(learner(&words::TRAINS), options).unwrap();
    let mut loss = |step| stage.step(step).unwrap().iter().find(|(name, _)| *name == "loss").unwrap().1;
    let first = loss(0);
    let last = (1..40).map(&mut loss).last().unwrap();
    assert!(last < first / 2.0, "{first} to {last}");
}
