//! The LLaMA decoder over a ragged batch of rows: weights only, the cache is passed in. The same code serves and trains.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{Result, Tensor, bail};

use super::cache::Bank;
use super::config::TextConfig;
use super::layers::{Linear, RmsNorm};
use super::ops::{self, Heads, Rope, Segment, SlotSpan};
use super::params::{Built, Init, Scope};

struct Layer {
    attention_norm: RmsNorm,
    qkv: Linear,
    out: Linear,
    mlp_norm: RmsNorm,
    gate_up: Linear,
    down: Linear,
}

/// What the rows of a batch attend to.
pub enum Reach<'a> {
    /// Their own segment, whole sequences at once; differentiable.
    Segments(Arc<Vec<Segment>>),
    /// Their slot of a bank of the cache, which they extend.
    Slots(Arc<Vec<SlotSpan>>, &'a Bank),
}

/// Layers and final norm.
pub struct Decoder {
    layers: Vec<Layer>,
    norm: RmsNorm,
    heads: Heads,
    rope: Arc<Rope>,
}

impl Decoder {
    pub fn new(at: &Scope<'_>, config: &TextConfig) -> Built<Self> {
        let hidden = config.hidden_size;
        let heads = Heads { count: config.num_heads, kv: config.num_kv_heads, dim: config.head_dim };
        // GPT-2's scaling: what is added to the residual stream starts smaller the deeper the network.
        let (init, added) = (Init::Normal(0.02), Init::Normal(0.02 / (2.0 * config.num_layers as f32).sqrt()));
        let layer = |i: usize| {
            let at = at.at("layers").at(i);
            let (attention, mlp) = (at.at("self_attn"), at.at("mlp"));
            Ok(Layer {
                attention_norm: RmsNorm::new(&at.at("input_layernorm"), hidden, config.rms_norm_eps)?,
                qkv: Linear::with(&attention.at("qkv"), hidden, heads.fused(), false, init)?,
                out: Linear::with(&attention.at("o_proj"), heads.width(), hidden, false, added)?,
                mlp_norm: RmsNorm::new(&at.at("post_attention_layernorm"), hidden, config.rms_norm_eps)?,
                gate_up: Linear::with(&mlp.at("gate_up"), hidden, 2 * config.intermediate_size, false, init)?,
                down: Linear::with(&mlp.at("down_proj"), config.intermediate_size, hidden, false, added)?,
            })
        };
        Ok(Self {
            layers: (0..config.num_layers).map(layer).collect::<Built<_>>()?,
            norm: RmsNorm::new(&at.at("norm"), hidden, config.rms_norm_eps)?,
            heads,
            rope: Arc::new(Rope::new(config.rope_theta, config.head_dim, config.max_positions)),
        })
    }

    /// How many layers there are.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.layers.len()
    }

    /// Embeddings `[rows, hidden]` → hidden states after the final norm, `[rows, hidden]`; where only `some` rows are asked for, of these.
    pub fn forward(&self, x: &Tensor, reach: &Reach<'_>, some: Option<&Tensor>) -> Result<Tensor> {
        self.norm(&self.layers(0..self.depth(), x, reach, some)?)
    }

    /// What enters the first layer of `range` → what leaves the last, both `[rows, hidden]`; where only `some` rows are asked for, the last
    /// layer of all makes these alone.
    ///
    /// # Errors
    /// When there are no such layers or rows.
    pub fn layers(&self, range: Range<usize>, x: &Tensor, reach: &Reach<'_>, some: Option<&Tensor>) -> Result<Tensor> {
        let Some(layers) = self.layers.get(range.clone()) else {
            bail!("layers {range:?} of a decoder of {}", self.depth())
        };
        let mut x = x.clone();
        for (i, layer) in range.zip(layers) {
            let qkv = layer.qkv.forward(&layer.attention_norm.forward(&x)?)?;
            let mut seen = match reach {
                Reach::Segments(segments) => ops::attention(&qkv, self.heads, segments, true, Some(&self.rope))?,
                Reach::Slots(spans, bank) => {
                    let Some((keys, values)) = bank.layer(i) else { bail!("the cache has no layer {i}") };
                    ops::slot_attention(&qkv, keys, values, self.heads, spans, &self.rope)?
                }
            };
            // The other rows were there to be attended to.
            if let Some(some) = some.filter(|_| i + 1 == self.depth()) {
                (x, seen) = (x.index_select(some, 0)?, seen.index_select(some, 0)?);
            }
            x = ops::add(&x, &layer.out.forward(&seen)?)?;
            let inner = ops::swiglu(&layer.gate_up.forward(&layer.mlp_norm.forward(&x)?)?)?;
            x = ops::add(&x, &layer.down.forward(&inner)?)?;
        }
        Ok(x)
    }

    /// The final norm of `[rows, hidden]`.
    pub fn norm(&self, x: &Tensor) -> Result<Tensor> {
        self.norm.forward(x)
    }
}
