//! A training round from feedback to verdict on the demo model, in a server that goes on serving; and one that is killed in every state.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::app::TestApp;
use super::crash;

const PROMPTS: [&str; 8] = [
    "a red circle",
    "a star above a circle",
    "two squares",
    "a blue heart and a green cross",
    "three stars",
    "a triangle left of a square",
    "a purple cross",
    "a yellow star and a red heart",
];

/// A small round.
fn plan() -> Value {
    json!({"lessons": 4, "epochs": 2, "benchmark": 1, "steps": 3, "anew": 2, "suite": {"seed": 9, "draws": 10, "answers": 5}})
}

/// Pictures that were drawn and judged: of each prompt four, every other one good.
async fn users(client: &reqwest::Client, url: &str) {
    for (at, prompt) in PROMPTS.iter().enumerate() {
        let body = json!({"prompt": prompt, "n": 4, "seed": at, "user": format!("user {at}")});
        let reply = client.post(format!("{url}/v1/images/generations")).json(&body).send().await.unwrap();
        let reply = reply.json::<Value>().await.unwrap();
        for (place, item) in reply["data"].as_array().unwrap().iter().enumerate() {
            let thumb = if (at + place).is_multiple_of(2) { "up" } else { "down" };
            let said = json!({"sample_id": item["sample_id"], "thumb": thumb, "rater": format!("user {at}")});
            let said = client.post(format!("{url}/v1/feedback")).json(&said).send().await.unwrap();
            assert_eq!(said.status(), 201);
        }
    }
}

pub async fn get(client: &reqwest::Client, url: &str) -> Value {
    client.get(url).send().await.unwrap().json().await.unwrap()
}

