//! `ulm model` as people use it: a process, its words and what it leaves on the disk; and a server of a folder in DeepSeek's layout.

use std::path::Path;
use std::process::{Command, Output};

use candle_core::{DType, Device, Tensor};
use reqwest::Client;
use serde_json::{Value, json};
use ulm::model::{Model, weights};

use super::saving::names;
use super::{app, crash, golden};

fn ulm(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ulm")).args(["model"]).args(arguments).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

/// Runs it well, and what it said.
fn done(arguments: &[&str]) -> String {
    let output = ulm(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    said(&output)
}

/// Runs it, which must fail, and what it said.
fn refused(arguments: &[&str]) -> String {
    let output = ulm(arguments);
    assert!(!output.status.success(), "{arguments:?}: {}", said(&output));
    said(&output)
}

fn report(arguments: &[&str]) -> Value {
    serde_json::from_str(&done(&[arguments, &["--json"]].concat())).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_seed_is_the_same_network_in_both_layouts() {
    let dir = tempfile::tempdir().unwrap();
    let (one, other, back) = (dir.path().join("one"), dir.path().join("other"), dir.path().join("back"));
    done(&["random", "--like", "demo", "--out", text(&one)]);
    done(&["random", "--like", "demo", "--out", text(&other), "--layout", "deepseek"]);
    let (ours, theirs) = (report(&["verify", text(&one)]), report(&["verify", text(&other)]));
    assert_eq!(ours["version"], theirs["version"]);
    assert_eq!((&ours["layout"], &theirs["layout"]), (&json!("Hugging Face"), &json!("DeepSeek")));
    assert_eq!(ours["parameters"]["network"], theirs["parameters"]["network"]);
    assert_eq!((&ours["tensors"]["skipped"], &theirs["tensors"]["skipped"]), (&json!(0), &json!(14)));
    assert_eq!(ours["stored_as"], json!(["bf16"]));

    done(&["convert", text(&other), "--out", text(&back), "--dtype", "f32"]);
    let back = report(&["info", text(&back), "--context", "100000", "--memory", "1"]);
    assert_eq!((&back["version"], &back["stored_as"]), (&ours["version"], &json!(["f32"])));
    // 6 layers of 192 numbers, keys and values, 4 bytes, 512 positions at most.
    let row = 6 * 192 * 2 * 4 * 512;
    assert_eq!((&back["serving"]["context"], &back["serving"]["row_bytes"]), (&json!(512), &json!(row)));
    let left = (1u64 << 30) - 4 * ours["parameters"]["network"].as_u64().unwrap();
    assert_eq!(back["serving"]["rows_that_fit"], json!(left / row));
    assert_eq!(back["config"]["text_config"]["num_hidden_layers"], 6);
    assert_eq!(back["tokens"][5], json!({ "role": "image_token", "id": 561 }));

    let another = dir.path().join("another");
    done(&["random", "--like", "demo", "--out", text(&another), "--seed", "2", "--dtype", "f16"]);
    assert_ne!(report(&["verify", text(&another)])["version"], ours["version"]);
    assert!(Model::load(&another, &Device::Cpu).is_ok());
    assert_eq!(names(dir.path()), ["another", "back", "one", "other"]);
}

/// The shapes of the release to the last number; 4 GB on the disk at a time.
#[test]
#[ignore = "writes and reads two checkpoints of 4 GB"]
fn full_sized_checkpoints_are_the_release_s_in_number() {
    let mut versions = Vec::new();
    for (layout, tensors, parameters) in [("huggingface", 964, 2_076_636_811_u64), ("deepseek", 882, 2_089_232_011)] {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("model");
        done(&["random", "--like", "janus-pro-1b", "--layout", layout, "--out", text(&to)]);
        let report = report(&["verify", text(&to)]);
        assert_eq!(
            (&report["tensors"]["stored"], &report["parameters"]["total"]),
            (&json!(tensors), &json!(parameters))
        );
        assert_eq!(report["tokens"][3], json!({ "role": "boi_token", "id": 100_003 }));
        versions.push(report["version"].clone());
    }
    assert_eq!(versions[0], versions[1]);
}

#[test]
fn the_demo_model_and_a_pickle_are_described() {
    let told = done(&["info"]);
    for words in ["ulm-demo, Hugging Face layout", "6 layers of 192", "bos_token 556", "rows fit in"] {
        assert!(told.contains(words), "{words}: {told}");
    }
    let folder = golden::path("deepseek");
    assert!(refused(&["verify", text(&folder)]).contains("--allow-pickle"));
    let told = done(&["verify", text(&folder), "--allow-pickle"]);
    for words in ["DeepSeek layout", "266 stored: 250 of the network, 16 skipped", "pytorch_model.bin", "whole: every"]
    {
        assert!(told.contains(words), "{words}: {told}");
    }
}

#[test]
fn what_is_not_whole_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let told = refused(&["verify", text(dir.path())]);
    assert!(told.contains("config.json") && told.contains("No such file"), "{told}");

    let broken = dir.path().join("broken");
    done(&["convert", text(&golden::path("mha")), "--out", text(&broken), "--layout", "deepseek"]);
    let path = broken.join("model.safetensors");
    let mut tensors = weights::read(&path, DType::F32, &Device::Cpu).unwrap();
    let damage = |tensors: &std::collections::BTreeMap<String, Tensor>| {
        weights::write(&path, tensors, DType::F32).unwrap();
        refused(&["verify", text(&broken)])
    };
    let bias = Tensor::new(vec![f32::NAN; 64], &Device::Cpu).unwrap();
    let whole = tensors.insert("aligner.layers.2.bias".into(), bias).unwrap();
    let told = damage(&tensors);
    assert!(told.contains("tensor `aligner.layers.2.bias` holds the value NaN"), "{told}");
    let told = refused(&["convert", text(&broken), "--out", text(&dir.path().join("copy"))]);
    assert!(told.contains("tensor `aligner.layers.2.bias` holds the value NaN"), "{told}");
    tensors.insert("aligner.layers.2.bias".into(), whole.narrow(0, 0, 63).unwrap());
    tensors.remove("gen_embed.weight");
    tensors.remove("vision_model.vision_tower.blocks.1.attn.qkv.bias");
    tensors.insert("vision_model.vision_tower.attn_pool.more".into(), whole);
    let told = damage(&tensors);
    for words in [
        "2 tensors are missing: ",
        "gen_embed.weight",
        "vision_model.vision_tower.blocks.1.attn.qkv.bias",
        "tensor `aligner.layers.2.bias` has shape [63], but the config asks for [64]",
        "tensor `vision_model.vision_tower.attn_pool.more` belongs to no part of the network",
    ] {
        assert!(told.contains(words), "{words}: {told}");
    }
    // Nothing of the refused conversion is left.
    assert_eq!(names(dir.path()), ["broken"]);
}

#[test]
fn numbers_too_large_for_the_new_type_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    done(&["convert", text(&golden::path("mha")), "--out", text(&from), "--dtype", "f32"]);
    let path = from.join("model.safetensors");
    let mut tensors = weights::read(&path, DType::F32, &Device::Cpu).unwrap();
    tensors.insert("model.language_model.norm.weight".into(), Tensor::full(70_000f32, 64, &Device::Cpu).unwrap());
    weights::write(&path, &tensors, DType::F32).unwrap();
    let told = refused(&["convert", text(&from), "--out", text(&to), "--dtype", "f16"]);
    assert!(told.contains("`model.language_model.norm.weight` holds the value 70000, which f16 cannot hold"), "{told}");
    done(&["convert", text(&from), "--out", text(&to), "--dtype", "bf16"]);
    assert_eq!(names(dir.path()), ["from", "to"]);
}

#[test]
fn folders_that_hold_something_stay_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let (to, part) = (dir.path().join("to"), dir.path().join("to.part"));
    std::fs::create_dir(&to).unwrap();
    std::fs::write(to.join("diary"), "dear").unwrap();
    let from = golden::path("mha");
    let told = refused(&["convert", text(&from), "--out", text(&to)]);
    assert!(told.contains("it exists already"), "{told}");
    assert_eq!(names(dir.path()), ["to"]);
    std::fs::remove_file(to.join("diary")).unwrap();
    std::fs::create_dir(&part).unwrap();
    let told = refused(&["convert", text(&from), "--out", text(&to)]);
    assert!(told.contains("to.part") && told.contains("left by a run that was cut off"), "{told}");
    std::fs::remove_dir(&part).unwrap();
    done(&["convert", text(&from), "--out", text(&to)]);
    assert_eq!(names(dir.path()), ["to"]);
    assert!(Model::load(&to, &Device::Cpu).is_ok());
}

