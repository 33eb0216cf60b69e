//! One resumable run of steps: progress bar, metrics, curves, checkpoints. Knows nothing of what a step computes.
//!
//! A step is a function of (state, step number), so a run continued from a checkpoint takes the steps it would have taken.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::{Map, Value};

use super::log::{Log, SECONDS};
use super::{TrainError, draw, write_error};
use crate::model::params::Tensors;
use crate::model::weights;

/// Named numbers of one step.
pub type Metrics = Vec<(&'static str, f64)>;

/// Something trained step by step.
pub trait Stage {
    fn name(&self) -> &'static str;
    fn steps(&self) -> u64;
    /// What a run must not change when it goes on, as a JSON object; by default nothing is told.
    fn settings(&self) -> Map<String, Value> {
        Map::new()
    }
    /// Takes step number `step`.
    fn step(&mut self, step: u64) -> Result<Metrics, TrainError>;
    /// Everything the next step depends on, `f32`.
    fn state(&self) -> Result<Tensors, TrainError>;
    fn restore(&mut self, state: &Tensors) -> Result<(), TrainError>;
    /// Whether the run is to be left behind a checkpoint, to go on from it another time.
    fn leaves(&self) -> bool {
        false
    }
    /// Writes what a person would look at into `dir`; returns measurements worth a line. By default there is nothing to see.
    fn look(&self, _dir: &Path, _step: u64) -> Result<Metrics, TrainError> {
        Ok(vec![])
    }
}

/// What a run has shown, in short.
#[derive(Clone, Debug, Serialize)]
pub struct Record {
    pub stage: &'static str,
    pub steps: u64,
    /// Time that the steps took.
    pub seconds: f64,
    /// Each metric as (step, mean over a stretch).
    pub curves: BTreeMap<String, Vec<(u64, f64)>>,
}

/// How a run is carried out; none of it changes what is learned.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The run folder; each stage has a folder of its own in it.
    pub dir: PathBuf,
    /// Time between checkpoints.
    pub every: Duration,
    pub device: Device,
}

/// Runs `stage` to its end, or until it leaves, from its last checkpoint if there is one, and tells what all of its steps have shown.
///
/// # Errors
/// When a step fails or the folder cannot be written.
pub fn run(stage: &mut dyn Stage, options: &RunOptions) -> Result<Record, TrainError> {
    let dir = options.dir.join(stage.name());
    fs::create_dir_all(&dir).map_err(write_error(&dir))?;
    let state_path = dir.join("state.safetensors");
    same_run(&dir.join("settings.json"), state_path.exists(), stage.settings())?;
    let mut step = 0;
    if state_path.exists() {
        let mut state = weights::read(&state_path, DType::F32, &options.device)?;
        let Some(at) = state.remove("run.step") else {
            return Err(TrainError::State(format!("`{}` is no checkpoint of a run", state_path.display())));
        };
        step = at.to_vec1::<f32>()?.first().copied().unwrap_or(0.0) as u64;
        stage.restore(&state)?;
    }
    let mut log = Log::open(&dir, stage.name(), step)?;
    let style = "{prefix:>10} {bar:30} {pos}/{len} {elapsed_precise} (left {eta_precise}) {msg}";
    let bar = ProgressBar::new(stage.steps()).with_prefix(stage.name()).with_position(step);
    bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.reset_eta();
    let mut saved = Instant::now();
    while step < stage.steps() {
        let begun = Instant::now();
        let mut metrics = stage.step(step)?;
        metrics.push((SECONDS, begun.elapsed().as_secs_f64()));
        log.add(step, &metrics)?;
        bar.set_message(
            metrics.iter().map(|(name, value)| format!("{name} {value:.4}")).collect::<Vec<_>>().join("  "),
        );
        bar.inc(1);
        step += 1;
        let leaves = stage.leaves();
        if saved.elapsed() >= options.every || step == stage.steps() || leaves {
            let mut state = stage.state()?;
            state.insert("run.step".into(), Tensor::new(&[step as f32], &options.device)?);
            weights::write(&state_path, &state, DType::F32)?;
            let seen = stage.look(&dir, step)?;
            log.add(step - 1, &seen)?;
            tracing::info!(stage = stage.name(), step, ?metrics, ?seen, "checkpoint");
            draw::curves(&dir.join("curves.svg"), stage.name(), &log.smooth(100))?;
            saved = Instant::now();
        }
        if leaves {
            break;
        }
    }
    bar.finish();
    Ok(Record { stage: stage.name(), steps: step, seconds: log.seconds(), curves: log.smooth(50) })
}

