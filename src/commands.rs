//! The commands beside serving, wired: arguments in, one call, a report out. Knows nothing of how any of it is done.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use candle_core::Device;

use crate::config::{Against, Bench, DeviceName, Eval, KeptAs, Pickle, Pretrain, Storage, Suite};
use crate::engine::{Engine, EngineHandle, EngineOptions, Halt};
use crate::model::precision::Precision;
use crate::train::eval::{EvalOptions, SHOWN, evaluate, pictures};
use crate::train::player::Player;
use crate::train::pretrain::{PretrainOptions, pretrain as train};
use crate::{
    bench as speed, bench_against as decoding, bench_ledger as keeping, bench_ops as kernels, bench_train as learning,
    log, serve, train,
};

fn device(name: DeviceName) -> anyhow::Result<Device> {
    match name {
        DeviceName::Cpu => Ok(Device::Cpu),
        DeviceName::Cuda(_) if !candle_core::utils::cuda_is_available() => {
            bail!("this build computes on the CPU only; leave `--device` out")
        }
        DeviceName::Cuda(index) => {
            Device::new_cuda(index).with_context(|| format!("CUDA device {index} cannot be used"))
        }
    }
}

fn engine(model: Option<&Path>, pickle: Pickle, kept: KeptAs) -> anyhow::Result<EngineHandle> {
    let model = Arc::new(serve::model_as(model, serve::reading(pickle, kept))?.1);
    Ok(Engine::spawn(model, EngineOptions::default())?)
}

/// Prints a report, as JSON or as its table.
pub(crate) fn print(json: bool, report: &impl serde::Serialize, table: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match json {
        true => writeln!(out, "{}", serde_json::to_string_pretty(report)?)?,
        false => write!(out, "{table}")?,
    }
    Ok(())
}

/// `ulm pretrain`
///
/// # Errors
/// When a stage fails or its folder cannot be written.
pub fn pretrain(options: &Pretrain) -> anyhow::Result<()> {
    let recipe = PretrainOptions {
        seed: options.seed,
        every: Duration::from_secs(60 * options.every),
        ..PretrainOptions::demo(&options.out, device(options.device)?)
    };
    let folder = train(&recipe)?;
    writeln!(std::io::stdout(), "the model is in {0}\n  ulm serve --model {0}", folder.display())?;
    Ok(())
}

/// `ulm eval`
///
/// # Errors
/// When the model cannot be loaded or the engine fails.
pub fn eval(options: &Eval) -> anyhow::Result<()> {
    let Suite::World = options.suite;
    let engine = engine(options.model.as_deref(), options.pickle, options.kept)?;
    let defaults = engine.model().defaults();
    let guidance = options.guidance.unwrap_or(defaults.guidance);
    if let Some(file) = &options.grid {
        train::draw::grid(file, &pictures(&Player::alone(&engine), &SHOWN, guidance)?, 8, 2)?;
    }
    let report = evaluate(
        &Player::alone(&engine),
        &EvalOptions {
            seed: options.seed,
            draws: options.draws.into(),
            answers: options.answers.into(),
            guidance,
            draw_temperature: options.temperature.unwrap_or(defaults.temperature),
            answer_temperature: options.answer_temperature,
        },
    )?;
    engine.halt(Halt::Now);
    print(options.json, &report, &report.table())
}

/// `ulm bench`
///
/// # Errors
/// When the model cannot be loaded or the engine fails.
pub fn bench(options: &Bench) -> anyhow::Result<()> {
    if let Some(layers) = options.footprint {
        return print(true, &learning::footprint(&serve::model(None)?.1, layers)?, "");
    }
    if options.kernels {
        let report = kernels::run(options.rounds.into())?;
        return print(options.json, &report, &report.table());
    }
    if options.train {
        let report = learning::run(&serve::model(options.model.as_deref())?.1, options.rounds.into())?;
        return print(options.json, &report, &report.table());
    }
    if options.decoding {
        let model = serve::model_as(options.model.as_deref(), serve::reading(options.pickle, options.kept))?.1;
        let dtype = if model.precision() == Precision::FULL { "float32" } else { "bfloat16" };
        let python = options.against.map(|Against::Torch| options.python.as_path());
        let report = decoding::run(&model, python, dtype, options.rounds.into())?;
        return print(options.json, &report, &report.table());
    }
    let engine = engine(options.model.as_deref(), options.pickle, options.kept)?;
    if options.ledger {
        return bench_ledger(options, &engine);
    }
    let guidance = options.guidance.unwrap_or(engine.model().defaults().guidance);
    let report = speed::run(&engine, guidance, options.rounds.into())?;
    engine.halt(Halt::Now);
    print(options.json, &report, &report.table())
}

fn bench_ledger(options: &Bench, engine: &EngineHandle) -> anyhow::Result<()> {
    let folder = std::env::temp_dir().join(format!("ulm-bench-{}", std::process::id()));
    let storage = Storage { data: folder.clone(), database_url: options.database_url.clone(), blobs: None };
    let measured = tokio::runtime::Runtime::new()?.block_on(async {
        let ledger = log::open(&storage).await?;
        keeping::run(engine, &ledger, options.rounds.into()).await
    });
    engine.halt(Halt::Now);
    std::fs::remove_dir_all(&folder).with_context(|| format!("{} could not be deleted", folder.display()))?;
    let report = measured?;
    print(options.json, &report, &report.table())
}
