//! Both layouts, every kind of file: the same network, to the last bit. `fixtures/deepseek` is `mha` as PyTorch and the structure of the
//! published code write it (`deepseek.py` there), so the map of names is not held against itself.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::pickle::PthTensors;
use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};
use ulm::domain::task::Draw;
use ulm::model::checkpoint::names::Layout;
use ulm::model::checkpoint::{Checkpoint, Reading};
use ulm::model::precision::Precision;
use ulm::model::weights;
use ulm::model::{Model, ModelFiles};

use crate::golden;
use crate::paths::{self, values};

const PICKLE: Reading = Reading { precision: Precision::FULL, pickle: true };

fn deepseek() -> Model {
    Model::load_as(&golden::path("deepseek"), PICKLE, &Device::Cpu).unwrap()
}

/// Writes `from` to `to` in `layout`.
pub fn convert(from: &Path, to: &Path, layout: Layout, dtype: Option<DType>) {
    let files = ModelFiles::read(from).unwrap();
    Checkpoint::open(&files, true).unwrap().convert(&files, to, layout, dtype, &|_| ()).unwrap();
}

/// Names and shapes of a safetensors file.
fn shapes(path: &Path) -> BTreeMap<String, Vec<usize>> {
    let bytes = std::fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    file.tensors().into_iter().map(|(name, view)| (name, view.shape().to_vec())).collect()
}

fn same(ours: &Model, theirs: &Model) {
    assert_eq!(ours.version(), theirs.version());
    assert_eq!(ours.config(), theirs.config());
    assert_eq!(ours.tensors().keys().collect::<Vec<_>>(), theirs.tensors().keys().collect::<Vec<_>>());
    for (name, tensor) in theirs.tensors() {
        assert_eq!(ours.tensors()[name].dims(), tensor.dims(), "{name}");
        assert_eq!(values(&ours.tensors()[name]), values(tensor), "{name}");
    }
    for (question, _) in golden::conversations("mha") {
        let (one, other) = (ours.prompter().answer(&question).unwrap(), theirs.prompter().answer(&question).unwrap());
        assert_eq!(one, other);
        let logits = |model: &Model| {
            let hidden = paths::at_once(model, &[paths::chunks(model, &one)], &[5, 7, 0], paths::text);
            (values(&model.text_logits(&hidden[0]).unwrap()), values(&model.image_logits(&hidden[0]).unwrap()))
        };
        assert_eq!(logits(ours), logits(theirs));
    }
    let draw = Draw { prompt: "two green stars".into() };
    assert_eq!(ours.prompter().draw(&draw), theirs.prompter().draw(&draw));
    let codes: Vec<u32> = (0..ours.config().image_tokens() as u32).collect();
    assert_eq!(ours.paint(std::slice::from_ref(&codes)).unwrap(), theirs.paint(&[codes]).unwrap());
}

#[test]
fn deepseeks_own_file_is_the_same_network() {
    same(&deepseek(), &paths::load("mha"));
}

#[test]
fn pickle_is_opened_on_request_only() {
    let error = Model::load(&golden::path("deepseek"), &Device::Cpu).err().expect("it loads").to_string();
    assert!(error.contains("`pytorch_model.bin`, pickle, which is read only on request: `--allow-pickle`"), "{error}");
}

