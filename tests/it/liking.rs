//! A round on what people said of pictures that show what was asked for, and of some that show something else: its describer tells them
//! apart, so that pictures are drawn anew and judged by it. Killed while it learns to describe and while it trains.

use std::path::Path;
use std::process::Child;

use futures_util::future::join_all;
use serde_json::{Value, json};
use ulm::domain::id::{CallId, FeedbackId, ImagesId, RoundId, SampleId};
use ulm::domain::record::{Asked, By, Call, Opinion, Record};
use ulm::domain::sample::{Finish, Output, Sample, Timings, Version};
use ulm::domain::task::{Draw, Sampling};
use ulm::picture::encode::{Format, Label, encode};
use ulm::store::{Blobs, Fresh, Kept, Ledger, Rating, Said, Target};
use ulm::train::round::gather::is_held_out;
use ulm::world::{Category, Scene, Split, dice, render};

use super::crash;
use super::round::{get, reaches};

/// Requests that are held out and others: as few as a describer is made and tried by; and pictures of each, of which every other one shows
/// what was asked for.
const HELD_OUT: usize = 16;
const OTHERS: usize = 84;
const PICTURES: usize = 8;

async fn ledger(data: &Path) -> Ledger {
    let blobs = Blobs::folder(&data.join("blobs")).unwrap();
    Ledger::sqlite(&data.join("ledger.sqlite"), blobs).await.unwrap()
}

fn record(at: usize, version: &Version, file: &Fresh) -> Record {
    const CODES: usize = 64;
    Record {
        id: SampleId::fresh(),
        at: at as u32,
        sampling: Sampling { guidance: 1.35, ..Sampling::default() },
        sample: Sample {
            tokens: vec![0; CODES],
            log_probs: vec![-1.0; CODES],
            conditional_log_probs: vec![-1.0; CODES],
            seed: 0,
            version: version.clone(),
            finish: Finish::Stop,
            output: Output::Picture(file.id().clone()),
            timings: Timings::default(),
        },
        millis: 1,
    }
}

/// Requests that some version has answered, every picture with a thumb of one of ten raters.
async fn fill(ledger: &Ledger, version: &Version) {
    let mut dice = dice(1);
    let (mut room, mut worlds) = ([OTHERS, HELD_OUT], vec![]);
    while room != [0, 0] {
        let (scene, caption) = Scene::draw(Category::Colors, Split::Train, &mut dice);
        let draw = Draw { prompt: caption.text };
        let left = &mut room[usize::from(is_held_out(&Asked::Draw(draw.clone())))];
        if *left > 0 {
            *left -= 1;
            let label = Label { version: version.0.clone(), seed: 0, guidance: 1.35, temperature: 1.0 };
            let picture = render(&scene);
            worlds.push((encode(&picture, picture.width(), Format::WebP, &label).unwrap(), draw));
        }
    }
    let now_ms = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64;
    let one = async |at: usize| {
        let (right, draw) = &worlds[at];
        let (wrong, _) = worlds.iter().cycle().skip(at).find(|(_, other)| other != draw).unwrap();
        let files = join_all([right, wrong].map(|file| ledger.blobs().put(file.clone()))).await;
        let files: Vec<Fresh> = files.into_iter().map(Result::unwrap).collect();
        let records: Vec<Record> = (0..PICTURES).map(|at| record(at, version, &files[at % 2])).collect();
        let call = Call {
            id: CallId::Images(ImagesId::fresh()),
            created_ms: now_ms,
            asked: Asked::Draw(draw.clone()),
            model: "ulm".into(),
            version: version.clone(),
            config: String::new(),
            prompt_tokens: 1,
            by: By::default(),
            metadata: [].into(),
        };
        ledger.append(Kept { call, records: records.clone() }, &files).await.unwrap();
        for (place, record) in records.iter().enumerate() {
            let rating = Rating {
                target: Target::Sample(record.id),
                opinion: Said::Other(Opinion::Thumb(place % 2 == 0)),
                id: FeedbackId::fresh(),
                client_key: None,
                rater: Some(format!("user {}", (at + place / 2) % 10)),
                key: String::new(),
                metadata: [].into(),
                created_ms: now_ms,
            };
            ledger.rate(rating, &[]).await.unwrap();
        }
    };
    join_all((0..worlds.len()).map(one)).await;
}

/// A server that ends with the test, however that goes.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_liked_judges_what_is_drawn_anew() {
    let data = tempfile::tempdir().unwrap();
    let client = reqwest::Client::new();
    let start = || {
        let (child, url) = crash::start_with(data.path(), &["--learn", "--canary-share", "0"]);
        (Server(child), url)
    };
    let (server, url) = start();
    let versions = get(&client, &format!("{url}/v1/versions")).await;
    let version = Version(versions["data"][0]["id"].as_str().unwrap().to_owned());
    let ledger = ledger(data.path()).await;
    fill(&ledger, &version).await;
    let plan = json!({"describe": 2, "steps": 4, "anew": 2, "suite": {"seed": 9, "draws": 10, "answers": 5}});
    let opened = client.post(format!("{url}/v1/rounds")).json(&plan).send().await.unwrap();
    let id = opened.json::<Value>().await.unwrap()["id"].as_str().unwrap().to_owned();
    let round: RoundId = id.parse().unwrap();
    let described = async || {
        let (events, _) = ledger.events(round, None, 1000).await.unwrap();
        events.into_iter().filter(|event| event.message.starts_with("Learning to describe")).count()
    };
    while described().await < 2 {
        let now = get(&client, &format!("{url}/v1/rounds/{id}")).await;
        assert!(["open", "rolling"].contains(&now["status"].as_str().unwrap()), "{now:#}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    drop(server);

    // It begins to describe again, for nothing of it was kept.
    let before = described().await;
    let (server, url) = start();
    reaches(&client, &url, &id, &["training"]).await;
    let times = described().await;
    drop(server);
    assert!(times >= before + 5, "{before} {times}");
    let file = data.path().join(format!("rounds/describers/{id}.safetensors"));
    let learned = std::fs::read(&file).unwrap();

    // What it has learned it knows.
    let (_server, url) = start();
    let round = reaches(&client, &url, &id, &["judging", "promoted", "refused"]).await;
    assert_eq!(described().await, times);
    assert!(std::fs::read(&file).unwrap() == learned);
    let report = &round["report"];
    let (from, describer) = (&report["learned_from"], &report["learned_from"]["describer"]);
    assert!(describer["within"].as_f64().unwrap() > 0.8 && describer["pairs"].as_u64().unwrap() >= 200, "{from:#}");
    assert_eq!((from["lessons"].as_u64(), report["training"]["steps"].as_u64()), (Some(0), Some(4)));
    let numbers = [&from["drawn_anew"], &from["pictures"], &describer["liked"]].map(|number| number.as_u64().unwrap());
    assert_eq!(numbers, [OTHERS, OTHERS * PICTURES, OTHERS * PICTURES / 2].map(|number| number as u64));
}
