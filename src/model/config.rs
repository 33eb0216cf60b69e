//! The sizes of a Janus network, read from and written as Hugging Face's `config.json` (`model_type: janus`); DeepSeek's is read in
//! `checkpoint/deepseek.rs`, by way of this.
//! Every field is checked on reading (bounded, never zero, divisible where the network divides), so that the network
//! code below may rely on it; an error names the field and what is supported. Knows nothing of weights or tokenizers.
//! Absent fields take the defaults of transformers' `JanusConfig`, which leaves out what equals them.

use std::ops::RangeInclusive;

use serde_json::{Map, Value, json};

/// `config.json` does not describe a network that this program can run.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    #[error("config.json is not a JSON object: {0}")]
    Json(String),
    #[error("config.json: `{field}` is {found}; supported: {supported}")]
    Field { field: String, found: String, supported: String },
}

/// A whole unified model.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    pub text: TextConfig,
    pub vision: VisionConfig,
    pub vq: VqConfig,
    /// Id of `<image_placeholder>`, whose positions the picture's features take.
    pub image_token_id: u32,
    /// What the file says of a head shared with the embedding; heeded only where `lm_head.weight` is absent. Written as false.
    pub tied_head: bool,
}

/// The LLaMA decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct TextConfig {
    /// Rows of the embedding and of the text head; may exceed the tokenizer.
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_layers: usize,
    pub num_heads: usize,
    /// Key-value heads; each serves `num_heads / num_kv_heads` neighbouring query heads.
    pub num_kv_heads: usize,
    pub head_dim: usize,
    /// Most positions of a sequence: the context.
    pub max_positions: usize,
    pub rms_norm_eps: f64,
    pub rope_theta: f64,
}

/// The SigLIP encoder (understanding) and its two-layer aligner.
#[derive(Clone, Debug, PartialEq)]
pub struct VisionConfig {
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_layers: usize,
    pub num_heads: usize,
    /// Side of the square picture, in pixels.
    pub image_size: usize,
    pub patch_size: usize,
    pub layer_norm_eps: f64,
}

/// The VQ image tokenizer, and the image embedding, aligner and head sized after it.
#[derive(Clone, Debug, PartialEq)]
pub struct VqConfig {
    /// Entries of the codebook: the image vocabulary.
    pub codebook_size: usize,
    /// Width of a codebook entry.
    pub codebook_dim: usize,
    /// Channels between encoder and `quant_conv`.
    pub latent_channels: usize,
    pub base_channels: usize,
    /// One factor a resolution, the highest first; every level but the last halves the sides.
    pub channel_multiplier: Vec<usize>,
    /// Residual blocks a level in the encoder; the decoder has one more.
    pub num_res_blocks: usize,
}

/// Groups of every GroupNorm in the VQ tokenizer; fixed in the published code, so channels are multiples of it.
pub const VQ_GROUPS: usize = 32;

impl ModelConfig {
    /// Reads and checks the bytes of a `config.json`.
    ///
    /// # Errors
    /// When a field is missing a usable value; the message names it and what is supported.
    pub fn from_json(bytes: &[u8]) -> Result<Self, ConfigError> {
        let root: Map<String, Value> = serde_json::from_slice(bytes).map_err(|e| ConfigError::Json(e.to_string()))?;
        let top = Block { path: "", map: Some(&root) };
        top.only("model_type", &json!(null), &json!("janus"))?;
        let text = TextConfig::read(&top.block("text_config")?)?;
        let vision = VisionConfig::read(&top.block("vision_config")?, text.hidden_size)?;
        let vq = VqConfig::read(&top.block("vq_config")?, text.hidden_size, vision.patch_size)?;
        let image_token_id = top.size("image_token_id", 100_581, 0..=text.vocab_size - 1)? as u32;
        let tied_head = top.flag("tie_word_embeddings", true)?;
        Ok(Self { text, vision, vq, image_token_id, tied_head })
    }

    /// The `config.json` of this network, as transformers reads it. Checkpoints hold their own `lm_head.weight`, so no tie is declared
    /// (absent, transformers would assume one and drop the head).
    #[must_use]
    pub fn to_json(&self) -> String {
        format!("{:#}\n", self.to_value("float32"))
    }

