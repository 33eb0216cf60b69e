//! The promise of an id: a real process is killed in the midst of its work, over and over, and whatever it acknowledged must be
//! there. `ULM_KILLS` says how often.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use ulm::domain::id::{FeedbackId, SampleId};
use ulm::domain::sample::Output;
use ulm::store::{Blobs, Ledger};

use super::golden;
use super::place::postgres_database;

/// Ids that left the server.
#[derive(Default)]
struct Told {
    samples: Vec<SampleId>,
    feedback: Vec<FeedbackId>,
}

/// Kills of a run.
#[expect(clippy::disallowed_methods, reason = "how long to test is for whoever starts the tests to say")]
fn kills(few: usize) -> usize {
    std::env::var("ULM_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(few)
}

/// A server of its own process, and where it listens. It begins in a shell, so that a file that may not grow fails it a write and
/// does not end it.
pub fn start(data: &Path, database: Option<&str>) -> (Child, String) {
    let model = golden::path("mha").display().to_string();
    let mut more = vec!["--model", &model];
    more.extend(database.map(|url| ["--database-url", url]).into_iter().flatten());
    start_with(data, &more)
}

/// The same with the demo model, unless `more` names another.
pub fn start_with(data: &Path, more: &[&str]) -> (Child, String) {
    start_as(data, more, &[])
}

/// The same with these variables set.
pub fn start_as(data: &Path, more: &[&str], variables: &[(&str, &str)]) -> (Child, String) {
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_ulm")]);
    command.args(["serve", "--listen", "127.0.0.1:0", "--context", "512", "--log", "error", "--data"]).arg(data);
    command.args(more).envs(variables.iter().copied());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let url =
        lines.find_map(|line| line.unwrap().split_once("page  ").map(|(_, url)| url.trim_end_matches('/').to_owned()));
    (child, url.expect("the server prints its address"))
}

/// One client: draws, asks and rates until the server is gone.
async fn work(url: String, client: reqwest::Client, told: Arc<Mutex<Told>>, over: Arc<AtomicBool>, number: usize) {
    while !over.load(Ordering::Relaxed) {
        let chat = json!({"model": "mha", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2});
        let request = match number % 2 {
            0 => client.post(format!("{url}/v1/images/generations")).json(&json!({"prompt": "a star"})),
            _ => client.post(format!("{url}/v1/chat/completions")).json(&chat),
        };
        let Ok(reply) = request.send().await else { return };
        let Ok(reply) = reply.json::<Value>().await else { return };
        let place = if number.is_multiple_of(2) { &reply["data"][0] } else { &reply["choices"][0] };
        let Some(sample) = place["sample_id"].as_str() else { panic!("an answer without an id: {reply}") };
        told.lock().unwrap().samples.push(sample.parse().unwrap());
        let rated = client.post(format!("{url}/v1/feedback")).json(&json!({"sample_id": sample, "thumb": "up"}));
        let Ok(rated) = rated.send().await else { return };
        let status = rated.status();
        let Ok(rated) = rated.json::<Value>().await else { return };
        match status.as_u16() {
            201 => told.lock().unwrap().feedback.push(rated["id"].as_str().unwrap().parse().unwrap()),
            429 => {}
            _ => panic!("feedback sent at once was refused: {rated}"),
        }
    }
}

async fn killed(name: &str, times: usize, database: Option<String>) {
    let data = TempDir::new().unwrap();
    let (mut samples, mut feedback, mut lost) = (0, 0, 0);
    for round in 0..times {
        let (mut child, url) = start(data.path(), database.as_deref());
        let (told, over) = (Arc::new(Mutex::new(Told::default())), Arc::new(AtomicBool::new(false)));
        let client = reqwest::Client::builder().timeout(Duration::from_secs(20)).build().unwrap();
        let clients: Vec<_> = (0..6)
            .map(|number| tokio::spawn(work(url.clone(), client.clone(), told.clone(), over.clone(), number)))
            .collect();
        // At another moment each time, spread over the course of requests.
        tokio::time::sleep(Duration::from_millis(60 + (round as u64 * 37) % 190)).await;
        child.kill().unwrap();
        child.wait().unwrap();
        over.store(true, Ordering::Relaxed);
        for client in clients {
            client.await.unwrap();
        }
        let told = std::mem::take(&mut *told.lock().unwrap());
        let blobs = Blobs::folder(&data.path().join("blobs")).unwrap();
        let ledger = match &database {
            Some(url) => Ledger::postgres(url, blobs).await.unwrap(),
            None => Ledger::sqlite(&data.path().join("ledger.sqlite"), blobs).await.unwrap(),
        };
        for id in &told.samples {
            let kept =
                ledger.call_of(*id).await.unwrap().and_then(|kept| kept.records.into_iter().find(|r| r.id == *id));
            let whole = match kept.map(|record| record.sample.output) {
                Some(Output::Picture(blob)) => ledger.blobs().get(&blob).await.is_ok(),
                Some(Output::Text(_)) => true,
                None => false,
            };
            lost += usize::from(!whole);
        }
        for id in &told.feedback {
            lost += usize::from(ledger.feedback(*id).await.unwrap().is_none());
        }
        samples += told.samples.len();
        feedback += told.feedback.len();
    }
    eprintln!("{name}: {times} kills, {samples} samples and {feedback} feedback acknowledged, {lost} lost");
    assert_eq!(lost, 0);
    assert!(samples > times / 2, "there was work to be lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_on_sqlite() {
    killed("SQLite", kills(8), None).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs ULM_TEST_POSTGRES"]
async fn nothing_acknowledged_is_lost_on_postgres() {
    killed("Postgres", kills(8), Some(postgres_database().await)).await;
}
