//! Pictures of a prompt: files, sizes, seeds, what they say of themselves.

use std::collections::BTreeMap;
use std::io::Cursor;

use serde_json::json;

use super::app::{MODEL, TestApp};

#[tokio::test]
async fn a_picture_comes_with_what_made_it() {
    let app = TestApp::start();
    let reply = app.draw(&json!({"prompt": "a red circle", "seed": 3, "cfg_weight": 2.5, "temperature": 0.5})).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let version = app.engine.model().version().0.clone();
    assert_eq!(reply.header("x-model-version"), version);
    assert!(reply.header("x-request-id").starts_with("req_") && !reply.header("openai-processing-ms").is_empty());
    let side = app.engine.model().config().image_size();
    let reader = png::Decoder::new(Cursor::new(reply.files().remove(0))).read_info().unwrap();
    assert_eq!(reader.info().size(), (side as u32, side as u32));
    let said: BTreeMap<_, _> =
        reader.info().uncompressed_latin1_text.iter().map(|text| (text.keyword.as_str(), text.text.as_str())).collect();
    for (key, value) in [
        ("Source", "AI-generated"),
        ("Model version", version.as_str()),
        ("Seed", "3"),
        ("Guidance", "2.5"),
        ("Temperature", "0.5"),
    ] {
        assert_eq!(said.get(key), Some(&value));
    }
    let mut body = reply.json();
    for changing in ["created", "data", "id"] {
        body[changing] = json!("…");
    }
    insta::assert_snapshot!(format!("{body:#}"));
}

#[tokio::test]
async fn each_picture_can_be_drawn_again_by_its_own_seed() {
    let app = TestApp::start();
    let four = app.draw(&json!({"prompt": "a star", "n": 4, "seed": 10})).await;
    let seeds: Vec<_> = four.json()["data"].as_array().unwrap().iter().map(|item| item["seed"].clone()).collect();
    assert_eq!(seeds, [10, 11, 12, 13]);
    let files = four.files();
    assert!(files.windows(2).all(|pair| pair[0] != pair[1]), "other seeds draw other pictures");
    let alone = app.draw(&json!({"prompt": "a star", "seed": 12})).await;
    assert_eq!(alone.files(), files[2..3]);
}

#[tokio::test]
async fn without_a_seed_pictures_differ_and_greedy_ones_do_not() {
    let app = TestApp::start();
    let request = json!({"prompt": "a star"});
    let (one, two) = (app.draw(&request).await, app.draw(&request).await);
    assert_ne!(one.json()["data"][0]["seed"], two.json()["data"][0]["seed"]);
    assert_ne!(pixels(&one.files()[0]), pixels(&two.files()[0]));
    let greedy = app.draw(&json!({"prompt": "a star", "temperature": 0, "n": 2})).await.files();
    assert_eq!(pixels(&greedy[0]), pixels(&greedy[1]));
}

#[tokio::test]
async fn sizes_and_formats_are_as_asked() {
    let app = TestApp::start();
    let native = app.engine.model().config().image_size() as u32;
    for (size, side) in [("auto", native), ("256x256", 256), ("1024x1024", 1024), ("8x8", 8)] {
        for format in ["png", "jpeg", "webp"] {
            let request = json!({"prompt": "a star", "size": size, "output_format": format, "seed": 1});
            let reply = app.draw(&request).await;
            let file = reply.files().remove(0);
            let image = image::load_from_memory(&file).unwrap();
            assert_eq!((image.width(), image.height()), (side, side), "{size} {format}");
            let guessed = image::guess_format(&file).unwrap();
            assert_eq!(guessed, image::ImageFormat::from_extension(format).unwrap());
            assert_eq!(reply.json()["size"], format!("{side}x{side}"));
            assert_eq!(reply.json()["output_format"], format);
        }
    }
    let good = app.draw(&json!({"prompt": "a star", "output_format": "jpeg", "seed": 1})).await.files();
    let small =
        app.draw(&json!({"prompt": "a star", "output_format": "jpeg", "output_compression": 5, "seed": 1})).await;
    assert!(small.files()[0].len() < good[0].len());
}

#[tokio::test]
async fn the_model_may_be_named_by_its_version() {
    let app = TestApp::start();
    let models = app.get("/v1/models").await.json();
    let ids: Vec<_> =
        models["data"].as_array().unwrap().iter().map(|card| card["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids[0], MODEL);
    assert!(ids[1].starts_with("random@") && ids.len() == 2);
    for id in &ids {
        assert_eq!(app.draw(&json!({"prompt": "a star", "model": id})).await.status, 200);
        let card = app.get(&format!("/v1/models/{}", id.replace('@', "%40"))).await.json();
        assert_eq!((&card["id"], &card["object"]), (&json!(id), &json!("model")));
        assert_eq!(card["version"], app.engine.model().version().0);
    }
}

#[tokio::test]
async fn guidance_moves_the_picture() {
    let app = TestApp::start();
    let request = |weight: f32| json!({"prompt": "a star", "seed": 4, "cfg_weight": weight});
    let (one, five) = (app.draw(&request(1.0)).await, app.draw(&request(5.0)).await);
    assert_ne!(pixels(&one.files()[0]), pixels(&five.files()[0]));
}

fn pixels(file: &[u8]) -> Vec<u8> {
    image::load_from_memory(file).unwrap().into_rgb8().into_raw()
}
