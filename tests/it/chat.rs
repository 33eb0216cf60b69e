//! Answers whole and streamed, with pictures, several turns, log-probabilities, stops; and clients that leave.

use std::time::Duration;

use futures_util::StreamExt as _;
use serde_json::{Value, json};

use super::app::{MODEL, TestApp, chat, picture, text};
use super::golden;

fn square() -> Value {
    picture("png", &golden::read("pictures/square.png"))
}

/// Replaces what differs between runs.
fn settled(mut value: Value) -> Value {
    for (field, constant) in [("id", json!("chatcmpl-…")), ("created", json!(0)), ("system_fingerprint", json!("…"))]
    {
        if value.get(field).is_some() {
            value[field] = constant;
        }
    }
    for choice in value["choices"].as_array_mut().into_iter().flatten() {
        if let Some(id) = choice.get_mut("sample_id") {
            assert!(id.as_str().unwrap().starts_with("sample-"));
            *id = json!("sample-…");
        }
    }
    value
}

#[tokio::test]
async fn an_answer_has_openais_shape() {
    let app = TestApp::start();
    let question = json!([square(), text("What colour is the circle?")]);
    let reply = app.chat(question, &json!({"max_tokens": 6, "temperature": 0})).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.header("x-model-version"), app.engine.model().version().0);
    assert!(reply.json()["id"].as_str().unwrap().starts_with("chatcmpl-"));
    insta::assert_snapshot!(format!("{:#}", settled(reply.json())));
}

#[tokio::test]
async fn pictures_and_turns_reach_the_model() {
    let app = TestApp::start();
    let ask = async |messages: Value| {
        let body = json!({"model": MODEL, "messages": messages, "max_tokens": 8, "temperature": 0, "logprobs": true});
        let reply = app.post("/v1/chat/completions", &body).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()
    };
    let user = |content: Value| json!({"role": "user", "content": content});
    let tall = picture("png", &golden::read("pictures/tall.png"));
    let one = ask(json!([user(json!([square(), text("what?")]))])).await;
    let other = ask(json!([user(json!([tall.clone(), text("what?")]))])).await;
    assert_ne!(one["choices"][0]["logprobs"], other["choices"][0]["logprobs"], "the model sees the picture");
    let both = ask(json!([user(json!([square(), tall.clone(), text("what?")]))])).await;
    let tokens = |reply: &Value| reply["usage"]["prompt_tokens"].as_u64().unwrap();
    let patches = app.engine.model().config().image_tokens() as u64;
    assert!(tokens(&both) > tokens(&one) + patches, "a second picture takes its own positions");
    let talk = ask(json!([
        {"role": "system", "content": "Be brief."},
        user(json!([square(), text("what?")])),
        {"role": "assistant", "content": "A circle."},
        user(json!([tall, text("and this?")])),
    ]))
    .await;
    assert!(tokens(&talk) > 2 * patches && tokens(&talk) != tokens(&both));
}

#[tokio::test]
async fn a_stream_says_the_same_as_a_whole_answer() {
    let app = TestApp::start();
    for extra in [json!({"seed": 1}), json!({"seed": 2, "n": 3, "logprobs": true, "top_logprobs": 2})] {
        let mut extra = extra;
        extra["max_tokens"] = json!(40);
        extra["temperature"] = json!(1.0);
        let whole = app.chat(json!("tell me"), &extra).await.json();
        extra["stream"] = json!(true);
        extra["stream_options"] = json!({"include_usage": true});
        let stream = app.chat(json!("tell me"), &extra).await;
        assert_eq!(stream.header("content-type"), "text/event-stream");
        assert_eq!((stream.header("cache-control"), stream.header("x-accel-buffering")), ("no-cache", "no"));
        assert!(stream.text().ends_with("data: [DONE]\n\n"));
        let frames = stream.frames();
        let (usage, chunks) = frames.split_last().unwrap();
        assert_eq!((&usage["usage"], &usage["choices"]), (&whole["usage"], &json!([])));
        assert!(chunks.iter().all(|chunk| chunk["usage"].is_null() && chunk.get("usage").is_some()));
        assert!(
            frames.iter().all(|frame| frame["id"] == frames[0]["id"] && frame["object"] == "chat.completion.chunk")
        );
        for (index, choice) in whole["choices"].as_array().unwrap().iter().enumerate() {
            let mine: Vec<_> = chunks.iter().map(|c| &c["choices"][0]).filter(|c| c["index"] == index).collect();
            assert_eq!(mine[0]["delta"], json!({"role": "assistant", "content": ""}));
            let said: String = mine.iter().filter_map(|c| c["delta"]["content"].as_str()).collect();
            assert_eq!(said, choice["message"]["content"]);
            let probabilities: Vec<_> =
                mine.iter().filter_map(|c| c["logprobs"]["content"].as_array()).flatten().cloned().collect();
            let expected = choice["logprobs"]["content"].as_array().cloned().unwrap_or_default();
            assert_eq!(probabilities, expected);
            let (last, before) = mine.split_last().unwrap();
            assert_eq!((&last["delta"], &last["finish_reason"]), (&json!({}), &choice["finish_reason"]));
            assert!(before.iter().all(|c| c["finish_reason"].is_null()));
        }
    }
}

