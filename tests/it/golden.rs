//! What transformers computed, kept in `tests/fixtures` (made by `make.py` there): tensors, ids and source pictures by name.
//! Knows how to read and compare them; nothing of the network.

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use safetensors::SafeTensors;
use serde_json::Value;
use ulm::domain::picture::Picture;
use ulm::domain::task::{Answer, Part, Role, Turn};
use ulm::model::config::ModelConfig;
use ulm::model::preprocess::over_white;
use ulm::model::prompt::{Prompter, PrompterFiles};

/// The two checkpoints: plain heads in bf16, and shared key-value heads in f16 with more embedding rows than tokens.
pub const VARIANTS: [&str; 2] = ["mha", "gqa"];

static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| read("golden.safetensors"));
/// `golden.json`: ids, strings, digests.
pub static NOTES: LazyLock<Value> = LazyLock::new(|| serde_json::from_slice(&read("golden.json")).unwrap());

pub fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

pub fn read(name: &str) -> Vec<u8> {
    std::fs::read(path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Shape and bytes of a golden tensor.
pub fn bytes(name: &str) -> (Vec<usize>, Vec<u8>) {
    let file = SafeTensors::deserialize(&BYTES).unwrap();
    let view = file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
    (view.shape().to_vec(), view.data().to_vec())
}

/// Shape and numbers of a golden f32 tensor.
pub fn floats(name: &str) -> (Vec<usize>, Vec<f32>) {
    let (shape, bytes) = bytes(name);
    (shape, bytes.as_chunks().0.iter().map(|four| f32::from_le_bytes(*four)).collect())
}

/// A list of ids in the notes.
pub fn numbers(list: &Value) -> Vec<u32> {
    list.as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as u32).collect()
}

/// A source picture as RGB: grey spread over the channels, transparency over white.
pub fn picture(name: &str) -> Picture {
    let image = image::load_from_memory(&read(&format!("pictures/{name}.png"))).unwrap().into_rgba8();
    let rgb = image.pixels().flat_map(|pixel| over_white(pixel.0)).collect();
    Picture::new(image.width() as usize, image.height() as usize, rgb).unwrap()
}

pub fn config(variant: &str) -> ModelConfig {
    ModelConfig::from_json(&read(&format!("{variant}/config.json"))).unwrap()
}

pub fn prompter(variant: &str) -> Prompter {
    let file = |name: &str| std::fs::read(path(&format!("{variant}/{name}"))).ok();
    let tokenizer = file("tokenizer.json").unwrap();
    let (spelled, processor, pictures) =
        (file("tokenizer_config.json"), file("processor_config.json"), file("preprocessor_config.json"));
    let files = PrompterFiles {
        tokenizer: &tokenizer,
        tokenizer_config: spelled.as_deref(),
        processor_config: processor.as_deref(),
        preprocessor_config: pictures.as_deref(),
    };
    Prompter::from_files(&files, &config(variant)).unwrap()
}

/// The conversations of the notes, in order, each with the ids that transformers' processor makes of it.
pub fn conversations(variant: &str) -> Vec<(Answer, Vec<u32>)> {
    let part = |part: &Value| match part["text"].as_str() {
        Some(text) => Part::Text(text.to_owned()),
        None => Part::Picture(Arc::new(picture(part["picture"].as_str().unwrap()))),
    };
    let turn = |turn: &Value| Turn {
        role: if turn["role"] == "user" { Role::User } else { Role::Assistant },
        parts: turn["parts"].as_array().unwrap().iter().map(part).collect(),
    };
    let conversation = |note: &Value| {
        let turns = note["turns"].as_array().unwrap().iter().map(turn).collect();
        (Answer { system: note["system"].as_str().map(str::to_owned), turns }, numbers(&note["ids"]))
    };
    NOTES[variant]["conversations"].as_array().unwrap().iter().map(conversation).collect()
}

/// The largest difference, in units of the largest golden number.
pub fn distance(ours: &[f32], golden: &[f32]) -> f32 {
    assert_eq!(ours.len(), golden.len());
    let scale = golden.iter().fold(f32::MIN_POSITIVE, |most, x| most.max(x.abs()));
    ours.iter()
        .zip(golden)
        .fold(0.0, |most, (a, b)| if (a - b).is_nan() { f32::INFINITY } else { most.max((a - b).abs() / scale) })
}
