//! The whole story on a laptop: a server that learns, users who ask and rate through HTTP, rounds, the gate, new weights; and how well it
//! draws, measured from outside before and after. `cargo run --release --example learn -- --help`
//!
//! The users' taste is the world's verifier, but nobody else sees it: the server learns from what they say alone. Some of it are slips,
//! and some users say the opposite of what they think.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "an example that cannot go on must not, and prints what it found"
)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Parser;
use futures_util::StreamExt as _;
use futures_util::{future::join_all, stream};
use indicatif::{ProgressBar, ProgressStyle};
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use ulm::config::Cli;
use ulm::picture::decode;
use ulm::serve::{self, Checkpoint};
use ulm::train::draw;
use ulm::train::eval::Count;
use ulm::world::{Category, Dice, Judgement, Requirement, Scene, Split, judge, suite};

/// As the server's own program has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How often users ask for each category of caption, in the order of `Category::ALL`.
const CATEGORIES: [u32; 6] = [1, 2, 2, 1, 3, 3];
/// Users who wait for something at a time.
const AT_ONCE: usize = 12;

/// Learns from simulated users, from what they say alone.
#[derive(Parser)]
struct Options {
    /// Rounds of asking, rating and learning
    #[arg(long, default_value_t = 2)]
    rounds: u64,
    /// Requests of a round
    #[arg(long, default_value_t = 1200)]
    requests: usize,
    /// Pictures of a request, each of which is rated
    #[arg(long, default_value_t = 8)]
    pictures: u64,
    /// What a round is to do, as `POST /v1/rounds` takes it; what it does not say is as the server thinks best
    #[arg(long, default_value = "{}", value_name = "JSON", value_parser = plan)]
    plan: Value,
    /// Users
    #[arg(long, default_value_t = 50)]
    users: usize,
    /// They give thumbs in place of one to five stars
    #[arg(long)]
    thumbs: bool,
    /// Share of what they say that slips: the opposite of what they think
    #[arg(long, default_value_t = 0.15)]
    slips: f64,
    /// Share of users who say the opposite of what they think
    #[arg(long, default_value_t = 0.1)]
    malicious: f64,
    /// Seed of users and rounds
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Held-out prompts of each category that it is measured by from outside
    #[arg(long, default_value_t = 100)]
    measure: usize,
    /// Where the curve goes
    #[arg(long, default_value = "learn.svg")]
    curve: PathBuf,
    /// Print the record as JSON
    #[arg(long)]
    json: bool,
}

fn plan(text: &str) -> Result<Value, String> {
    let plan: Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
    if plan.is_object() { Ok(plan) } else { Err("an object is wanted".into()) }
}