/// Notes the settings of a run that begins; those of one that goes on must be the same.
fn same_run(path: &Path, goes_on: bool, settings: Map<String, Value>) -> Result<(), TrainError> {
    let settings = Value::Object(settings);
    let before = fs::read(path).ok().filter(|_| goes_on);
    let Some(before) = before else {
        return fs::write(path, format!("{settings:#}\n")).map_err(write_error(path));
    };
    let unreadable = |e| TrainError::State(format!("`{}`: {e}", path.display()));
    let before: Value = serde_json::from_slice(&before).map_err(unreadable)?;
    let names = |of: &Value| of.as_object().map(|of| of.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    let mut names = [names(&before), names(&settings)].concat();
    names.sort();
    names.dedup();
    let differ = names.iter().filter(|&name| before.get(name) != settings.get(name));
    let differ = differ.map(|name| {
        let show = |of: &Value| of.get(name).map_or_else(|| "nothing".to_owned(), Value::to_string);
        format!("{name} was {}, is {}", show(&before), show(&settings))
    });
    match differ.collect::<Vec<_>>().join("; ") {
        none if none.is_empty() => Ok(()),
        differ => Err(TrainError::State(format!(
            "the run in `{}` was begun otherwise ({differ}); go on as it was begun, or choose another folder",
            path.parent().unwrap_or(path).display()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_run_goes_on_only_as_it_was_begun() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("settings.json");
        let settings = |value: Value| value.as_object().cloned().unwrap();
        same_run(&path, false, settings(json!({"rate": 0.1, "model": "a"}))).unwrap();
        same_run(&path, true, settings(json!({"model": "a", "rate": 0.1}))).unwrap();
        let error = same_run(&path, true, settings(json!({"rate": 0.2, "seed": 1}))).unwrap_err().to_string();
        for difference in ["model was \"a\", is nothing", "rate was 0.1, is 0.2", "seed was nothing, is 1"] {
            assert!(error.contains(difference), "{error}");
        }
        same_run(&path, false, settings(json!({"rate": 0.2}))).unwrap();
        same_run(&path, true, settings(json!({"rate": 0.2}))).unwrap();
    }

    /// Counts its steps.
    struct Counter {
        steps: u64,
        sum: f32,
        leaves: bool,
    }

    impl Stage for Counter {
        fn name(&self) -> &'static str {
            "counter"
        }

        fn steps(&self) -> u64 {
            self.steps
        }

        fn step(&mut self, step: u64) -> Result<Metrics, TrainError> {
            self.sum += step as f32;
            Ok(vec![("sum", self.sum.into())])
        }

        fn leaves(&self) -> bool {
            self.leaves
        }

        fn state(&self) -> Result<Tensors, TrainError> {
            Ok([("sum".to_owned(), Tensor::new(&[self.sum], &Device::Cpu)?)].into())
        }

        fn restore(&mut self, state: &Tensors) -> Result<(), TrainError> {
            self.sum = state["sum"].to_vec1::<f32>()?[0];
            Ok(())
        }
    }

    #[test]
    fn a_run_that_is_left_goes_on_from_where_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let options = RunOptions { dir: dir.path().to_owned(), every: Duration::MAX, device: Device::Cpu };
        let go = |leaves| run(&mut Counter { steps: 4, sum: 0.0, leaves }, &options).unwrap();
        assert_eq!((go(true).steps, go(true).steps), (1, 2));
        let record = go(false);
        assert_eq!((record.steps, record.curves["sum"].last()), (4, Some(&(3, 6.0))));
    }

    #[test]
    fn a_checkpoint_that_cannot_be_written_leaves_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let options = RunOptions { dir: dir.path().to_owned(), every: Duration::MAX, device: Device::Cpu };
        let go = |steps| run(&mut Counter { steps, sum: 0.0, leaves: false }, &options);
        go(3).unwrap();
        // What stands in the way is a folder; a full disk fails the same call.
        let part = dir.path().join("counter/state.part");
        fs::create_dir(&part).unwrap();
        let error = go(5).unwrap_err().to_string();
        assert!(error.contains("state.part"), "{error}");
        fs::remove_dir(&part).unwrap();
        let record = go(5).unwrap();
        assert_eq!(record.steps, 5);
        assert_eq!(record.curves["sum"], [(0, 0.0), (1, 1.0), (2, 3.0), (3, 6.0), (4, 10.0)]);
    }
}