/// Waits for a round to be in one of these states.
pub async fn reaches(client: &reqwest::Client, url: &str, id: &str, states: &[&str]) -> Value {
    let start = Instant::now();
    loop {
        let round = get(client, &format!("{url}/v1/rounds/{id}")).await;
        if states.contains(&round["status"].as_str().unwrap()) {
            return round;
        }
        assert!(start.elapsed() < Duration::from_secs(240), "{round}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

const ENDED: [&str; 4] = ["promoted", "refused", "failed", "cancelled"];

#[tokio::test(flavor = "multi_thread")]
async fn what_users_said_becomes_a_candidate_and_a_verdict() {
    let app = TestApp::demo_with(&["--learn", "--canary-share", "0"]);
    let home = app.engine.model().version().0.clone();
    users(&app.client, &app.url).await;
    let opened = app.post("/v1/rounds", &plan()).await;
    assert_eq!(opened.status, 201, "{}", opened.text());
    let id = opened.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(app.get("/v1/rounds").await.json()["data"][0]["id"], id.as_str());

    reaches(&app.client, &app.url, &id, &["training", "judging", "promoted", "refused"]).await;
    app.still_serves_demo().await;
    let round = reaches(&app.client, &app.url, &id, &ENDED).await;
    let status = round["status"].as_str().unwrap();
    assert!(["promoted", "refused"].contains(&status), "{round:#}");
    let report = &round["report"];
    let (lessons, pictures) = (&report["learned_from"]["lessons"], &report["learned_from"]["pictures"]);
    // Some of the prompts may be kept for judging.
    let lessons = lessons.as_u64().unwrap();
    assert!((4..=8).contains(&lessons) && pictures.as_u64() == Some(4 * lessons), "{report:#}");
    assert_eq!(report["training"]["steps"].as_u64(), Some((2 * lessons).div_ceil(4)));
    assert_eq!(report["verdict"]["gain"]["tasks"], 60);
    assert_eq!(report["verdict"]["guards"].as_array().unwrap().len(), 10);
    assert_eq!(report["verdict"]["promote"], status == "promoted");
    let reasons = report["verdict"]["reasons"].as_array().unwrap();
    assert_eq!(reasons.is_empty(), status == "promoted", "{reasons:?}");

    // What it made is known, with what it came from; of a refused one only that.
    let candidate = round["candidate"].as_str().unwrap();
    let start = Instant::now();
    let card = loop {
        // Its weights are forgotten behind the round's end.
        let card = app.get(&format!("/v1/versions/{candidate}")).await.json();
        if card["available"] == (status == "promoted") || start.elapsed() > Duration::from_secs(60) {
            break card;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!((card["parent"].as_str(), card["round"].as_str()), (Some(home.as_str()), Some(id.as_str())));
    assert_eq!(card["available"], status == "promoted");
    assert_eq!(card["scores"]["promote"], status == "promoted");
    if status == "refused" {
        assert_eq!(app.engine.model().version().0, home);
        let refusal = app.post(&format!("/v1/versions/{candidate}/promote"), &json!({})).await.refusal();
        assert_eq!(refusal.0, 409, "its weights are gone");
    }
    let learned = (0..8).map(|user| format!("/v1/users/user%20{user}/data"));
    let mut versions = vec![];
    for path in learned {
        let gone = app.send(app.client.delete(format!("{}{path}", app.url))).await.json();
        versions.extend(gone["versions"].as_array().unwrap().clone());
    }
    assert!(versions.contains(&json!(candidate)), "whoever is forgotten learns which weights know them: {versions:?}");

    // Nothing new was said.
    let late = app.post("/v1/rounds", &json!({"since": 4_000_000_000_u64})).await.json();
    let late = reaches(&app.client, &app.url, late["id"].as_str().unwrap(), &ENDED).await;
    assert_eq!(late["status"], "failed");
    assert!(late["report"]["error"].as_str().unwrap().contains("nothing to learn from"), "{late}");

    for (body, param) in [
        (json!({"epochs": 0}), "epochs"),
        (json!({"hold": -0.5}), "hold"),
        (json!({"benchmark": 65}), "benchmark"),
        (json!({"unlabelled": -1}), "unlabelled"),
        (json!({"lessons": 1000}), "lessons"),
        (json!({"rate": 1}), "rate"),
        (json!({"since": -1}), "since"),
        (json!({"suite": {"seed": 1, "draws": 1, "answers": 9}}), "suite.draws"),
    ] {
        let (status, _, code, named) = app.post("/v1/rounds", &body).await.refusal();
        assert_eq!((status, code.as_str(), named.as_deref()), (400, "invalid_value", Some(param)), "{body}");
    }
    assert_eq!(app.post("/v1/rounds", &json!({"step": 1})).await.refusal().2, "unknown_parameter");
    assert_eq!(app.get("/v1/rounds/round-1").await.refusal().0, 404);
    assert_eq!(app.post(&format!("/v1/rounds/{id}/cancel"), &json!({})).await.refusal().0, 409);
    assert_eq!(app.get("/v1/rounds?limit=0").await.refusal().3.as_deref(), Some("limit"));
}

/// A server that does not learn, and a process that does over the same ledger.
#[tokio::test(flavor = "multi_thread")]
async fn a_round_is_worked_on_in_a_process_of_its_own() {
    let data = tempfile::tempdir().unwrap();
    let client = reqwest::Client::new();
    let (mut server, url) = crash::start_with(data.path(), &[]);
    users(&client, &url).await;
    let opened = client.post(format!("{url}/v1/rounds")).json(&plan()).send().await.unwrap();
    let id = opened.json::<Value>().await.unwrap()["id"].as_str().unwrap().to_owned();
    assert_eq!(get(&client, &format!("{url}/v1/rounds/{id}")).await["status"], "open");

    let mut learner = Command::new(env!("CARGO_BIN_EXE_ulm"));
    learner.args(["learn", "--log", "error", "--canary-share", "0", "--data"]).arg(data.path());
    let mut learner = learner.spawn().unwrap();
    let round = reaches(&client, &url, &id, &ENDED).await;
    assert!(["promoted", "refused"].contains(&round["status"].as_str().unwrap()), "{round:#}");
    assert_eq!(round["report"]["verdict"]["gain"]["tasks"], 60);
    // It ends when it is told to, and the server goes on.
    assert!(Command::new("kill").args(["-INT", &learner.id().to_string()]).status().unwrap().success());
    assert!(learner.wait().unwrap().success());
    let drawn = client.post(format!("{url}/v1/images/generations")).json(&json!({"prompt": "a star"}));
    assert_eq!(drawn.send().await.unwrap().status(), 200);
    server.kill().unwrap();
    server.wait().unwrap();
}

/// Nobody works on it where nobody learns; it can be cancelled, and is never taken up after that.
#[tokio::test(flavor = "multi_thread")]
async fn a_round_waits_for_a_server_that_learns_and_can_be_cancelled() {
    let app = TestApp::with(&["--admin-key", "admin"]);
    assert_eq!(app.post("/v1/rounds", &json!({})).await.refusal().0, 401);
    let send = async |path: &str| {
        let request = app.client.post(format!("{}{path}", app.url)).bearer_auth("admin").json(&json!({}));
        app.send(request).await.json()
    };
    let id = send("/v1/rounds").await["id"].as_str().unwrap().to_owned();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(app.get(&format!("/v1/rounds/{id}")).await.json()["status"], "open");
    assert_eq!(send(&format!("/v1/rounds/{id}/cancel")).await["status"], "cancelled");
}

/// Killed in each state, a server that starts again takes its round up and brings it to an end.
#[tokio::test(flavor = "multi_thread")]
async fn a_round_that_was_killed_goes_on() {
    let data = tempfile::tempdir().unwrap();
    let client = reqwest::Client::new();
    let start = |data: &Path| crash::start_with(data, &["--learn", "--canary-share", "0"]);
    let (mut child, mut url) = start(data.path());
    users(&client, &url).await;
    let opened = client.post(format!("{url}/v1/rounds")).json(&plan()).send().await.unwrap();
    let id = opened.json::<Value>().await.unwrap()["id"].as_str().unwrap().to_owned();
    for state in ["rolling", "training", "judging"] {
        let after: &[&str] = match state {
            "rolling" => &["rolling", "training"],
            "training" => &["training"],
            _ => &["judging"],
        };
        let round = reaches(&client, &url, &id, after).await;
        child.kill().unwrap();
        child.wait().unwrap();
        (child, url) = start(data.path());
        let now = get(&client, &format!("{url}/v1/rounds/{id}")).await;
        assert!(!["failed", "cancelled"].contains(&now["status"].as_str().unwrap()), "{round} {now}");
    }
    let round = reaches(&client, &url, &id, &ENDED).await;
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(["promoted", "refused"].contains(&round["status"].as_str().unwrap()), "{round:#}");
    let left: Vec<_> =
        std::fs::read_dir(data.path().join("rounds")).unwrap().map(|one| one.unwrap().file_name()).collect();
    assert_eq!(left, ["worker"], "its folder is gone");
}