#[test]
fn each_layout_is_made_from_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let (theirs, ours) = (dir.path().join("theirs"), dir.path().join("ours"));
    convert(&golden::path("deepseek"), &ours, Layout::HuggingFace, None);
    let converted = Model::load(&ours, &Device::Cpu).unwrap();
    same(&converted, &paths::load("mha"));
    // A server may change from the one folder to the other, and a model of the one is saved as the other.
    assert_eq!(converted.digest(), deepseek().digest());
    deepseek().save(&dir.path().join("saved")).unwrap();
    let saved = Model::load(&dir.path().join("saved"), &Device::Cpu).unwrap();
    same(&saved, &converted);
    assert_eq!(saved.digest(), converted.digest());
    assert_eq!(shapes(&ours.join("model.safetensors")), shapes(&golden::path("mha/model.safetensors")));

    convert(&golden::path("mha"), &theirs, Layout::DeepSeek, None);
    same(&Model::load(&theirs, &Device::Cpu).unwrap(), &paths::load("mha"));
    // Names and shapes are those that the published code's modules have, less what no network uses.
    let file = PthTensors::new(golden::path("deepseek/pytorch_model.bin"), None).unwrap();
    let unused =
        |name: &str| name.contains("attn_pool") || name.ends_with("codebook_used") || name.ends_with("inv_freq");
    let published: BTreeMap<_, _> = file
        .tensor_infos()
        .iter()
        .filter(|(name, _)| !unused(name))
        .map(|(name, info)| (name.clone(), info.layout.dims().to_vec()))
        .collect();
    assert_eq!(shapes(&theirs.join("model.safetensors")), published);
    for (name, shape) in &published {
        let whole = |tensor: Tensor| (tensor.dims().to_vec(), values(&tensor));
        let read = weights::read(&theirs.join("model.safetensors"), DType::F32, &Device::Cpu).unwrap();
        assert_eq!(whole(read[name].clone()), whole(file.get(name).unwrap().unwrap()), "{name} {shape:?}");
    }
}

#[test]
fn a_network_without_pictures_of_deepseek_keeps_its_system_text() {
    // `gqa` begins no conversation; DeepSeek's class would.
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("theirs");
    convert(&golden::path("gqa"), &to, Layout::DeepSeek, Some(DType::F32));
    let (ours, theirs) = (Model::load(&to, &Device::Cpu).unwrap(), paths::load("gqa"));
    assert_eq!(ours.version(), theirs.version());
    assert_eq!((ours.config(), ours.defaults()), (theirs.config(), theirs.defaults()));
    for (question, _) in golden::conversations("gqa") {
        assert_eq!(ours.prompter().answer(&question).unwrap(), theirs.prompter().answer(&question).unwrap());
    }
}

/// Spreads the one file of a folder over two with an index; `names` are those of the files.
fn divide(dir: &Path, names: [&str; 2]) {
    let whole = dir.join("model.safetensors");
    let tensors = weights::read(&whole, DType::F32, &Device::Cpu).unwrap();
    std::fs::remove_file(&whole).unwrap();
    let mut map = BTreeMap::new();
    let mut halves = [BTreeMap::new(), BTreeMap::new()];
    for (at, (name, tensor)) in tensors.into_iter().enumerate() {
        map.insert(name.clone(), names[at % 2]);
        halves[at % 2].insert(name, tensor);
    }
    for (half, name) in halves.iter().zip(names) {
        weights::write(&dir.join(name), half, DType::F32).unwrap();
    }
    let index = json!({ "metadata": { "total_size": 0 }, "weight_map": map });
    std::fs::write(dir.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

const NAMES: [&str; 2] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];

fn sharded(layout: Layout) -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("model");
    convert(&golden::path("mha"), &to, layout, None);
    divide(&to, NAMES);
    (dir, to)
}

#[test]
fn divided_checkpoints_are_whole() {
    for layout in [Layout::HuggingFace, Layout::DeepSeek] {
        let (_dir, to) = sharded(layout);
        same(&Model::load(&to, &Device::Cpu).unwrap(), &paths::load("mha"));
    }
    // The release of 7B is two `.bin` files.
    let dir = tempfile::tempdir().unwrap();
    for file in golden::path("deepseek").read_dir().unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), dir.path().join(file.file_name())).unwrap();
    }
    let (one, name) = (dir.path().join("pytorch_model.bin"), "pytorch_model-00001-of-00001.bin");
    let file = PthTensors::new(&one, None).unwrap();
    let map: BTreeMap<_, _> = file.tensor_infos().keys().map(|tensor| (tensor.clone(), name)).collect();
    std::fs::rename(&one, dir.path().join(name)).unwrap();
    let index = dir.path().join("pytorch_model.bin.index.json");
    std::fs::write(index, json!({ "weight_map": map }).to_string()).unwrap();
    same(&Model::load_as(dir.path(), PICKLE, &Device::Cpu).unwrap(), &paths::load("mha"));
}

