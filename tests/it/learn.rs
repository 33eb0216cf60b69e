//! CoRL on the demo model: the trainer scores what the engine drew, nothing changes without a reason, and a run that was cut goes on
//! as if it had not been.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use ulm::demo;
use ulm::domain::picture::Picture;
use ulm::domain::sample::{Output, Sample};
use ulm::domain::task::{Draw, Sampling};
use ulm::engine::command::Work;
use ulm::engine::{Engine, EngineOptions};
use ulm::model::Model;
use ulm::model::network::Network;
use ulm::model::params::Tensors;
use ulm::model::prompt::{AnswerPrompt, DrawPrompt};
use ulm::reward::answer::QaType;
use ulm::reward::{
    Accuracy, AnswerReward, Asked, Captioned, DrawReward, Format, Label, Likeness, Matching, Mix, Noise, Oracle,
    Questioned, RewardError, Variety, Verifier, Wanted,
};
use ulm::train::corl::exercise::{Exercise, Practice, Source, of_world};
use ulm::train::corl::loss::Objective;
use ulm::train::corl::rollout::roll;
use ulm::train::corl::score::{Drawn, Plan, Prompt, log_probs};
use ulm::train::corl::{CorlOptions, CorlStage, Scored};
use ulm::train::optim::Schedule;
use ulm::train::player::Player;
use ulm::train::run::{Metrics, Stage};
use ulm::train::trainable::{Lora, SHARPNESS, Trainable};
use ulm::world;

fn model() -> Arc<Model> {
    Arc::new(demo::load(&Device::Cpu).unwrap())
}

/// A small step of the demo's settings.
fn options(practice: Practice, model: &Model) -> CorlOptions {
    CorlOptions {
        prompts: 2,
        questions: 1,
        group: 3,
        steps: 2,
        cold: 0,
        ..CorlOptions::demo(practice, model.defaults())
    }
}

/// The demo's, with a little chance, so that no group is without spread.
fn rewards() -> (Mix<dyn DrawReward>, Mix<dyn AnswerReward>) {
    (
        Mix::new(vec![(Box::new(Verifier { partial: 0.3 }), 1.0), (Box::new(Noise), 0.1)]),
        Mix::new(vec![(Box::new(Accuracy), 1.0), (Box::new(Format), 1.0), (Box::new(Noise), 0.1)]),
    )
}

fn stage(model: &Arc<Model>, options: CorlOptions) -> CorlStage {
    let (draws, answers) = rewards();
    CorlStage::new(Arc::clone(model), options, Source::World, draws, answers).unwrap()
}

fn of(metrics: &Metrics, name: &str) -> f64 {
    metrics.iter().find(|(of, _)| *of == name).unwrap_or_else(|| panic!("{name} in {metrics:?}")).1
}

fn same_bits(a: &Tensor, b: &Tensor) -> bool {
    let bits = |tensor: &Tensor| -> Vec<u32> {
        tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
    };
    bits(a) == bits(b)
}

fn same(a: &Tensors, b: &Tensors) -> bool {
    a.len() == b.len() && a.iter().all(|(name, tensor)| same_bits(tensor, &b[name]))
}

