//! A damaged checkpoint does not load, and the error names the file, what in it is wrong, and what to do.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use ulm::model::Model;
use ulm::model::weights;

use crate::golden;

type Tensors = BTreeMap<String, Tensor>;

/// Loads a copy of a fixture that `damage` has seen; the error with the folder's name left out.
fn refusal(variant: &str, damage: impl FnOnce(&Path)) -> String {
    let dir = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(golden::path(variant)).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), dir.path().join(file.file_name())).unwrap();
    }
    damage(dir.path());
    let error = Model::load(dir.path(), &Device::Cpu).err().expect("it loads").to_string();
    let error = error.replace(&dir.path().display().to_string(), "DIR");
    let remedy = "; download the checkpoint again, or make one with `ulm pretrain`";
    error.strip_suffix(remedy).unwrap_or_else(|| panic!("no remedy: {error}")).to_owned()
}

/// As [`refusal`], of weights that `damage` has seen.
fn refused_weights(variant: &str, damage: impl FnOnce(&mut Tensors)) -> String {
    refusal(variant, |dir| {
        let path = dir.join("model.safetensors");
        let mut tensors = weights::read(&path, DType::F32, &Device::Cpu).unwrap();
        damage(&mut tensors);
        weights::write(&path, &tensors, DType::F32).unwrap();
    })
}

fn zeros(shape: &[usize]) -> Tensor {
    Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap()
}

const LAYER: &str = "model.language_model.layers.1";

