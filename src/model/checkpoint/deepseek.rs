//! The `config.json` of DeepSeek's layout (`model_type: multi_modality`). It tells the language model and leaves most of the rest to code:
//! sizes of the vision tower and of the image tokenizer are read from the shapes of the weights. What is found goes through the checks
//! of the Hugging Face config, so that both layouts are held to the same bounds.

use serde_json::{Map, Value, json};

use super::files::Source;
use crate::model::ModelError;
use crate::model::config::{Block, ConfigError, ModelConfig, TextConfig, ratio};
use crate::model::weights::{Misfit, WeightsError, bad};

/// The vision tower of the release, whose heads its name stands for: no shape tells them.
const TOWER: &str = "siglip_large_patch16_384";
const TOWER_HEADS: usize = 16;
/// Fixed in the published code.
const TOWER_EPS: f64 = 1e-6;
/// Width of LLaMA where a config is silent.
const LLAMA_WIDTH: u64 = 4096;
/// Most levels and blocks that are looked for.
const MOST: usize = 64;

const VISION: &str = "vision_model.vision_tower.";
const VQ: &str = "gen_vision_model.";

/// Sizes from the shapes of stored tensors.
struct Shapes<'s, 'b>(&'s Source<'b>);

impl Shapes<'_, '_> {
    fn has(&self, name: &str) -> bool {
        self.0.tensors().contains_key(name)
    }

    /// Side `axis` of a tensor of `rank` dimensions.
    fn side(&self, name: &str, rank: usize, axis: usize) -> Result<usize, WeightsError> {
        let Some(stored) = self.0.tensors().get(name) else {
            return Err(Misfit { missing: vec![name.to_owned()], ..Misfit::default() }.into());
        };
        match stored.shape.get(axis) {
            Some(side) if stored.shape.len() == rank => Ok(*side),
            _ => Err(bad(name, format!("has shape {:?}; supported: {rank} dimensions", stored.shape))),
        }
    }

    /// How many numbers from 0 on have a tensor.
    fn count(&self, name: impl Fn(usize) -> String) -> usize {
        (0..MOST).take_while(|i| self.has(&name(*i))).count()
    }
}

/// The parameters of a block, which lie one level down.
fn params<'a>(
    root: &Map<String, Value>,
    name: &'static str,
    path: &'static str,
    to: &'a mut Option<Map<String, Value>>,
) -> Block<'a> {
    *to = root.get(name).and_then(|block| block.get("params")).and_then(Value::as_object).cloned();
    Block { path, map: to.as_ref() }
}

/// Reads and checks a config of this layout, with the shapes of `source` where it is silent.
///
/// # Errors
/// When a field holds what is not supported, or the weights that sizes are read from are missing.
pub fn read(root: &Map<String, Value>, image_token_id: u32, source: &Source<'_>) -> Result<ModelConfig, ModelError> {
    let shapes = Shapes(source);
    TextConfig::read(&Block { path: "", map: Some(root) }.block("language_config")?)?;
    let language = root.get("language_config").cloned().unwrap_or_else(|| json!({}));
    let told = language.get("hidden_size").filter(|width| !width.is_null());
    let width = told.cloned().unwrap_or(json!(LLAMA_WIDTH));
    let mut holds = None;
    for (block, path) in
        [("aligner_config", "aligner_config.params"), ("gen_aligner_config", "gen_aligner_config.params")]
    {
        let block = params(root, block, path, &mut holds);
        block.only("projector_type", &json!("mlp_gelu"), &json!("mlp_gelu"))?;
        block.only("depth", &json!(2), &json!(2))?;
        block.only("n_embed", &width, &width)?;
    }

    let tower = params(root, "vision_config", "vision_config.params", &mut holds);
    let channels = shapes.side(&format!("{VISION}pos_embed"), 3, 2)?;
    let positions = shapes.side(&format!("{VISION}pos_embed"), 3, 1)?;
    let patch = shapes.side(&format!("{VISION}patch_embed.proj.weight"), 4, 3)?;
    let inner = shapes.side(&format!("{VISION}blocks.0.mlp.fc1.weight"), 2, 0)?;
    let layers = (0..1024).take_while(|i| shapes.has(&format!("{VISION}blocks.{i}.norm1.weight"))).count();
    let side = positions.isqrt().saturating_mul(patch);
    tower.only("image_size", &json!(side), &json!(side))?;
    tower.only("select_feature", &json!("same"), &json!("same"))?;
    tower.only("select_layer", &json!(-1), &json!(-1))?;
    if tower.absent("heads") {
        tower.only("model_name", &json!(null), &json!(TOWER))?;
    }
    let heads = tower.size("heads", TOWER_HEADS, 1..=1024)?;
    let vision = json!({
        "hidden_size": channels, "mlp_ratio": ratio(inner, channels.max(1)), "num_hidden_layers": layers,
        "num_attention_heads": heads, "image_size": side, "patch_size": patch, "num_image_tokens": positions,
        "projection_dim": width, "layer_norm_eps": TOWER_EPS,
    });

    let base = shapes.side(&format!("{VQ}encoder.conv_in.weight"), 4, 0)?;
    let level = |i: usize| format!("{VQ}encoder.conv_blocks.{i}.res.0.conv1.weight");
    let widths = (0..shapes.count(level)).map(|i| shapes.side(&level(i), 4, 0)).collect::<Result<Vec<_>, _>>()?;
    if let Some(width) = widths.iter().find(|width| base == 0 || !width.is_multiple_of(base)) {
        return Err(
            bad(&level(0), format!("and its like have {width} channels; supported: multiples of {base}")).into()
        );
    }
    let (codes, dim) = (
        shapes.side(&format!("{VQ}quantize.embedding.weight"), 2, 0)?,
        shapes.side(&format!("{VQ}quantize.embedding.weight"), 2, 1)?,
    );
    let tokenizer = params(root, "gen_vision_config", "gen_vision_config.params", &mut holds);
    tokenizer.only("image_token_size", &json!(codes), &json!(codes))?;
    tokenizer.only("n_embed", &json!(dim), &json!(dim))?;
    let head = params(root, "gen_head_config", "gen_head_config.params", &mut holds);
    head.only("image_token_size", &json!(codes), &json!(codes))?;
    head.only("n_embed", &width, &width)?;
    head.only("image_token_embed", &width, &width)?;
    let vq = json!({
        "num_embeddings": codes, "embed_dim": dim, "base_channels": base,
        "channel_multiplier": widths.iter().map(|width| width / base.max(1)).collect::<Vec<_>>(),
        "latent_channels": shapes.side(&format!("{VQ}encoder.conv_out.weight"), 4, 0)?,
        "num_res_blocks": shapes.count(|i| format!("{VQ}encoder.conv_blocks.0.res.{i}.conv1.weight")),
        "projection_dim": width, "image_token_embed_dim": width,
    });

    let tied = language.get("tie_word_embeddings").cloned().unwrap_or(json!(false));
    let whole = json!({
        "model_type": "janus", "image_token_id": image_token_id, "tie_word_embeddings": tied,
        "text_config": language, "vision_config": vision, "vq_config": vq,
    });
    Ok(ModelConfig::from_json(whole.to_string().as_bytes())?)
}

