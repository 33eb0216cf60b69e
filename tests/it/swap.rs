//! New weights while people are served: followed, named, taken back; under load, after a kill, by several servers; and bad ones,
//! which nobody is ever served.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use serde_json::{Value, json};
use ulm::domain::round::KnownVersion;
use ulm::domain::sample::Version;
use ulm::model::Model;
use ulm::model::params::Tensors;
use ulm::store::{Blobs, Ledger, Promoted};

use super::app::{MODEL, TestApp, chat};
use super::crash;

/// The ledger of a server.
pub async fn ledger(data: &std::path::Path) -> Ledger {
    Ledger::sqlite(&data.join("ledger.sqlite"), Blobs::folder(&data.join("blobs")).unwrap()).await.unwrap()
}

/// `model` a little otherwise.
pub fn changed(model: &Model, by: f64) -> Model {
    let change = |(name, tensor): (&String, &candle_core::Tensor)| {
        let learns = name.starts_with("model.language_model.") && tensor.rank() == 2;
        let tensor = if learns { tensor.affine(1.0 + by, 0.0).unwrap() } else { tensor.clone() };
        (name.clone(), tensor)
    };
    model.with_tensors(model.tensors().iter().map(change).collect::<Tensors>()).unwrap()
}

/// Makes weights known under `version`.
async fn publish(ledger: &Ledger, version: &Version, file: Vec<u8>) {
    let file = ledger.blobs().put(file).await.unwrap();
    let known = KnownVersion {
        version: version.clone(),
        parent: None,
        round: None,
        created_ms: 1,
        weights: Some(file.id().clone()),
        bytes: file.bytes() as i64,
        scores: "{}".into(),
        pinned: false,
    };
    ledger.know(known, &[file]).await.unwrap();
}

/// Makes a model's version known; which it is.
pub async fn publish_model(ledger: &Ledger, model: &Model) -> String {
    publish(ledger, model.version(), model.weights_file().unwrap()).await;
    model.version().0.clone()
}

/// Makes a version known that differs from what a server began with.
pub async fn another(app: &TestApp) -> String {
    publish_model(&ledger(app.data.path()).await, &changed(&app.engine.model(), 0.1)).await
}