#[test]
fn the_trainer_scores_what_the_engine_drew() {
    let model = model();
    let engine = Engine::spawn(Arc::clone(&model), EngineOptions::default()).unwrap();
    let (mut draws, mut asks): (Vec<(DrawPrompt, f32)>, Vec<AnswerPrompt>) = (vec![], vec![]);
    let mut dice = world::dice(5);
    for guidance in [1.0, 1.35, 5.0] {
        let exercise = of_world(Practice::Unified, &mut dice);
        let prompt = exercise.draw.unwrap().prompt;
        draws.push((model.prompter().draw(&Draw { prompt }).unwrap(), guidance));
        let ask = exercise.ask.unwrap();
        asks.push(model.prompter().answer(&ask.conversation).unwrap());
    }
    let mut work: Vec<(Work, Vec<Sampling>)> = vec![];
    for (prompt, guidance) in &draws {
        let samplings =
            [1, 2].map(|seed| Sampling { seed, guidance: *guidance, temperature: 0.9, ..Sampling::default() });
        work.push((Work::Draw(prompt.clone()), samplings.to_vec()));
    }
    for prompt in &asks {
        let samplings = [1, 2].map(|seed| Sampling { seed, max_tokens: 48, ..Sampling::default() });
        work.push((Work::Answer(prompt.clone()), samplings.to_vec()));
    }
    let groups: Vec<Vec<Sample>> = roll(&Player::alone(&engine), work).unwrap();
    let (mut drawn, mut noted) = (vec![], vec![]);
    for (group, (prompt, guidance)) in groups.iter().zip(&draws) {
        for sample in group {
            for (guidance, log_probs) in [(*guidance, &sample.log_probs), (1.0, &sample.conditional_log_probs)] {
                let prompt = Prompt::Picture { prompt, guidance };
                drawn.push(Drawn { prompt, tokens: &sample.tokens, temperature: 0.9 });
                noted.extend_from_slice(log_probs);
            }
        }
    }
    for (group, prompt) in groups[draws.len()..].iter().zip(&asks) {
        let features = Some(model.see(&prompt.pictures).unwrap());
        for sample in group {
            let prompt = Prompt::Answer { prompt, features: features.clone() };
            drawn.push(Drawn { prompt, tokens: &sample.tokens, temperature: 1.0 });
            noted.extend_from_slice(&sample.log_probs);
        }
    }
    let scored = log_probs(model.network(), &drawn).unwrap().to_vec1::<f32>().unwrap();
    let worst = scored.iter().zip(&noted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert_eq!(scored.len(), noted.len());
    assert!(worst < 1e-4, "{worst}");
}

#[test]
fn what_is_apart_scores_the_same_and_does_not_learn() {
    const WORDS: &str = "model.language_model.embed_tokens.weight";
    let model = model();
    let weights =
        Trainable::new(model.config(), model.tensors().clone(), &["model.language_model."], None, &Device::Cpu)
            .unwrap();
    let prompt = model.prompter().draw(&Draw { prompt: "a red circle".into() }).unwrap();
    let drawn = [Drawn {
        prompt: Prompt::Picture { prompt: &prompt, guidance: 1.35 },
        tokens: &[3, 1, 4, 1, 5],
        temperature: 0.9,
    }];
    let scored = |apart: bool| {
        let plan = Plan::new(&drawn, apart.then(|| model.network())).unwrap();
        let log_probs = plan.score(&weights.network).unwrap();
        let grads = log_probs.sum_all().unwrap().backward().unwrap();
        let slopes = grads.get(&weights.vars()[WORDS]).unwrap().abs().unwrap().sum(1).unwrap();
        (log_probs.to_vec1::<f32>().unwrap(), slopes.to_vec1::<f32>().unwrap())
    };
    let ((among, both), (apart, one)) = (scored(false), scored(true));
    assert!(among.iter().zip(&apart).all(|(a, b)| (a - b).abs() < 1e-4), "{among:?} {apart:?}");
    // The word in place of the prompt's own is read by the unconditional row alone.
    let padding = *prompt.unconditional.iter().find(|id| !prompt.conditional.contains(id)).unwrap() as usize;
    assert!(both[padding] > 0.0 && one[padding] == 0.0, "{} {}", both[padding], one[padding]);
    let word = *prompt.conditional.iter().find(|id| !prompt.unconditional.contains(id)).unwrap() as usize;
    assert!(one[word] > 0.0);
}

/// Against a temperature, and its slope against a difference.
#[test]
fn what_image_logits_are_scaled_by_learns() {
    let model = model();
    let trains = ["model.language_model."];
    let weights = Trainable::new(model.config(), model.tensors().clone(), &trains, None, &Device::Cpu).unwrap();
    let mut weights = weights.sharpening(4.0).unwrap();
    let prompt = model.prompter().draw(&Draw { prompt: "a red circle".into() }).unwrap();
    let score = |network: &Network, temperature: f32| {
        let prompt = Prompt::Picture { prompt: &prompt, guidance: 1.35 };
        log_probs(network, &[Drawn { prompt, tokens: &[3, 1, 4, 1, 5], temperature }]).unwrap()
    };
    let mut at = |scale: f32| {
        weights.vars()[SHARPNESS].set(&Tensor::new(&[scale.ln() / 4.0], &Device::Cpu).unwrap()).unwrap();
        weights.refresh().unwrap();
        let scored = score(&weights.network, 1.0);
        let grads = scored.sum_all().unwrap().backward().unwrap();
        let slope = grads.get(&weights.vars()[SHARPNESS]).unwrap().to_vec1::<f32>().unwrap()[0];
        (scored.to_vec1::<f32>().unwrap(), slope)
    };
    for scale in [1.0, 1.25, 2.0] {
        let expected = score(model.network(), 1.0 / scale).to_vec1::<f32>().unwrap();
        let (scored, slope) = at(scale);
        assert!(scored.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-3), "{scale}: {scored:?} {expected:?}");
        let sum = |(scored, _): (Vec<f32>, f32)| scored.iter().sum::<f32>();
        let difference = (sum(at(scale * 0.04f32.exp())) - sum(at(scale * (-0.04f32).exp()))) / 0.02;
        assert!((slope - difference).abs() < 0.02 * slope.abs(), "{scale}: {slope} {difference}");
    }
    let tensors = weights.snapshot().unwrap();
    assert!(model.with_tensors(tensors).is_ok(), "it is no tensor of its own");
}