/// What loading says of a divided checkpoint that `damage` has seen; the folder's name left out.
fn refusal(damage: impl FnOnce(&Path)) -> String {
    let (_dir, to) = sharded(Layout::DeepSeek);
    damage(&to);
    let error = Model::load(&to, &Device::Cpu).err().expect("it loads").to_string();
    error.replace(&to.display().to_string(), "DIR")
}

#[test]
fn files_that_are_not_those_of_their_index_are_named() {
    let index = |change: &dyn Fn(&mut Value)| {
        refusal(|dir| {
            let path = dir.join("model.safetensors.index.json");
            let mut index: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            change(&mut index);
            std::fs::write(path, index.to_string()).unwrap();
        })
    };
    let tensor = "gen_embed.weight";
    for (change, words) in [
        (
            &(|index: &mut Value| index["weight_map"][tensor] = json!("../model.safetensors")) as &dyn Fn(&mut Value),
            "lists `../model.safetensors`, which is no `.safetensors` file beside it",
        ),
        (
            &|index| index["weight_map"][tensor] = json!("pytorch_model-00002-of-00002.bin"),
            "lists `pytorch_model-00002-of-00002.bin`, which is no `.safetensors` file",
        ),
        (
            &|index| index["weight_map"][tensor] = json!("model-00003-of-00003.safetensors"),
            "mixes files of several divisions",
        ),
        (
            &|index| {
                let other = NAMES.into_iter().find(|name| index["weight_map"][tensor] != *name);
                index["weight_map"][tensor] = json!(other);
            },
            "says that `gen_embed.weight` is in `model-0000",
        ),
        (&|index| index["weight_map"]["more.weight"] = json!(NAMES[0]), "says that `more.weight` is in"),
        (
            &|index| drop(index["weight_map"].as_object_mut().unwrap().remove(tensor)),
            "does not list `gen_embed.weight`",
        ),
        (&|index| *index = json!({ "weight_map": {} }), "lists 0 files"),
        (&|index| *index = json!([]), "is no index"),
    ] {
        let error = index(change);
        assert!(error.starts_with("`DIR/model.safetensors.index.json`: ") && error.contains(words), "{words}: {error}");
    }
    let error = refusal(|dir| std::fs::remove_file(dir.join(NAMES[1])).unwrap());
    assert!(error.starts_with(&format!("cannot read `DIR/{}`: No such file", NAMES[1])), "{error}");
    let error = refusal(|dir| std::fs::write(dir.join("model.safetensors"), b"").unwrap());
    assert!(error.contains("holds both `model.safetensors` and `model.safetensors.index.json`"), "{error}");
    let error = refusal(|dir| std::fs::write(dir.join(NAMES[1]), b"12345678").unwrap());
    assert!(error.contains(NAMES[1]) && error.contains("not a whole safetensors file"), "{error}");
}

/// What loading says of DeepSeek's own file where the folder around it was changed.
fn refused_bin(damage: impl FnOnce(&Path)) -> String {
    let dir = tempfile::tempdir().unwrap();
    for file in golden::path("deepseek").read_dir().unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), dir.path().join(file.file_name())).unwrap();
    }
    damage(dir.path());
    let error = Model::load_as(dir.path(), PICKLE, &Device::Cpu).err().expect("it loads").to_string();
    error.replace(&dir.path().display().to_string(), "DIR")
}

