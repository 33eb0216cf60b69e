//! What is kept of requests and what people say of them, over HTTP, with a real model.

use serde_json::{Value, json};

use super::app::{Reply, TestApp, picture, text};

async fn say(app: &TestApp, body: &Value) -> Reply {
    app.post("/v1/feedback", body).await
}

/// Draws `n` pictures and returns the reply.
async fn drawn(app: &TestApp, n: u32) -> Value {
    let reply = app.draw(&json!({"prompt": "a star", "n": n, "seed": 7})).await;
    assert_eq!((reply.status, reply.header("x-inference-id")), (200, reply.json()["id"].as_str().unwrap()));
    reply.json()
}

fn id(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no id: {value}"))
}

#[tokio::test]
async fn every_answer_can_be_rated_the_moment_it_arrives() {
    let app = TestApp::start();
    let pictures = drawn(&app, 2).await;
    let (first, second) = (id(&pictures["data"][0]["sample_id"]), id(&pictures["data"][1]["sample_id"]));
    let up = say(&app, &json!({"sample_id": first, "thumb": "up", "rater": "ann", "feedback_id": "k"})).await;
    assert_eq!(up.status, 201, "{}", up.text());
    assert_eq!((&up.json()["sample_id"], &up.json()["thumb"]), (&json!(first), &json!("up")));
    let again = say(&app, &json!({"sample_id": first, "thumb": "up", "rater": "ann", "feedback_id": "k"})).await;
    assert_eq!((again.status, &again.json()["id"]), (200, &up.json()["id"]));
    let other = say(&app, &json!({"sample_id": first, "thumb": "down", "rater": "ann", "feedback_id": "k"})).await;
    assert_eq!(other.refusal().0, 409);
    assert_eq!(other.header("x-should-retry"), "false");
    let best = say(&app, &json!({"preferred": second, "over": [first]})).await;
    assert_eq!((best.status, &best.json()["over"]), (201, &json!([first])), "{}", best.text());
    let place = say(&app, &json!({"sample_id": pictures["id"], "image_index": 1, "rating": 4.5})).await;
    assert_eq!((place.status, &place.json()["sample_id"]), (201, &json!(second)), "{}", place.text());

    let answer = app.chat(json!("hi"), &json!({"max_tokens": 3})).await.json();
    let right = say(&app, &json!({"sample_id": answer["choices"][0]["sample_id"], "correction": "a star"})).await;
    assert_eq!((right.status, &right.json()["correction"]), (201, &json!("a star")));
    let whole = say(&app, &json!({"sample_id": answer["id"], "comment": "fine"})).await;
    assert_eq!(whole.status, 201, "{}", whole.text());

    let stream = app.chat(json!("hi"), &json!({"max_tokens": 3, "stream": true})).await;
    let frames = stream.frames();
    assert_eq!(stream.header("x-inference-id"), id(&frames[0]["id"]));
    let streamed = id(&frames.last().unwrap()["choices"][0]["sample_id"]).to_owned();
    assert_eq!(say(&app, &json!({"sample_id": streamed, "thumb": "down"})).await.status, 201);

    let list = app.get(&format!("/v1/feedback?sample_id={first}")).await.json();
    assert_eq!(list["data"].as_array().unwrap().len(), 2, "{list}");
    let all = app.get(&format!("/v1/feedback?sample_id={}", id(&pictures["id"]))).await.json();
    assert_eq!(all["data"].as_array().unwrap().len(), 3, "{all}");
}

#[tokio::test]
async fn feedback_is_changed_and_withdrawn() {
    let app = TestApp::start();
    let sample = drawn(&app, 1).await["data"][0]["sample_id"].clone();
    let kept = say(&app, &json!({"sample_id": sample, "thumb": "up"})).await.json();
    let path = format!("/v1/feedback/{}", id(&kept["id"]));
    let put = app.client.put(format!("{}{path}", app.url)).header("content-type", "application/json");
    let changed = app.send(put.body(json!({"rating": 2}).to_string())).await;
    assert_eq!((changed.status, &changed.json()["rating"]), (200, &json!(2.0)), "{}", changed.text());
    assert!(changed.json()["revised_at"].is_i64());
    assert_eq!(app.get(&path).await.json()["rating"], json!(2.0));
    let gone = app.send(app.client.delete(format!("{}{path}", app.url))).await;
    assert_eq!((gone.status, &gone.json()["deleted"]), (200, &json!(true)));
    assert_eq!(app.get(&path).await.refusal().0, 404);
    assert_eq!(app.send(app.client.delete(format!("{}{path}", app.url))).await.refusal().0, 404);
}

