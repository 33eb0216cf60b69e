//! The SigLIP encoder: pixels → one feature a patch. Understanding only; knows nothing of text.

use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::config::VisionConfig;
use super::layers::{LayerNorm, Linear};
use super::ops::{self, Heads, Segment};
use super::params::{Built, Init, Scope};

struct Block {
    norm1: LayerNorm,
    qkv: Linear,
    out: Linear,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
}

/// The tower.
pub struct Vision {
    patch: Linear,
    positions: Tensor,
    blocks: Vec<Block>,
    norm: LayerNorm,
    heads: Heads,
    patch_size: usize,
}

impl Vision {
    pub fn new(at: &Scope<'_>, config: &VisionConfig) -> Built<Self> {
        let (width, eps) = (config.hidden_size, config.layer_norm_eps);
        let inner = config.intermediate_size;
        let count = config.num_heads;
        let heads = Heads { count, kv: count, dim: width / count };
        let block = |i: usize| {
            let at = at.at("encoder").at("layers").at(i);
            let (attention, mlp) = (at.at("self_attn"), at.at("mlp"));
            Ok(Block {
                norm1: LayerNorm::new(&at.at("layer_norm1"), width, eps)?,
                qkv: Linear::new(&attention.at("qkv"), width, heads.fused(), true)?,
                out: Linear::new(&attention.at("projection_layer"), width, width, true)?,
                norm2: LayerNorm::new(&at.at("layer_norm2"), width, eps)?,
                fc1: Linear::new(&mlp.at("fc1"), width, inner, true)?,
                fc2: Linear::new(&mlp.at("fc2"), inner, width, true)?,
            })
        };
        let (embeddings, side) = (at.at("embeddings"), config.image_size / config.patch_size);
        let inputs = 3 * config.patch_size * config.patch_size;
        Ok(Self {
            patch: Linear::new(&embeddings.at("patch_embedding"), inputs, width, true)?,
            positions: embeddings.at("position_embedding").get("weight", &[side * side, width], Init::Normal(0.02))?,
            blocks: (0..config.num_layers).map(block).collect::<Built<_>>()?,
            norm: LayerNorm::new(&at.at("post_layernorm"), width, eps)?,
            heads,
            patch_size: config.patch_size,
        })
    }

    /// Normalised pixels `[n, 3, s, s]` → features `[n * patches, width]`, picture after picture in raster order.
    pub fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        let (n, channels, side, _) = pixels.dims4()?;
        let (p, grid) = (self.patch_size, side / self.patch_size);
        let patches = pixels.reshape((n, channels, grid, p, grid, p))?.permute((0, 2, 4, 1, 3, 5))?;
        let patches = patches.reshape((n * grid * grid, channels * p * p))?.contiguous()?;
        let count = grid * grid;
        let width = self.positions.dim(1)?;
        let x = self.patch.forward(&patches)?.reshape((n, count, width))?.broadcast_add(&self.positions)?;
        let mut x = x.reshape((n * count, width))?;
        let pictures = Arc::new((0..n).map(|i| Segment { row: i * count, len: count, position: 0 }).collect());
        for block in &self.blocks {
            let qkv = block.qkv.forward(&block.norm1.forward(&x)?)?;
            let seen = ops::attention(&qkv, self.heads, &pictures, false, None)?;
            x = ops::add(&x, &block.out.forward(&seen)?)?;
            let inner = ops::gelu(&block.fc1.forward(&block.norm2.forward(&x)?)?)?;
            x = ops::add(&x, &block.fc2.forward(&inner)?)?;
        }
        self.norm.forward(&x)
    }
}
