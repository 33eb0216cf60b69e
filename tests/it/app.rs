//! A server in this process, on a real port and with a real model (a small random one, or the demo), and the verbs that tests
//! speak to it.

use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use actix_web::dev::ServerHandle;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use candle_core::Device;
use clap::Parser as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use ulm::config::Cli;
use ulm::engine::EngineHandle;
use ulm::model::{Model, ModelFiles};
use ulm::serve::{self, Checkpoint};
use ulm::telemetry;

use super::golden;

/// What the model of the tests is called.
pub const MODEL: &str = "random";

pub struct TestApp {
    /// `http://127.0.0.1:PORT`
    pub url: String,
    pub engine: EngineHandle,
    pub client: reqwest::Client,
    server: ServerHandle,
    thread: Option<JoinHandle<()>>,
    /// What the server keeps.
    pub data: Arc<TempDir>,
}

pub struct Reply {
    pub status: u16,
    headers: reqwest::header::HeaderMap,
    pub bytes: Vec<u8>,
}

impl TestApp {
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// With further options of the command line.
    pub fn with(options: &[&str]) -> Self {
        Self::serve(MODEL, Model::from_files(&files(), &Device::Cpu).unwrap(), options)
    }

    /// As it starts without a model named.
    pub fn demo() -> Self {
        Self::demo_with(&[])
    }

    /// The same with further options of the command line.
    pub fn demo_with(options: &[&str]) -> Self {
        let Cli { serve: parsed, .. } = Cli::try_parse_from(["ulm"].iter().chain(options)).unwrap();
        let (name, model) = serve::model_as(None, serve::reading(parsed.pickle, parsed.kept)).unwrap();
        Self::serve(&name, model, options)
    }

    fn serve(name: &str, model: Model, options: &[&str]) -> Self {
        Self::over(Arc::new(tempfile::tempdir().unwrap()), name, model, options)
    }

    /// Another server over what this one keeps.
    pub fn beside(&self) -> Self {
        self.beside_with(&[])
    }

    /// The same with further options of the command line.
    pub fn beside_with(&self, options: &[&str]) -> Self {
        Self::over(Arc::clone(&self.data), MODEL, Model::from_files(&files(), &Device::Cpu).unwrap(), options)
    }

    fn over(data: Arc<TempDir>, name: &str, model: Model, options: &[&str]) -> Self {
        let base = ["ulm", "--listen", "127.0.0.1:0", "--log", "warn", "--data", data.path().to_str().unwrap()];
        let context = ["--context", "512"];
        let context = if options.contains(&context[0]) { [].as_slice() } else { &context };
        let Cli { serve: options, log, .. } = Cli::try_parse_from(base.iter().chain(context).chain(options)).unwrap();
        // Only the first application of the process can.
        let _ = telemetry::start(&log);
        let name = name.to_owned();
        let (sender, receiver) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            actix_web::rt::System::new().block_on(async {
                let running = serve::start(&options, Checkpoint::new(&options, &name, model)).await.unwrap();
                sender.send((running.address, running.engine.clone(), running.handle.clone())).unwrap();
                running.join().await.unwrap();
            });
        });
        let (address, engine, server) = receiver.recv().unwrap();
        let client = reqwest::Client::builder().timeout(Duration::from_secs(60)).build().unwrap();
        Self { url: format!("http://{address}"), engine, client, server, thread: Some(thread), data }
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.send(self.client.get(format!("{}{path}", self.url))).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Reply {
        self.post_text(path, &body.to_string()).await
    }

    pub async fn post_text(&self, path: &str, body: &str) -> Reply {
        let request = self.client.post(format!("{}{path}", self.url)).header("content-type", "application/json");
        self.send(request.body(body.to_owned())).await
    }

    pub async fn send(&self, request: reqwest::RequestBuilder) -> Reply {
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Reply { status, headers, bytes: response.bytes().await.unwrap().into() }
    }

    pub async fn draw(&self, body: &Value) -> Reply {
        self.post("/v1/images/generations", body).await
    }

    /// Asks with `extra` fields beside model and messages.
    pub async fn chat(&self, content: Value, extra: &Value) -> Reply {
        self.post("/v1/chat/completions", &chat(content, extra)).await
    }

    /// The next requests of either kind are answered as if nothing had been.
    pub async fn still_serves(&self) {
        assert_eq!(self.draw(&json!({"prompt": "a star"})).await.status, 200);
        assert_eq!(self.chat(json!("hi"), &json!({"max_tokens": 2})).await.status, 200);
    }

    /// The same of the demo model.
    pub async fn still_serves_demo(&self) {
        assert_eq!(self.draw(&json!({"prompt": "a star"})).await.status, 200);
    }

    /// Waits until the engine computes nothing any more.
    pub async fn idle(&self) {
        let start = Instant::now();
        while self.engine.load().running > 0 || self.engine.load().queued > 0 {
            assert!(start.elapsed() < Duration::from_secs(20), "the engine is still at work: {:?}", self.engine.load());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// The small random checkpoint, with a context long enough to be busy in.
pub fn files() -> ModelFiles {
    let mut files = ModelFiles::read(&golden::path("mha")).unwrap();
    let mut config: Value = serde_json::from_slice(&files.config).unwrap();
    config["text_config"]["max_position_embeddings"] = json!(8192);
    files.config = config.to_string().into_bytes().into();
    files
}

impl Drop for TestApp {
    fn drop(&mut self) {
        // The command is sent at once; the future only waits for its end.
        drop(self.server.stop(false));
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || matches!(ended, Some(Ok(()))), "the server ended by a panic");
    }
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The files of drawn pictures.
    pub fn files(&self) -> Vec<Vec<u8>> {
        let data = self.json()["data"].as_array().cloned().unwrap_or_else(|| panic!("no pictures: {}", self.text()));
        data.iter().map(|item| STANDARD.decode(item["b64_json"].as_str().unwrap()).unwrap()).collect()
    }

    /// The data of a stream's frames, comments and `[DONE]` left out.
    pub fn frames(&self) -> Vec<Value> {
        let text = self.text();
        let data = text.split("\n\n").filter_map(|frame| frame.strip_prefix("data: "));
        data.filter(|data| *data != "[DONE]").map(|data| serde_json::from_str(data).unwrap()).collect()
    }

    /// Status, type, code and parameter of a refusal, which must have OpenAI's shape.
    pub fn refusal(&self) -> (u16, String, String, Option<String>) {
        assert!(self.header("content-type").starts_with("application/json"), "{}", self.text());
        assert!(self.header("x-request-id").starts_with("req_"));
        let error = &self.json()["error"];
        assert!(!error["message"].as_str().unwrap().is_empty());
        let text = |name: &str| error[name].as_str().map(str::to_owned);
        (self.status, text("type").unwrap(), text("code").unwrap(), text("param"))
    }
}

/// A chat of one message with `extra` fields.
pub fn chat(content: Value, extra: &Value) -> Value {
    let mut body = json!({"model": MODEL, "messages": [{"role": "user", "content": content}]});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

/// A part that holds a picture file.
pub fn picture(kind: &str, file: &[u8]) -> Value {
    json!({"type": "image_url", "image_url": {"url": format!("data:image/{kind};base64,{}", STANDARD.encode(file))}})
}

/// A part that holds a text.
pub fn text(text: &str) -> Value {
    json!({"type": "text", "text": text})
}
