//! `ulm train`, wired: options in, a stage of CoRL run to its end, the model judged before and after, a record out. Knows nothing of how
//! any of it is done.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use candle_core::Device;
use serde::Serialize;

use crate::config::{
    Data, DivergenceName, Merge, MergeName, PairingName, Preset, RewardName, ScaleName, ScoredName, Train, TrainStage,
};
use crate::critic::CriticError;
use crate::critic::bert::BertScore;
use crate::critic::blip::Blip;
use crate::critic::clip::Clip;
use crate::critic::lpips::Lpips;
use crate::engine::{Engine, EngineOptions, Halt};
use crate::model::Model;
use crate::model::save::decimal;
use crate::reward::answer::QaType;
use crate::reward::clip::ClipScore;
use crate::reward::cycle::Cycle;
use crate::reward::{
    Accuracy, AnswerReward, Captioned, DrawReward, Format, Likeness, Majority, Matching, Mix, Noise, Questioned,
    Thought, Variety, Verifier,
};
use crate::serve;
use crate::train::corl::advantage::{Pairing, Scale};
use crate::train::corl::exercise::{Practice, Source};
use crate::train::corl::loss::Divergence;
use crate::train::corl::rows::Rows;
use crate::train::corl::{CorlOptions, CorlStage, Scored, merge as join};
use crate::train::draw;
use crate::train::eval::{EvalOptions, OVERALL, Report, SHOWN, drawing, evaluate, pictures};
use crate::train::player::Player;
use crate::train::run::{Record, RunOptions, Stage as _, run};
use crate::train::trainable::Lora;

/// What a run was and did.
#[derive(Serialize)]
struct Outcome {
    ulm: &'static str,
    /// Model, data by its hash, rewards with version and weight, and all that decides what is learned.
    settings: serde_json::Map<String, serde_json::Value>,
    data: String,
    /// Content hash of the weights it began with, and of those it made.
    from: String,
    to: String,
    run: Record,
    before: Report,
    after: Report,
    /// At guidance weights that were not practised: percent drawn right before and after.
    elsewhere: Vec<Elsewhere>,
}

/// Drawing at another guidance weight.
#[derive(Serialize)]
struct Elsewhere {
    guidance: f32,
    before: f64,
    after: f64,
}

fn settings(options: &Train, model: &Model) -> CorlOptions {
    let practice = match options.stage {
        TrainStage::Unified => Practice::Unified,
        TrainStage::T2i => Practice::Drawing,
        TrainStage::Answers => Practice::Answering(None),
        TrainStage::Mc => Practice::Answering(Some(QaType::Choice)),
        TrainStage::Oe => Practice::Answering(Some(QaType::Open)),
    };
    let mut settings = match options.preset {
        Preset::Demo => CorlOptions::demo(practice, model.defaults()),
        Preset::Published => CorlOptions::published(practice),
    };
    settings.seed = options.seed;
    let set = |place: &mut f64, value: Option<f32>| {
        if let Some(value) = value {
            *place = decimal(value);
        }
    };
    set(&mut settings.schedule.peak, options.rate);
    set(&mut settings.schedule.decay, options.decay);
    set(&mut settings.objective.beta, options.beta);
    settings.objective.divergence = match options.divergence {
        None => settings.objective.divergence,
        Some(DivergenceName::Reference) => Divergence::Reference,
        Some(DivergenceName::Policy) => Divergence::Policy,
    };
    set(&mut settings.keep, options.keep);
    set(&mut settings.sharpen, options.sharpen);
    set(&mut settings.coupling.lambda, options.lambda);
    settings.schedule.warmup = options.warmup.unwrap_or(settings.schedule.warmup);
    settings.steps = options.steps.unwrap_or(settings.steps);
    settings.cold = options.cold_start.unwrap_or(match options.data {
        Data::World => settings.cold,
        // Its solutions may be bare answers, which would unlearn thinking.
        Data::File(_) => 0,
    });
    settings.prompts = options.prompts.map_or(settings.prompts, usize::from);
    settings.questions = options.questions.map_or(settings.questions, usize::from);
    settings.group = options.group.map_or(settings.group, usize::from);
    settings.lora = options.lora.map(|rank| Lora::of(rank.into(), options.seed));
    settings.segment = options.segment.map(usize::from);
    settings.guidance = options.guidance.unwrap_or(settings.guidance);
    let scale = |place: &mut Scale, name: Option<ScaleName>| match name {
        None => {}
        Some(ScaleName::Deviation) => *place = Scale::Deviation,
        Some(ScaleName::None) => *place = Scale::None,
        Some(ScaleName::Mean) => *place = Scale::Mean,
    };
    scale(&mut settings.coupling.pictures, options.picture_scale);
    scale(&mut settings.coupling.answers, options.answer_scale);
    settings.coupling.pairing = match options.pairing {
        None => settings.coupling.pairing,
        Some(PairingName::Separate) => Pairing::Separate,
        Some(PairingName::SharedReward) => Pairing::SharedReward,
        Some(PairingName::SharedAdvantage) => Pairing::SharedAdvantage,
    };
    settings.scored = match options.scored {
        None => settings.scored,
        Some(ScoredName::Guided) => Scored::Guided,
        Some(ScoredName::Detached) => Scored::Detached,
        Some(ScoredName::Conditional) => Scored::Conditional,
    };
    settings
}

