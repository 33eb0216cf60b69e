//! Requests that are proved and requests that are refused, each by the parameter at fault.

use actix_web::ResponseError;
use serde_json::{Value, json};

use super::super::from_json;
use super::*;

const NATIVE: Native = Native { temperature: 0.25 };

fn parse(request: &Value) -> Result<Chat, ApiError> {
    from_json::<Request>(request.to_string().as_bytes())?.parse(NATIVE, 40)
}

/// A good request with `field` set to `value`.
fn with(field: &str, value: Value) -> Value {
    let mut request = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
    request[field] = value;
    request
}

#[test]
fn the_smallest_request_takes_the_models_own_settings() {
    let chat = parse(&with("model", json!("m"))).unwrap();
    let sampling = Sampling { seed: 40, temperature: 0.25, max_tokens: usize::MAX, ..Sampling::default() };
    assert_eq!(chat.samplings, [sampling]);
    assert_eq!(chat.form, Form { stream: false, include_usage: false, logprobs: false });
}

#[test]
fn everything_can_be_said() {
    let chat = parse(&json!({
        "model": "m", "messages": [{"role": "user", "content": "hi"}], "max_completion_tokens": 9, "max_tokens": 9, "temperature": 0,
        "top_p": 0, "n": 2, "stop": ["a", "b"], "seed": 5, "stream": true,
        "stream_options": {"include_usage": true, "include_obfuscation": false}, "logprobs": true, "top_logprobs": 20,
        "frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "response_format": {"type": "text"},
        "modalities": ["text"], "service_tier": "auto", "metadata": {"a": "b"}, "store": false, "user": "u",
        "safety_identifier": "s", "parallel_tool_calls": true, "prompt_cache_key": "k", "prompt_cache_retention": "24h",
        "prompt_cache_options": {"mode": "implicit"}, "reasoning_effort": "low", "verbosity": "low", "tools": null,
    }))
    .unwrap();
    let [first, second] = chat.samplings.as_slice() else { panic!("two answers") };
    assert_eq!((first.seed, second.seed), (5, 6));
    assert_eq!((first.temperature, first.max_tokens, first.top_log_probs), (0.0, 9, 20));
    assert!(first.top_p > 0.0 && first.top_p < 1e-9);
    assert_eq!(first.stop, ["a", "b"]);
    assert_eq!(chat.form, Form { stream: true, include_usage: true, logprobs: true });
}

#[test]
fn one_stop_may_be_a_string() {
    assert_eq!(parse(&with("stop", json!("x"))).unwrap().samplings[0].stop, ["x"]);
}

#[test]
fn what_is_wrong_is_named() {
    let mut cases = vec![
        ("messages", json!({"model": "m"})),
        ("model", json!({"messages": [{"role": "user", "content": "hi"}]})),
        ("max_tokens", json!({"model": "m", "messages": [], "max_tokens": 1, "max_completion_tokens": 2})),
        ("top_logprobs", with("top_logprobs", json!(3))),
        ("stream_options", with("stream_options", json!({"include_usage": true}))),
        ("stop[1]", with("stop", json!(["a", 1]))),
        ("stream_options.depth", with("stream_options", json!({"depth": 1}))),
    ];
    for (field, values) in [
        ("model", vec![json!(1)]),
        ("n", vec![json!(0), json!(9), json!(1000), json!(1.5), json!("1")]),
        ("temperature", vec![json!(-0.1), json!(2.1), json!("hot")]),
        ("top_p", vec![json!(-0.1), json!(1.1)]),
        ("max_tokens", vec![json!(0), json!(-1), json!(1e300)]),
        ("max_completion_tokens", vec![json!(0)]),
        ("seed", vec![json!(-1), json!(i64::MAX), json!(0.5)]),
        ("stop", vec![json!(""), json!(["a", "b", "c", "d", "e"]), json!("x".repeat(257)), json!({})]),
        ("logprobs", vec![json!(3)]),
        ("frequency_penalty", vec![json!(0.5)]),
        ("presence_penalty", vec![json!(-0.5)]),
        ("logit_bias", vec![json!({"5": 1})]),
        ("response_format", vec![json!({"type": "json_schema", "json_schema": {}}), json!({"type": "json_object"})]),
        ("modalities", vec![json!(["text", "audio"]), json!([])]),
        ("service_tier", vec![json!("flex")]),
        ("metadata", vec![json!((0..17).map(|i| (i.to_string(), json!("v"))).collect::<serde_json::Map<_, _>>())]),
        ("tools", vec![json!([]), json!([{"type": "function"}])]),
        ("tool_choice", vec![json!("auto")]),
        ("functions", vec![json!([])]),
        ("audio", vec![json!({})]),
        ("prediction", vec![json!({})]),
        ("web_search_options", vec![json!({})]),
        ("guidance", vec![json!(1)]),
    ] {
        cases.extend(values.into_iter().map(|value| (field, with(field, value))));
    }
    for (name, request) in cases {
        let error = parse(&request).unwrap_err();
        assert_eq!(error.status_code().as_u16(), 400, "{request}");
        assert_eq!(error.body().error.param.as_deref(), Some(name), "{request}: {error}");
    }
}
