//! Conversations good and bad, and the memory that bad ones may take.

use serde_json::{Value, json};

use super::super::{AtMost, from_json};
use super::*;

const PIXEL: &str = "data:image/png;base64,\
    iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg==";

fn parse(messages: &Value) -> Result<Conversation, ApiError> {
    let list = from_json::<AtMost<Message, MAX_MESSAGES>>(messages.to_string().as_bytes())?;
    Conversation::parse(list.0)
}

fn param(messages: &Value) -> String {
    let error = parse(messages).and_then(Conversation::decode).unwrap_err();
    error.body().error.param.unwrap_or_default()
}

fn picture(url: &str) -> Value {
    json!({"type": "image_url", "image_url": {"url": url}})
}

#[test]
fn text_pictures_and_turns_keep_their_order() {
    let (answer, files) = parse(&json!([
        {"role": "system", "content": "be"},
        {"role": "developer", "content": [{"type": "text", "text": "brief"}]},
        {"role": "user", "content": [picture(PIXEL), {"type": "text", "text": "what?"}]},
        {"role": "assistant", "content": "a dot", "refusal": null, "tool_calls": null},
        {"role": "user", "content": "and"},
        {"role": "user", "content": [{"type": "text", "text": "this?"}, picture(PIXEL)]},
    ]))
    .unwrap()
    .decode()
    .unwrap();
    assert_eq!(answer.system.as_deref(), Some("be\nbrief"));
    let shape: Vec<_> = answer.turns.iter().map(|turn| (turn.role, turn.parts.len())).collect();
    assert_eq!(shape, [(Role::User, 2), (Role::Assistant, 1), (Role::User, 3)]);
    assert!(matches!(&answer.turns[0].parts[0], Part::Picture(picture) if picture.width() == 1));
    assert_eq!(answer.turns[2].parts[0], Part::Text("and".to_owned()));
    assert_eq!(files.len(), 2, "the files come along");
}

#[test]
fn without_a_system_message_the_checkpoint_decides() {
    assert_eq!(parse(&json!([{"role": "user", "content": "hi"}])).unwrap().system, None);
    assert_eq!(
        parse(&json!([{"role": "system", "content": ""}, {"role": "user", "content": "hi"}])).unwrap().system,
        Some(String::new())
    );
}

#[test]
fn what_is_wrong_is_named_by_its_place() {
    let user = |content: Value| json!([{"role": "user", "content": content}]);
    let many = |n: usize| Value::from(vec![picture(PIXEL); n]);
    for (place, messages) in [
        ("messages", json!([])),
        ("messages", json!([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}])),
        ("messages", json!([{"role": "system", "content": "hi"}])),
        ("messages", user(json!("x".repeat(MAX_TEXT + 1)))),
        ("messages[0].role", json!([{"content": "hi"}])),
        ("messages[0].role", json!([{"role": "tool", "content": "hi"}])),
        ("messages[1].role", json!([{"role": "user", "content": "hi"}, {"role": "system", "content": "hi"}])),
        ("messages[0].content", json!([{"role": "user"}])),
        ("messages[0].name", json!([{"role": "user", "content": "hi", "name": "Ann"}])),
        ("messages[0].tool_calls", json!([{"role": "assistant", "content": "hi", "tool_calls": []}])),
        ("messages[0].content[0].type", user(json!([{"text": "hi"}]))),
        ("messages[0].content[0].type", user(json!([{"type": "input_audio", "text": "hi"}]))),
        ("messages[0].content[0].text", user(json!([{"type": "text"}]))),
        ("messages[0].content[1].image_url", user(json!([{"type": "text", "text": "a"}, {"type": "image_url"}]))),
        ("messages[0].content[0].image_url.url", user(json!([{"type": "image_url", "image_url": {}}]))),
        (
            "messages[0].content[0].image_url.detail",
            user(json!([{"type": "image_url", "image_url": {"url": PIXEL, "detail": "high"}}])),
        ),
        ("messages[0].content[0].image_url", user(json!([picture("https://example.com/cat.png")]))),
        ("messages[0].content[0].image_url", user(json!([picture("data:image/png;base64,AAAA")]))),
        ("messages[0].content[0].image_url", json!([{"role": "system", "content": [picture(PIXEL)]}])),
        ("messages[0].content[16].image_url", user(many(17))),
    ] {
        assert_eq!(param(&messages), place, "{messages:.200}");
    }
}

#[test]
fn what_cannot_be_read_is_named_by_its_place() {
    for (place, messages) in [
        ("[0].content", json!([{"role": "user", "content": 7}])),
        ("[0].content[0].colour", json!([{"role": "user", "content": [{"type": "text", "colour": 1}]}])),
        ("[0].content[1]", json!([{"role": "user", "content": [{"type": "text", "text": ""}, 5]}])),
        (
            "[0].content",
            json!([{"role": "user", "content": vec![json!({"type": "text", "text": "x"}); MAX_PARTS + 1]}]),
        ),
    ] {
        assert_eq!(param(&messages), place, "{messages:.200}");
    }
}

#[test]
fn a_million_parts_end_the_reading_early() {
    let part = r#"{"type":"text","text":"x"},"#;
    let body = format!(r#"[{{"role":"user","content":[{}"#, part.repeat(1_000_000));
    let start = std::time::Instant::now();
    assert!(from_json::<AtMost<Message, MAX_MESSAGES>>(body.as_bytes()).is_err());
    assert!(start.elapsed().as_millis() < 500, "only the first parts are read");
}
