//! Checkpoints that we write are the network they were written from, for us and for transformers.

use std::path::Path;
use std::process::Command;

use candle_core::{D, DType, Device, Tensor};
use serde_json::Value;
use ulm::domain::picture::Picture;
use ulm::domain::task::{Answer, Draw, Part, Role, Turn};
use ulm::model::network::{Chunk, Network};
use ulm::model::params::{Params, Tensors};
use ulm::model::save::save;
use ulm::model::{Defaults, Model, policy};

use crate::golden::{self, VARIANTS};
use crate::paths::{self, values};

const LIKED: Defaults = Defaults { guidance: 3.5, temperature: 0.9 };

fn tokenizer(variant: &str) -> Vec<u8> {
    golden::read(&format!("{variant}/tokenizer.json"))
}

pub fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        dir.read_dir().unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_is_saved_loads_the_same() {
    for variant in VARIANTS {
        let model = paths::load(variant);
        let copy = Model::from_tensors(
            model.config().clone(),
            golden::prompter(variant),
            LIKED,
            model.tensors().clone(),
            &Device::Cpu,
        );
        assert_eq!(copy.unwrap().version(), model.version());
        // The fixtures hold numbers that both half precisions write exactly.
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let dir = tempfile::tempdir().unwrap();
            let dir = dir.path().join("a/b");
            let version = save(&dir, model.config(), model.tensors(), &tokenizer(variant), LIKED, dtype).unwrap();
            let again = Model::load(&dir, &Device::Cpu).unwrap();
            assert_eq!((again.version(), &version), (model.version(), model.version()), "{variant} {dtype:?}");
            assert_eq!((again.config().text.clone(), again.defaults()), (model.config().text.clone(), LIKED));
            assert_eq!(again.tensors().keys().collect::<Vec<_>>(), model.tensors().keys().collect::<Vec<_>>());
            for (name, tensor) in model.tensors() {
                assert_eq!(again.tensors()[name].dims(), tensor.dims(), "{name}");
                assert_eq!(values(&again.tensors()[name]), values(tensor), "{name}");
            }
            let logits = |model: &Model| {
                let hidden = paths::at_once(model, &[vec![Chunk::Text(&[1, 2, 3])]], &[5, 7, 0], paths::codes);
                (values(&model.text_logits(&hidden[0]).unwrap()), values(&model.image_logits(&hidden[0]).unwrap()))
            };
            assert_eq!(logits(&again), logits(&model));
            assert!(names(&dir).iter().all(|name| !name.ends_with(".part")));

            let size = std::fs::metadata(dir.join("model.safetensors")).unwrap().len() as usize;
            let numbers: usize = model.tensors().values().map(Tensor::elem_count).sum();
            assert!((size as f64 / (numbers * dtype.size_in_bytes()) as f64 - 1.0).abs() < 0.1);
        }
    }
}

#[test]
fn saving_again_replaces_and_a_refusal_leaves_all_as_it_was() {
    let (model, dir) = (paths::load("mha"), tempfile::tempdir().unwrap());
    let mut tensors = model.tensors().clone();
    let write = |tensors: &Tensors, tokenizer: &[u8], defaults, dtype| {
        save(dir.path(), model.config(), tensors, tokenizer, defaults, dtype)
    };
    let first = write(&tensors, &tokenizer("mha"), LIKED, DType::F16).unwrap();
    let written = names(dir.path());

    let large = Tensor::full(70_000f32, 64, &Device::Cpu).unwrap();
    let norm = tensors.insert("model.language_model.norm.weight".into(), large).unwrap();
    let error = |result: Result<_, ulm::model::ModelError>| result.expect_err("it saves").to_string();
    let refused = error(write(&tensors, &tokenizer("mha"), LIKED, DType::F16));
    assert_eq!(refused, "tensor `model.language_model.norm.weight` holds the value inf");
    tensors.remove("model.language_model.norm.weight");
    let refused = error(write(&tensors, &tokenizer("mha"), LIKED, DType::F16));
    assert_eq!(refused, "tensor `model.language_model.norm.weight` is missing");
    tensors.insert("model.language_model.norm.weight".into(), norm);
    assert!(error(write(&tensors, b"{}", LIKED, DType::F16)).starts_with("tokenizer.json cannot be read"));
    let wild = Defaults { guidance: -1.0, ..LIKED };
    assert!(error(write(&tensors, &tokenizer("mha"), wild, DType::F16)).contains("out of range"));
    assert!(error(write(&tensors, &tokenizer("mha"), LIKED, DType::U8)).contains("not stored as"));
    assert_eq!(names(dir.path()), written);
    assert_eq!(Model::load(dir.path(), &Device::Cpu).unwrap().version(), &first);

    // A folder that stands where a file should go: the error names it, and nothing half-written stays.
    let blocked = dir.path().join("tokenizer.part");
    std::fs::create_dir(&blocked).unwrap();
    assert!(error(write(&tensors, &tokenizer("mha"), LIKED, DType::F32)).contains("tokenizer.part"));
    std::fs::remove_dir(&blocked).unwrap();
    assert_eq!(names(dir.path()), written);

    let doubled = (&tensors["lm_head.weight"] * 2.0).unwrap();
    tensors.insert("lm_head.weight".into(), doubled);
    let second = write(&tensors, &tokenizer("mha"), Defaults { guidance: 1.0, temperature: 0.0 }, DType::F32).unwrap();
    let again = Model::load(dir.path(), &Device::Cpu).unwrap();
    assert_eq!((again.version(), again.defaults().temperature), (&second, 0.0));
    assert_ne!(first, second);
    assert_eq!(names(dir.path()), written);
}