#[test]
fn a_full_disk_leaves_nothing_half_written() {
    let (dir, from) = (tempfile::tempdir().unwrap(), golden::path("mha"));
    let to = dir.path().join("to");
    for command in [
        ["convert", text(&from), "--out", text(&to)].as_slice(),
        &["random", "--like", "demo", "--out", text(&to), "--seed", "3"],
    ] {
        // A file that may not grow any more fails a write as a full disk does; 100 blocks are less than the weights.
        let output = Command::new("sh")
            .args(["-c", "trap '' XFSZ; ulimit -f 100; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_ulm"), "model"])
            .args(command)
            .output()
            .unwrap();
        assert!(!output.status.success() && said(&output).contains("cannot write"), "{}", said(&output));
        assert!(names(dir.path()).is_empty(), "{:?}", names(dir.path()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_in_deepseeks_layout_is_served() {
    let (data, folder) = (tempfile::tempdir().unwrap(), golden::path("deepseek"));
    let (mut server, url) = crash::start_with(data.path(), &["--model", text(&folder), "--allow-pickle"]);
    let client = Client::new();
    let post = async |path: &str, body: Value| {
        let reply = client.post(format!("{url}{path}")).json(&body).send().await.unwrap();
        assert_eq!(reply.status(), 200);
        reply.json::<Value>().await.unwrap()
    };
    let drawn = post("/v1/images/generations", json!({ "prompt": "a star", "seed": 1 })).await;
    let file = drawn["data"][0]["b64_json"].as_str().unwrap();
    assert!(drawn["data"][0]["sample_id"].is_string() && file.len() > 100);
    let content = json!([
        app::text("What is it?"),
        { "type": "image_url", "image_url": { "url": format!("data:image/png;base64,{file}") } },
    ]);
    let messages = json!([{ "role": "user", "content": content }]);
    let answer =
        post("/v1/chat/completions", json!({ "model": "deepseek", "messages": messages, "max_tokens": 4 })).await;
    assert!(answer["choices"][0]["message"]["content"].is_string() && answer["choices"][0]["sample_id"].is_string());
    server.kill().unwrap();
    server.wait().unwrap();
}
