//! What a run has shown so far: a line of JSON a step, the same for TensorBoard and for Prometheus, and in memory for the curves. Knows
//! nothing of what the numbers mean.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::events::Events;
use super::run::Metrics;
use super::{TrainError, write_error};

/// The metric that every step has: its time.
pub const SECONDS: &str = "seconds";
/// The log of a run in its folder.
const FILE: &str = "metrics.jsonl";
/// The newest numbers, in Prometheus' text format; the textfile collector of its node exporter reads such files.
const NEWEST: &str = "metrics.prom";

type Row = (u64, Vec<(String, f64)>);

/// See the module text.
pub struct Log {
    stage: &'static str,
    dir: PathBuf,
    file: fs::File,
    events: Events,
    rows: Vec<Row>,
    newest: BTreeMap<String, f64>,
}

impl Log {
    /// Goes on with the log in `dir`, of which it keeps what came before `step`.
    ///
    /// # Errors
    /// When the folder cannot be written; what was there is then still there.
    pub fn open(dir: &Path, stage: &'static str, step: u64) -> Result<Self, TrainError> {
        let path = dir.join(FILE);
        let text = fs::read_to_string(&path).unwrap_or_default();
        let row = |line: &str| {
            let value: Map<String, Value> = serde_json::from_str(line).ok()?;
            let at = value.get("step")?.as_u64().filter(|&at| at < step)?;
            let metrics = value.iter().filter(|(name, _)| *name != "step");
            Some((at, metrics.filter_map(|(name, v)| Some((name.clone(), v.as_f64()?))).collect()))
        };
        let rows: Vec<Row> = text.lines().filter_map(row).collect();
        let kept: String = rows.iter().map(|(at, metrics)| line(*at, metrics)).collect();
        replace(&path, &kept)?;
        let file = fs::OpenOptions::new().append(true).open(&path).map_err(write_error(&path))?;
        let mut events = Events::create(dir).map_err(write_error(dir))?;
        for (at, metrics) in &rows {
            events.add(*at, metrics).map_err(write_error(dir))?;
        }
        let newest = rows.iter().flat_map(|(_, metrics)| metrics).cloned().collect();
        Ok(Self { stage, dir: dir.to_owned(), file, events, rows, newest })
    }

    /// Adds the numbers of a step.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn add(&mut self, step: u64, metrics: &Metrics) -> Result<(), TrainError> {
        let metrics: Vec<(String, f64)> = metrics.iter().map(|&(name, value)| (name.to_owned(), value)).collect();
        self.file.write_all(line(step, &metrics).as_bytes()).map_err(write_error(&self.dir.join(FILE)))?;
        self.events.add(step, &metrics).map_err(write_error(&self.dir))?;
        self.newest.extend(metrics.iter().cloned());
        replace(&self.dir.join(NEWEST), self.prometheus(step))?;
        self.rows.push((step, metrics));
        Ok(())
    }

    fn prometheus(&self, step: u64) -> String {
        let mut text = String::new();
        let mut gauge = |name: &str, value: f64| {
            let stage = self.stage;
            // Writing to a string does not fail.
            let _ = writeln!(text, "# TYPE ulm_train_{name} gauge\nulm_train_{name}{{stage=\"{stage}\"}} {value}");
        };
        gauge("step", step as f64);
        self.newest.iter().for_each(|(name, &value)| gauge(name, value));
        text
    }

    /// Time that the steps took.
    pub fn seconds(&self) -> f64 {
        let metrics = self.rows.iter().flat_map(|(_, metrics)| metrics);
        metrics.filter(|(name, _)| name == SECONDS).map(|(_, value)| value).sum()
    }

    /// Each metric but the time, as means over about `count` equal stretches.
    pub fn smooth(&self, count: usize) -> BTreeMap<String, Vec<(u64, f64)>> {
        let mut curves: BTreeMap<String, Vec<(u64, f64)>> = BTreeMap::new();
        for stretch in self.rows.chunks(self.rows.len().div_ceil(count).max(1)) {
            let mut sums: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
            for (name, value) in stretch.iter().flat_map(|(_, metrics)| metrics).filter(|(name, _)| name != SECONDS) {
                let sum = sums.entry(name).or_default();
                *sum = (sum.0 + value, sum.1 + 1.0);
            }
            let at = stretch.last().map_or(0, |row| row.0);
            for (name, (sum, n)) in sums {
                curves.entry(name.to_owned()).or_default().push((at, sum / n));
            }
        }
        curves
    }
}

/// A step as a line of the log.
fn line(step: u64, metrics: &[(String, f64)]) -> String {
    let mut line: Map<_, _> = metrics.iter().map(|(name, v)| (name.clone(), (*v).into())).collect();
    line.insert("step".into(), step.into());
    format!("{}\n", Value::Object(line))
}

/// Puts `contents` in a file's place, whole or not at all.
pub(super) fn replace(path: &Path, contents: impl AsRef<[u8]>) -> Result<(), TrainError> {
    let part = path.with_extension("part");
    fs::write(&part, contents).and_then(|()| fs::rename(&part, path)).map_err(write_error(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_goes_on_where_its_checkpoint_was() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::open(dir.path(), "t2i", 0).unwrap();
        for step in 0..4 {
            log.add(step, &vec![("world", step as f64 / 4.0), (SECONDS, 2.0)]).unwrap();
        }
        log.add(3, &vec![("drawing", 0.5)]).unwrap();
        drop(log);
        let log = Log::open(dir.path(), "t2i", 2).unwrap();
        assert_eq!(log.seconds(), 4.0);
        assert_eq!(log.smooth(1), [("world".to_owned(), vec![(1, 0.125)])].into());
        assert_eq!(fs::read_to_string(dir.path().join(FILE)).unwrap().lines().count(), 2);
    }

    #[test]
    fn prometheus_reads_the_newest_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::open(dir.path(), "unified", 0).unwrap();
        log.add(0, &vec![("world", 0.25), ("drawing", 0.5)]).unwrap();
        log.add(1, &vec![("world", 0.75)]).unwrap();
        insta::assert_snapshot!(fs::read_to_string(dir.path().join(NEWEST)).unwrap(), @r#"
        # TYPE ulm_train_step gauge
        ulm_train_step{stage="unified"} 1
        # TYPE ulm_train_drawing gauge
        ulm_train_drawing{stage="unified"} 0.5
        # TYPE ulm_train_world gauge
        ulm_train_world{stage="unified"} 0.75
        "#);
    }
}
