//! Requests that must be refused: each by a clear 4xx in OpenAI's shape that names the parameter, and the next request works.
//! Pictures that look odd and are fine are here too.

use std::io::{Cursor, Write as _};
use std::time::{Duration, Instant};

use image::codecs::gif::GifEncoder;
use image::codecs::jpeg::JpegEncoder;
use image::{DynamicImage, Frame, ImageEncoder as _, ImageFormat, Rgb, RgbImage};
use serde_json::{Value, json};

use super::app::{TestApp, chat, picture, text};
use super::golden;

fn file(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn plain(width: u32, height: u32) -> DynamicImage {
    RgbImage::from_pixel(width, height, Rgb([200, 30, 30])).into()
}

/// A PNG of 20,000 x 20,000 one-bit pixels: 50 MB of zeros in a file of 50 KB.
fn bomb() -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, 20_000, 20_000);
    encoder.set_depth(png::BitDepth::One);
    let mut writer = encoder.write_header().unwrap();
    let mut rows = writer.stream_writer().unwrap();
    for _ in 0..20_000 {
        rows.write_all(&[0; 2500]).unwrap();
    }
    rows.finish().unwrap();
    drop(writer);
    bytes
}

fn animated() -> Vec<u8> {
    let mut bytes = Vec::new();
    let frame = || Frame::new(plain(8, 8).into_rgba8());
    GifEncoder::new(&mut bytes).encode_frames([frame(), frame()]).unwrap();
    bytes
}

fn rotated() -> Vec<u8> {
    let exif = [b"II*\0\x08\0\0\0\x01\0".as_slice(), &[0x12, 1, 3, 0, 1, 0, 0, 0, 6, 0, 0, 0], &[0; 4]].concat();
    let mut bytes = Vec::new();
    let mut encoder = JpegEncoder::new(&mut bytes);
    encoder.set_exif_metadata(exif).unwrap();
    encoder.encode_image(&plain(32, 16)).unwrap();
    bytes
}

#[tokio::test]
async fn pictures_that_are_none_are_named_by_their_place() {
    let app = TestApp::start();
    let whole = file(&plain(64, 64), ImageFormat::Png);
    let cases = [
        ("not an image", picture("png", b"I am a text that calls itself a picture.")),
        ("truncated PNG", picture("png", &whole[..whole.len() / 2])),
        ("truncated JPEG", picture("jpeg", &file(&plain(64, 64), ImageFormat::Jpeg)[..400])),
        ("30,000 pixels wide", picture("png", &file(&plain(30_000, 1), ImageFormat::Png))),
        ("decompression bomb", picture("png", &bomb())),
        ("animated GIF", picture("gif", &animated())),
        ("empty", picture("png", b"")),
        ("bad base64", json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,!!!!"}})),
        ("remote", json!({"type": "image_url", "image_url": {"url": "http://169.254.169.254/latest/meta-data"}})),
        ("local file", json!({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}})),
    ];
    let mut said = String::new();
    for (name, part) in cases {
        let start = Instant::now();
        let reply = app.chat(json!([text("what?"), part]), &json!({})).await;
        assert!(start.elapsed() < Duration::from_secs(3), "{name} took {:?}", start.elapsed());
        let (status, _, _, param) = reply.refusal();
        assert_eq!((status, param.as_deref()), (400, Some("messages[0].content[1].image_url")), "{name}");
        said += &format!("{name}: {}\n", reply.json()["error"]);
    }
    insta::assert_snapshot!(said);
    app.still_serves().await;
}

#[tokio::test]
async fn pictures_that_look_odd_are_seen() {
    let app = TestApp::start();
    let pictures = [
        ("1x1", picture("png", &file(&plain(1, 1), ImageFormat::Png))),
        ("1:4000", picture("png", &file(&plain(4000, 1), ImageFormat::Png))),
        ("CMYK JPEG", picture("jpeg", &golden::read("pictures/cmyk.jpg"))),
        ("EXIF-rotated", picture("jpeg", &rotated())),
        ("one-frame GIF", picture("gif", &file(&plain(9, 9), ImageFormat::Gif))),
        ("WebP", picture("webp", &file(&plain(9, 9), ImageFormat::WebP))),
        ("grey PNG", picture("png", &golden::read("pictures/grey.png"))),
        ("transparent PNG", picture("png", &golden::read("pictures/clear.png"))),
        ("JPEG called PNG", picture("png", &file(&plain(9, 9), ImageFormat::Jpeg))),
    ];
    for (name, part) in pictures {
        let reply = app.chat(json!([part, text("what?")]), &json!({"max_tokens": 1})).await;
        assert_eq!(reply.status, 200, "{name}: {}", reply.text());
    }
}

