//! Draws the rewards of finished runs of `ulm train`, and how likely solutions were in a cold start, from their records:
//! `cargo run --example curves -- OUT.svg RECORD.json …`
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "an example that cannot go on must not")]

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use ulm::train::draw;

/// What is drawn of each that has it.
const SHOWN: [&str; 3] = ["world", "accuracy", "solutions"];

fn main() {
    let mut arguments = std::env::args().skip(1);
    let out = arguments.next().expect("name the file to draw to, and records");
    let mut curves: BTreeMap<String, Vec<(u64, f64)>> = BTreeMap::new();
    for record in arguments {
        let record: Value = serde_json::from_slice(&std::fs::read(&record).expect("a record")).expect("a record");
        let seed = &record["settings"]["seed"];
        for shown in SHOWN {
            let points: Option<Vec<(u64, f64)>> =
                serde_json::from_value(record["run"]["curves"][shown].clone()).expect("points");
            if let Some(points) = points {
                curves.insert(format!("{shown}, seed {seed}"), points);
            }
        }
    }
    draw::curves(Path::new(&out), "mean reward of a step's samples, or probability of a solution's token", &curves)
        .expect("the drawing");
}
