//! What happens around the routes: paths, methods, types, sizes, keys, a full queue. Always in OpenAI's shape.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::app::{TestApp, chat};

#[tokio::test]
async fn failures_have_openais_shape_everywhere() {
    let app = TestApp::start();
    let mut said = String::new();
    let request = |method: &str, path: &str| app.client.request(method.parse().unwrap(), format!("{}{path}", app.url));
    for (name, request) in [
        ("no such path", request("GET", "/nothing")),
        ("no such path of the API", request("POST", "/v1/completions")),
        ("wrong method", request("PATCH", "/v1/images/generations")),
        ("wrong method of a list", request("DELETE", "/v1/models")),
        ("wrong method of the page", request("POST", "/")),
        ("no such model", request("GET", "/v1/models/gpt-5")),
        (
            "bad JSON",
            request("POST", "/v1/images/generations").header("content-type", "application/json").body("{\"prompt\": "),
        ),
        (
            "two values",
            request("POST", "/v1/images/generations")
                .header("content-type", "application/json")
                .body("{\"prompt\":\"x\"} 1"),
        ),
        ("a list", request("POST", "/v1/images/generations").header("content-type", "application/json").body("[]")),
        (
            "not UTF-8",
            request("POST", "/v1/images/generations")
                .header("content-type", "application/json")
                .body(b"{\"prompt\":\"\xFF\"}".to_vec()),
        ),
        ("empty body", request("POST", "/v1/images/generations").header("content-type", "application/json")),
        ("wrong type", request("POST", "/v1/chat/completions").header("content-type", "text/plain").body("{}")),
        ("no type", request("POST", "/v1/chat/completions").body("{}")),
        ("editing", request("POST", "/v1/images/edits").body("")),
        ("varying", request("POST", "/v1/images/variations").body("")),
    ] {
        let reply = app.send(request).await;
        let (status, ..) = reply.refusal();
        assert!((400..500).contains(&status), "{name}");
        let allow =
            Some(reply.header("allow")).filter(|allow| !allow.is_empty()).map(|allow| format!(" (allow: {allow})"));
        said += &format!("{name}: {status}{} {}\n", allow.unwrap_or_default(), reply.json()["error"]);
    }
    insta::assert_snapshot!(said);
    app.still_serves().await;
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_before_it_is_read() {
    let app = TestApp::with(&["--body-limit", "1"]);
    let body = chat(json!("x".repeat(3 << 20)), &json!({})).to_string();
    let (status, _, code, _) = app.post_text("/v1/chat/completions", &body).await.refusal();
    assert_eq!((status, code.as_str()), (413, "request_too_large"));
    // Without a declared length the limit is met while reading.
    let chunks = futures_util::stream::iter((0..48).map(|_| Ok::<_, std::io::Error>(vec![b' '; 64 << 10])));
    let request =
        app.client.post(format!("{}/v1/chat/completions", app.url)).header("content-type", "application/json");
    let reply = app.send(request.body(reqwest::Body::wrap_stream(chunks))).await;
    assert_eq!(reply.refusal().0, 413);
    app.still_serves().await;
}

#[tokio::test]
async fn a_client_that_leaves_amid_its_body_harms_nobody() {
    let app = TestApp::start();
    let mut stream = TcpStream::connect(app.url.trim_start_matches("http://")).await.unwrap();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 5000\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    drop(stream);
    app.still_serves().await;
}

#[tokio::test]
async fn keys_open_the_api_and_nothing_else_needs_one() {
    let app = TestApp::with(&["--api-key", "sk-one", "--api-key", "sk-two"]);
    for path in ["/", "/ui/app.js", "/ui/style.css", "/health", "/ready", "/openapi.yaml"] {
        assert_eq!(app.get(path).await.status, 200, "{path}");
    }
    let get = |path: &str| app.client.get(format!("{}{path}", app.url));
    assert_eq!(app.send(get("/v1/models").bearer_auth("sk-two")).await.status, 200);
    for request in [get("/v1/models"), get("/v1/models").bearer_auth("sk-three"), get("/v1/nothing")] {
        let (status, kind, code, _) = app.send(request).await.refusal();
        assert_eq!((status, kind.as_str(), code.as_str()), (401, "invalid_request_error", "invalid_api_key"));
    }
}

#[tokio::test]
async fn a_full_queue_says_when_to_come_back() {
    let app = TestApp::with(&["--rows", "2", "--queue", "1", "--context", "2048"]);
    let long = chat(json!("tell me everything"), &json!({"n": 8, "temperature": 2}));
    let clients = (0..6).map(|_| {
        let request = app.client.post(format!("{}/v1/chat/completions", app.url)).json(&long);
        async { tokio::time::timeout(Duration::from_secs(2), app.send(request)).await.ok() }
    });
    let refused: Vec<_> = join_all(clients).await.into_iter().flatten().filter(|reply| reply.status == 429).collect();
    assert!(refused.len() >= 4, "two rows, one place in the queue: {}", refused.len());
    for reply in refused {
        assert!((1..=120).contains(&reply.header("retry-after").parse::<u64>().unwrap()));
        assert_eq!(reply.refusal().1, "rate_limit_error");
    }
    app.idle().await;
    app.still_serves().await;
}

#[tokio::test]
async fn health_and_readiness_are_told_apart() {
    let app = TestApp::start();
    for path in ["/health", "/ready"] {
        let reply = app.get(path).await;
        assert_eq!((reply.status, &reply.json()["status"]), (200, &json!("ok")));
        assert_eq!(reply.json()["model_version"], app.engine.model().version().0);
    }
    app.engine.halt(ulm::engine::Halt::Now);
    for _ in 0..200 {
        if !app.engine.is_alive() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(app.get("/health").await.status, 200, "the process lives");
    let (status, kind, ..) = app.get("/ready").await.refusal();
    assert_eq!((status, kind.as_str()), (503, "service_unavailable"));
    assert_eq!(app.draw(&json!({"prompt": "a star"})).await.refusal().0, 503);
}

#[tokio::test]
async fn the_page_comes_whole_and_under_a_strict_policy() {
    let app = TestApp::start();
    for (path, kind) in [("/", "text/html"), ("/ui/style.css", "text/css"), ("/ui/app.js", "text/javascript")] {
        let reply = app.get(path).await;
        assert!(reply.header("content-type").starts_with(kind));
        assert!(reply.header("content-security-policy").starts_with("default-src 'none'; script-src 'self'"));
        assert_eq!(reply.header("x-content-type-options"), "nosniff");
        assert!(!reply.text().contains("://") || path == "/", "nothing comes from elsewhere");
    }
    let head = app.send(app.client.head(&app.url)).await;
    assert_eq!((head.status, head.bytes.len()), (200, 0));
}

#[tokio::test]
async fn nonsense_instead_of_http_is_answered_or_closed() {
    let app = TestApp::start();
    let mut stream = TcpStream::connect(app.url.trim_start_matches("http://")).await.unwrap();
    stream.write_all(b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03 hello?\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await;
    assert!(read.is_ok(), "the connection ends");
    app.still_serves().await;
}