/// A small network of `variant`'s sizes, fresh from a seed; its decoder is louder than at the start of training, so that greedy
/// replies wander.
fn fresh(variant: &str, seed: u64) -> Tensors {
    let params = Params::fresh(seed, &Device::Cpu);
    Network::new(&params.root(), &golden::config(variant)).unwrap();
    let loud = |(name, tensor): (String, Tensor)| {
        let louder = name.starts_with("model.language_model.layers") && tensor.rank() == 2;
        (name, if louder { (tensor * 6.0).unwrap() } else { tensor })
    };
    params.finish().unwrap().into_iter().map(loud).collect()
}

fn ask(picture: Picture, question: &str) -> Answer {
    let parts = vec![Part::Picture(picture.into()), Part::Text(question.to_owned())];
    Answer { system: None, turns: vec![Turn { role: Role::User, parts }] }
}

fn best(logits: &Tensor, tokens: usize) -> u32 {
    logits.narrow(1, 0, tokens).unwrap().argmax(D::Minus1).unwrap().to_vec1::<u32>().unwrap()[0]
}

/// Greedy answer ids, to the end of text or `limit`.
fn answer(model: &Model, question: &Answer, limit: usize) -> Vec<u32> {
    let prompt = model.prompter().answer(question).unwrap();
    let mut said = Vec::new();
    while said.len() < limit && said.last() != Some(&model.prompter().end_of_text()) {
        let hidden =
            paths::through_slots(model, &[paths::chunks(model, &prompt)], &[&said[..], &[0]].concat(), paths::text);
        let last = hidden[0].narrow(0, said.len(), 1).unwrap();
        said.push(best(&model.text_logits(&last).unwrap(), model.prompter().text_tokens()));
    }
    said
}

/// Greedy codes of a picture.
fn draw(model: &Model, prompt: &str, guidance: f64) -> Vec<u32> {
    let prompt = model.prompter().draw(&Draw { prompt: prompt.to_owned() }).unwrap();
    let mut drawn = Vec::new();
    while drawn.len() < model.config().image_tokens() {
        let rows = [vec![Chunk::Text(&prompt.conditional)], vec![Chunk::Text(&prompt.unconditional)]];
        let hidden = paths::through_slots(model, &rows, &[&drawn[..], &[0]].concat(), paths::codes);
        let logits = |row: usize| model.image_logits(&hidden[row].narrow(0, drawn.len(), 1).unwrap()).unwrap();
        drawn.push(best(&policy::guide(&logits(0), &logits(1), guidance).unwrap(), model.config().vq.codebook_size));
    }
    drawn
}

#[test]
#[ignore = "needs Python with torch and transformers"]
#[allow(clippy::disallowed_methods, reason = "says which Python, to this test alone")]
fn transformers_loads_what_we_save_and_replies_the_same() {
    let python = std::env::var("ULM_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    for (variant, seed, dtype, temperature) in
        [("mha", 11, DType::F16, 1.0), ("gqa", 12, DType::F32, 0.8), ("mha", 13, DType::BF16, 0.0)]
    {
        let dir = tempfile::tempdir().unwrap();
        let defaults = Defaults { guidance: 4.0, temperature };
        save(
            &dir.path().join("model"),
            &golden::config(variant),
            &fresh(variant, seed),
            &tokenizer(variant),
            defaults,
            dtype,
        )
        .unwrap();
        let model = Model::load(&dir.path().join("model"), &Device::Cpu).unwrap();

        let side = model.config().image_size();
        let rgb: Vec<u8> = (0..3 * side * side).map(|i| (i * i * 7 % 251) as u8).collect();
        let file = dir.path().join("picture.png");
        image::RgbImage::from_raw(side as u32, side as u32, rgb.clone()).unwrap().save(&file).unwrap();
        let (question, prompt) = ("What colour is it?", "two green stars");
        let script = golden::path("check_saved.py");
        let output = Command::new(&python)
            .arg(&script)
            .args([&dir.path().join("model"), &file])
            .args([question, prompt, "--guidance", "3", "--max-tokens", "24"])
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{variant}: {errors}");
        let theirs: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {errors}"));

        let question = ask(Picture::new(side, side, rgb).unwrap(), question);
        let (said, drawn) = (answer(&model, &question, 24), draw(&model, prompt, 3.0));
        eprintln!("{variant} {dtype:?}: answer {said:?} (least margin {}), picture {drawn:?}", theirs["answer_margin"]);
        assert_eq!(said, golden::numbers(&theirs["answer"]), "{variant}");
        assert_eq!(model.prompter().decode(&said), theirs["answer_text"].as_str().unwrap());
        assert_eq!(drawn, golden::numbers(&theirs["codes"]), "{variant}");
        let picture = model.paint(&[drawn]).unwrap().remove(0);
        let most = picture
            .rgb()
            .iter()
            .zip(golden::numbers(&theirs["picture_bytes"]))
            .map(|(ours, theirs)| u32::from(*ours).abs_diff(theirs));
        assert!(most.max().unwrap() <= 1, "{variant}");
    }
}
