//! New versions before people: on trial with a share of them, made live or withdrawn by what they say, and taken back afterwards.

use std::time::{Duration, Instant};

use candle_core::Device;
use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use ulm::domain::round::{Round, RoundState};
use ulm::domain::sample::Version;
use ulm::model::Model;
use ulm::store::Promoted;

use super::app::{MODEL, TestApp};
use super::swap::{changed, ledger, promote, publish_model, serves};
use super::{crash, gate};

/// Waits until something is so.
async fn until<T>(what: &str, mut find: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = find().await {
            return found;
        }
        assert!(start.elapsed() < Duration::from_secs(600), "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A person draws a picture; by which version, and the sample.
async fn draw(client: &reqwest::Client, url: &str, person: usize) -> (String, String) {
    let body = json!({"prompt": "a star", "user": format!("user {person}")});
    let reply = client.post(format!("{url}/v1/images/generations")).json(&body).send().await.unwrap();
    assert_eq!(reply.status(), 200);
    let version = reply.headers()["x-model-version"].to_str().unwrap().to_owned();
    let drawn = reply.json::<Value>().await.unwrap();
    (version, drawn["data"][0]["sample_id"].as_str().unwrap().to_owned())
}

/// People draw and say whether they like it, which they do but for one in ten where the version is not `disliked`; who got which.
async fn people(client: &reqwest::Client, url: &str, who: std::ops::Range<usize>, disliked: &str) -> Vec<String> {
    let one = async |person: usize| {
        let (version, sample) = draw(client, url, person).await;
        let thumb = if (version == disliked) == (person.is_multiple_of(10)) { "up" } else { "down" };
        let said = json!({"sample_id": sample, "thumb": thumb, "rater": format!("user {person}")});
        let said = client.post(format!("{url}/v1/feedback")).json(&said).send().await.unwrap();
        assert_eq!(said.status(), 201);
        version
    };
    stream::iter(who).map(one).buffered(8).collect().await
}

async fn get(client: &reqwest::Client, url: &str) -> Value {
    client.get(url).send().await.unwrap().json().await.unwrap()
}

/// The trial of a version as a server shows it.
async fn trial(client: &reqwest::Client, url: &str, version: &str) -> Value {
    get(client, &format!("{url}/v1/versions/{version}")).await["trial"].take()
}

/// Waits until servers answer some people with a version on trial, or none any more.
async fn tries(apps: &[&TestApp], wanted: bool) {
    for app in apps {
        until("a trial is followed", async || (app.engine.trial().is_some() == wanted).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_person_has_one_model_whichever_server_answers() {
    let first = TestApp::start();
    let second = first.beside();
    let home = first.engine.model().version().0.clone();
    let next = publish_model(&ledger(first.data.path()).await, &changed(&first.engine.model(), 0.1)).await;
    assert_eq!(trial(&first.client, &first.url, &next).await, Value::Null);

    let tried = format!("/v1/versions/{next}/promote");
    for share in [json!(0), json!(1), json!(-0.5), json!(1.5)] {
        let (status, _, code, param) = first.post(&tried, &json!({ "share": share })).await.refusal();
        assert_eq!((status, code.as_str(), param.as_deref()), (400, "invalid_value", Some("share")), "{share}");
    }
    assert_eq!(first.post(&tried, &json!({"shares": 0.1})).await.refusal().2, "unknown_parameter");
    assert_eq!(first.send(first.client.post(format!("{}{tried}", first.url)).body("share")).await.refusal().0, 415);
    let live = first.post(&format!("/v1/versions/{home}/promote"), &json!({"share": 0.1})).await.refusal();
    assert_eq!(live.0, 409, "it cannot be tried beside itself");
    let begun = second.post(&tried, &json!({"share": 0.3})).await;
    assert_eq!((begun.status, begun.json()["share"].as_f64()), (202, Some(0.3)), "{}", begun.text());
    assert_eq!(first.post(&tried, &json!({"share": 0.2})).await.refusal().0, 409, "it is on trial");
    tries(&[&first, &second], true).await;
    // One that starts now takes part at once.
    let third = first.beside();
    assert!(third.engine.trial().is_some());

    let mut taken = 0;
    for person in 0..120 {
        let (version, _) = draw(&first.client, &first.url, person).await;
        let other = if person % 2 == 0 { &second } else { &third };
        assert_eq!(draw(&first.client, &other.url, person).await.0, version, "person {person}");
        assert!([&home, &next].contains(&&version));
        taken += usize::from(version == next);
    }
    // Of 120 draws at 0.3, four standard deviations.
    assert!((16..=56).contains(&taken), "{taken} of 120");
    // Nobody is named: the same request is answered alike, others as it comes.
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..30 {
        let body = json!({"prompt": "a star", "seed": seed});
        let version = first.draw(&body).await.header("x-model-version").to_owned();
        assert_eq!(second.draw(&body).await.header("x-model-version"), version);
        seen.insert(version);
    }
    assert_eq!(seen.len(), 2);
    // Who asks for a version gets it.
    for version in [&home, &next] {
        for person in 0..8 {
            let model = format!("{MODEL}@{}", &version[..12]);
            let body = json!({"prompt": "a star", "user": format!("user {person}"), "model": model});
            assert_eq!(first.draw(&body).await.header("x-model-version"), version.as_str());
        }
    }
    // What is live is still what it was, and the page shows what goes on.
    assert_eq!(first.get("/health").await.json()["model_version"], home.as_str());
    people(&first.client, &first.url, 0..20, "").await;
    let card = trial(&first.client, &first.url, &next).await;
    let standing = &card["standing"];
    assert_eq!(
        (card["status"].as_str(), card["share"].as_f64(), &card["said"]),
        (Some("running"), Some(0.3), &Value::Null)
    );
    let raters = |arm: &str| standing[arm]["raters"].as_u64().unwrap();
    assert_eq!(raters("live") + raters("candidate"), 20, "{card:#}");
    assert_eq!((standing["live"]["version"].as_str(), standing["beside"].as_u64()), (Some(home.as_str()), Some(2)));
    assert_eq!(standing["missing"].as_u64().unwrap() + standing["votes"].as_u64().unwrap(), 200);
    assert_eq!((standing["limit"].as_f64(), trial(&first.client, &first.url, &home).await), (Some(20.0), Value::Null));

    let ended = first.post(&format!("/v1/versions/{next}/rollback"), &json!({})).await;
    assert_eq!((ended.status, ended.json()["version"].as_str()), (200, Some(home.as_str())), "{}", ended.text());
    tries(&[&first, &second, &third], false).await;
    let answered = people(&first.client, &second.url, 0..30, "").await;
    assert!(answered.iter().all(|version| *version == home));
    let card = trial(&first.client, &first.url, &next).await;
    assert_eq!((card["status"].as_str(), &card["standing"]), (Some("withdrawn"), &Value::Null));
    assert_eq!(first.post(&format!("/v1/versions/{next}/rollback"), &json!({})).await.refusal().0, 409, "it is over");

    // Tried again, and made live by hand meanwhile.
    assert_eq!(first.post(&tried, &json!({"share": 0.5})).await.status, 202);
    tries(&[&first, &second], true).await;
    promote(&first, &next).await;
    tries(&[&first, &second], false).await;
    serves(&second, &next).await;
    let card = until("the trial is closed", async || {
        Some(trial(&first.client, &first.url, &next).await).filter(|card| card["status"] != "running")
    });
    assert_eq!(card.await["status"], "promoted");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_people_like_less_is_withdrawn() {
    let app = TestApp::start();
    let other = app.beside();
    let home = app.engine.model().version().0.clone();
    let kept = ledger(app.data.path()).await;
    let next = publish_model(&kept, &changed(&app.engine.model(), 0.1)).await;
    assert_eq!(app.post(&format!("/v1/versions/{next}/promote"), &json!({"share": 0.3})).await.status, 202);
    tries(&[&app, &other], true).await;
    // One who is angry with everything, over and over.
    let angry = (0..1000).find(|person| {
        let split = app.engine.trial().unwrap().1;
        split.takes(&format!("person user {person}"))
    });
    for _ in 0..40 {
        let (version, sample) = draw(&app.client, &app.url, angry.unwrap()).await;
        assert_eq!(version, next);
        app.post("/v1/feedback", &json!({"sample_id": sample, "thumb": "down", "rater": "angry"})).await;
    }
    let mut asked = 1000;
    let card = loop {
        let url = if asked % 40 == 0 { &other.url } else { &app.url };
        people(&app.client, url, asked..asked + 20, &next).await;
        asked += 20;
        let card = trial(&app.client, &app.url, &next).await;
        if card["status"] != "running" {
            break card;
        }
        assert!(asked < 1400, "{card:#}");
    };
    assert!(asked >= 1040, "the angry one alone does not do it");
    let said = card["said"].as_str().unwrap();
    eprintln!("withdrawn after {} people: {said}", asked - 1000);
    assert_eq!(card["status"], "withdrawn");
    assert!(said.starts_with("worse on trial: rated 0.") && said.contains("tried by hand"), "{said}");
    tries(&[&app, &other], false).await;
    // It stays so, however long one watches.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let list = app.get("/v1/versions").await.json();
    assert_eq!(list["promotions"].as_array().unwrap().len(), 1);
    let answered = people(&app.client, &other.url, 0..20, "").await;
    assert!(answered.iter().all(|version| *version == home));
    assert!(app.engine.models().iter().all(|model| model.version().0 != next), "it is let go");
    // Its weights are kept, so whoever asks for it gets it.
    let pinned = app.draw(&json!({"prompt": "a star", "model": format!("{MODEL}@{}", &next[..12])})).await;
    assert_eq!(pinned.header("x-model-version"), next);
}

/// Two processes over one ledger, killed in the midst of a trial: it goes on with the same people, and one of them ends it.
#[tokio::test(flavor = "multi_thread")]
async fn a_trial_survives_kills_and_ends_once() {
    let data = tempfile::tempdir().unwrap();
    let home = Model::load(&crate::golden::path("mha"), &Device::Cpu).unwrap();
    let client = reqwest::Client::new();
    let model = crate::golden::path("mha").display().to_string();
    let start = || crash::start_with(data.path(), &["--model", &model, "--canary-votes", "40"]);
    let (mut one, url) = start();
    let kept = ledger(data.path()).await;
    let next = publish_model(&kept, &changed(&home, 0.1)).await;
    let begun = client.post(format!("{url}/v1/versions/{next}/promote")).json(&json!({"share": 0.5})).send().await;
    assert_eq!(begun.unwrap().status(), 202);
    until("the trial is followed", async || people(&client, &url, 0..12, "").await.contains(&next).then_some(())).await;
    // Some of those were asked before it was.
    let mut got = people(&client, &url, 0..12, "").await;
    one.kill().unwrap();
    one.wait().unwrap();

    let ((mut one, url), (mut two, other)) = (start(), start());
    assert_eq!(people(&client, &url, 0..12, "").await, got);
    assert_eq!(people(&client, &other, 0..12, "").await, got);
    assert_eq!(trial(&client, &other, &next).await["status"], "running");
    got.extend(people(&client, &other, 12..40, "").await);
    let counted = got.iter().filter(|version| **version == next).count();
    let card = trial(&client, &url, &next).await;
    assert_eq!(card["standing"]["candidate"]["raters"].as_u64(), Some(counted as u64), "{card:#}");
    let mut asked = 40;
    while trial(&client, &url, &next).await["status"] == "running" {
        people(&client, &url, asked..asked + 20, "").await;
        asked += 20;
        assert!(asked < 300);
    }
    let list = get(&client, &format!("{other}/v1/versions")).await;
    let last = &list["promotions"][0];
    assert_eq!((last["number"].as_i64(), last["version"].as_str()), (Some(2), Some(next.as_str())));
    assert_eq!(last["by"], "canary");
    assert!(last["why"].as_str().unwrap().starts_with("not worse on trial: rated 0."), "{last}");
    for url in [&url, &other] {
        until("both serve it", async || {
            let health = get(&client, &format!("{url}/health")).await;
            (health["model_version"] == next.as_str()).then_some(())
        })
        .await;
        assert!(people(&client, url, 0..12, "").await.iter().all(|version| *version == next));
    }
    assert_eq!(kept.promotions(9).await.unwrap().len(), 2, "it was promoted once");
    for process in [&mut one, &mut two] {
        process.kill().unwrap();
        process.wait().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_people_like_less_is_taken_back_unless_a_person_made_it_live() {
    let app = TestApp::with(&["--watch"]);
    let other = app.beside_with(&["--watch"]);
    let home = app.engine.model().version().0.clone();
    let kept = ledger(app.data.path()).await;
    let next = publish_model(&kept, &changed(&app.engine.model(), 0.1)).await;
    people(&app.client, &app.url, 0..60, "").await;
    let promoted = kept.promote(Version(next.clone()), 1, "round x".into(), "the score rose".into(), now_ms());
    assert!(matches!(promoted.await.unwrap(), Promoted::Live(_)));
    serves(&app, &next).await;
    serves(&other, &next).await;
    let live = async || kept.live().await.unwrap().unwrap();
    let mut asked = 100;
    while live().await.number == 2 {
        people(&app.client, &app.url, asked..asked + 10, &next).await;
        asked += 10;
        assert!(asked < 200, "{:?}", live().await);
    }
    let back = live().await;
    eprintln!("taken back after {} people: {}", asked - 100, back.why);
    assert_eq!((back.number, back.version.0.as_str(), back.by.as_str()), (3, home.as_str(), "watch"));
    assert!(back.why.starts_with("rolled back, rated worse: rated 0."), "{}", back.why);
    serves(&app, &home).await;
    serves(&other, &home).await;
    // Now people dislike what is live again; that is no reason to go to and fro.
    people(&app.client, &app.url, 200..240, &home).await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(live().await.number, 3);

    // A person wants it so.
    promote(&app, &next).await;
    serves(&app, &next).await;
    people(&app.client, &app.url, 300..360, &next).await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!((live().await.number, live().await.version.0), (4, next));
}

fn now_ms() -> i64 {
    ulm::api::now_ms()
}

/// The whole way on the demo model: a round whose candidate the gate passes, because what is live was muddled; its trial; its end.
#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_the_gate_passes_is_tried_and_its_round_ends_with_the_trial() {
    let app = TestApp::demo_with(&["--learn", "--canary-share", "0.5", "--canary-votes", "20"]);
    let home = app.engine.model();
    let kept = ledger(app.data.path()).await;
    let muddled = publish_model(&kept, &gate::muddled(&home)).await;
    promote(&app, &muddled).await;
    serves(&app, &muddled).await;
    // As if the worker that made the candidate had been cut off before the gate.
    let plan = json!({"suite": {"seed": 9, "draws": 9, "answers": 0}}).to_string();
    let round = Round {
        state: RoundState::Judging,
        base: Some(Version(muddled.clone())),
        candidate: Some(home.version().clone()),
        ..Round::open("ann".into(), plan, 0, now_ms())
    };
    kept.open_round(round.clone()).await.unwrap();
    let path = format!("/v1/rounds/{}", round.id);
    let judged =
        until("it is judged", async || Some(app.get(&path).await.json()).filter(|round| round["status"] != "judging"))
            .await;
    assert_eq!(judged["status"], "trying", "{judged:#}");
    assert_eq!(
        (judged["report"]["verdict"]["promote"].as_bool(), kept.live().await.unwrap().unwrap().number),
        (Some(true), 2)
    );
    let card = trial(&app.client, &app.url, &home.version().0).await;
    assert_eq!(
        (card["status"].as_str(), card["by"].as_str()),
        (Some("running"), Some(&*format!("round {}", round.id)))
    );
    assert!(card["why"].as_str().unwrap().starts_with("the score rose from 0."), "{card}");
    tries(&[&app], true).await;

    let mut asked = 0;
    while kept.live().await.unwrap().unwrap().number == 2 {
        people(&app.client, &app.url, asked..asked + 20, &muddled).await;
        asked += 20;
        assert!(asked < 200);
    }
    let live = kept.live().await.unwrap().unwrap();
    assert_eq!((&live.version, live.by.as_str()), (home.version(), "canary"));
    assert_eq!(app.get(&path).await.json()["status"], "promoted");
    serves(&app, &home.version().0).await;
}