    /// [`ModelConfig::to_json`] for weights stored as `dtype`, a name of PyTorch's.
    #[must_use]
    pub fn to_value(&self, dtype: &str) -> Value {
        let Self { text, vision, vq, .. } = self;
        json!({
            "architectures": ["JanusForConditionalGeneration"],
            "model_type": "janus",
            "dtype": dtype,
            "image_token_id": self.image_token_id,
            "tie_word_embeddings": false,
            "text_config": {
                "model_type": "llama",
                "vocab_size": text.vocab_size,
                "hidden_size": text.hidden_size,
                "intermediate_size": text.intermediate_size,
                "num_hidden_layers": text.num_layers,
                "num_attention_heads": text.num_heads,
                "num_key_value_heads": text.num_kv_heads,
                "head_dim": text.head_dim,
                "hidden_act": "silu",
                "max_position_embeddings": text.max_positions,
                "rms_norm_eps": text.rms_norm_eps,
                "rope_parameters": { "rope_type": "default", "rope_theta": text.rope_theta },
                "attention_bias": false,
                "mlp_bias": false,
                "tie_word_embeddings": false,
            },
            "vision_config": {
                "model_type": "janus_vision_model",
                "hidden_size": vision.hidden_size,
                // transformers multiplies the width by this and cuts; the quotient is exact enough for every width below 2^16.
                "mlp_ratio": ratio(vision.intermediate_size, vision.hidden_size),
                "num_hidden_layers": vision.num_layers,
                "num_attention_heads": vision.num_heads,
                "num_channels": 3,
                "image_size": vision.image_size,
                "patch_size": vision.patch_size,
                "hidden_act": "gelu",
                "layer_norm_eps": vision.layer_norm_eps,
                "attention_bias": true,
                "use_qk_norm": false,
                "depth": 2,
                "projection_dim": text.hidden_size,
                "num_image_tokens": self.image_tokens(),
            },
            "vq_config": {
                "model_type": "janus_vqgan",
                "num_embeddings": vq.codebook_size,
                "embed_dim": vq.codebook_dim,
                "double_latent": false,
                "latent_channels": vq.latent_channels,
                "in_channels": 3,
                "out_channels": 3,
                "base_channels": vq.base_channels,
                "channel_multiplier": vq.channel_multiplier,
                "num_res_blocks": vq.num_res_blocks,
                "num_patches": self.grid(),
                "num_hidden_layers": 2,
                "hidden_act": "gelu",
                "projection_dim": text.hidden_size,
                "image_token_embed_dim": text.hidden_size,
            },
        })
    }

    /// Side in pixels of the pictures seen and drawn.
    #[must_use]
    pub fn image_size(&self) -> usize {
        self.vision.image_size
    }

    /// Tokens along one side of a picture.
    #[must_use]
    pub fn grid(&self) -> usize {
        self.vision.image_size / self.vision.patch_size
    }

    /// Tokens of one picture: `grid * grid`, for drawing and for seeing.
    #[must_use]
    pub fn image_tokens(&self) -> usize {
        self.grid() * self.grid()
    }
}

impl TextConfig {
    /// Rows of a query projection.
    #[must_use]
    pub fn query_rows(&self) -> usize {
        self.num_heads * self.head_dim
    }

    /// Numbers that the cache holds of a position: keys and values of every layer.
    #[must_use]
    pub fn cached_numbers(&self) -> usize {
        2 * self.num_layers * self.num_kv_heads * self.head_dim
    }

