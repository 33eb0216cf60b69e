//! OpenAI's files, graders and fine-tuning jobs against a server that learns: from an uploaded file to a model that answers by its name.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::app::{Reply, TestApp, picture, text};

const BOUND: &str = "b0undary";

/// A form of these parts; one with a file name is a file.
fn form(parts: &[(&str, Option<&str>, &str)]) -> String {
    let mut body = String::new();
    for (name, file, value) in parts {
        let file =
            file.map_or(String::new(), |file| format!("; filename=\"{file}\"\r\nContent-Type: application/jsonl"));
        body += &format!("--{BOUND}\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n{value}\r\n");
    }
    body + &format!("--{BOUND}--\r\n")
}

fn post(app: &TestApp, parts: &[(&str, Option<&str>, &str)]) -> reqwest::RequestBuilder {
    let request = app.client.post(format!("{}/v1/files", app.url));
    request.header("content-type", format!("multipart/form-data; boundary={BOUND}")).body(form(parts))
}

async fn upload(app: &TestApp, lines: &str) -> Reply {
    app.send(post(app, &[("purpose", None, "fine-tune"), ("file", Some("rows.jsonl"), lines)])).await
}

async fn file(app: &TestApp, rows: &[Value]) -> String {
    let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
    let reply = upload(app, &lines).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()["id"].as_str().unwrap().to_owned()
}

fn draws(n: usize) -> Vec<Value> {
    let prompts = ["a red circle", "two squares", "a star above a circle", "a blue heart and a green cross"];
    (0..n).map(|at| json!({"prompt": prompts[at % 4], "note": at})).collect()
}

/// A small job.
fn job(file: &str, grader: Value, hyperparameters: Value) -> Value {
    json!({
        "model": "ulm-demo", "training_file": file, "seed": 5, "suffix": "small", "metadata": {"run": "one"},
        "method": {"type": "reinforcement", "reinforcement": {"grader": grader, "hyperparameters": hyperparameters}},
        "suite": {"seed": 9, "draws": 10, "answers": 5},
    })
}