#[test]
fn damaged_files_are_named() {
    let cut = |at: usize| {
        refusal("mha", |dir| {
            let path = dir.join("model.safetensors");
            let bytes = std::fs::read(&path).unwrap();
            std::fs::write(path, &bytes[..at.min(bytes.len() - 1)]).unwrap();
        })
    };
    for at in [0, 7, 100, 50_000, usize::MAX] {
        let error = cut(at);
        assert!(error.starts_with("`DIR/model.safetensors`: not a whole safetensors file: "), "{at}: {error}");
    }
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        let error = refusal("mha", |dir| std::fs::remove_file(dir.join(name)).unwrap());
        assert!(error.starts_with(&format!("cannot read `DIR/{name}`: No such file")), "{error}");
    }
    let error = refusal("mha", |dir| std::fs::write(dir.join("tokenizer.json"), b"{}").unwrap());
    assert!(error.starts_with("`DIR`: tokenizer.json cannot be read: "), "{error}");
    let error =
        refusal("mha", |dir| std::fs::write(dir.join("generation_config.json"), br#"{"guidance_scale": -1}"#).unwrap());
    assert_eq!(error, "`DIR`: generation_config.json: guidance_scale -1, temperature 1: out of range");
    let error = refusal("mha", |dir| std::fs::write(dir.join("processor_config.json"), b"[").unwrap());
    assert!(error.starts_with("`DIR`: processor_config.json cannot be read: "), "{error}");
}

#[test]
fn other_architectures_are_named() {
    let config = |from: &str, to: &str| {
        refusal("mha", |dir| {
            let config = golden::read("mha/config.json");
            std::fs::write(dir.join("config.json"), String::from_utf8(config).unwrap().replace(from, to)).unwrap();
        })
    };
    let error = config(r#""model_type": "janus","#, r#""model_type": "llava","#);
    let supported = r#""janus" (the Hugging Face layout), "multi_modality" (DeepSeek's)"#;
    assert_eq!(error, format!(r#"`DIR`: config.json: `model_type` is "llava"; supported: {supported}"#));
    let error = config(r#""use_qk_norm": false"#, r#""use_qk_norm": true"#);
    assert_eq!(error, "`DIR`: config.json: `vision_config.use_qk_norm` is true; supported: false");
    // A network of other sizes than the weights.
    let error = config(r#""intermediate_size": 96"#, r#""intermediate_size": 128"#);
    let name = |layer: usize, member: &str| format!("model.language_model.layers.{layer}.mlp.{member}_proj.weight");
    let told = |layer| {
        let members = [
            ("down", "[64, 96], not [64, 128]"),
            ("gate", "[96, 64], not [128, 64]"),
            ("up", "[96, 64], not [128, 64]"),
        ];
        members.map(|(member, shapes)| format!("{} {shapes}", name(layer, member))).join(", ")
    };
    let all = format!("6 tensors have shapes that the config does not ask for: {}, {}", told(0), told(1));
    assert_eq!(error, format!("`DIR/model.safetensors`: {all}"));
}

#[test]
fn missing_tensors_are_named() {
    let missing = |variant: &str, names: &[&str]| {
        refused_weights(variant, |tensors| {
            names.iter().for_each(|name| assert!(tensors.remove(*name).is_some(), "{name}"))
        })
    };
    let plain =
        ["lm_head.weight", "model.vqmodel.encoder.mid.attn_1.q.weight", "model.vision_model.post_layernorm.bias"];
    let attention = ["q_proj", "k_proj", "v_proj"].map(|member| format!("{LAYER}.self_attn.{member}.weight"));
    let up = format!("{LAYER}.mlp.up_proj.weight");
    for name in plain.into_iter().chain(attention.each_ref().map(String::as_str)).chain([up.as_str()]) {
        assert_eq!(missing("gqa", &[name]), format!("`DIR/model.safetensors`: tensor `{name}` is missing"));
    }
    let all = missing("gqa", &attention.each_ref().map(String::as_str));
    let [q, k, v] = &attention;
    assert_eq!(all, format!("`DIR/model.safetensors`: 3 tensors are missing: {k}, {q}, {v}"));
}

#[test]
fn misshapen_tensors_are_named() {
    let misshapen = |name: &str, shape: &[usize]| {
        let error = refused_weights("gqa", |tensors| {
            assert!(tensors.insert(name.to_owned(), zeros(shape)).is_some(), "{name}")
        });
        let start = format!("`DIR/model.safetensors`: tensor `{name}` has shape {shape:?}, ");
        error.strip_prefix(&start).unwrap_or_else(|| panic!("{error}, not {start}")).to_owned()
    };
    assert_eq!(misshapen("lm_head.weight", &[351, 48]), "but the config asks for [352, 48]");
    assert_eq!(
        misshapen("model.vqmodel.encoder.conv_in.weight", &[32, 4, 3, 3]),
        "but the config asks for [32, 3, 3, 3]"
    );
    assert_eq!(
        misshapen("model.vqmodel.encoder.conv_in.weight", &[32, 3, 5, 5]),
        "but the config asks for [32, 3, 3, 3]"
    );
    assert_eq!(misshapen("model.vqmodel.quant_conv.weight", &[4, 9, 1, 1]), "but the config asks for [4, 8, 1, 1]");
    let patch = "model.vision_model.embeddings.patch_embedding.weight";
    assert_eq!(misshapen(patch, &[24, 3, 4, 4]), "but the config asks for [24, 3, 2, 2]");
    let member = |name: &str| format!("{LAYER}.self_attn.{name}.weight");
    assert_eq!(misshapen(&member("q_proj"), &[56, 48]), "but the config asks for [48, 48]");
    assert_eq!(misshapen(&member("v_proj"), &[8, 48]), "but the config asks for [16, 48]");
    assert_eq!(misshapen(&member("o_proj"), &[48, 56]), "but the config asks for [48, 48]");

    // Together of the right size, yet none of them.
    let error = refused_weights("gqa", |tensors| {
        for (name, rows) in [("q_proj", 56), ("k_proj", 12), ("v_proj", 12)] {
            tensors.insert(member(name), zeros(&[rows, 48]));
        }
    });
    let told = [("k_proj", 12, 16), ("q_proj", 56, 48), ("v_proj", 12, 16)];
    let told = told.map(|(name, found, wanted)| format!("{} [{found}, 48], not [{wanted}, 48]", member(name)));
    assert!(error.ends_with(&told.join(", ")), "{error}");
}

#[test]
fn numbers_that_are_none_and_tensors_without_a_place_are_named() {
    for (value, shown) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
        let name = "model.generation_head.vision_head.bias";
        let error = refused_weights("mha", |tensors| {
            let mut numbers = tensors[name].to_vec1::<f32>().unwrap();
            numbers[5] = value;
            tensors.insert(name.into(), Tensor::new(numbers, &Device::Cpu).unwrap());
        });
        assert_eq!(error, format!("`DIR/model.safetensors`: tensor `{name}` holds the value {shown}"));
    }
    let error = refused_weights("mha", |tensors| {
        tensors.insert("model.extra".into(), zeros(&[1]));
        tensors.insert("visual.self_attn.q_proj.weight".into(), zeros(&[2, 2]));
    });
    let both = "2 tensors belong to no part of the network: model.extra, visual.self_attn.q_proj.weight";
    assert_eq!(error, format!("`DIR/model.safetensors`: {both}"));
    let error = refused_weights("mha", |tensors| {
        tensors.insert("model.extra".into(), zeros(&[1]));
        tensors.insert("zebra".into(), zeros(&[2, 2]));
    });
    assert_eq!(error, "`DIR/model.safetensors`: 2 tensors belong to no part of the network: model.extra, zebra");
    let error = refusal("mha", |dir| {
        let whole = [("lm_head.weight".to_owned(), Tensor::new(&[1u32], &Device::Cpu).unwrap())];
        weights::write(&dir.join("model.safetensors"), &whole.into(), DType::U32).unwrap();
    });
    assert_eq!(
        error,
        "`DIR/model.safetensors`: tensor `lm_head.weight` has element type U32; f32, f16 and bf16 are understood"
    );
}
