//! Critics against what the original code computes with the same tiny networks (`tests/fixtures/critic.py`), and folders that are refused.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde_json::Value;

use super::CriticError;
use super::bert::BertScore;
use super::blip::Blip;
use super::clip::Clip;
use super::lpips::Lpips;
use crate::domain::picture::Picture;
use crate::model::params::Tensors;
use crate::model::weights;

pub fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// What the original code computes.
pub fn golden(of: &str) -> Vec<Value> {
    let notes: Value = serde_json::from_slice(&std::fs::read(path("critic/golden.json")).unwrap()).unwrap();
    notes[of].as_array().unwrap().clone()
}

pub fn text<'a>(note: &'a Value, field: &str) -> &'a str {
    note[field].as_str().unwrap()
}

pub fn picture(name: &str) -> Picture {
    let image = image::open(path(&format!("pictures/{name}.png"))).unwrap().into_rgb8();
    Picture::new(image.width() as usize, image.height() as usize, image.into_raw()).unwrap()
}

/// Holds `value` against the number `field` of `note`.
pub fn close(note: &Value, field: &str, value: f64, tolerance: f64) {
    let wanted = note[field].as_f64().unwrap();
    assert!((value - wanted).abs() <= tolerance, "{value} for {note}: off by {}", (value - wanted).abs());
}

#[test]
fn bert_score_is_that_of_torchmetrics() {
    let bert = BertScore::load(&path("critic/bert")).unwrap();
    for note in golden("bert") {
        let f1 = bert.f1(&[text(&note, "candidate")], text(&note, "reference")).unwrap();
        close(&note, "f1", f1[0], 1e-5);
    }
    // Candidates of one reference do not see each other.
    let reference = "a star";
    let together = bert.f1(&["two stars", "", "a red circle"], reference).unwrap();
    let alone = ["two stars", "", "a red circle"].map(|candidate| bert.f1(&[candidate], reference).unwrap()[0]);
    assert!(together.iter().zip(alone).all(|(a, b)| (a - b).abs() < 1e-6), "{together:?} {alone:?}");
}

#[test]
fn lpips_is_that_of_its_authors() {
    let lpips = Lpips::load(&path("critic/lpips")).unwrap();
    for note in golden("lpips") {
        let (real, other) = (picture(text(&note, "real")), picture(text(&note, "picture")));
        close(&note, "distance", lpips.distances(&real, &[&other]).unwrap()[0], 1e-5);
    }
}

#[test]
fn captions_are_those_of_transformers() {
    let blip = Blip::load(&path("critic/blip")).unwrap();
    let notes = golden("blip");
    let pictures: Vec<Picture> = notes.iter().map(|note| picture(text(note, "picture"))).collect();
    let captions = blip.captions(&pictures.iter().collect::<Vec<_>>()).unwrap();
    let wanted: Vec<&str> = notes.iter().map(|note| text(note, "caption")).collect();
    assert_eq!(captions, wanted);
    assert!(blip.captions(&[]).unwrap().is_empty());
}

#[test]
fn clip_is_that_of_transformers() {
    let clip = Clip::load(&path("critic/clip")).unwrap();
    for note in golden("clip") {
        let cosines = clip.cosines(text(&note, "text"), &[&picture(text(&note, "picture"))]).unwrap();
        close(&note, "cosine", cosines[0], 1e-5);
    }
}

/// Why a copy of the folder `name` is refused when `damage` has seen it, without the folder's name.
fn refusal<T>(
    name: &str,
    load: impl Fn(&Path) -> Result<T, CriticError>,
    damage: impl FnOnce(&Path, &mut Tensors),
) -> String {
    let dir = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(path("critic").join(name)).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), dir.path().join(file.file_name())).unwrap();
    }
    let file = dir.path().join("model.safetensors");
    let mut tensors = weights::read(&file, DType::F32, &Device::Cpu).unwrap();
    damage(dir.path(), &mut tensors);
    if file.exists() {
        weights::write(&file, &tensors, DType::F32).unwrap();
    }
    let error = load(dir.path()).err().expect("it loads").to_string();
    error.replace(&dir.path().display().to_string(), "DIR")
}

fn zeros(shape: &[usize]) -> Tensor {
    Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap()
}