    pub(super) fn read(block: &Block<'_>) -> Result<Self, ConfigError> {
        block.only("model_type", &json!("llama"), &json!("llama"))?;
        block.only("hidden_act", &json!("silu"), &json!("silu"))?;
        block.only("attention_bias", &json!(false), &json!(false))?;
        block.only("mlp_bias", &json!(false), &json!(false))?;
        block.only("rope_scaling", &json!(null), &json!(null))?;
        let hidden_size = block.size("hidden_size", 4096, 1..=1 << 16)?;
        let num_heads = block.size("num_attention_heads", 32, 1..=1024)?;
        let num_kv_heads = block.size("num_key_value_heads", num_heads, 1..=num_heads)?;
        block.divides("num_attention_heads", num_heads, "num_key_value_heads", num_kv_heads)?;
        if block.absent("head_dim") {
            block.divides("hidden_size", hidden_size, "num_attention_heads", num_heads)?;
        }
        let head_dim = block.size("head_dim", hidden_size / num_heads, 2..=1024)?;
        block.divides("head_dim", head_dim, "the 2 halves that rotate", 2)?;
        // transformers 5 nests the base of the rotary angles; 4 kept it flat.
        let rope = block.block("rope_parameters")?;
        rope.only("rope_type", &json!("default"), &json!("default"))?;
        let flat = block.real("rope_theta", 10_000.0, 1.0..=1e12)?;
        Ok(Self {
            vocab_size: block.size("vocab_size", 32_000, 2..=1 << 22)?,
            hidden_size,
            intermediate_size: block.size("intermediate_size", 11_008, 1..=1 << 18)?,
            num_layers: block.size("num_hidden_layers", 32, 1..=1024)?,
            num_heads,
            num_kv_heads,
            head_dim,
            max_positions: block.size("max_position_embeddings", 2048, 2..=1 << 20)?,
            rms_norm_eps: block.real("rms_norm_eps", 1e-6, 0.0..=0.1)?,
            rope_theta: rope.real("rope_theta", flat, 1.0..=1e12)?,
        })
    }
}

impl VisionConfig {
    fn read(block: &Block<'_>, text_width: usize) -> Result<Self, ConfigError> {
        block.only("hidden_act", &json!("gelu"), &json!("gelu"))?;
        block.only("attention_bias", &json!(true), &json!(true))?;
        block.only("use_qk_norm", &json!(false), &json!(false))?;
        block.only("num_channels", &json!(3), &json!(3))?;
        block.only("depth", &json!(2), &json!(2))?;
        block.only("projection_dim", &json!(2048), &json!(text_width))?;
        let hidden_size = block.size("hidden_size", 1024, 1..=1 << 16)?;
        let num_heads = block.size("num_attention_heads", 16, 1..=1024)?;
        block.divides("hidden_size", hidden_size, "num_attention_heads", num_heads)?;
        let image_size = block.size("image_size", 384, 1..=4096)?;
        let patch_size = block.size("patch_size", 16, 1..=image_size)?;
        block.divides("image_size", image_size, "patch_size", patch_size)?;
        let tokens = (image_size / patch_size).pow(2);
        block.size("num_image_tokens", 576, tokens..=tokens)?;
        let mlp_ratio = block.real("mlp_ratio", 4.0, 1.0 / hidden_size as f64..=64.0)?;
        Ok(Self {
            hidden_size,
            intermediate_size: (hidden_size as f64 * mlp_ratio) as usize,
            num_layers: block.size("num_hidden_layers", 24, 1..=1024)?,
            num_heads,
            image_size,
            patch_size,
            layer_norm_eps: block.real("layer_norm_eps", 1e-6, 0.0..=0.1)?,
        })
    }
}

impl VqConfig {
    fn read(block: &Block<'_>, text_width: usize, patch_size: usize) -> Result<Self, ConfigError> {
        block.only("double_latent", &json!(false), &json!(false))?;
        block.only("in_channels", &json!(3), &json!(3))?;
        block.only("out_channels", &json!(3), &json!(3))?;
        block.only("hidden_act", &json!("gelu"), &json!("gelu"))?;
        block.only("num_hidden_layers", &json!(2), &json!(2))?;
        block.only("projection_dim", &json!(2048), &json!(text_width))?;
        block.only("image_token_embed_dim", &json!(2048), &json!(text_width))?;
        let base_channels = block.size("base_channels", 128, 1..=4096)?;
        block.divides("base_channels", base_channels, "the group norm's groups", VQ_GROUPS)?;
        let channel_multiplier = block.sizes("channel_multiplier", &[1, 1, 2, 2, 4], 1..=64)?;
        // A token stands for the same square of pixels when drawn and when seen.
        if channel_multiplier.len() > 12 || 1 << (channel_multiplier.len() - 1) != patch_size {
            let found = format!("{channel_multiplier:?}, a reduction of 2^{}", channel_multiplier.len() - 1);
            return Err(block.wrong(
                "channel_multiplier",
                found,
                format!("as many levels as reduce by `vision_config.patch_size` = {patch_size}"),
            ));
        }
        Ok(Self {
            codebook_size: block.size("num_embeddings", 16_384, 2..=1 << 20)?,
            codebook_dim: block.size("embed_dim", 8, 1..=4096)?,
            latent_channels: block.size("latent_channels", 256, 1..=4096)?,
            base_channels,
            channel_multiplier,
            num_res_blocks: block.size("num_res_blocks", 2, 1..=64)?,
        })
    }
}