#[test]
fn configs_of_deepseeks_that_tell_something_else_are_named() {
    let config = |at: &str, value: Value| {
        refused_bin(|dir| {
            let path = dir.join("config.json");
            let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            let (parent, key) = at.rsplit_once('/').unwrap();
            config.pointer_mut(parent).unwrap()[key] = value;
            std::fs::write(path, config.to_string()).unwrap();
        })
    };
    for (at, value, words) in [
        (
            "/model_type",
            json!("llava"),
            "`model_type` is \"llava\"; supported: \"janus\" (the Hugging Face layout), \"multi_modality\"",
        ),
        (
            "/language_config/model_type",
            json!("qwen2"),
            "`language_config.model_type` is \"qwen2\"; supported: \"llama\"",
        ),
        ("/language_config/hidden_size", json!(0), "`language_config.hidden_size` is 0"),
        ("/language_config/rope_scaling", json!({"type": "linear"}), "`language_config.rope_scaling`"),
        ("/vision_config/params/image_size", json!(384), "`vision_config.params.image_size` is 384; supported: 16"),
        ("/vision_config/params/select_layer", json!(-2), "`vision_config.params.select_layer` is -2; supported: -1"),
        (
            "/vision_config/params/heads",
            json!(null),
            "`vision_config.params.model_name` is \"siglip_small\"; supported: \"siglip_large",
        ),
        ("/vision_config/params/heads", json!(5), "`vision_config.hidden_size` is 32; supported: a multiple of"),
        (
            "/aligner_config/params/projector_type",
            json!("linear"),
            "`aligner_config.params.projector_type` is \"linear\"",
        ),
        (
            "/gen_vision_config/params/image_token_size",
            json!(16384),
            "`gen_vision_config.params.image_token_size` is 16384; supported: 64",
        ),
        ("/gen_head_config/params/n_embed", json!(1), "`gen_head_config.params.n_embed` is 1; supported: 64"),
    ] {
        let error = config(at, value);
        assert!(error.contains(words), "{at}: {error}");
    }
    // Left out, these have LLaMA's defaults, which are not those of these weights: all that do not fit are listed.
    let error = config("/language_config/intermediate_size", json!(null));
    assert!(
        error.contains("6 tensors have shapes that the config does not ask for: language_model.model.layers.0.mlp"),
        "{error}"
    );
    assert!(error.contains("[96, 64], not [11008, 64]"), "{error}");
    let error = refused_bin(|dir| {
        let path = dir.join("processor_config.json");
        let text = std::fs::read_to_string(&path).unwrap().replace("\"deepseek\"", "\"deepseek_old\"");
        std::fs::write(path, text).unwrap();
    });
    assert!(error.contains("`sft_format` is \"deepseek_old\"; supported: \"deepseek\""), "{error}");
    let error = refused_bin(|dir| {
        let path = dir.join("tokenizer.json");
        let text = std::fs::read_to_string(&path).unwrap().replace("<begin_of_image>", "<image_begins>");
        std::fs::write(path, text).unwrap();
    });
    assert!(error.contains("tokenizer.json has no token `<begin_of_image>`, which is the boi_token"), "{error}");
}

#[test]
fn damaged_pickle_is_an_error_and_no_panic() {
    let whole = golden::read("deepseek/pytorch_model.bin");
    let bin = |bytes: Vec<u8>| refused_bin(|dir| std::fs::write(dir.join("pytorch_model.bin"), bytes).unwrap());
    for at in [0, 10, 1000, whole.len() / 2, whole.len() - 1] {
        let error = bin(whole[..at].to_vec());
        assert!(error.starts_with("`DIR/pytorch_model.bin`: not a whole PyTorch file: "), "{at}: {error}");
    }
    // The list of tensors lies at the head of the file; whatever stands there instead, the folder is refused or is the network.
    let version = paths::load("mha").version().clone();
    let list = whole.windows(8).position(|bytes| bytes == b"data.pkl").unwrap() + 64;
    for at in (list..list + 4000).step_by(37) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x15;
        let dir = tempfile::tempdir().unwrap();
        for file in golden::path("deepseek").read_dir().unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), dir.path().join(file.file_name())).unwrap();
        }
        std::fs::write(dir.path().join("pytorch_model.bin"), bytes).unwrap();
        if let Ok(model) = Model::load_as(dir.path(), PICKLE, &Device::Cpu) {
            assert_eq!(model.version(), &version, "byte {at}");
        }
    }
}
