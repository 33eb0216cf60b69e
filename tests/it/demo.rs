//! The demo model that the binary carries: small, and as able as the README says, through the engine and through HTTP.

use std::path::Path;
use std::sync::Arc;

use candle_core::Device;
use serde_json::json;
use ulm::demo;
use ulm::domain::picture::Picture;
use ulm::engine::{Engine, EngineOptions, Halt};
use ulm::train::eval::{EvalOptions, OVERALL, evaluate};
use ulm::train::player::Player;
use ulm::world::{Background, Colour, Object, Place, Requirement, Scene, Shape, Size, judge, render};

use super::app::{TestApp, picture, text};

#[test]
fn it_is_small() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo");
    let sizes = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().metadata().unwrap().len());
    assert!(sizes.sum::<u64>() <= 20 << 20);
}

/// A part of the suite that `ulm eval` runs, with room for chance: the whole suite's figures stand in the README.
#[test]
fn it_draws_and_answers_what_it_never_saw() {
    let model = Arc::new(demo::load(&Device::Cpu).unwrap());
    let defaults = model.defaults();
    let engine = Engine::spawn(model, EngineOptions { capacity: 512, ..EngineOptions::default() }).unwrap();
    let options = EvalOptions {
        seed: 5,
        draws: 15,
        answers: 6,
        guidance: defaults.guidance,
        draw_temperature: defaults.temperature,
        answer_temperature: 0.0,
    };
    let report = evaluate(&Player::alone(&engine), &options).unwrap();
    engine.halt(Halt::Now);
    engine.join();
    let table = report.table();
    assert!(report.drawing[OVERALL].percent >= 45.0, "{table}");
    assert!(report.drawing["single_object"].percent >= 80.0, "{table}");
    assert!(report.answering[OVERALL].percent >= 50.0, "{table}");
    assert!(report.format.percent >= 97.0, "{table}");
    assert!(report.reconstruction.percent >= 95.0, "{table}");
}

#[tokio::test]
async fn a_newcomer_sees_a_picture_and_an_answer() {
    let app = TestApp::demo();
    let models = app.get("/v1/models").await.json();
    assert_eq!(models["data"][0]["id"], demo::NAME);

    let wanted = Requirement::parse("a red circle").unwrap();
    let drawn = app.draw(&json!({"prompt": "a red circle", "n": 8, "seed": 1})).await;
    let pictures = drawn.files().into_iter().map(|file| {
        let rgb = image::load_from_memory(&file).unwrap().to_rgb8();
        Picture::new(rgb.width() as usize, rgb.height() as usize, rgb.into_raw()).unwrap()
    });
    let right = pictures.filter(|picture| judge(&wanted, picture).correct).count();
    assert!(right >= 5, "{right} of 8");

    let star = Object { place: Place::Center, shape: Shape::Star, colour: Colour::Red, size: Size::Large };
    let shown = render(&Scene::new(Background::White, vec![star]).unwrap());
    let mut file = std::io::Cursor::new(Vec::new());
    let rgb = image::RgbImage::from_raw(shown.width() as u32, shown.height() as u32, shown.rgb().to_vec()).unwrap();
    rgb.write_to(&mut file, image::ImageFormat::Png).unwrap();
    let content = json!([picture("png", file.get_ref()), text("What color is the star?")]);
    let said = app.chat(content, &json!({"model": demo::NAME, "max_tokens": 96})).await.json();
    let said = said["choices"][0]["message"]["content"].as_str().unwrap_or_default().to_owned();
    assert!(said.ends_with("<answer>red</answer>"), "{said}");
}