/// The config of this layout for weights stored as `dtype`, a name of PyTorch's. A tower other than the release's has its heads under
/// `vision_config.params.heads`, which only this program reads.
///
/// # Errors
/// When the network is one that this layout cannot tell.
pub fn write(config: &ModelConfig, dtype: &str) -> Result<Value, ConfigError> {
    let ModelConfig { text, vision, vq, .. } = config;
    if vision.layer_norm_eps != TOWER_EPS {
        return Err(ConfigError::Field {
            field: "vision_config.layer_norm_eps".into(),
            found: vision.layer_norm_eps.to_string(),
            supported: format!("{TOWER_EPS} in the DeepSeek layout"),
        });
    }
    let released = (vision.hidden_size, vision.num_layers, vision.num_heads, vision.patch_size, vision.image_size)
        == (1024, 24, TOWER_HEADS, 16, 384);
    let mut tower = json!({
        "image_size": vision.image_size, "model_name": TOWER, "select_feature": "same", "select_layer": -1,
    });
    if !released {
        tower["model_name"] = json!(format!("siglip_patch{}_{}", vision.patch_size, vision.image_size));
        tower["heads"] = json!(vision.num_heads);
    }
    let width = text.hidden_size;
    let block = |name: &str, class: &str, params: Value| json!({ "cls": class, "model_type": name, "params": params });
    let projector =
        |inputs: usize| json!({ "depth": 2, "input_dim": inputs, "n_embed": width, "projector_type": "mlp_gelu" });
    let (codes, dim) = (vq.codebook_size, vq.codebook_dim);
    Ok(json!({
        "architectures": ["MultiModalityCausalLM"],
        "model_type": "multi_modality",
        "torch_dtype": dtype,
        "vision_config": block("vision", "CLIPVisionTower", tower),
        "aligner_config": block("aligner", "MlpProjector", projector(vision.hidden_size)),
        "gen_vision_config": block("gen_vision", "VQ-16", json!({ "image_token_size": codes, "n_embed": dim })),
        "gen_aligner_config": block("gen_aligner", "MlpProjector", projector(dim)),
        "gen_head_config": block(
            "gen_head",
            "vision_head",
            json!({ "image_token_embed": width, "image_token_size": codes, "n_embed": width }),
        ),
        "language_config": {
            "model_type": "llama",
            "torch_dtype": dtype,
            "vocab_size": text.vocab_size,
            "hidden_size": width,
            "intermediate_size": text.intermediate_size,
            "num_hidden_layers": text.num_layers,
            "num_attention_heads": text.num_heads,
            "num_key_value_heads": text.num_kv_heads,
            "head_dim": text.head_dim,
            "max_position_embeddings": text.max_positions,
            "rms_norm_eps": text.rms_norm_eps,
            "rope_theta": text.rope_theta,
        },
    }))
}