/// With half of the samples left out and unconditional rows apart.
#[test]
fn half_of_the_samples_stand_for_all() {
    let model = model();
    let settings = CorlOptions { group: 8, ..options(Practice::Drawing, &model) };
    let all = stage(&model, settings.clone()).step(0).unwrap();
    let half = CorlOptions { keep: 0.5, scored: Scored::Detached, ..settings };
    let half = stage(&model, half).step(0).unwrap();
    assert_eq!(of(&all, "world"), of(&half, "world"), "the same is drawn");
    let (of_all, of_half) = (of(&all, "samples"), of(&half, "samples"));
    assert!(of_half <= of_all.mul_add(0.5, 1.0) && of_half > 0.0, "{all:?} {half:?}");
    assert!(of(&half, "most_drift") < 1e-4, "what was drawn is scored as it was: {half:?}");
}

#[test]
fn at_rate_zero_nothing_moves() {
    let model = model();
    let settings = options(Practice::Unified, &model);
    let objective = Objective { beta: 0.04, ..settings.objective };
    let mut stage =
        stage(&model, CorlOptions { schedule: Schedule { peak: 0.0, ..settings.schedule }, objective, ..settings });
    for step in 0..2 {
        let metrics = stage.step(step).unwrap();
        assert!(of(&metrics, "most_drift") < 1e-4, "{metrics:?}");
        assert!(of(&metrics, "kl").abs() < 1e-9, "{metrics:?}");
        assert!(of(&metrics, "norm") > 0.0, "there was something to learn: {metrics:?}");
    }
    let dir = tempfile::tempdir().unwrap();
    let seen = stage.look(dir.path(), 2).unwrap();
    assert!(of(&seen, "drawing") > 0.4 && of(&seen, "answering") > 0.6, "{seen:?}");
    assert!(dir.path().join("pictures.png").exists());
    for (name, tensor) in stage.model().unwrap().tensors() {
        let values = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        // Equal, though a zero may have lost its sign.
        assert_eq!(values(tensor), values(&model.tensors()[name]), "{name}");
    }
}

#[test]
fn a_run_that_was_cut_goes_on_as_if_it_had_not_been() {
    let model = model();
    let lora = Some(Lora { rank: 4, alpha: 8.0, seed: 1 });
    for (practice, lora, cold) in [
        (Practice::Unified, None, 0),
        (Practice::Drawing, None, 0),
        (Practice::Answering(Some(QaType::Open)), lora, 0),
        (Practice::Answering(None), None, 1),
    ] {
        let settings = || CorlOptions { lora, cold, ..options(practice, &model) };
        let mut whole = stage(&model, settings());
        let metrics = [0, 1].map(|step| whole.step(step).unwrap());
        assert!(of(&metrics[1], "most_drift") < 1e-4, "what was learned reached the engine: {metrics:?}");
        let mut first = stage(&model, settings());
        first.step(0).unwrap();
        let state = first.state().unwrap();
        let mut second = stage(&model, settings());
        second.restore(&state).unwrap();
        assert_eq!(second.step(1).unwrap(), metrics[1], "{practice:?}");
        assert!(same(&second.state().unwrap(), &whole.state().unwrap()), "{practice:?}");
        let learned = whole.model().unwrap();
        for (name, tensor) in learned.tensors() {
            let moved = !same_bits(tensor, &model.tensors()[name]);
            assert!(!moved || name.starts_with("model.language_model.") || name.starts_with("lm_head."), "{name}");
            let must = name.starts_with("model.language_model.layers.") && lora.is_none();
            assert!(moved || !must, "{name} learned nothing");
        }
    }
}

