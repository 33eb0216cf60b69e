//! `ulm train`, wired: options in, a stage of CoRL run to its end, the model judged before and after, a record out. Knows nothing of how
//! any of it is done.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use candle_core::Device;
use serde::Serialize;

use crate::config::{PairingName, Preset, ScoredName, Suite, Train, TrainStage};
use crate::engine::{Engine, EngineOptions, Halt};
use crate::model::Model;
use crate::reward::{Accuracy, AnswerReward, DrawReward, Format, Mix, Verifier};
use crate::serve;
use crate::train::corl::advantage::Pairing;
use crate::train::corl::{CorlOptions, CorlStage, Refine, Scored};
use crate::train::eval::{EvalOptions, Report, evaluate};
use crate::train::run::{Record, RunOptions, run};

/// What a run was and did.
#[derive(Serialize)]
struct Outcome {
    ulm: &'static str,
    /// The settings, as the code has them.
    settings: String,
    /// Content hash of the weights it began with, and of those it made.
    from: String,
    to: String,
    run: Record,
    before: Report,
    after: Report,
}

fn settings(options: &Train, model: &Model) -> CorlOptions {
    let stage = match options.stage {
        TrainStage::Unified => Refine::Unified,
        TrainStage::T2i => Refine::Drawing,
        TrainStage::Mc => Refine::Choice,
        TrainStage::Oe => Refine::Open,
    };
    let mut settings = match options.preset {
        Preset::Demo => CorlOptions::demo(stage, model.defaults()),
        Preset::Published => CorlOptions::published(stage),
    };
    settings.seed = options.seed;
    let set = |place: &mut f64, value: Option<f32>| {
        // The number as it was written, not the nearest `f32`.
        if let Some(value) = value {
            *place = value.to_string().parse().unwrap_or(f64::from(value));
        }
    };
    set(&mut settings.rate, options.rate);
    set(&mut settings.objective.beta, options.beta);
    set(&mut settings.lambda, options.lambda);
    settings.steps = options.steps.unwrap_or(settings.steps);
    settings.prompts = options.prompts.map_or(settings.prompts, usize::from);
    settings.group = options.group.map_or(settings.group, usize::from);
    settings.guidance = options.guidance.unwrap_or(settings.guidance);
    settings.pairing = match options.pairing {
        None => settings.pairing,
        Some(PairingName::Separate) => Pairing::Separate,
        Some(PairingName::SharedReward) => Pairing::SharedReward,
        Some(PairingName::SharedAdvantage) => Pairing::SharedAdvantage,
    };
    settings.scored = match options.scored {
        None => settings.scored,
        Some(ScoredName::Guided) => Scored::Guided,
        Some(ScoredName::Conditional) => Scored::Conditional,
    };
    settings
}

fn judge(model: Arc<Model>, options: &Train, guidance: f32) -> anyhow::Result<Report> {
    let capacity = model.config().text.max_positions.min(2048);
    let temperature = model.defaults().temperature;
    let engine = Engine::spawn(model, EngineOptions { capacity, ..EngineOptions::default() })?;
    let suite = EvalOptions {
        seed: 1,
        draws: options.judge.into(),
        answers: usize::from(options.judge).div_ceil(2),
        guidance,
        draw_temperature: temperature,
        answer_temperature: 0.0,
    };
    let report = evaluate(&engine, &suite);
    engine.halt(Halt::Now);
    Ok(report?)
}

/// `ulm train`
///
/// # Errors
/// When the model cannot be loaded, a step fails or the folder cannot be written.
pub fn train(options: &Train) -> anyhow::Result<()> {
    let Suite::World = options.data;
    let base = Arc::new(serve::model(options.model.as_deref())?.1);
    let settings = settings(options, &base);
    let draws: Vec<(Box<dyn DrawReward>, f64)> = vec![(Box::new(Verifier { partial: 0.3 }), 1.0)];
    let answers: Vec<(Box<dyn AnswerReward>, f64)> = vec![(Box::new(Accuracy), 1.0), (Box::new(Format), 1.0)];
    let before = judge(Arc::clone(&base), options, settings.guidance)?;
    let described = format!("{settings:?}");
    let (guidance, folder) = (settings.guidance, options.out.join(settings.stage).join("model"));
    let mut stage = CorlStage::new(Arc::clone(&base), settings, Mix::new(draws), Mix::new(answers))?;
    let how =
        RunOptions { dir: options.out.clone(), every: Duration::from_secs(60 * options.every), device: Device::Cpu };
    let record = run(&mut stage, &how)?;
    let model = Arc::new(stage.model()?);
    drop(stage);
    model.save(&folder)?;
    let after = judge(Arc::clone(&model), options, guidance)?;
    let outcome = Outcome {
        ulm: env!("CARGO_PKG_VERSION"),
        settings: described,
        from: base.version().0.clone(),
        to: model.version().0.clone(),
        run: record,
        before,
        after,
    };
    let text = serde_json::to_string_pretty(&outcome)?;
    std::fs::write(folder.join("train.json"), format!("{text}\n"))?;
    let mut out = std::io::stdout().lock();
    if options.json {
        writeln!(out, "{text}")?;
    } else {
        writeln!(out, "before: {}after: {}", outcome.before.table(), outcome.after.table())?;
        writeln!(out, "the model is in {0}\n  ulm serve --model {0}", folder.display())?;
    }
    Ok(())
}