/// `wide / narrow` so that multiplying by `narrow` and cutting gives `wide` again, whatever the division rounded away.
pub(super) fn ratio(wide: usize, narrow: usize) -> f64 {
    let quotient = wide as f64 / narrow as f64;
    if (narrow as f64 * quotient) as usize == wide { quotient } else { (wide as f64 + 0.5) / narrow as f64 }
}

/// One JSON object of the file, with its path for messages. `None`: absent, so everything in it has its default.
pub(super) struct Block<'a> {
    pub path: &'static str,
    pub map: Option<&'a Map<String, Value>>,
}

impl<'a> Block<'a> {
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.and_then(|map| map.get(key)).filter(|value| !value.is_null())
    }

    pub fn absent(&self, key: &str) -> bool {
        self.get(key).is_none()
    }

    fn wrong(&self, key: &str, found: impl ToString, supported: impl ToString) -> ConfigError {
        let field = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        let mut found = found.to_string();
        if let Some((cut, _)) = found.char_indices().nth(80) {
            found.truncate(cut);
            found.push('…');
        }
        ConfigError::Field { field, found, supported: supported.to_string() }
    }

    pub fn block(&self, key: &'static str) -> Result<Self, ConfigError> {
        match self.get(key) {
            None => Ok(Self { path: key, map: None }),
            Some(Value::Object(map)) => Ok(Self { path: key, map: Some(map) }),
            Some(other) => Err(self.wrong(key, other, "an object")),
        }
    }

    /// A field that must hold `wanted` (or be absent, where `default` equals it).
    pub fn only(&self, key: &str, default: &Value, wanted: &Value) -> Result<(), ConfigError> {
        let found = self.get(key).unwrap_or(default);
        if found == wanted { Ok(()) } else { Err(self.wrong(key, found, wanted)) }
    }

    pub fn size(&self, key: &str, default: usize, range: RangeInclusive<usize>) -> Result<usize, ConfigError> {
        let supported = || format!("a whole number from {} to {}", range.start(), range.end());
        let value = match self.get(key) {
            None => default,
            Some(value) => {
                let whole = value.as_u64().and_then(|n| usize::try_from(n).ok());
                whole.ok_or_else(|| self.wrong(key, value, supported()))?
            }
        };
        if range.contains(&value) { Ok(value) } else { Err(self.wrong(key, value, supported())) }
    }

    fn sizes(&self, key: &str, default: &[usize], range: RangeInclusive<usize>) -> Result<Vec<usize>, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(default.to_vec()) };
        let read = |item: &Value| item.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| range.contains(n));
        let list: Option<Vec<usize>> = value.as_array().and_then(|items| items.iter().map(read).collect());
        let supported = || format!("a list of whole numbers from {} to {}", range.start(), range.end());
        list.filter(|items| !items.is_empty()).ok_or_else(|| self.wrong(key, value, supported()))
    }

    fn real(&self, key: &str, default: f64, range: RangeInclusive<f64>) -> Result<f64, ConfigError> {
        let supported = || format!("a number from {} to {}", range.start(), range.end());
        let value = match self.get(key) {
            None => default,
            Some(value) => value.as_f64().ok_or_else(|| self.wrong(key, value, supported()))?,
        };
        if range.contains(&value) { Ok(value) } else { Err(self.wrong(key, value, supported())) }
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool, ConfigError> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => value.as_bool().ok_or_else(|| self.wrong(key, value, "true or false")),
        }
    }

    fn divides(&self, key: &str, value: usize, by: &str, divisor: usize) -> Result<(), ConfigError> {
        if value.is_multiple_of(divisor) {
            return Ok(());
        }
        Err(self.wrong(key, value, format!("a multiple of {by} ({divisor})")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Value {
        json!({
            "model_type": "janus", "image_token_id": 5, "tie_word_embeddings": false,
            "text_config": { "vocab_size": 10, "hidden_size": 8, "num_attention_heads": 2, "num_key_value_heads": 1 },
            "vision_config": { "hidden_size": 6, "num_attention_heads": 3, "image_size": 8, "patch_size": 4, "num_image_tokens": 4, "projection_dim": 8 },
            "vq_config": { "base_channels": 32, "channel_multiplier": [1, 1, 2], "projection_dim": 8, "image_token_embed_dim": 8 },
        })
    }

    fn read(change: impl FnOnce(&mut Value)) -> Result<ModelConfig, String> {
        let mut value = small();
        change(&mut value);
        ModelConfig::from_json(value.to_string().as_bytes()).map_err(|e| e.to_string())
    }

    #[test]
    fn absent_fields_take_the_published_defaults() {
        let config = read(|_| ()).unwrap();
        assert_eq!((config.text.head_dim, config.text.intermediate_size, config.text.max_positions), (4, 11_008, 2048));
        assert_eq!((config.vision.intermediate_size, config.vq.codebook_size, config.vq.codebook_dim), (24, 16_384, 8));
        assert_eq!((config.image_size(), config.grid(), config.image_tokens()), (8, 2, 4));
    }

    #[test]
    fn what_is_written_reads_back_equal() {
        for wide in [1.0, 0.7, 2.9, 4.0, 3.337] {
            let config = read(|v| v["vision_config"]["mlp_ratio"] = json!(wide)).unwrap();
            assert_eq!(ModelConfig::from_json(config.to_json().as_bytes()), Ok(config));
        }
    }

    #[test]
    fn both_spellings_of_the_rotary_base_are_read() {
        let nested =
            read(|v| v["text_config"]["rope_parameters"] = json!({ "rope_theta": 500.0, "rope_type": "default" }))
                .unwrap();
        let flat = read(|v| v["text_config"]["rope_theta"] = json!(500)).unwrap();
        assert_eq!((nested.text.rope_theta, flat.text.rope_theta), (500.0, 500.0));
    }

    #[test]
    fn errors_name_the_field_and_what_is_supported() {
        let cases: [(&str, Value, &str); 12] = [
            ("/model_type", json!("multi_modality"), "`model_type` is \"multi_modality\"; supported: \"janus\""),
            ("/text_config", json!(3), "`text_config` is 3; supported: an object"),
            ("/text_config/hidden_size", json!(0), "`text_config.hidden_size` is 0; supported: a whole number from 1"),
            ("/text_config/vocab_size", json!(-1), "`text_config.vocab_size` is -1"),
            (
                "/text_config/num_attention_heads",
                json!(3),
                "`text_config.hidden_size` is 8; supported: a multiple of num_attention_heads (3)",
            ),
            ("/text_config/rope_scaling", json!({ "type": "linear" }), "`text_config.rope_scaling`"),
            ("/text_config/rms_norm_eps", json!("tiny"), "`text_config.rms_norm_eps` is \"tiny\""),
            (
                "/vision_config/patch_size",
                json!(3),
                "`vision_config.image_size` is 8; supported: a multiple of patch_size (3)",
            ),
            ("/vision_config/projection_dim", json!(9), "`vision_config.projection_dim` is 9; supported: 8"),
            (
                "/vq_config/base_channels",
                json!(16),
                "`vq_config.base_channels` is 16; supported: a multiple of the group norm's groups (32)",
            ),
            (
                "/vq_config/channel_multiplier",
                json!([1, 1]),
                "supported: as many levels as reduce by `vision_config.patch_size` = 4",
            ),
            ("/image_token_id", json!(10), "`image_token_id` is 10; supported: a whole number from 0 to 9"),
        ];
        for (at, value, message) in cases {
            let (parent, key) = at.rsplit_once('/').unwrap();
            let error = read(|v| v.pointer_mut(parent).unwrap()[key] = value).unwrap_err();
            assert!(error.contains(message), "{at}: {error}");
        }
        assert!(ModelConfig::from_json(b"[]").is_err());
        assert!(ModelConfig::from_json(b"{}").unwrap_err().to_string().contains("`model_type` is null"));
    }
}