#[test]
fn a_cold_start_learns_solutions_as_they_are_written() {
    let model = model();
    let mut dice = world::dice(6);
    let exercises: Vec<Exercise> = (0..4).map(|_| of_world(Practice::Answering(None), &mut dice)).collect();
    let asks: Vec<&Asked> = exercises.iter().filter_map(|exercise| exercise.ask.as_ref()).collect();
    let (mut sum, mut tokens) = (0.0, 0);
    for ask in &asks {
        let prompt = model.prompter().answer(&ask.conversation).unwrap();
        let reply = model.prompter().reply(ask.solution.as_ref().unwrap()).unwrap();
        let prompt = Prompt::Answer { prompt: &prompt, features: Some(model.see(&prompt.pictures).unwrap()) };
        let drawn = Drawn { prompt, tokens: &reply, temperature: 1.0 };
        let log_probs = log_probs(model.network(), &[drawn]).unwrap().to_vec1::<f32>().unwrap();
        sum += f64::from(log_probs.iter().sum::<f32>());
        tokens += reply.len();
    }
    let settings = CorlOptions {
        cold: 6,
        steps: 1,
        prompts: 4,
        questions: 0,
        schedule: Schedule { peak: 3e-4, warmup: 0, decay: 0.0 },
        ..options(Practice::Answering(None), &model)
    };
    let (draws, answers) = rewards();
    let source = Source::Given(exercises.clone(), "four".into());
    let mut stage = CorlStage::new(Arc::clone(&model), settings.clone(), source, draws, answers).unwrap();
    let likely: Vec<f64> = (0..6)
        .map(|step| {
            let metrics = stage.step(step).unwrap();
            assert!(metrics.iter().all(|(name, _)| *name != "accuracy"), "nothing is drawn: {metrics:?}");
            of(&metrics, "solutions")
        })
        .collect();
    assert!((likely[0] - (sum / tokens as f64).exp()).abs() < 1e-4, "{likely:?} {sum} {tokens}");
    assert!(likely[5] > likely[0] + 0.05, "{likely:?}");
    assert!(of(&stage.step(6).unwrap(), "accuracy") > 0.0);

    let unsolved = |exercise: &Exercise| Exercise {
        ask: exercise.ask.clone().map(|ask| Asked { solution: None, ..ask }),
        ..exercise.clone()
    };
    let source = Source::Given(exercises.iter().map(unsolved).collect(), "four without".into());
    let (draws, answers) = rewards();
    let mut stage = CorlStage::new(Arc::clone(&model), settings, source, draws, answers).unwrap();
    assert!(stage.step(0).unwrap_err().to_string().contains("--cold-start 0"));
}

#[test]
fn solutions_are_spelled_as_the_model_spells_its_answers() {
    let model = model();
    let engine = Engine::spawn(Arc::clone(&model), EngineOptions::default()).unwrap();
    let ask = of_world(Practice::Answering(None), &mut world::dice(8)).ask.unwrap();
    let prompt = model.prompter().answer(&ask.conversation).unwrap();
    let greedy = Sampling { temperature: 0.0, max_tokens: 64, ..Sampling::default() };
    let said = roll(&Player::alone(&engine), vec![(Work::Answer(prompt), vec![greedy])]).unwrap();
    let Output::Text(text) = &said[0][0].output else { panic!("{said:?}") };
    assert_eq!(model.prompter().reply(text).unwrap(), said[0][0].tokens, "{text}");
}

#[test]
fn rewards_that_ask_the_model_stay_in_their_ranges() {
    let model = model();
    let draws: Vec<(Box<dyn DrawReward>, f64)> = vec![
        (Box::new(Questioned), 1.0),
        (Box::new(Captioned), 1.0),
        (Box::new(Likeness), 1.0),
        (Box::new(Matching), 1.0),
        (Box::new(Variety), 1.0),
    ];
    let answers: Mix<dyn AnswerReward> = Mix::new(vec![(Box::new(Accuracy), 1.0)]);
    let settings = options(Practice::Unified, &model);
    let mut stage = CorlStage::new(model, settings, Source::World, Mix::new(draws), answers).unwrap();
    let metrics = stage.step(0).unwrap();
    for (name, least) in [("question", 0.0), ("caption", 0.0), ("likeness", 0.0), ("matching", -1.0), ("variety", 0.0)]
    {
        let mean = of(&metrics, name);
        assert!((least..=1.0).contains(&mean), "{name}: {mean}");
    }
    // A prompt and a picture of it have something to do with each other.
    assert!(of(&metrics, "matching") > 0.0 && of(&metrics, "question") > 0.0, "{metrics:?}");
}

