//! CLIP (Radford et al., arXiv 2103.00020): how well a picture and a text go together, as the cosine of what it makes of each.
//! Knows no reward.

use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Result, Tensor};
use serde::Deserialize;
use serde_json::json;
use tokenizers::Tokenizer;

use super::config::{TextConfig, VisionConfig, over};
use super::files::{Folder, between};
use super::vit::{CLIP_COLOURS, Names, Tower, Vit, numbers};
use super::{CriticError, failed};
use crate::domain::picture::Picture;
use crate::model::layers::{LayerNorm, Linear};
use crate::model::ops::Segment;
use crate::model::params::{Built, Init, Scope};
use crate::model::preprocess::{Filter, resize};

/// A CLIP of any size.
pub struct Clip {
    tokenizer: Tokenizer,
    /// The tokens about every text.
    ends: (u32, u32),
    longest: usize,
    network: Network,
    digest: String,
}

struct Network {
    words: Tensor,
    positions: Tensor,
    text: Tower,
    norm: LayerNorm,
    from_text: Linear,
    vision: Vit,
    from_vision: Linear,
}

struct Config {
    vision: VisionConfig,
    text: TextConfig,
    /// Numbers of what both become.
    projection: usize,
}

#[derive(Deserialize)]
struct Shared {
    projection_dim: usize,
}

impl Clip {
    /// Reads a folder with `config.json`, `model.safetensors` and `tokenizer.json`, such as that of clip-vit-base-patch32.
    ///
    /// # Errors
    /// Names the file that is missing or wrong, and the tensor or field in it.
    pub fn load(folder: &Path) -> std::result::Result<Self, CriticError> {
        let mut folder = Folder::open(folder)?;
        let config = folder.config(|config| {
            let vision = json!({
                "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12, "image_size": 224,
                "patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
            });
            let text = json!({
                "vocab_size": 49408, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12,
                "num_attention_heads": 8, "max_position_embeddings": 77, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
            });
            let Shared { projection_dim: projection } = over(json!({ "projection_dim": 512 }), Some(config))?;
            let (vision, text) = (over(vision, config.get("vision_config"))?, over(text, config.get("text_config"))?);
            if projection == 0 {
                return Err("`projection_dim` is 0".into());
            }
            Ok(Config { vision, text, projection })
        })?;
        let tokenizer = folder.tokenizer()?;
        let ends = (folder.token(&tokenizer, "<|startoftext|>")?, folder.token(&tokenizer, "<|endoftext|>")?);
        let tensors = folder.tensors(|name| name != "logit_scale")?;
        let network = folder.network(tensors, |root| Network::new(root, &config))?;
        Ok(Self { tokenizer, ends, longest: config.text.positions, network, digest: folder.digest() })
    }

    /// The cosine of each picture and the text, -1 to 1. A picture's shorter side is scaled to the network's, as Pillow's bicubic filter
    /// does, and the middle of the longer one is seen; a text is cut to the longest that the network reads.
    ///
    /// # Errors
    /// When the tokenizer or the network fails.
    pub fn cosines(&self, text: &str, pictures: &[&Picture]) -> std::result::Result<Vec<f64>, CriticError> {
        let ids = between(&self.tokenizer, text, self.ends, self.longest).map_err(failed(NAME))?;
        let run = || {
            let text = unit(&self.network.read(&ids, self.ends.1)?)?;
            let cosine =
                |picture: &&Picture| (unit(&self.network.see(picture)?)? * &text)?.sum_all()?.to_scalar::<f32>();
            // Rounding may carry a cosine past its range.
            pictures.iter().map(|picture| Ok(f64::from(cosine(picture)?).clamp(-1.0, 1.0))).collect()
        };
        Result::<Vec<f64>>::map_err(run(), failed(NAME))
    }

    /// What stands for all its files.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }
}

const NAME: &str = "CLIP";

fn unit(row: &Tensor) -> Result<Tensor> {
    row.broadcast_div(&row.sqr()?.sum_all()?.sqrt()?)
}

impl Network {
    fn new(root: &Scope<'_>, config: &Config) -> Built<Self> {
        let (at, sizes) = (root.at("text_model"), config.text.sizes);
        let table = |name, rows| at.at("embeddings").at(name).get("weight", &[rows, sizes.width], Init::Const(0.0));
        Ok(Self {
            words: table("token_embedding", config.text.vocabulary)?,
            positions: table("position_embedding", config.text.positions)?,
            text: Tower::new(&at, sizes, Names::Clip)?,
            norm: LayerNorm::new(&at.at("final_layer_norm"), sizes.width, sizes.eps)?,
            from_text: Linear::new(&root.at("text_projection"), sizes.width, config.projection, false)?,
            vision: Vit::new(&root.at("vision_model"), &config.vision, Names::Clip)?,
            from_vision: Linear::new(
                &root.at("visual_projection"),
                config.vision.sizes.width,
                config.projection,
                false,
            )?,
        })
    }

    /// A text `[1, projection]`: its state at the first end.
    fn read(&self, ids: &[u32], end: u32) -> Result<Tensor> {
        let words = self.words.index_select(&Tensor::new(ids, &Device::Cpu)?, 0)?;
        let x = (words + self.positions.narrow(0, 0, ids.len())?)?;
        let whole = Arc::new(vec![Segment { row: 0, len: ids.len(), position: 0 }]);
        let x = self.norm.forward(&self.text.forward(&x, &whole, true)?)?;
        let at = ids.iter().position(|id| *id == end).unwrap_or_default();
        self.from_text.forward(&x.narrow(0, at, 1)?)
    }

    /// A picture `[1, projection]`: the state of its class.
    fn see(&self, picture: &Picture) -> Result<Tensor> {
        let x = self.vision.forward(&numbers(&middle(picture, self.vision.side())?, CLIP_COLOURS)?)?;
        self.from_vision.forward(&x.narrow(0, 0, 1)?)
    }
}

/// The middle square of a picture whose shorter side is scaled to `side`.
fn middle(picture: &Picture, side: usize) -> Result<Picture> {
    let (width, height) = (picture.width(), picture.height());
    let shorter = width.min(height);
    // Cut and not rounded, as transformers does.
    let scaled = |length: usize| length.saturating_mul(side) / shorter;
    let small = resize(picture, scaled(width), scaled(height), Filter::Bicubic);
    let (left, top) = ((small.width() - side) / 2, (small.height() - side) / 2);
    let rows = small.rgb().chunks_exact(3 * small.width()).skip(top).take(side);
    let rgb = rows.flat_map(|row| row.iter().skip(3 * left).take(3 * side)).copied().collect();
    Picture::new(side, side, rgb).map_err(|e| candle_core::Error::Msg(e.to_string()))
}
