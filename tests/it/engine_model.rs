//! A two-layer random model with a byte-level tokenizer: quick enough to be real, so that no test needs a mock.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use ulm::model::config::{ModelConfig, TextConfig, VisionConfig, VqConfig};
use ulm::model::network::Network;
use ulm::model::params::{Params, Tensors};
use ulm::model::{Model, ModelFiles, prompt, weights};

/// Tokens that Janus-Pro's templates name, behind the 256 bytes.
const SPECIAL: [&str; 8] = [
    "<｜begin▁of▁sentence｜>",
    "<｜end▁of▁sentence｜>",
    "<｜▁pad▁｜>",
    "<begin_of_image>",
    "<end_of_image>",
    "<image_placeholder>",
    "<|User|>",
    "<|Assistant|>",
];

/// The sizes: pictures of 16 pixels and 16 tokens, a context of 256; the text head is wider than the tokenizer.
pub fn config() -> ModelConfig {
    ModelConfig {
        text: TextConfig {
            vocab_size: 270,
            hidden_size: 32,
            intermediate_size: 48,
            num_layers: 2,
            num_heads: 4,
            num_kv_heads: 2,
            head_dim: 8,
            max_positions: 256,
            rms_norm_eps: 1e-6,
            rope_theta: 10_000.0,
        },
        vision: VisionConfig {
            hidden_size: 16,
            intermediate_size: 32,
            num_layers: 1,
            num_heads: 2,
            image_size: 16,
            patch_size: 4,
            layer_norm_eps: 1e-6,
        },
        vq: VqConfig {
            codebook_size: 24,
            codebook_dim: 4,
            latent_channels: 32,
            base_channels: 32,
            channel_multiplier: vec![1, 1, 1],
            num_res_blocks: 1,
        },
        image_token_id: 256 + 5,
        tied_head: false,
    }
}

fn tokenizer() -> String {
    let mut bytes: Vec<char> = ByteLevel::alphabet().into_iter().collect();
    bytes.sort_unstable();
    let mut vocabulary = serde_json::Map::new();
    for (id, byte) in bytes.iter().enumerate() {
        vocabulary.insert(byte.to_string(), id.into());
    }
    let added = SPECIAL.iter().enumerate().map(|(at, name)| {
        serde_json::json!({
            "id": 256 + at, "content": name, "special": true,
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        })
    });
    let added: Vec<_> = added.collect();
    serde_json::json!({
        "version": "1.0",
        "added_tokens": added,
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false },
        "decoder": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false },
        "model": { "type": "BPE", "vocab": vocabulary, "merges": [] },
    })
    .to_string()
}

/// The checkpoint files of a random model, its tensors (disk layout) changed by `change`.
pub fn files(config: &ModelConfig, seed: u64, change: impl FnOnce(&mut Tensors)) -> ModelFiles {
    let params = Params::fresh(seed, &Device::Cpu);
    Network::new(&params.root(), config).unwrap();
    let mut tensors = weights::split(&params.finish().unwrap(), config.text.num_heads * config.text.head_dim).unwrap();
    change(&mut tensors);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    weights::write(&path, &tensors, DType::F32).unwrap();
    ModelFiles {
        config: config.to_json().into_bytes().into(),
        weights: std::fs::read(path).unwrap().into(),
        tokenizer: tokenizer().into_bytes().into(),
        tokenizer_config: Some(prompt::tokenizer_config(config.text.max_positions).into_bytes().into()),
        ..ModelFiles::default()
    }
}

/// A random model.
pub fn model(seed: u64) -> Arc<Model> {
    Arc::new(Model::from_files(&files(&config(), seed, |_| ()), &Device::Cpu).unwrap())
}

/// A model whose weights are finite and whose logits are not.
pub fn broken_model() -> Arc<Model> {
    let files = files(&config(), 0, |tensors| {
        for name in ["lm_head.weight", "model.generation_head.vision_head.weight"] {
            let shape = tensors[name].shape().clone();
            tensors.insert(name.to_owned(), Tensor::full(3e38_f32, shape, &Device::Cpu).unwrap());
        }
    });
    Arc::new(Model::from_files(&files, &Device::Cpu).unwrap())
}
