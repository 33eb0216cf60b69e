//! Vision transformers of BLIP and CLIP, and the stack of layers with their norms before each part that CLIP reads texts with too.
//! Pictures become numbers here; knows no text.

use std::sync::Arc;

use candle_core::{Device, Result, Tensor};
use serde::Deserialize;

use super::config::{Sides, Sizes, VisionConfig};
use crate::domain::picture::Picture;
use crate::model::layers::{LayerNorm, Linear};
use crate::model::ops::{self, Segment, Weight};
use crate::model::params::{Built, Init, ParamError, Scope};

/// The mean and the deviation of colours, 0 to 1, that CLIP was trained with, and BLIP after it.
pub const CLIP_COLOURS: ([f32; 3], [f32; 3]) =
    ([0.481_454_66, 0.457_827_5, 0.408_210_73], [0.268_629_54, 0.261_302_6, 0.275_777_1]);

/// An activation, by its name in `config.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// Exact.
    Gelu,
    /// x · sigmoid(1.702 x).
    QuickGelu,
}

impl Act {
    pub fn apply(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Gelu => ops::gelu(x),
            Self::QuickGelu => x * candle_nn::ops::sigmoid(&(x * 1.702)?)?,
        }
    }
}

/// Numbers of a picture, `[height, width, 3]`: its colours from 0 to 1, less `mean`, over `deviation`.
pub fn numbers(picture: &Picture, (mean, deviation): ([f32; 3], [f32; 3])) -> Result<Tensor> {
    let colours = picture.rgb().iter().zip(mean.iter().zip(&deviation).cycle());
    let numbers: Vec<f32> =
        colours.map(|(&colour, (mean, deviation))| (f32::from(colour) / 255.0 - mean) / deviation).collect();
    Tensor::from_vec(numbers, (picture.height(), picture.width(), 3), &Device::Cpu)
}

struct Layer {
    norm1: LayerNorm,
    qkv: Linear,
    out: Linear,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
}

/// A stack of layers.
pub struct Tower {
    layers: Vec<Layer>,
    sizes: Sizes,
}

/// Whose names the tensors have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    Blip,
    Clip,
}

impl Tower {
    pub fn new(at: &Scope<'_>, sizes: Sizes, names: Names) -> Built<Self> {
        let width = sizes.width;
        let layer = |i: usize| {
            let at = at.at("encoder").at("layers").at(i);
            let (own, mlp) = (at.at("self_attn"), at.at("mlp"));
            let (qkv, out) = match names {
                Names::Blip => (Linear::new(&own.at("qkv"), width, sizes.heads.fused(), true)?, "projection"),
                Names::Clip => {
                    let parts = ["q_proj", "k_proj", "v_proj"].map(|part| own.at(part));
                    (Linear::joined(&parts, width, width)?, "out_proj")
                }
            };
            Ok(Layer {
                norm1: LayerNorm::new(&at.at("layer_norm1"), width, sizes.eps)?,
                qkv,
                out: Linear::new(&own.at(out), width, width, true)?,
                norm2: LayerNorm::new(&at.at("layer_norm2"), width, sizes.eps)?,
                fc1: Linear::new(&mlp.at("fc1"), width, sizes.inner, true)?,
                fc2: Linear::new(&mlp.at("fc2"), sizes.inner, width, true)?,
            })
        };
        Ok(Self { layers: (0..sizes.layers).map(layer).collect::<Built<_>>()?, sizes })
    }

    /// `[rows, width]` → the same.
    pub fn forward(&self, x: &Tensor, segments: &Arc<Vec<Segment>>, causal: bool) -> Result<Tensor> {
        let mut x = x.clone();
        for layer in &self.layers {
            let qkv = layer.qkv.forward(&layer.norm1.forward(&x)?)?;
            let seen = ops::attention(&qkv, self.sizes.heads, segments, causal, None)?;
            x = ops::add(&x, &layer.out.forward(&seen)?)?;
            let inner = self.sizes.act.apply(&layer.fc1.forward(&layer.norm2.forward(&x)?)?)?;
            x = ops::add(&x, &layer.fc2.forward(&inner)?)?;
        }
        Ok(x)
    }
}

/// A vision transformer.
pub struct Vit {
    patch: Weight,
    bias: Option<Tensor>,
    class: Tensor,
    positions: Tensor,
    first: Option<LayerNorm>,
    tower: Tower,
    last: LayerNorm,
    sides: Sides,
}

impl Vit {
    pub fn new(at: &Scope<'_>, config: &VisionConfig, names: Names) -> Built<Self> {
        let VisionConfig { sizes, sides } = *config;
        let (width, eps, side) = (sizes.width, sizes.eps, sides.patch);
        let rows = sides.grid * sides.grid + 1;
        let embeddings = at.at("embeddings");
        let patches = embeddings.at("patch_embedding");
        let patch = patches.get("weight", &[width, 3, side, side], Init::Const(0.0))?;
        let (class, positions, bias, first) = match names {
            Names::Blip => (
                embeddings.get("class_embedding", &[1, 1, width], Init::Const(0.0))?,
                embeddings.get("position_embedding", &[1, rows, width], Init::Const(0.0))?,
                Some(patches.get("bias", &[width], Init::Const(0.0))?),
                None,
            ),
            Names::Clip => (
                embeddings.get("class_embedding", &[width], Init::Const(0.0))?,
                embeddings.at("position_embedding").get("weight", &[rows, width], Init::Const(0.0))?,
                None,
                Some(LayerNorm::new(&at.at("pre_layrnorm"), width, eps)?),
            ),
        };
        let flat = |x: Tensor, rows: usize| {
            x.reshape((rows, ()))
                .map_err(|source| ParamError::Tensor { name: "of a vision transformer".into(), source })
        };
        Ok(Self {
            patch: flat(patch, width)?.into(),
            bias,
            class: flat(class, 1)?,
            positions: flat(positions, rows)?,
            first,
            tower: Tower::new(at, sizes, names)?,
            last: LayerNorm::new(&at.at("post_layernorm"), width, eps)?,
            sides,
        })
    }

    /// Side of the pictures that it wants.
    pub fn side(&self) -> usize {
        self.sides.picture
    }

    /// [`numbers`] of a picture of that side → the class's row, then one for each patch, `[1 + patches, width]`.
    pub fn forward(&self, picture: &Tensor) -> Result<Tensor> {
        let Sides { patch: p, grid, .. } = self.sides;
        let patches = picture.reshape((grid, p, grid, p, 3))?.permute((0, 2, 4, 1, 3))?;
        let patches = patches.reshape((grid * grid, 3 * p * p))?.contiguous()?;
        let patches = ops::linear(&patches, &self.patch, self.bias.as_ref())?;
        let mut x = (Tensor::cat(&[&self.class, &patches], 0)? + &self.positions)?;
        if let Some(norm) = &self.first {
            x = norm.forward(&x)?;
        }
        let whole = Arc::new(vec![Segment { row: 0, len: grid * grid + 1, position: 0 }]);
        self.last.forward(&self.tower.forward(&x, &whole, false)?)
    }
}