#[test]
fn what_is_missing_or_wrong_is_named() {
    let query = "encoder.layer.1.attention.self.query.weight";
    let said = refusal("bert", BertScore::load, |_, tensors| drop(tensors.remove(query)));
    assert_eq!(said, format!("`DIR/model.safetensors`: tensor `{query}` is missing"));
    let said = refusal("lpips", Lpips::load, |_, tensors| drop(tensors.remove("features.28.weight")));
    assert_eq!(said, "`DIR/model.safetensors`: tensor `features.28.weight` is missing");
    let said =
        refusal("lpips", Lpips::load, |_, tensors| drop(tensors.insert("lin4.weight".into(), zeros(&[1, 3, 1, 1]))));
    assert!(said.contains("`lin4.weight` has shape [1, 3, 1, 1], but the config asks for [1, 12, 1, 1]"), "{said}");
    let said = refusal("clip", Clip::load, |_, tensors| {
        let nothing = (zeros(&[12, 16]).log().unwrap() * 0.0).unwrap();
        tensors.insert("text_projection.weight".into(), nothing);
    });
    assert_eq!(said, "`DIR/model.safetensors`: tensor `text_projection.weight` holds what is no finite number");
    // Sizes in the config that leave a layer out do not pass unseen.
    let said = refusal("blip", Blip::load, |dir, _| edit(dir, "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1"));
    assert!(said.starts_with("`DIR/model.safetensors`") && said.contains("tensors belong to no part"), "{said}");
    let said =
        refusal("blip", Blip::load, |dir, _| edit(dir, "\"num_attention_heads\": 3", "\"num_attention_heads\": 5"));
    assert!(said.contains("`DIR/config.json`: `hidden_size` 24 does not fall into 5 heads"), "{said}");
    let said = refusal("clip", Clip::load, |dir, _| edit(dir, "\"patch_size\": 8", "\"patch_size\": 0"));
    assert!(said.contains("`DIR/config.json`: `image_size` 32 does not fall into patches of 0"), "{said}");
    let said = refusal("bert", BertScore::load, |dir, _| edit(dir, "\"gelu\"", "\"relu\""));
    assert!(said.starts_with("`DIR/config.json`") && said.contains("relu"), "{said}");
    let said = refusal("bert", BertScore::load, |dir, _| std::fs::remove_file(dir.join("vocab.txt")).unwrap());
    assert!(said.starts_with("cannot read `DIR/vocab.txt`"), "{said}");
    let said =
        refusal("bert", BertScore::load, |dir, _| std::fs::write(dir.join("vocab.txt"), "[UNK]\n[CLS]\n").unwrap());
    assert_eq!(said, "`DIR/vocab.txt`: has no token `[SEP]`");
    let said = Clip::load(Path::new("nowhere/clip")).err().unwrap().to_string();
    assert_eq!(said, "there is no folder `nowhere/clip`");
}

fn edit(dir: &Path, from: &str, to: &str) {
    let config = dir.join("config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    assert!(text.contains(from), "{from}");
    std::fs::write(config, text.replace(from, to)).unwrap();
}

/// Old checkpoints call the norms' tensors otherwise, keep the network under `bert`, and hold a table of positions.
#[test]
fn checkpoints_of_the_first_kind_are_read() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["config.json", "vocab.txt"] {
        std::fs::copy(path("critic/bert").join(name), dir.path().join(name)).unwrap();
    }
    let tensors = weights::read(&path("critic/bert/model.safetensors"), DType::F32, &Device::Cpu).unwrap();
    let mut old: Tensors = tensors
        .into_iter()
        .map(|(name, tensor)| {
            let name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta");
            (format!("bert.{name}"), tensor)
        })
        .collect();
    old.insert("bert.embeddings.position_ids".into(), Tensor::new(&[[0i64, 1, 2]], &Device::Cpu).unwrap());
    old.insert("cls.predictions.bias".into(), zeros(&[3]));
    candle_core::safetensors::save(&old.into_iter().collect(), dir.path().join("model.safetensors")).unwrap();
    let bert = BertScore::load(dir.path()).unwrap();
    let note = &golden("bert")[0];
    close(note, "f1", bert.f1(&[text(note, "candidate")], text(note, "reference")).unwrap()[0], 1e-5);
}