/// A server in this process.
struct Server {
    url: String,
    client: reqwest::Client,
    stop: Option<actix_web::dev::ServerHandle>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    fn start(data: &std::path::Path) -> Self {
        // What the gate passes is live at once: the story is of rounds, and its users are too few for a trial.
        let learning = ["--learn", "--canary-share", "0", "--watch", "false"];
        let serving = ["ulm", "--listen", "127.0.0.1:0", "--log", "warn", "--data", data.to_str().unwrap()];
        let arguments = serving.into_iter().chain(learning);
        let Cli { serve: options, log, .. } = Cli::parse_from(arguments);
        let _ = ulm::telemetry::start(&log);
        let (name, model) = serve::model(None).unwrap();
        let (sender, receiver) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            actix_web::rt::System::new().block_on(async {
                let running = serve::start(&options, Checkpoint::new(&options, &name, model)).await.unwrap();
                sender.send((running.address, running.handle.clone())).unwrap();
                running.join().await.unwrap();
            });
        });
        let (address, stop) = receiver.recv().unwrap();
        let client = reqwest::Client::builder().timeout(Duration::from_secs(300)).build().unwrap();
        Self { url: format!("http://{address}"), client, stop: Some(stop), thread: Some(thread) }
    }

    async fn get(&self, path: &str) -> Value {
        self.client.get(format!("{}{path}", self.url)).send().await.unwrap().json().await.unwrap()
    }

    /// Sends until the server has room for it.
    async fn post(&self, path: &str, body: &Value) -> Value {
        loop {
            let reply = self.client.post(format!("{}{path}", self.url)).json(body).send().await.unwrap();
            match reply.status().as_u16() {
                200 | 201 => return reply.json().await.unwrap(),
                429 => tokio::time::sleep(Duration::from_millis(500)).await,
                _ => panic!("{path}: {}", reply.text().await.unwrap()),
            }
        }
    }

    /// Draws a prompt: each picture with the id of its sample.
    async fn draw(&self, body: &Value) -> Vec<(String, ulm::domain::picture::Picture)> {
        let reply = self.post("/v1/images/generations", body).await;
        let item = |item: &Value| {
            let file = STANDARD.decode(item["b64_json"].as_str().unwrap()).unwrap();
            let picture = decode::picture(&file, decode::MAX_PIXELS).unwrap();
            (item["sample_id"].as_str().unwrap_or_default().to_owned(), picture)
        };
        reply["data"].as_array().unwrap().iter().map(item).collect()
    }

    /// How many held-out prompts it draws right, as it is served.
    async fn measure(&self, prompts: usize) -> Count {
        let items = suite::drawing(2, prompts).into_iter().filter(|item| item.split == Split::HeldOut);
        let drawn = stream::iter(items).map(async |item| {
            let body = json!({"prompt": item.prompt, "seed": item.seed % (1 << 53), "store": false});
            judge(&item.requirement, &self.draw(&body).await[0].1).correct
        });
        Count::of(drawn.buffered(AT_ONCE).collect::<Vec<_>>().await)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            drop(stop.stop(false));
        }
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// What one user asks, and when they slip.
struct User {
    name: String,
    prompt: String,
    requirement: Requirement,
    slips: Vec<bool>,
}

/// The users of a round.
fn users(options: &Options, round: u64) -> Vec<User> {
    let mut dice = Dice::seed_from_u64(options.seed);
    dice.set_stream(round + 1);
    let malicious = (options.malicious * options.users as f64).round() as usize;
    (0..options.requests)
        .map(|_| {
            let (_, caption) = Scene::draw(Category::pick(&CATEGORIES, &mut dice), Split::Train, &mut dice);
            let user = dice.random_range(0..options.users);
            let slips = (0..options.pictures).map(|_| dice.random_bool(options.slips) != (user < malicious)).collect();
            User { name: format!("user {user}"), prompt: caption.text, requirement: caption.requirement, slips }
        })
        .collect()
}

/// What a user thinks of a picture: five stars when it is right, else one to three by how much of it is.
fn stars(judged: &Judgement) -> i64 {
    if judged.correct { 5 } else { 1 + (2.0 * judged.fraction).round() as i64 }
}

/// All users of a round ask, look and rate.
async fn ask_and_rate(server: &Server, options: &Options, round: u64) -> (usize, usize) {
    let users = users(options, round);
    let style = ProgressStyle::with_template("{prefix:>10} {bar:30} {pos}/{len} (left {eta_precise})").unwrap();
    let bar = ProgressBar::new(users.len() as u64).with_prefix("users").with_style(style);
    let (up, all) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let asking = stream::iter(users).map(async |user| {
        let body = json!({"prompt": user.prompt, "n": options.pictures, "user": user.name});
        let rating = server.draw(&body).await.into_iter().zip(user.slips).map(async |((sample, picture), slips)| {
            let judged = judge(&user.requirement, &picture);
            let likes = judged.correct != slips;
            let mut said = json!({"sample_id": sample, "rater": user.name});
            if options.thumbs {
                said["thumb"] = json!(if likes { "up" } else { "down" });
            } else {
                let stars = stars(&judged);
                said["rating"] = json!(if slips { 6 - stars } else { stars });
            }
            server.post("/v1/feedback", &said).await;
            up.fetch_add(usize::from(likes), Ordering::Relaxed);
            all.fetch_add(1, Ordering::Relaxed);
        });
        join_all(rating).await;
        bar.inc(1);
    });
    asking.buffer_unordered(AT_ONCE).collect::<Vec<_>>().await;
    bar.finish_and_clear();
    (up.load(Ordering::Relaxed), all.load(Ordering::Relaxed))
}

