//! Requests that are proved and requests that are refused, each by the parameter at fault.

use actix_web::ResponseError;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::from_json;
use super::*;

const NATIVE: Native = Native { side: 64, guidance: 1.5, temperature: 0.9 };

fn parse(request: &Value) -> Result<Drawing, ApiError> {
    from_json::<Request>(request.to_string().as_bytes())?.parse(NATIVE, 40)
}

fn param(request: &Value) -> String {
    let body = parse(request).unwrap_err().body();
    body.error.param.unwrap_or(body.error.message)
}

#[test]
fn the_smallest_request_takes_the_models_own_settings() {
    let drawing = parse(&json!({"prompt": "a star"})).unwrap();
    assert_eq!(drawing.samplings, [Sampling { seed: 40, guidance: 1.5, temperature: 0.9, ..Sampling::default() }]);
    assert_eq!((drawing.side, drawing.format, drawing.model), (64, Format::Png, None));
}

#[test]
fn everything_can_be_said() {
    let drawing = parse(&json!({
        "prompt": "a star", "model": "m", "n": 3, "size": "256x256", "response_format": "b64_json", "output_format": "jpeg", "output_compression": 70,
        "seed": 5, "cfg_weight": 3, "temperature": 0, "quality": "standard", "background": "opaque", "moderation": "low", "stream": false,
        "partial_images": 0, "metadata": {"a": "b"}, "store": true, "user": "u", "safety_identifier": "s", "style": null,
    }))
    .unwrap();
    assert_eq!(drawing.samplings.iter().map(|s| s.seed).collect::<Vec<_>>(), [5, 6, 7]);
    assert!(drawing.samplings.iter().all(|s| s.guidance == 3.0 && s.temperature == 0.0));
    assert_eq!((drawing.side, drawing.format), (256, Format::Jpeg(70)));
}

#[test]
fn what_is_wrong_is_named() {
    let cases = [
        ("prompt", json!({})),
        ("prompt", json!({"prompt": " \n"})),
        ("prompt", json!({"prompt": 7})),
        ("prompt", json!({"prompt": "x".repeat(32_001)})),
        ("n", json!({"prompt": "x", "n": 0})),
        ("n", json!({"prompt": "x", "n": 1000})),
        ("n", json!({"prompt": "x", "n": 1.5})),
        ("n", json!({"prompt": "x", "n": "2"})),
        ("size", json!({"prompt": "x", "size": "64x32"})),
        ("size", json!({"prompt": "x", "size": "2048x2048"})),
        ("size", json!({"prompt": "x", "size": "0x0"})),
        ("size", json!({"prompt": "x", "size": "064x064"})),
        ("size", json!({"prompt": "x", "size": "+64x+64"})),
        ("size", json!({"prompt": "x", "size": ""})),
        ("response_format", json!({"prompt": "x", "response_format": "url", "store": false})),
        ("output_format", json!({"prompt": "x", "output_format": "gif"})),
        ("output_compression", json!({"prompt": "x", "output_compression": 101})),
        ("output_compression", json!({"prompt": "x", "output_compression": 50})),
        ("seed", json!({"prompt": "x", "seed": -1})),
        ("seed", json!({"prompt": "x", "seed": MAX_I64})),
        ("cfg_weight", json!({"prompt": "x", "cfg_weight": -0.5})),
        ("temperature", json!({"prompt": "x", "temperature": -0.1})),
        ("temperature", json!({"prompt": "x", "temperature": "NaN"})),
        ("quality", json!({"prompt": "x", "quality": "hd"})),
        ("background", json!({"prompt": "x", "background": "transparent"})),
        ("moderation", json!({"prompt": "x", "moderation": "strict"})),
        ("stream", json!({"prompt": "x", "stream": true})),
        ("partial_images", json!({"prompt": "x", "partial_images": 2})),
        ("style", json!({"prompt": "x", "style": "vivid"})),
        ("svg", json!({"prompt": "x", "svg": {}})),
        ("metadata", json!({"prompt": "x", "metadata": {"k": "v".repeat(513)}})),
        ("metadata.k", json!({"prompt": "x", "metadata": {"k": 1}})),
        ("colour", json!({"prompt": "x", "colour": "red"})),
    ];
    for (name, request) in cases {
        assert_eq!(param(&request), name, "{request}");
        assert_eq!(parse(&request).unwrap_err().status_code().as_u16(), 400);
    }
}

const MAX_I64: i64 = i64::MAX;

#[test]
fn not_a_number_is_refused_where_it_stands() {
    for literal in ["NaN", "Infinity", "-Infinity", "1e999"] {
        let error =
            from_json::<Request>(format!(r#"{{"prompt": "x", "temperature": {literal}}}"#).as_bytes()).unwrap_err();
        assert_eq!(error.body().error.param.as_deref(), Some("temperature"), "{literal}");
    }
}

proptest! {
    #[test]
    fn no_bytes_panic_and_no_refusal_is_long(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Err(error) = from_json::<Request>(&bytes) {
            prop_assert!(error.to_string().len() < 500);
        }
    }

    #[test]
    fn what_is_proved_is_in_range(n in -3i64..15, seed in any::<Option<i64>>(), temperature in -1.0..4.0f64, side in 0usize..1100) {
        let size = format!("{side}x{side}");
        if let Ok(drawing) = parse(&json!({"prompt": "x", "n": n, "seed": seed, "temperature": temperature, "size": size})) {
            prop_assert_eq!(drawing.samplings.len() as i64, n);
            prop_assert!((1..=10).contains(&n) && (1..=1024).contains(&drawing.side));
            prop_assert!(drawing.samplings.iter().all(|s| (0.0..=2.0).contains(&s.temperature) && s.seed <= super::super::MAX_SEED));
        }
    }
}