#[tokio::test]
async fn drawing_requests_are_refused_by_the_parameter() {
    let app = TestApp::start();
    let mut said = String::new();
    for (name, body) in [
        ("empty prompt", json!({"prompt": ""})),
        ("no prompt", json!({})),
        ("prompt beyond the context", json!({"prompt": "red circle ".repeat(2000)})),
        ("prompt of a megabyte", json!({"prompt": "x".repeat(1 << 20)})),
        ("n: 0", json!({"prompt": "x", "n": 0})),
        ("n: 1000", json!({"prompt": "x", "n": 1000})),
        ("size", json!({"prompt": "x", "size": "1792x1024"})),
        ("url", json!({"prompt": "x", "response_format": "url", "store": false})),
        ("style", json!({"prompt": "x", "style": "vivid"})),
        ("stream", json!({"prompt": "x", "stream": true})),
        ("unknown model", json!({"prompt": "x", "model": "dall-e-3"})),
        ("unknown field", json!({"prompt": "x", "steps": 50})),
    ] {
        let reply = app.draw(&body).await;
        let (status, kind, _, param) = reply.refusal();
        assert!(
            (400..500).contains(&status) && kind == "invalid_request_error" && param.is_some(),
            "{name}: {}",
            reply.text()
        );
        said += &format!("{name}: {status} {}\n", reply.json()["error"]);
    }
    insta::assert_snapshot!(said);
    app.still_serves().await;
}

#[tokio::test]
async fn chats_are_refused_by_the_parameter() {
    let app = TestApp::start();
    let part = r#"{"type":"text","text":"x"},"#;
    let million =
        format!(r#"{{"model":"random","messages":[{{"role":"user","content":[{}{{}}]}}]}}"#, part.repeat(1_000_000));
    let nan = r#"{"model":"random","messages":[{"role":"user","content":"hi"}],"temperature":NaN}"#;
    let mut said = String::new();
    for (name, body) in [
        ("NaN temperature", nan.to_owned()),
        ("a million parts", million),
        ("no messages", json!({"model": "random", "messages": []}).to_string()),
        ("empty message", chat(json!(""), &json!({})).to_string()),
        ("beyond the context", chat(json!("red circle ".repeat(2000)), &json!({})).to_string()),
        ("unknown model", chat(json!("hi"), &json!({"model": "gpt-5"})).to_string()),
        ("tools", chat(json!("hi"), &json!({"tools": [{"type": "function", "function": {"name": "f"}}]})).to_string()),
        ("json_schema", chat(json!("hi"), &json!({"response_format": {"type": "json_schema"}})).to_string()),
        ("deep nesting", chat(json!("hi"), &json!({"tools": "@"})).to_string().replace("\"@\"", &"[".repeat(100_000))),
    ] {
        let start = Instant::now();
        let reply = app.post_text("/v1/chat/completions", &body).await;
        assert!(start.elapsed() < Duration::from_secs(3), "{name} took {:?}", start.elapsed());
        let (status, _, _, param) = reply.refusal();
        assert!((400..500).contains(&status) && param.is_some(), "{name}: {}", reply.text());
        said += &format!("{name}: {status} {}\n", reply.json()["error"]);
    }
    insta::assert_snapshot!(said);
    app.still_serves().await;
}

#[tokio::test]
async fn as_many_pictures_as_the_context_cannot_hold_are_refused() {
    let app = TestApp::with(&["--context", "200"]);
    let parts = vec![picture("png", &file(&plain(8, 8), ImageFormat::Png)); 12];
    let (status, _, code, param) = app.chat(Value::from(parts), &json!({})).await.refusal();
    assert_eq!((status, code.as_str(), param.as_deref()), (400, "context_length_exceeded", Some("messages")));
}
