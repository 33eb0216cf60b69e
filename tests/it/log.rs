//! `ulm log` on what a server left: counted, exported, drawn again token by token, forgotten.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::app::{TestApp, picture, text};
use super::golden;

fn log(data: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ulm"));
    command.args(["log", "--log", "error"]).args(arguments).arg("--data").arg(data);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn what_a_server_kept_is_counted_exported_replayed_and_forgotten() {
    let app = TestApp::start();
    let drawn = app.draw(&json!({"prompt": "a star", "n": 3, "seed": 7, "cfg_weight": 3, "user": "bob"})).await;
    let shown = drawn.files().remove(0);
    let asked = json!([text("what is it?"), picture("png", &shown)]);
    app.chat(asked, &json!({"max_tokens": 9, "temperature": 1, "top_p": 0.9, "n": 2})).await;
    app.chat(json!("hi"), &json!({"max_tokens": 9, "temperature": 0, "stream": true})).await;
    app.chat(json!("hi"), &json!({"max_tokens": 9, "store": false})).await;
    let drawn = drawn.json();
    let (first, second) = (&drawn["data"][0]["sample_id"], &drawn["data"][1]["sample_id"]);
    app.post("/v1/feedback", &json!({"preferred": first, "over": [second], "rater": "ann"})).await;

    let data = app.data.path();
    let stats: Value = serde_json::from_str(&log(data, &["stats"])).unwrap();
    assert_eq!((&stats["calls"], &stats["samples"], &stats["pictures"]), (&json!(3), &json!(6), &json!(3)));
    assert_eq!((&stats["feedback"], &stats["not_kept"]["chat"]), (&json!(1), &json!(1)));

    let folder = tempfile::tempdir().unwrap();
    log(data, &["export", "--out", folder.path().to_str().unwrap()]);
    let lines = std::fs::read_to_string(folder.path().join("data.jsonl")).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 6);
    assert_eq!((&lines[0]["id"], &lines[0]["prompt"], &lines[0]["seed"]), (first, &json!("a star"), &json!(7)));
    assert_eq!(lines[0]["feedback"][0]["kind"], "preferred_over");
    assert_eq!(lines[1]["feedback"][0]["kind"], "passed_over_for");
    let file = std::fs::read(folder.path().join(lines[0]["image"].as_str().unwrap())).unwrap();
    assert_eq!(file, shown);
    assert_eq!(lines[3]["images"], json!([lines[0]["image"]]), "what was asked about is what was drawn");
    // Every line has the same fields, so that a table can be made of them.
    let names = |line: &Value| line.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert!(lines.iter().all(|line| names(line) == names(&lines[0])));

    let model = golden::path("mha");
    let replay = |id: &str| log(data, &["replay", id, "--model", model.to_str().unwrap()]);
    assert!(replay("all").ends_with("6 of 6 samples are drawn again token by token\n"));
    assert_eq!(replay(second.as_str().unwrap()).lines().count(), 2);

    let purged: Value = serde_json::from_str(&log(data, &["purge", "--user", "bob"])).unwrap();
    assert_eq!((&purged["user"]["samples"], &purged["user"]["feedback"]), (&json!(3), &json!(1)));
    assert_eq!(purged["user"]["files"], 2, "the one that was asked about is still needed");
    let stats: Value = serde_json::from_str(&log(data, &["stats"])).unwrap();
    assert_eq!((&stats["calls"], &stats["files"]), (&json!(2), &json!(1)));
}

#[test]
fn what_is_not_there_is_said_so() {
    let data = tempfile::tempdir().unwrap();
    for (arguments, complaint) in [
        (vec!["replay", "sample-0193f6a5b1c27d3e8f00112233445566"], "no request or sample"),
        (vec!["purge"], "say what to forget"),
        (vec!["stats", "--database-url", "mysql://x"], "postgres://"),
        (vec!["stats", "--database-url", "postgres://127.0.0.1:1/x"], "database"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ulm"));
        command.args(["log", "--log", "error"]).args(&arguments).arg("--data").arg(data.path());
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(complaint), "{arguments:?}: {said}");
    }
}