/// A round from its opening to its end.
async fn learn(server: &Server, options: &Options, round: u64) -> Value {
    let mut plan = options.plan.clone();
    plan["seed"] = options.seed.into();
    plan["suite"] = json!({"seed": 100 * options.seed + round, "draws": 300, "answers": 15});
    let opened = server.post("/v1/rounds", &plan).await;
    let path = format!("/v1/rounds/{}", opened["id"].as_str().unwrap());
    loop {
        let now = server.get(&path).await;
        if ["promoted", "refused", "failed", "cancelled"].contains(&now["status"].as_str().unwrap()) {
            return now;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

fn main() {
    // SAFETY: no other thread runs yet that could read the environment meanwhile.
    unsafe { std::env::set_var("CANDLE_NUM_THREADS", "1") };
    tokio::runtime::Runtime::new().unwrap().block_on(story(Options::parse()));
}

async fn story(options: Options) {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(data.path());
    let begun = Instant::now();
    let before = server.measure(options.measure).await;
    let (mut after, mut curve, mut rounds) = (before, vec![(0, before.percent)], vec![]);
    println!("before: {:.1} % of {} held-out prompts drawn right", before.percent, before.of);
    for round in 0..options.rounds {
        let asking = Instant::now();
        let (up, all) = ask_and_rate(&server, &options, round).await;
        let asked = asking.elapsed();
        let ended = learn(&server, &options, round).await;
        let gain = &ended["report"]["verdict"]["gain"];
        let percent = |value: &Value| 100.0 * value.as_f64().unwrap_or(f64::NAN);
        println!(
            "round {}: {all} opinions, {:.0} % good; {}: the gate measured {:.1} % before, {:.1} % after{}; {:.0} s asking, {:.0} s learning",
            round + 1,
            100.0 * up as f64 / all as f64,
            ended["status"].as_str().unwrap(),
            percent(&gain["live"]),
            percent(&gain["candidate"]),
            ended["report"]["verdict"]["reasons"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|why| format!("; {why}"))
                .collect::<String>(),
            asked.as_secs_f64(),
            (asking.elapsed() - asked).as_secs_f64(),
        );
        if let Some(error) = ended["report"]["error"].as_str() {
            println!("  {error}");
        }
        // The server follows within a second.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let now = server.measure(options.measure).await;
        curve.push((round + 1, now.percent));
        println!("  from outside: {:.1} % [{:.1}, {:.1}]", now.percent, now.interval[0], now.interval[1]);
        rounds.push(json!({"round": ended, "outside": now}));
        after = now;
    }
    let minutes = begun.elapsed().as_secs_f64() / 60.0;
    println!(
        "{:.1} % before [{:.1}, {:.1}], {:.1} % after [{:.1}, {:.1}], in {minutes:.0} minutes",
        before.percent, before.interval[0], before.interval[1], after.percent, after.interval[0], after.interval[1]
    );
    draw::curves(&options.curve, "held-out prompts drawn right, %", &BTreeMap::from([("drawing".to_owned(), curve)]))
        .unwrap();
    if options.json {
        let record = json!({
            "seed": options.seed, "slips": options.slips, "malicious": options.malicious, "users": options.users,
            "requests": options.requests, "pictures": options.pictures, "before": before, "after": after,
            "minutes": minutes, "rounds": rounds,
        });
        println!("{record:#}");
    }
}
