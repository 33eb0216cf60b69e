//! A disk without room: answers go on, feedback is refused aloud, and all is well again when there is room. The server runs in a
//! process of its own, whose files may not grow while the test says so.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use reqwest::{Client, Response};
use serde_json::{Value, json};
use ulm::store::{Blobs, Ledger};

use super::crash;

/// Sets how large the files of a process may become.
fn bound_files(process: u32, bytes: &str) {
    let bound = Command::new("prlimit").args(["--pid", &process.to_string(), &format!("--fsize={bytes}:")]).status();
    assert!(bound.unwrap().success());
}

struct Caller {
    client: Client,
    url: String,
}

impl Caller {
    async fn post(&self, path: &str, body: Value) -> Response {
        self.client.post(format!("{}{path}", self.url)).json(&body).send().await.unwrap()
    }

    async fn draw(&self) -> Response {
        self.post("/v1/images/generations", json!({"prompt": "a star"})).await
    }

    async fn ask(&self) -> Response {
        let messages = json!([{"role": "user", "content": "hi"}]);
        self.post("/v1/chat/completions", json!({"model": "mha", "messages": messages, "max_tokens": 2})).await
    }

    async fn rate(&self, sample: &Value) -> Response {
        self.post("/v1/feedback", json!({"sample_id": sample, "thumb": "up"})).await
    }
}

/// The first sample's id, or null.
async fn sample(reply: Response) -> Value {
    assert_eq!(reply.status(), 200);
    let reply: Value = reply.json().await.unwrap();
    let place = if reply["data"].is_array() { &reply["data"][0] } else { &reply["choices"][0] };
    assert!(place.is_object(), "{reply}");
    place["sample_id"].clone()
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn answers_go_on_when_the_disk_is_full() {
    let data = tempfile::tempdir().unwrap();
    let (mut server, url) = crash::start(data.path(), None);
    let caller = Caller { client: Client::new(), url };
    let before = sample(caller.draw().await).await;
    assert!(before.is_string());

    bound_files(server.id(), "0");
    for reply in [caller.draw().await, caller.ask().await] {
        assert_eq!(reply.headers().get("x-ulm-ledger").unwrap(), "unavailable");
        assert!(sample(reply).await.is_null());
    }
    let refused = caller.rate(&before).await;
    assert_eq!(refused.status(), 503);
    assert!(refused.json::<Value>().await.unwrap()["error"]["message"].is_string());

    bound_files(server.id(), "unlimited");
    let begun = Instant::now();
    let after = loop {
        let after = sample(caller.ask().await).await;
        if after.is_string() {
            break after;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "the ledger stays away although there is room again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    for sample in [&before, &after] {
        assert_eq!(caller.rate(sample).await.status(), 201);
    }

    server.kill().unwrap();
    server.wait().unwrap();
    let ledger = reopen(data.path()).await;
    for sample in [before, after] {
        assert!(ledger.call_of(sample.as_str().unwrap().parse().unwrap()).await.unwrap().is_some());
    }
}

async fn reopen(data: &Path) -> Ledger {
    Ledger::sqlite(&data.join("ledger.sqlite"), Blobs::folder(&data.join("blobs")).unwrap()).await.unwrap()
}