#[tokio::test]
async fn a_stream_reads_like_openais() {
    let app = TestApp::start();
    let extra = json!({"max_tokens": 4, "temperature": 0, "stream": true, "stream_options": {"include_usage": true}});
    let reply = app.chat(json!("hi"), &extra).await;
    let transcript: Vec<_> = reply.frames().into_iter().map(|frame| settled(frame).to_string()).collect();
    insta::assert_snapshot!(transcript.join("\n"));
}

#[tokio::test]
async fn log_probabilities_are_those_of_the_tokens() {
    let app = TestApp::start();
    let extra = json!({"max_tokens": 12, "temperature": 0, "logprobs": true, "top_logprobs": 3});
    let reply = app.chat(json!("hi"), &extra).await.json();
    let content = reply["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert!(!content.is_empty());
    let mut bytes = Vec::new();
    for token in content {
        let top = token["top_logprobs"].as_array().unwrap();
        assert_eq!(top.len(), 3);
        assert_eq!(
            (&top[0]["token"], &top[0]["logprob"]),
            (&token["token"], &token["logprob"]),
            "greedy takes the likeliest"
        );
        let numbers: Vec<f64> = top.iter().map(|t| t["logprob"].as_f64().unwrap()).collect();
        assert!(numbers.is_sorted_by(|a, b| a >= b) && numbers[0] <= 0.0);
        bytes.extend(token["bytes"].as_array().unwrap().iter().map(|b| b.as_u64().unwrap() as u8));
    }
    assert_eq!(String::from_utf8_lossy(&bytes), reply["choices"][0]["message"]["content"].as_str().unwrap());
}

#[tokio::test]
async fn an_answer_ends_before_its_stop() {
    let app = TestApp::start();
    let extra = json!({"max_tokens": 40, "temperature": 0});
    let whole = app.chat(json!("go"), &extra).await.json();
    let content = whole["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    let stop: String = content.chars().skip(3).take(2).collect();
    assert_eq!(stop.chars().count(), 2, "{content}");
    let mut extra = extra;
    extra["stop"] = json!([stop]);
    let cut = app.chat(json!("go"), &extra).await.json();
    assert_eq!(cut["choices"][0]["message"]["content"], content.split(&stop).next().unwrap());
    assert_eq!(cut["choices"][0]["finish_reason"], "stop");
}

#[tokio::test]
async fn answers_end_with_the_context() {
    let app = TestApp::with(&["--context", "128"]);
    let reply = app.chat(json!("hi"), &json!({"max_completion_tokens": 4_000_000, "temperature": 0})).await.json();
    assert!(reply["usage"]["total_tokens"].as_u64().unwrap() <= 129, "{}", reply["usage"]);
}

#[tokio::test]
async fn whoever_leaves_is_no_longer_worked_for() {
    let app = TestApp::with(&["--context", "4096"]);
    let long = |stream: bool| chat(json!("tell me everything"), &json!({"n": 8, "stream": stream, "temperature": 2}));
    for stream in [true, false] {
        let url = format!("{}/v1/chat/completions", app.url);
        let request = app.client.post(url).json(&long(stream)).send();
        if stream {
            let mut body = request.await.unwrap().bytes_stream();
            for _ in 0..3 {
                body.next().await.unwrap().unwrap();
            }
            assert!(app.engine.load().running > 0);
        } else {
            assert!(tokio::time::timeout(Duration::from_millis(300), request).await.is_err(), "a long answer");
            assert!(app.engine.load().running > 0);
        }
        let start = std::time::Instant::now();
        app.idle().await;
        assert!(start.elapsed() < Duration::from_secs(5), "stream: {stream}, took {:?}", start.elapsed());
    }
    app.still_serves().await;
}

#[tokio::test]
async fn a_stream_that_breaks_off_says_so() {
    let app = TestApp::with(&["--context", "4096"]);
    let url = format!("{}/v1/chat/completions", app.url);
    let long = chat(json!("tell me everything"), &json!({"n": 4, "stream": true, "temperature": 2}));
    let mut body = app.client.post(url).json(&long).send().await.unwrap().bytes_stream();
    let mut said = String::new();
    while let Some(frame) = body.next().await {
        said += &String::from_utf8_lossy(&frame.unwrap());
        app.engine.halt(ulm::engine::Halt::Now);
    }
    let last = said.trim_end().rsplit("\n\n").next().unwrap();
    let error: Value = serde_json::from_str(last.strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!(error["error"]["type"], "service_unavailable", "{last}");
}