/// What variety weighs beside the verifier: enough to keep every background, too little to be worth a wrong picture.
const VARIETY: f64 = 0.15;

/// What is rewarded where nothing is said: the verifier where there is one, else CoRL's cycle and matching; and the world's thoughts once
/// answers are refined, which drift where nothing holds them.
fn usual(data: &Data, practice: Practice) -> Vec<(RewardName, f64)> {
    let draws: &[(RewardName, f64)] = match data {
        Data::World => &[(RewardName::World, 1.0), (RewardName::Variety, VARIETY)],
        Data::File(_) => &[(RewardName::Caption, 1.0), (RewardName::Likeness, 1.0), (RewardName::Matching, 1.0)],
    };
    let thoughts: &[(RewardName, f64)] = match (data, practice) {
        (Data::World, Practice::Answering(_)) => &[(RewardName::Thought, 1.0)],
        _ => &[],
    };
    let answers = [(RewardName::Accuracy, 1.0), (RewardName::Format, 1.0)];
    draws.iter().chain(&answers).chain(thoughts).copied().collect()
}

/// A network of the folder `critics`, for the reward `name`.
fn critic<T>(
    name: &str,
    critics: Option<&Path>,
    network: &str,
    load: impl FnOnce(&Path) -> Result<T, CriticError>,
) -> anyhow::Result<T> {
    let critics = critics.with_context(|| {
        format!(
            "--reward {name} judges by networks that are no part of the model: name their folder with --critics \
             (`caption`, `likeness` and `matching` want none)"
        )
    })?;
    load(&critics.join(network)).with_context(|| format!("--reward {name} needs `{network}`"))
}

fn rewards(
    named: &[(RewardName, f64)],
    critics: Option<&Path>,
) -> anyhow::Result<(Mix<dyn DrawReward>, Mix<dyn AnswerReward>)> {
    let mut draws: Vec<(Box<dyn DrawReward>, f64)> = Vec::new();
    let mut answers: Vec<(Box<dyn AnswerReward>, f64)> = Vec::new();
    for &(name, weight) in named {
        match name {
            RewardName::World => draws.push((Box::new(Verifier::default()), weight)),
            RewardName::Question => draws.push((Box::new(Questioned), weight)),
            RewardName::Caption => draws.push((Box::new(Captioned), weight)),
            RewardName::Likeness => draws.push((Box::new(Likeness), weight)),
            RewardName::Matching => draws.push((Box::new(Matching), weight)),
            RewardName::Variety => draws.push((Box::new(Variety), weight)),
            RewardName::Cycle => {
                let bert = critic("cycle", critics, "bert", BertScore::load)?;
                let lpips = critic("cycle", critics, "lpips", Lpips::load)?;
                let blip = match critics.is_some_and(|critics| critics.join("blip").exists()) {
                    true => Some(critic("cycle", critics, "blip", Blip::load)?),
                    false => None,
                };
                draws.push((Box::new(Cycle { bert, lpips, blip }), weight));
            }
            RewardName::Clip => {
                draws.push((Box::new(ClipScore { clip: critic("clip", critics, "clip", Clip::load)? }), weight));
            }
            RewardName::Accuracy => answers.push((Box::new(Accuracy), weight)),
            RewardName::Format => answers.push((Box::new(Format), weight)),
            RewardName::Thought => answers.push((Box::new(Thought), weight)),
            RewardName::Majority => answers.push((Box::new(Majority), weight)),
            RewardName::Noise => {
                draws.push((Box::new(Noise), weight));
                answers.push((Box::new(Noise), weight));
            }
        }
    }
    Ok((Mix::new(draws), Mix::new(answers)))
}

/// Seed of the held-out suite that a run is judged by. The defaults were chosen by the suite of seed 1.
const JUDGES: u64 = 2;

/// Both tasks at the guidance that is served, and drawing at others; pictures of fixed prompts go to `grid`.
fn judge(model: Arc<Model>, options: &Train, guidance: f32, grid: &Path) -> anyhow::Result<(Report, Vec<(f32, f64)>)> {
    let temperature = model.defaults().temperature;
    let engine = Engine::spawn(model, EngineOptions::default())?;
    let suite = EvalOptions {
        seed: JUDGES,
        draws: options.judge.into(),
        answers: usize::from(options.judge).div_ceil(2),
        guidance,
        draw_temperature: temperature,
        answer_temperature: 0.0,
    };
    let player = Player::alone(&engine);
    let report = evaluate(&player, &suite)?;
    draw::grid(grid, &pictures(&player, &SHOWN, guidance)?, 8, 2)?;
    let mut elsewhere = Vec::new();
    for guidance in [1.0, 2.0 * guidance].into_iter().filter(|other| *other != guidance) {
        let few = EvalOptions { guidance, draws: suite.draws.div_ceil(2), ..suite };
        let (counts, _) = drawing(&player, &few)?;
        elsewhere.push((guidance, counts.get(OVERALL).map_or(0.0, |count| count.percent)));
    }
    engine.halt(Halt::Now);
    Ok((report, elsewhere))
}