/// Waits until a job is what is asked for.
async fn until(app: &TestApp, id: &str, what: impl Fn(&Value) -> bool) -> Value {
    let start = Instant::now();
    loop {
        let job = app.get(&format!("/v1/fine_tuning/jobs/{id}")).await.json();
        if what(&job) {
            return job;
        }
        assert!(start.elapsed() < Duration::from_secs(600), "{job:#}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn ended(job: &Value) -> bool {
    ["succeeded", "failed", "cancelled"].contains(&job["status"].as_str().unwrap())
}

async fn events(app: &TestApp, id: &str) -> Vec<Value> {
    let (mut all, mut after) = (vec![], String::new());
    loop {
        let page = app.get(&format!("/v1/fine_tuning/jobs/{id}/events?limit=3{after}")).await.json();
        all.extend(page["data"].as_array().unwrap().clone());
        if page["has_more"] == false {
            return all;
        }
        after = format!("&after={}", page["last_id"].as_str().unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_and_a_grader_become_a_model_that_answers_by_its_name() {
    let app = TestApp::demo_with(&["--learn"]);
    let id = file(&app, &draws(4)).await;
    let grader = json!({"type": "multi", "name": "shapes", "calculate_output": "0.8 * right + 0.2 * (near - 1)", "graders": {
        "right": {"type": "verifier", "name": "right", "partial": 0.5},
        "near": {"type": "caption", "name": "near", "prompt": "{{item.prompt}}"}}});
    let asked = job(
        &id,
        grader,
        json!({"n_epochs": 1, "batch_size": 2, "learning_rate_multiplier": 2, "compute_multiplier": 0.5}),
    );
    let opened = app.post("/v1/fine_tuning/jobs", &asked).await;
    assert_eq!(opened.status, 200, "{}", opened.text());
    let opened = opened.json();
    let job = opened["id"].as_str().unwrap();
    assert!(job.starts_with("ftjob-") && opened["object"] == "fine_tuning.job" && opened["error"].is_null());
    // The job holds what it learns from.
    let gone = app.send(app.client.delete(format!("{}/v1/files/{id}", app.url))).await.json();
    assert_eq!(gone, json!({"id": id, "object": "file", "deleted": true}));

    let done = until(&app, job, ended).await;
    let told = events(&app, job).await;
    assert_eq!(done["status"], "succeeded", "{done:#} {told:#?}");
    assert_eq!((&done["seed"], &done["suffix"], &done["metadata"]["run"]), (&json!(5), &json!("small"), &json!("one")));
    assert_eq!(done["hyperparameters"]["batch_size"], 2);
    assert!(done["finished_at"].as_i64() >= done["created_at"].as_i64());
    let model = done["fine_tuned_model"].as_str().unwrap();
    assert!(model.starts_with("ulm-demo@"), "{model}");

    // What happened, newest first.
    assert!(told.first().unwrap()["message"].as_str().unwrap().starts_with("The gate "));
    assert!(told.last().unwrap()["message"].as_str().unwrap().starts_with("Created"));
    let steps: Vec<_> = told.iter().filter(|event| event["type"] == "metrics").map(|event| &event["data"]).collect();
    assert_eq!(steps.iter().map(|data| data["step"].as_u64().unwrap()).collect::<Vec<_>>(), [2, 1]);
    assert!(
        steps.iter().all(|data| data["train_mean_reward"].as_f64().unwrap().abs() < 2.0 && data["train_loss"].is_f64())
    );
    let checkpoints = app.get(&format!("/v1/fine_tuning/jobs/{job}/checkpoints")).await.json();
    let checkpoint = &checkpoints["data"][0];
    assert_eq!((&checkpoint["step_number"], &checkpoint["fine_tuned_model_checkpoint"]), (&json!(2), &json!(model)));
    assert_eq!(checkpoint["metrics"]["train_mean_reward"], steps[0]["train_mean_reward"]);
    let after = format!("/v1/fine_tuning/jobs/{job}/checkpoints?after={}", checkpoint["id"].as_str().unwrap());
    assert_eq!(app.get(&after).await.json()["data"], json!([]));

    // The round tells the same, and what the gate said.
    let round = app.get(&format!("/v1/rounds/{}", done["round"].as_str().unwrap())).await.json();
    assert_eq!(
        (&round["report"]["learned_from"]["rows"], &round["report"]["training"]["steps"]),
        (&json!(4), &json!(2))
    );
    assert_eq!(round["status"] == "promoted", done["promoted"] == true);
    assert_eq!((&round["since"], &round["until"]), (&json!(0), &json!(0)), "what users said stays to be learned from");

    // It draws and answers by its name, whatever the gate said, and others are told of it.
    let drawn = app.draw(&json!({"prompt": "a star", "model": model})).await;
    assert_eq!(drawn.status, 200, "{}", drawn.text());
    assert_eq!(Some(drawn.header("x-model-version")), round["candidate"].as_str());
    let body = json!({"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3});
    assert_eq!(
        app.post("/v1/chat/completions", &body).await.header("x-model-version"),
        drawn.header("x-model-version")
    );
    let listed = app.get("/v1/models").await.json();
    assert!(listed["data"].as_array().unwrap().iter().any(|card| card["id"] == model), "{listed}");

    // Another job may begin with it; and it can be forgotten, unless it is live.
    let answers: Vec<Value> = ["red", "blue", "green"]
        .iter()
        .map(|colour| {
            let shown = picture("png", &drawn.files()[0]);
            let content = json!([shown, text("What color is the star?")]);
            json!({"messages": [{"role": "user", "content": content}], "reference_answer": colour})
        })
        .collect();
    let similar = json!({"type": "text_similarity", "name": "near", "input": "{{sample.output_text}}",
        "reference": "{{item.reference_answer}}", "evaluation_metric": "fuzzy_match"});
    let mut asked =
        self::job(&file(&app, &answers).await, similar, json!({"batch_size": 3, "compute_multiplier": 0.5}));
    asked["model"] = json!(model);
    let second = app.post("/v1/fine_tuning/jobs", &asked).await.json();
    let second = until(&app, second["id"].as_str().unwrap(), ended).await;
    // In one step all answers of each row may earn the same; then there is nothing to learn, and the job says so.
    let learned = second["status"] == "succeeded";
    let why = second["error"]["message"].as_str().unwrap_or_default();
    assert!(learned || why.contains("nothing was learned"), "{second:#}");
    let round = app.get(&format!("/v1/rounds/{}", second["round"].as_str().unwrap())).await.json();
    assert_eq!(round["base"].as_str(), Some(drawn.header("x-model-version")));
    let made = if learned { &second } else { &done };
    let name = made["fine_tuned_model"].as_str().unwrap();
    let delete = async |name: &str| app.send(app.client.delete(format!("{}/v1/models/{name}", app.url))).await;
    if made["promoted"] == false {
        assert_eq!(delete(name).await.json(), json!({"id": name, "object": "model", "deleted": true}));
        assert_eq!(app.draw(&json!({"prompt": "a star", "model": name})).await.refusal().2, "model_not_found");
        assert_eq!(delete(name).await.refusal().0, 404);
    }
    assert_eq!(delete("ulm-demo").await.refusal().0, 409);

    let page = app.get("/v1/fine_tuning/jobs?limit=1&metadata[run]=one").await.json();
    assert_eq!((&page["data"][0]["id"], &page["has_more"]), (&second["id"], &json!(true)));
    let page = app.get(&format!("/v1/fine_tuning/jobs?after={}", second["id"].as_str().unwrap())).await.json();
    assert_eq!((&page["data"][0]["id"], &page["has_more"]), (&opened["id"], &json!(false)));
    assert_eq!(app.get("/v1/fine_tuning/jobs?metadata[run]=two").await.json()["data"], json!([]));
    let late = app.post(&format!("/v1/fine_tuning/jobs/{job}/cancel"), &json!({})).await;
    assert_eq!((late.refusal().0, late.header("x-should-retry")), (409, "false"));
    assert_eq!(app.post(&format!("/v1/fine_tuning/jobs/{job}/pause"), &json!({})).await.refusal().0, 409);
    assert_eq!(app.post(&format!("/v1/fine_tuning/jobs/{job}/resume"), &json!({})).await.refusal().0, 409);
}

/// Paused it is left behind a checkpoint, and resumed it goes on from there.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_paused_resumed_and_cancelled() {
    let app = TestApp::demo_with(&["--learn"]);
    let id = file(&app, &draws(200)).await;
    let asked =
        job(&id, json!({"type": "verifier", "partial": 1}), json!({"batch_size": 1, "compute_multiplier": 0.25}));
    let opened = app.post("/v1/fine_tuning/jobs", &asked).await.json();
    let job = opened["id"].as_str().unwrap().to_owned();
    let newest = format!("/v1/fine_tuning/jobs/{job}/events?limit=5");
    let last = async || {
        let page = app.get(&newest).await.json();
        page["data"].as_array().unwrap().iter().find_map(|event| event["data"]["step"].as_u64()).unwrap_or(0)
    };
    let beyond = async |step: u64| {
        let start = Instant::now();
        while last().await <= step {
            assert!(start.elapsed() < Duration::from_secs(600), "{:#?}", events(&app, &job).await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    beyond(0).await;
    let hand = async |what: &str| app.post(&format!("/v1/fine_tuning/jobs/{job}/{what}"), &json!({})).await;
    assert_eq!(hand("pause").await.json()["status"], "paused");
    assert_eq!(hand("pause").await.refusal().0, 409);
    let folder = app.data.path().join("rounds").join(opened["round"].as_str().unwrap());
    let start = Instant::now();
    while !folder.join("t2i/state.safetensors").exists() {
        assert!(start.elapsed() < Duration::from_secs(300), "it is left behind a checkpoint");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Behind the checkpoint nothing comes.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let left = last().await;
    // Each step with the seconds it took; a checkpoint adds a line without.
    let steps = || -> Vec<(u64, f64)> {
        let lines = std::fs::read_to_string(folder.join("t2i/metrics.jsonl")).unwrap();
        let lines = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter_map(|line| Some((line["step"].as_u64()?, line["seconds"].as_f64()?))).collect()
    };
    let before = steps();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(last().await, left);
    assert_eq!(hand("resume").await.json()["status"], "running");
    beyond(left).await;
    let now = steps();
    assert!(now.len() as u64 >= left && now.iter().map(|one| one.0).eq(0..now.len() as u64), "{now:?}");
    // A step that is taken anew takes another time.
    assert!((now[0].1 - before[0].1).abs() < 1e-9 && before.len() as u64 >= left, "{before:?} {now:?}");
    assert_eq!(hand("cancel").await.json()["status"], "cancelled");
    let start = Instant::now();
    while folder.exists() {
        assert!(start.elapsed() < Duration::from_secs(300), "what is cancelled leaves nothing");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(events(&app, &job).await.iter().any(|event| event["message"] == "Cancelled by hand"));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_sent_listed_given_back_and_deleted() {
    let app = TestApp::with(&["--admin-key", "admin"]);
    let parts = [("purpose", None, "fine-tune"), ("file", Some("r.jsonl"), "{\"prompt\": \"x\"}\n")];
    assert_eq!(app.send(post(&app, &parts)).await.refusal().0, 401);
    let send = async |parts: &[(&str, Option<&str>, &str)]| app.send(post(&app, parts).bearer_auth("admin")).await;
    let file = send(&parts).await.json();
    let id = file["id"].as_str().unwrap();
    assert_eq!((&file["object"], &file["bytes"], &file["filename"]), (&json!("file"), &json!(16), &json!("r.jsonl")));
    assert_eq!((&file["status"], &file["expires_at"]), (&json!("processed"), &Value::Null));
    let again = post(&app, &parts).bearer_auth("admin").header("x-stainless-retry-count", "1");
    assert_eq!(app.send(again).await.json()["id"], id, "sent again it is the same");
    let timed =
        [&parts[..], &[("expires_after[anchor]", None, "created_at"), ("expires_after[seconds]", None, "3600")]]
            .concat();
    let timed = send(&timed).await.json();
    assert_eq!(timed["expires_at"].as_i64().unwrap(), timed["created_at"].as_i64().unwrap() + 3600);

    let get = async |path: &str| app.send(app.client.get(format!("{}{path}", app.url)).bearer_auth("admin")).await;
    assert_eq!(get(&format!("/v1/files/{id}/content")).await.bytes, b"{\"prompt\": \"x\"}\n");
    assert_eq!(get(&format!("/v1/files/{id}")).await.json(), file);
    let page = get("/v1/files?limit=1&purpose=fine-tune").await.json();
    assert_eq!((&page["data"][0]["id"], &page["has_more"]), (&timed["id"], &json!(true)));
    let page = get(&format!("/v1/files?order=asc&after={id}")).await.json();
    assert_eq!((&page["data"][0]["id"], &page["has_more"]), (&timed["id"], &json!(false)));
    assert_eq!(get("/v1/files?purpose=evals").await.json()["data"], json!([]));

    let one = |name: &'static str, value: &'static str| [&parts[..], &[(name, None, value)]].concat();
    for (parts, param) in [
        (vec![parts[1]], "purpose"),
        (vec![parts[0]], "file"),
        (vec![("purpose", None, "vision"), parts[1]], "purpose"),
        (one("colour", "red"), "colour"),
        (one("expires_after[seconds]", "3600"), "expires_after[anchor]"),
        (one("expires_after[anchor]", "created_at"), "expires_after[seconds]"),
        (
            [one("expires_after[anchor]", "created_at"), vec![("expires_after[seconds]", None, "5")]].concat(),
            "expires_after[seconds]",
        ),
        (vec![parts[0], ("file", Some("r"), "{\"a\": 1}\nnothing\n")], "file"),
        (vec![parts[0], ("file", Some("r"), "")], "file"),
    ] {
        let reply = send(&parts).await;
        let (status, _, _, named) = reply.refusal();
        assert_eq!((status, named.as_deref()), (400, Some(param)), "{}", reply.text());
    }
    let line = send(&[parts[0], ("file", Some("r"), "{\"a\": 1}\nnothing\n")]).await;
    assert!(line.text().contains("line 2"), "{}", line.text());
    let stranger = post(&app, &parts).bearer_auth("admin").header("origin", "http://elsewhere.example");
    assert_eq!(app.send(stranger).await.refusal().0, 400, "a page of another origin");
    let own = post(&app, &parts).bearer_auth("admin").header("origin", app.url.clone());
    assert_eq!(app.send(own).await.status, 200);
    let cut = app.client.post(format!("{}/v1/files", app.url)).bearer_auth("admin");
    let cut =
        cut.header("content-type", format!("multipart/form-data; boundary={BOUND}")).body("--b0undary\r\nContent");
    assert_eq!(app.send(cut).await.refusal().0, 400);
    let request = app.client.post(format!("{}/v1/files", app.url)).bearer_auth("admin").json(&json!({}));
    assert_eq!(app.send(request).await.refusal().0, 415);

    assert_eq!(app.send(app.client.delete(format!("{}/v1/files/{id}", app.url))).await.refusal().0, 401);
    let gone = app.client.delete(format!("{}/v1/files/{id}", app.url)).bearer_auth("admin");
    assert_eq!(app.send(gone).await.json()["deleted"], true);
    assert_eq!(get(&format!("/v1/files/{id}")).await.refusal().0, 404);
    assert_eq!(get("/v1/files/file-1").await.refusal().0, 404);
    assert_eq!(get("/v1/files?limit=0").await.refusal().3.as_deref(), Some("limit"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_job_is_told() {
    let app = TestApp::demo();
    let rows = file(&app, &draws(2)).await;
    let verifier = json!({"type": "verifier"});
    let good = job(&rows, verifier.clone(), json!({}));
    let with = |name: &str, value: Value| {
        let mut body = good.clone();
        body[name] = value;
        body
    };
    let graded = |grader: Value| job(&rows, grader, json!({}));
    let formula =
        |formula: &str| graded(json!({"type": "multi", "graders": {"a": verifier}, "calculate_output": formula}));
    let judged = json!({"type": "score_model", "model": "gpt-5", "input": [{"role": "user", "content": "{{sample.output_text}}"}]});
    let odd = file(&app, &[json!({"prompt": "a red star"}), json!({"prompt": "a dog"})]).await;
    let neither = file(&app, &[json!({"text": "x"})]).await;
    let many = file(&app, &draws(10_001)).await;
    const GRADER: &str = "method.reinforcement.grader";
    for (body, status, param, told) in [
        (with("model", json!("gpt-5")), 404, "model", "`gpt-5` does not exist"),
        (with("model", json!("ulm-demo@000000000000")), 404, "model", "does not exist"),
        (with("training_file", json!("file-1")), 404, "training_file", "There is no file"),
        (with("training_file", json!(odd)), 400, "training_file", "line 2 cannot be graded"),
        (with("training_file", json!(neither)), 400, "training_file", "line 1 has neither"),
        (job(&many, verifier.clone(), json!({"batch_size": 1})), 400, "training_file", "10001 steps"),
        (with("method", json!({"type": "supervised"})), 400, "method.type", "`reinforcement` with a grader"),
        (with("validation_file", json!(rows)), 400, "validation_file", "held-out work"),
        (with("suite", json!({"seed": 1, "draws": 1, "answers": 9})), 400, "suite.draws", "from 10"),
        (graded(json!({"type": "magic"})), 400, &format!("{GRADER}.type"), "There is no grader"),
        (graded(json!({"type": "clip"})), 400, &format!("{GRADER}.type"), "needs networks"),
        (graded(judged.clone()), 400, GRADER, "`gpt-5` cannot judge"),
        (
            graded(
                json!({"type": "string_check", "input": "{{sample.output_text}}", "reference": "x", "operation": "eq"}),
            ),
            400,
            "training_file",
            "asks for a picture",
        ),
        (formula("a + b"), 400, &format!("{GRADER}.calculate_output"), "names `b`"),
        (formula(&"(".repeat(500)), 400, &format!("{GRADER}.calculate_output"), "nested deeper"),
    ] {
        let reply = app.post("/v1/fine_tuning/jobs", &body).await;
        let (found, _, _, named) = reply.refusal();
        assert_eq!((found, named.as_deref()), (status, Some(param)), "{}", reply.text());
        assert!(reply.text().contains(told), "{}", reply.text());
    }
    assert_eq!(app.get("/v1/fine_tuning/jobs").await.json()["data"], json!([]), "nothing was opened");
    for path in ["", "/events", "/checkpoints"] {
        assert_eq!(app.get(&format!("/v1/fine_tuning/jobs/ftjob-1{path}")).await.refusal().0, 404);
    }

    // Nobody learns here: it waits, and the same request sent again by an SDK is the same job.
    let opened = app.post("/v1/fine_tuning/jobs", &good).await.json();
    let again = app.client.post(format!("{}/v1/fine_tuning/jobs", app.url)).header("x-stainless-retry-count", "1");
    let again = app.send(again.header("content-type", "application/json").body(good.to_string())).await.json();
    assert_eq!(opened["status"], "queued");
    assert_eq!(again["id"], opened["id"]);
    assert_ne!(app.post("/v1/fine_tuning/jobs", &good).await.json()["id"], opened["id"], "asked for twice it is two");
    let ledger =
        app.post("/v1/fine_tuning/jobs", &json!({"model": "ulm-demo", "training_file": "ledger"})).await.json();
    assert_eq!((&ledger["status"], &ledger["training_file"]), (&json!("queued"), &json!("ledger")));
    let id = opened["id"].as_str().unwrap();
    assert!(events(&app, id).await[0]["message"].as_str().unwrap().starts_with("Waits"));
    assert_eq!(app.post(&format!("/v1/fine_tuning/jobs/{id}/resume"), &json!({})).await.refusal().0, 409);
    assert_eq!(app.post(&format!("/v1/fine_tuning/jobs/{id}/cancel"), &json!({})).await.json()["status"], "cancelled");
    assert_eq!(app.post(&format!("/v1/fine_tuning/jobs/{id}/cancel"), &json!({})).await.refusal().0, 409);
}

#[tokio::test(flavor = "multi_thread")]
async fn graders_are_tried_out() {
    let app = TestApp::demo();
    let run = async |body: Value| app.post("/v1/fine_tuning/alpha/graders/run", &body).await;
    let check = json!({"type": "string_check", "name": "same", "input": "{{sample.output_text}}", "reference": "{{item.a}}", "operation": "eq"});
    let reply = run(json!({"grader": check, "model_sample": "red", "item": {"a": "red"}})).await.json();
    assert_eq!((&reply["reward"], &reply["metadata"]["type"]), (&json!(1.0), &json!("string_check")));
    let errors = reply["metadata"]["errors"].as_object().unwrap();
    let flags = [
        "formula_parse_error",
        "invalid_variable_error",
        "model_grader_parse_error",
        "model_grader_refusal_error",
        "model_grader_server_error",
        "other_error",
        "python_grader_runtime_error",
        "python_grader_server_error",
        "sample_parse_error",
        "truncated_observation_error",
        "unresponsive_reward_error",
    ];
    assert!(flags.iter().all(|flag| errors[*flag] == false), "{errors:?}");
    let none = run(json!({"grader": check, "model_sample": "red"})).await.json();
    assert_eq!((&none["reward"], &none["metadata"]["errors"]["invalid_variable_error"]), (&json!(0.0), &json!(true)));

    let drawn = app.draw(&json!({"prompt": "a red circle", "seed": 1})).await;
    let url = picture("png", &drawn.files()[0])["image_url"]["url"].clone();
    let both = json!({"type": "multi", "name": "both", "calculate_output": "right + 0 * near", "graders": {
        "right": {"type": "verifier", "partial": 0.5}, "near": {"type": "caption"}}});
    let reply = run(json!({"grader": both, "model_sample": url, "item": {"prompt": "a red circle"}})).await.json();
    assert_eq!(reply["reward"], reply["sub_rewards"]["right"], "{reply}");
    assert!(reply["sub_rewards"]["near"].is_f64());
    let wrong =
        run(json!({"grader": both, "model_sample": "no picture", "item": {"prompt": "a red circle"}})).await.json();
    assert_eq!(wrong["metadata"]["errors"]["sample_parse_error"], true);

    // The served model judges; what it says is a number of the range, or it is told that it is none.
    let judge = json!({"type": "score_model", "name": "judge", "model": "ulm-demo", "range": [0, 10], "input": [{"role": "user", "content": [
        {"type": "input_image", "image_url": "{{sample.output_image}}"}, {"type": "input_text", "text": "How many circles are there? {{item.prompt}}"}]}]});
    let reply = run(json!({"grader": judge, "model_sample": url, "item": {"prompt": "Say a number."}})).await.json();
    let reward = reply["reward"].as_f64().unwrap();
    assert!(
        reply["metadata"]["errors"]["model_grader_parse_error"] == true || (0.0..=10.0).contains(&reward),
        "{reply}"
    );
    assert_eq!(reply["metadata"]["sampled_model_name"], "ulm-demo");
    let long = json!({"prompt": "x ".repeat(20_000)});
    let failed = run(json!({"grader": judge, "model_sample": url, "item": long})).await.json();
    assert_eq!(failed["metadata"]["errors"]["model_grader_server_error"], true, "{failed}");

    let validate =
        async |grader: Value| app.post("/v1/fine_tuning/alpha/graders/validate", &json!({"grader": grader})).await;
    assert_eq!(validate(check.clone()).await.json(), json!({"grader": check}));
    assert_eq!(validate(json!({"type": "matching"})).await.status, 200);
    let mut other = judge;
    other["model"] = json!("gpt-5");
    assert_eq!(validate(other.clone()).await.refusal().0, 404);
    for (reply, param) in [
        (validate(json!({"type": "python", "source": "x"})).await, "grader.type"),
        (run(json!({"grader": {"type": "matching"}, "model_sample": "x"})).await, "grader.type"),
        (run(json!({"grader": check})).await, "model_sample"),
        (run(json!({"model_sample": "x"})).await, "grader"),
        (run(json!({"grader": check, "model_sample": "data:image/png;base64,AAAA"})).await, "model_sample"),
    ] {
        let (status, _, _, named) = reply.refusal();
        assert_eq!((status, named.as_deref()), (400, Some(param)), "{}", reply.text());
    }
}