/// Waits until a server answers with `version`.
pub async fn serves(app: &TestApp, version: &str) {
    let start = Instant::now();
    while app.get("/health").await.json()["model_version"] != version {
        assert!(start.elapsed() < Duration::from_secs(20), "{}", app.get("/health").await.text());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Makes a version live by hand.
pub async fn promote(app: &TestApp, version: &str) -> Value {
    let reply = app.post(&format!("/v1/versions/{version}/promote"), &json!({})).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_are_promoted_named_and_taken_back() {
    let app = TestApp::start();
    let home = app.engine.model().version().0.clone();
    let ledger = ledger(app.data.path()).await;
    let next = publish_model(&ledger, &changed(&app.engine.model(), 0.1)).await;

    let list = app.get("/v1/versions").await.json();
    assert_eq!((list["data"][0]["id"].as_str(), list["data"][0]["live"].as_bool()), (Some(home.as_str()), Some(true)));
    assert_eq!(list["promotions"][0]["why"], "a server was started with it");
    let seeded = json!({"prompt": "a star", "seed": 5});
    let before = app.draw(&seeded).await;
    assert_eq!(before.header("x-model-version"), home);

    let promotion = promote(&app, &next[..8]).await;
    assert_eq!((promotion["number"].as_i64(), promotion["version"].as_str()), (Some(2), Some(next.as_str())));
    serves(&app, &next).await;
    assert_eq!(promote(&app, &next).await["number"], 2, "it is live already");
    let after = app.draw(&seeded).await;
    assert_eq!(after.header("x-model-version"), next);
    assert_ne!(after.files(), before.files());

    // The one before can still be asked for by name, and gives what it gave.
    let names: Vec<Value> =
        app.get("/v1/models").await.json()["data"].as_array().unwrap().iter().map(|card| card["id"].clone()).collect();
    let (old, new) = (format!("{MODEL}@{}", &home[..12]), format!("{MODEL}@{}", &next[..12]));
    assert_eq!(names, [json!(MODEL), json!(new), json!(old)]);
    let pinned = app.draw(&json!({"prompt": "a star", "seed": 5, "model": old})).await;
    assert_eq!((pinned.header("x-model-version"), pinned.files()), (home.as_str(), before.files()));
    let mut body = chat(json!("hi"), &json!({"max_tokens": 3}));
    body["model"] = json!(old);
    let answer = app.post("/v1/chat/completions", &body).await;
    assert_eq!(
        (answer.json()["system_fingerprint"].as_str(), answer.header("x-model-version")),
        (Some(&*home), &*home)
    );
    let unknown = app.draw(&json!({"prompt": "a star", "model": format!("{MODEL}@0123456789ab")})).await;
    assert_eq!(unknown.refusal().2, "model_not_found");

    let conflict = app.post(&format!("/v1/versions/{home}/rollback"), &json!({})).await;
    assert_eq!(conflict.refusal().0, 409, "it is not live");
    let back = app.post(&format!("/v1/versions/{next}/rollback"), &json!({})).await;
    assert_eq!((back.status, back.json()["version"].as_str()), (200, Some(home.as_str())), "{}", back.text());
    serves(&app, &home).await;
    assert_eq!(app.draw(&seeded).await.files(), before.files());
    let card = app.get(&format!("/v1/versions/{}", &next[..10])).await.json();
    assert_eq!((card["live"].as_bool(), card["available"].as_bool()), (Some(false), Some(true)));

    for path in ["/v1/versions/zzzz", "/v1/versions/0123456789ab"] {
        assert_eq!(app.get(path).await.refusal().0, 404, "{path}");
        assert_eq!(app.post(&format!("{path}/promote"), &json!({})).await.refusal().0, 404, "{path}");
    }
    assert_eq!(app.get(&format!("/v1/versions/{home}/promote")).await.refusal().0, 405);
    app.still_serves().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_an_admin_key_changes_what_is_served() {
    let app = TestApp::with(&["--api-key", "user", "--admin-key", "admin"]);
    let home = app.engine.model().version().0.clone();
    let send = async |method: reqwest::Method, path: &str, key: &str| {
        app.send(app.client.request(method, format!("{}{path}", app.url)).bearer_auth(key)).await.status
    };
    for path in [format!("/v1/versions/{home}/promote"), format!("/v1/versions/{home}/rollback")] {
        assert_eq!(send(reqwest::Method::POST, &path, "user").await, 401);
        assert_eq!(send(reqwest::Method::POST, &path, "nobody").await, 401);
    }
    assert_eq!(send(reqwest::Method::POST, &format!("/v1/versions/{home}/promote"), "admin").await, 200);
    for key in ["user", "admin"] {
        assert_eq!(send(reqwest::Method::GET, "/v1/versions", key).await, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_weights_are_never_served() {
    let app = TestApp::start();
    let home = app.engine.model();
    let ledger = ledger(app.data.path()).await;
    let good = changed(&home, 0.1);
    let mut broken = good.weights_file().unwrap();
    let end = broken.len() - 4;
    broken[end..].copy_from_slice(&f32::NAN.to_le_bytes());
    let bad = [
        ("not a number", broken),
        ("another's", changed(&home, 0.2).weights_file().unwrap()),
        ("cut off", good.weights_file().unwrap()[..1000].to_vec()),
        ("nothing", vec![]),
    ];
    for (at, (what, file)) in bad.into_iter().enumerate() {
        let version = Version(format!("{at}").repeat(64));
        publish(&ledger, &version, file).await;
        promote(&app, &version.0).await;
        // Time to look, and to look again.
        tokio::time::sleep(Duration::from_millis(1200)).await;
        assert_eq!(app.engine.model().version(), home.version(), "{what}");
        assert_eq!(app.engine.models().len(), 1, "{what}");
        app.still_serves().await;
    }
    let next = publish_model(&ledger, &good).await;
    promote(&app, &next).await;
    serves(&app, &next).await;

    // A server that starts while the live version cannot be loaded says so and serves what it was started with.
    let gone = Version("f".repeat(64));
    publish(&ledger, &gone, b"nothing".to_vec()).await;
    promote(&app, &gone.0).await;
    let other = app.beside();
    assert_eq!(other.engine.model().version(), home.version());
    serves(&app, &home.version().0).await;
}

/// Several servers of one ledger: whichever is asked, all follow, and one that starts later begins with what is live.
#[tokio::test(flavor = "multi_thread")]
async fn all_servers_of_a_ledger_follow() {
    let first = TestApp::start();
    let home = first.engine.model().version().0.clone();
    let second = first.beside();
    let next = publish_model(&ledger(first.data.path()).await, &changed(&first.engine.model(), 0.1)).await;
    promote(&second, &next).await;
    serves(&first, &next).await;
    serves(&second, &next).await;
    let third = first.beside();
    assert_eq!(third.engine.model().version().0, next);
    let back = first.post(&format!("/v1/versions/{next}/rollback"), &json!({})).await.json();
    assert_eq!(back["version"], home);
    for app in [&first, &second, &third] {
        serves(app, &home).await;
    }
}

/// Resident memory of this process, MiB.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

/// What clients saw.
#[derive(Default)]
struct Seen {
    answers: AtomicUsize,
    mixed: AtomicUsize,
}

/// One client until it is told to stop: draws, asks and streams; its longest pauses between two pieces of a stream.
async fn client(url: String, number: u64, over: Arc<AtomicBool>, seen: Arc<Seen>) -> Vec<f64> {
    let http = reqwest::Client::builder().timeout(Duration::from_secs(60)).build().unwrap();
    let mut pauses = vec![];
    for round in 0u64.. {
        if over.load(Ordering::Relaxed) {
            break;
        }
        let seed = 1000 * number + round;
        if number.is_multiple_of(2) {
            let body = json!({"prompt": "a star", "seed": seed, "n": 2});
            let reply = http.post(format!("{url}/v1/images/generations")).json(&body).send().await.unwrap();
            assert_eq!(reply.status(), 200);
            assert_eq!(reply.json::<Value>().await.unwrap()["data"].as_array().unwrap().len(), 2);
        } else {
            let body =
                chat(json!("what is it?"), &json!({"max_tokens": 40, "seed": seed, "temperature": 1, "stream": true}));
            let reply = http.post(format!("{url}/v1/chat/completions")).json(&body).send().await.unwrap();
            assert_eq!(reply.status(), 200);
            let version = reply.headers()["x-model-version"].to_str().unwrap().to_owned();
            let (mut text, mut last, mut stream) = (String::new(), None, reply.bytes_stream());
            while let Some(piece) = stream.next().await {
                text += &String::from_utf8_lossy(&piece.unwrap());
                pauses.extend(last.replace(Instant::now()).map(|last: Instant| last.elapsed().as_secs_f64()));
            }
            assert!(text.ends_with("data: [DONE]\n\n") && !text.contains("\"error\""), "{text}");
            let frames = text.split("\n\n").filter_map(|frame| frame.strip_prefix("data: "));
            let frames = frames.filter_map(|frame| serde_json::from_str::<Value>(frame).ok());
            let mixed = frames.filter(|frame| frame["system_fingerprint"] != version.as_str()).count();
            seen.mixed.fetch_add(mixed, Ordering::Relaxed);
        }
        seen.answers.fetch_add(1, Ordering::Relaxed);
    }
    pauses
}

/// The pause that 99 of 100 are shorter than, in milliseconds.
fn p99(mut pauses: Vec<f64>) -> f64 {
    pauses.sort_by(f64::total_cmp);
    pauses.get(pauses.len() * 99 / 100).map_or(0.0, |pause| 1000.0 * pause)
}

/// Ten swaps while 32 clients are served; beside it the same load without a swap. Kept answers are drawn again, alone, by the version that each
/// names, and must come out the same but for rounding.
#[tokio::test(flavor = "multi_thread")]
async fn swaps_under_load_fail_nobody_and_mix_nothing() {
    let app = TestApp::with(&["--queue", "256"]);
    let ledger = ledger(app.data.path()).await;
    let versions = [changed(&app.engine.model(), 0.1), changed(&app.engine.model(), 0.2)];
    let mut ids = vec![];
    for version in &versions {
        ids.push(publish_model(&ledger, version).await);
    }
    let seen = Arc::new(Seen::default());
    let under_load = async |swaps: usize| {
        let over = Arc::new(AtomicBool::new(false));
        let clients: Vec<_> =
            (0..32).map(|number| tokio::spawn(client(app.url.clone(), number, over.clone(), seen.clone()))).collect();
        tokio::time::sleep(Duration::from_secs(2)).await;
        for swap in 0..swaps {
            promote(&app, &ids[swap % 2]).await;
            serves(&app, &ids[swap % 2]).await;
        }
        over.store(true, Ordering::Relaxed);
        let mut pauses = vec![];
        for client in clients {
            pauses.extend(client.await.unwrap());
        }
        pauses
    };
    let still = p99(under_load(0).await);
    let before = resident();
    let swapped = p99(under_load(10).await);
    app.idle().await;
    let (answers, mixed) = (seen.answers.load(Ordering::Relaxed), seen.mixed.load(Ordering::Relaxed));
    eprintln!(
        "10 swaps, 32 clients: {answers} answers, none failed, {mixed} mixed; pause between two tokens p99 {swapped:.1} ms, \
         without swaps {still:.1} ms; memory {before:.0} MiB before, {:.0} after",
        resident()
    );
    assert_eq!(mixed, 0);
    assert!(app.engine.models().len() <= 3, "what nobody names is let go");

    // What was kept says which weights drew it; they draw it again.
    let (mut again, mut otherwise) = (0, 0);
    for task in [ulm::store::Task::Images, ulm::store::Task::Chat] {
        let filter = ulm::store::CallFilter {
            task,
            model: None,
            metadata: Default::default(),
            order: ulm::store::Order::Newest,
            after: None,
            limit: 60,
        };
        for kept in ledger.calls(&filter).await.unwrap().0 {
            assert!(kept.records.iter().all(|record| record.sample.version == kept.call.version));
            if let Some(same) = same_again(&app, &versions, kept).await {
                again += 1;
                otherwise += usize::from(!same);
            }
        }
    }
    assert!(again >= 60, "{again} answers of loaded versions were drawn again");
    // What shares a step changes the last bits, which now and then decide between two tokens; other weights would change nearly all.
    assert!(otherwise <= again / 20, "{otherwise} of {again} came out otherwise");
}

/// Draws a kept request again with the version that it names, and says whether the same came; none where that one is not at hand.
async fn same_again(app: &TestApp, versions: &[Model], kept: ulm::store::Kept) -> Option<bool> {
    use ulm::domain::record::Asked;
    use ulm::engine::command::{Event, Lane, Submission, Work};
    if !versions.iter().any(|version| *version.version() == kept.call.version) {
        return None;
    }
    let models = app.engine.models();
    let model = models.iter().find(|model| *model.version() == kept.call.version)?;
    let work = match kept.call.asked {
        Asked::Draw(draw) => Work::Draw(model.prompter().draw(&draw).unwrap()),
        Asked::Answer(answer) => {
            let answer = answer.try_map(|_| Err::<_, ()>(())).unwrap();
            Work::Answer(model.prompter().answer(&answer).unwrap())
        }
    };
    let samplings = kept.records.iter().map(|record| record.sampling.clone()).collect();
    let submission = Submission { work, samplings, lane: Lane::Interactive };
    let mut events = app.engine.submit_to(model, submission).unwrap();
    let mut same = true;
    while let Some(event) = events.next().await {
        if let Event::Finished { index, sample } = event {
            same &= sample.tokens == kept.records[index].sample.tokens;
        }
    }
    Some(same)
}

/// Killed at any moment of a swap, a server that starts again serves what was promoted last.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_killed_serves_what_was_promoted_last() {
    let data = tempfile::tempdir().unwrap();
    let home = Model::load(&crate::golden::path("mha"), &candle_core::Device::Cpu).unwrap();
    let client = reqwest::Client::new();
    let live = async |url: &str| {
        let health = client.get(format!("{url}/health")).send().await.unwrap().json::<Value>().await.unwrap();
        health["model_version"].as_str().unwrap().to_owned()
    };
    let mut wanted = home.version().0.clone();
    for round in 0..8u64 {
        let (mut child, url) = crash::start(data.path(), None);
        assert_eq!(live(&url).await, wanted, "kill number {round}");
        let kept = ledger(data.path()).await;
        let next = publish_model(&kept, &changed(&home, 0.05 * (round + 1) as f64)).await;
        let reply = client.post(format!("{url}/v1/versions/{next}/promote")).send().await.unwrap();
        assert_eq!(reply.status(), 200);
        wanted = next;
        // While it looks, loads, tries, swaps, or after.
        tokio::time::sleep(Duration::from_millis(round * 97)).await;
        child.kill().unwrap();
        child.wait().unwrap();
        let live = kept.live().await.unwrap().unwrap();
        assert_eq!(live.version.0, wanted);
        // What is not acknowledged is not live either.
        let lost = kept.promote(live.version, live.number - 1, "late".into(), String::new(), 9).await.unwrap();
        assert!(matches!(lost, Promoted::Lost(_)));
    }
}