/// `ulm train`
///
/// # Errors
/// When the model cannot be loaded, a step fails or the folder cannot be written.
pub fn train(options: &Train) -> anyhow::Result<()> {
    let base = Arc::new(serve::model(options.model.as_deref())?.1);
    let settings = settings(options, &base);
    let (source, data) = match &options.data {
        Data::World => (Source::World, "world".to_owned()),
        Data::File(file) => (Source::Rows(Rows::read(file, settings.practice)?), file.display().to_string()),
    };
    let named =
        if options.rewards.is_empty() { usual(&options.data, settings.practice) } else { options.rewards.clone() };
    let (draws, answers) = rewards(&named, options.critics.as_deref())?;
    let (guidance, folder) = (settings.guidance, options.out.join(settings.practice.name()));
    std::fs::create_dir_all(&folder).with_context(|| format!("`{}` cannot be written", folder.display()))?;
    let (before, at_first) = judge(Arc::clone(&base), options, guidance, &folder.join("before.png"))?;
    let mut stage = CorlStage::new(Arc::clone(&base), settings, source, draws, answers)?;
    let described = stage.settings();
    let how =
        RunOptions { dir: options.out.clone(), every: Duration::from_secs(60 * options.every), device: Device::Cpu };
    let record = run(&mut stage, &how)?;
    let model = Arc::new(stage.model()?);
    drop(stage);
    let saved = folder.join("model");
    model.save(&saved)?;
    let (after, at_last) = judge(Arc::clone(&model), options, guidance, &folder.join("after.png"))?;
    let elsewhere = at_first.into_iter().zip(at_last);
    let elsewhere = elsewhere.map(|((guidance, before), (_, after))| Elsewhere { guidance, before, after }).collect();
    let outcome = Outcome {
        ulm: env!("CARGO_PKG_VERSION"),
        settings: described,
        data,
        from: base.version().0.clone(),
        to: model.version().0.clone(),
        run: record,
        before,
        after,
        elsewhere,
    };
    let text = serde_json::to_string_pretty(&outcome)?;
    std::fs::write(saved.join("train.json"), format!("{text}\n"))?;
    let mut out = std::io::stdout().lock();
    if options.json {
        writeln!(out, "{text}")?;
    } else {
        writeln!(out, "before, with {}\nafter, with {}", outcome.before.table(), outcome.after.table())?;
        for Elsewhere { guidance, before, after } in &outcome.elsewhere {
            writeln!(out, "drawing at guidance {guidance}: {before:.1} % before, {after:.1} % after")?;
        }
        writeln!(out, "the model is in {0}\n  ulm serve --model {0}", saved.display())?;
    }
    Ok(())
}

/// `ulm merge`
///
/// # Errors
/// When a model cannot be loaded, the three are not of one kind, or the folder cannot be written.
pub fn merge(options: &Merge) -> anyhow::Result<()> {
    let load = |folder: &std::path::Path| serve::model(Some(folder)).map(|(_, model)| model);
    let (base, first, second) = (load(&options.base)?, load(&options.first)?, load(&options.second)?);
    let how = match options.how {
        MergeName::Gaussian => join::Merge::Gaussian,
        MergeName::Frobenius => join::Merge::Frobenius,
    };
    let merged = base.with_tensors(join::merge(base.tensors(), first.tensors(), second.tensors(), how)?)?;
    merged.save(&options.out)?;
    writeln!(std::io::stdout(), "the model is in {0}\n  ulm serve --model {0}", options.out.display())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_that_are_not_there_are_asked_for() {
        let said = |name, critics: Option<&str>| {
            let refused = rewards(&[(name, 1.0)], critics.map(Path::new)).err();
            format!("{:#}", refused.expect("it is not refused"))
        };
        let bare = said(RewardName::Cycle, None);
        assert!(bare.contains("--reward cycle") && bare.contains("--critics"), "{bare}");
        assert_eq!(said(RewardName::Cycle, Some("no")), "--reward cycle needs `bert`: there is no folder `no/bert`");
        assert_eq!(said(RewardName::Clip, Some("no")), "--reward clip needs `clip`: there is no folder `no/clip`");
    }

    #[test]
    fn networks_that_are_there_are_used() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/critic");
        let named = [(RewardName::Cycle, 1.0), (RewardName::Clip, 0.5)];
        let (draws, _) = rewards(&named, Some(Path::new(folder))).unwrap();
        let labels: Vec<String> = draws.labels().collect();
        assert!(labels[0].starts_with("cycle 1 bert:") && labels[1].starts_with("clip 1 clip:"), "{labels:?}");
    }
}