#[tokio::test]
async fn what_does_not_fit_is_refused_by_name() {
    let app = TestApp::start();
    let pictures = drawn(&app, 2).await;
    let sample = &pictures["data"][0]["sample_id"];
    let strange = drawn(&app, 1).await["data"][0]["sample_id"].clone();
    let other = app.draw(&json!({"prompt": "a circle"})).await.json()["data"][0]["sample_id"].clone();
    let unknown = "sample-0193f6a5b1c27d3e8f00112233445566";
    let long = "x".repeat(10 << 20);
    for (name, body, status, param) in [
        ("nothing said", json!({"sample_id": sample}), 400, Some("rating")),
        ("two things", json!({"sample_id": sample, "thumb": "up", "rating": 3}), 400, Some("thumb")),
        ("no sample", json!({"thumb": "up"}), 400, Some("sample_id")),
        ("no id", json!({"sample_id": "star", "thumb": "up"}), 404, Some("sample_id")),
        ("unknown", json!({"sample_id": unknown, "thumb": "up"}), 404, Some("sample_id")),
        ("one of two", json!({"sample_id": pictures["id"], "thumb": "up"}), 404, Some("sample_id")),
        ("past the end", json!({"sample_id": pictures["id"], "image_index": 2, "thumb": "up"}), 404, Some("sample_id")),
        (
            "before the start",
            json!({"sample_id": pictures["id"], "image_index": -1, "thumb": "up"}),
            400,
            Some("image_index"),
        ),
        ("thumb", json!({"sample_id": sample, "thumb": "sideways"}), 400, Some("thumb")),
        ("rating", json!({"sample_id": sample, "rating": 5.5}), 400, Some("rating")),
        ("long comment", json!({"sample_id": sample, "comment": long}), 400, Some("comment")),
        ("empty comment", json!({"sample_id": sample, "comment": " "}), 400, Some("comment")),
        ("text for a picture", json!({"sample_id": sample, "correction": "a star"}), 422, None),
        (
            "no picture",
            json!({"sample_id": sample, "correction": "data:image/png;base64,AAAA"}),
            400,
            Some("correction"),
        ),
        ("other prompt", json!({"preferred": sample, "over": [other]}), 422, None),
        ("itself", json!({"preferred": sample, "over": [sample]}), 422, None),
        ("over nothing", json!({"preferred": sample, "over": []}), 400, Some("over")),
        ("over alone", json!({"sample_id": sample, "over": [strange], "thumb": "up"}), 400, Some("over")),
        ("field", json!({"sample_id": sample, "thumb": "up", "colour": "red"}), 400, Some("colour")),
        ("null character", json!({"sample_id": sample, "thumb": "up", "rater": "a\u{0}"}), 400, Some("rater")),
    ] {
        let (got, _, _, named) = say(&app, &body).await.refusal();
        assert_eq!((got, named.as_deref()), (status, param), "{name}");
    }
    let nan = app.post_text("/v1/feedback", &format!(r#"{{"sample_id": {sample}, "rating": NaN}}"#)).await;
    assert_eq!(nan.refusal().0, 400);
    // The same prompt drawn again is the same task.
    assert_eq!(say(&app, &json!({"preferred": sample, "over": [strange]})).await.status, 201);
    assert_eq!(app.get("/v1/feedback").await.refusal().3.as_deref(), Some("sample_id"));
    app.still_serves().await;
}

#[tokio::test]
async fn a_rater_who_never_stops_is_asked_to_wait() {
    let app = TestApp::start();
    let sample = drawn(&app, 1).await["data"][0]["sample_id"].clone();
    let mut last = 201;
    for _ in 0..200 {
        last = say(&app, &json!({"sample_id": sample, "thumb": "up", "rater": "mallory"})).await.status;
        if last != 201 {
            break;
        }
    }
    assert_eq!(last, 429);
    assert_eq!(say(&app, &json!({"sample_id": sample, "thumb": "up", "rater": "ann"})).await.status, 201);
}

#[tokio::test]
async fn kept_answers_are_openais_stored_completions() {
    let app = TestApp::start();
    let png = app.draw(&json!({"prompt": "a star"})).await.files().remove(0);
    let content = json!([text("what is it?"), picture("png", &png)]);
    let notes = json!({"max_tokens": 3, "metadata": {"app": "a"}, "safety_identifier": "bob"});
    let answer = app.chat(content, &notes).await.json();
    app.chat(json!("hi"), &json!({"max_tokens": 3, "metadata": {"app": "b"}})).await;
    app.chat(json!("no"), &json!({"max_tokens": 3, "store": false})).await;

    let list = app.get("/v1/chat/completions?limit=1&order=asc").await.json();
    assert_eq!((&list["has_more"], &list["data"][0]["id"]), (&json!(true), &answer["id"]));
    let rest = app.get(&format!("/v1/chat/completions?after={}", id(&list["last_id"]))).await.json();
    assert_eq!((rest["data"].as_array().unwrap().len(), &rest["has_more"]), (1, &json!(false)));
    let noted = app.get("/v1/chat/completions?metadata%5Bapp%5D=b").await.json();
    assert_eq!(noted["data"][0]["id"], rest["data"][0]["id"]);
    for bad in ["limit=0", "order=up", "after=x", "colour=red"] {
        let status = app.get(&format!("/v1/chat/completions?{bad}")).await.refusal().0;
        assert!(status == 400 || status == 404, "{bad}");
    }

    let path = format!("/v1/chat/completions/{}", id(&answer["id"]));
    let shown = app.get(&path).await.json();
    assert_eq!(shown["choices"][0]["message"], answer["choices"][0]["message"]);
    assert_eq!((&shown["usage"], &shown["user"]), (&answer["usage"], &json!("bob")));
    let messages = app.get(&format!("{path}/messages")).await.json();
    let parts = &messages["data"][0]["content_parts"];
    assert_eq!((&messages["data"][0]["content"], &parts[1]["type"]), (&json!("what is it?"), &json!("image_url")));
    assert_eq!(parts[1], picture("png", &png), "the picture as it was sent");
    let noted = app.post(&path, &json!({"metadata": {"seen": "yes"}})).await.json();
    assert_eq!(noted["metadata"], json!({"seen": "yes"}));
    let gone = app.send(app.client.delete(format!("{}{path}", app.url))).await.json();
    assert_eq!(gone, json!({"id": answer["id"], "object": "chat.completion.deleted", "deleted": true}));
    assert_eq!(app.get(&path).await.refusal().0, 404);
}

#[tokio::test]
async fn pictures_have_links_that_open_without_a_key_and_cannot_be_made() {
    let app = TestApp::with(&["--api-key", "secret"]);
    let send = async |request: reqwest::RequestBuilder| app.send(request.bearer_auth("secret")).await;
    let body = json!({"prompt": "a star", "response_format": "url", "output_format": "webp"});
    let reply = send(app.client.post(format!("{}/v1/images/generations", app.url)).json(&body)).await.json();
    let link = id(&reply["data"][0]["url"]);
    let file = app.send(app.client.get(link)).await;
    assert_eq!((file.status, file.header("content-type")), (200, "image/webp"));
    for forged in [
        link.replace("signature=", "signature=0"),
        link.replace("until=", "until=9"),
        link[..link.len() - 1].to_owned(),
    ] {
        assert_eq!(app.send(app.client.get(&forged)).await.status, 401, "{forged}");
    }
    let list = send(app.client.get(format!("{}/v1/images/generations", app.url))).await.json();
    assert_eq!((&list["data"][0]["id"], &list["data"][0]["prompt"]), (&reply["id"], &json!("a star")));
    let again = app.send(app.client.get(id(&list["data"][0]["data"][0]["url"]))).await;
    assert_eq!(again.bytes, file.bytes);
    let path = format!("{}/v1/images/generations/{}", app.url, id(&reply["id"]));
    assert_eq!(send(app.client.delete(&path)).await.status, 200);
    assert_eq!(app.send(app.client.get(link)).await.refusal().0, 404);
    assert_eq!(send(app.client.get(&path)).await.refusal().0, 404);
}

/// Another process holds the file: answers go out without ids and say so, feedback fails loudly, and both recover.
#[tokio::test]
async fn a_locked_ledger_stops_feedback_and_nothing_else() {
    let app = TestApp::start();
    let sample = drawn(&app, 1).await["data"][0]["sample_id"].clone();
    let url = format!("sqlite://{}", app.data.path().join("ledger.sqlite").display());
    let mut other = sqlx::AnyPool::connect(&url).await.unwrap().acquire().await.unwrap();
    sqlx::query("BEGIN EXCLUSIVE").execute(&mut *other).await.unwrap();

    let reply = app.draw(&json!({"prompt": "a star"})).await;
    assert_eq!((reply.status, reply.header("x-ulm-ledger")), (200, "unavailable"), "{}", reply.text());
    assert!(reply.json()["id"].is_null() && reply.json()["data"][0]["sample_id"].is_null());
    let stream = app.chat(json!("hi"), &json!({"max_tokens": 2, "stream": true})).await;
    assert_eq!((stream.status, stream.header("x-ulm-ledger")), (200, "unavailable"));
    assert!(stream.text().ends_with("data: [DONE]\n\n"));
    let (status, kind, ..) = say(&app, &json!({"sample_id": sample, "thumb": "up"})).await.refusal();
    assert_eq!((status, kind.as_str()), (503, "service_unavailable"));
    assert_eq!(app.get("/health").await.json()["ledger"], "unavailable");

    sqlx::query("ROLLBACK").execute(&mut *other).await.unwrap();
    let begun = std::time::Instant::now();
    while say(&app, &json!({"sample_id": sample, "thumb": "up"})).await.status != 201 {
        assert!(begun.elapsed() < std::time::Duration::from_secs(20), "the ledger is back and not used");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    drawn(&app, 1).await;
    let health = app.get("/health").await.json();
    assert_eq!((&health["ledger"], &health["rating"]), (&json!("ok"), &json!([1.0, 5.0])));
}

#[tokio::test]
async fn without_consent_nothing_is_kept_and_a_person_can_be_forgotten() {
    let app = TestApp::start();
    let secret = app.draw(&json!({"prompt": "a star", "store": false})).await;
    assert_eq!(secret.header("x-inference-id"), "");
    assert!(secret.json()["id"].is_null() && secret.json()["data"][0]["sample_id"].is_null());
    let secret = app.chat(json!("hi"), &json!({"max_tokens": 2, "store": false})).await.json();
    assert!(id(&secret["id"]).starts_with("chatcmpl-unkept-") && secret["choices"][0]["sample_id"].is_null());
    assert_eq!(say(&app, &json!({"sample_id": secret["id"], "thumb": "up"})).await.refusal().0, 404);
    assert_eq!(app.get("/v1/images/generations").await.json()["data"], json!([]));

    let bob = app.draw(&json!({"prompt": "a star", "n": 2, "user": "bob/1"})).await.json();
    let ann = app.draw(&json!({"prompt": "a star", "user": "ann"})).await.json();
    say(&app, &json!({"sample_id": ann["data"][0]["sample_id"], "thumb": "up", "rater": "bob/1"})).await;
    let gone = app.send(app.client.delete(format!("{}/v1/users/bob%2F1/data", app.url))).await.json();
    assert_eq!(gone, json!({"calls": 1, "samples": 2, "feedback": 1, "files": 2, "versions": []}));
    assert_eq!(say(&app, &json!({"sample_id": bob["data"][0]["sample_id"], "thumb": "up"})).await.refusal().0, 404);
    let left = app.get("/v1/images/generations").await.json();
    assert_eq!(left["data"].as_array().unwrap().len(), 1);
    let said = app.get(&format!("/v1/feedback?sample_id={}", id(&ann["id"]))).await.json();
    assert_eq!(said["data"], json!([]));
}