#[test]
fn segments_change_nothing_that_is_learned() {
    let model = model();
    let lora = Some(Lora { rank: 4, alpha: 8.0, seed: 1 });
    for (practice, lora) in [(Practice::Unified, None), (Practice::Drawing, lora)] {
        let step = |segment| {
            let mut stage = stage(&model, CorlOptions { segment, lora, ..options(practice, &model) });
            let metrics = stage.step(0).unwrap();
            (stage.settings(), metrics, stage.state().unwrap())
        };
        let (settings, metrics, state) = step(None);
        for segment in [1, 4] {
            let (other_settings, other_metrics, other_state) = step(Some(segment));
            assert_eq!((other_settings, other_metrics), (settings.clone(), metrics.clone()), "{practice:?} {segment}");
            assert!(same(&other_state, &state), "{practice:?} {segment}");
        }
    }
}

/// A reward that says what it is told to.
struct Says(fn(usize) -> f64);

impl Says {
    fn next(&self, samples: usize) -> Result<Option<Vec<f64>>, RewardError> {
        Ok(Some((0..samples).map(self.0).collect()))
    }
}

impl DrawReward for Says {
    fn label(&self) -> Label {
        Label { name: "says", version: 1, range: (0.0, 1.0) }
    }

    fn score(&self, _: &Wanted, group: &[&Picture], _: &dyn Oracle) -> Result<Option<Vec<f64>>, RewardError> {
        self.next(group.len())
    }
}

impl AnswerReward for Says {
    fn label(&self) -> Label {
        DrawReward::label(self)
    }

    fn score(&self, _: &Asked, group: &[&str], _: &dyn Oracle) -> Result<Option<Vec<f64>>, RewardError> {
        self.next(group.len())
    }
}

fn saying(model: &Arc<Model>, says: fn(usize) -> f64) -> CorlStage {
    let draws: Mix<dyn DrawReward> = Mix::new(vec![(Box::new(Says(says)), 1.0)]);
    let answers: Mix<dyn AnswerReward> = Mix::new(vec![(Box::new(Says(says)), 1.0)]);
    CorlStage::new(Arc::clone(model), options(Practice::Unified, model), Source::World, draws, answers).unwrap()
}

#[test]
fn what_earns_the_same_teaches_nothing() {
    let model = model();
    let mut stage = saying(&model, |_| 0.7);
    let metrics = stage.step(0).unwrap();
    assert_eq!((of(&metrics, "mute_groups"), of(&metrics, "samples")), (1.0, 0.0));
    assert!(same(stage.model().unwrap().tensors(), model.tensors()));
}

#[test]
fn a_reward_that_is_no_number_stops_the_run() {
    let model = model();
    for says in [|_| f64::NAN, |_| f64::INFINITY, |_| -0.5] {
        let error = saying(&model, says).step(0).unwrap_err().to_string();
        assert!(error.contains("`says`"), "{error}");
    }
}

/// Loses one.
struct Short;

impl DrawReward for Short {
    fn label(&self) -> Label {
        Label { name: "short", version: 1, range: (0.0, 1.0) }
    }

    fn score(&self, _: &Wanted, group: &[&Picture], _: &dyn Oracle) -> Result<Option<Vec<f64>>, RewardError> {
        Ok(Some(vec![0.5; group.len() - 1]))
    }
}

#[test]
fn a_reward_that_loses_a_sample_stops_the_run() {
    let model = model();
    let settings = options(Practice::Drawing, &model);
    let draws: Mix<dyn DrawReward> = Mix::new(vec![(Box::new(Short), 1.0)]);
    let mut stage = CorlStage::new(model, settings, Source::World, draws, rewards().1).unwrap();
    let error = stage.step(0).unwrap_err().to_string();
    assert!(error.contains("`short` gave 2 numbers for 3 samples"), "{error}");
}
