//! BERT's network: embeddings and layers with their norms behind each part. As an encoder every token sees every other; as BLIP's
//! decoder it sees those before it, and what a picture shows. Knows no tokenizer.

use std::sync::Arc;

use candle_core::{Device, Result, Tensor};

use super::config::{Sizes, TextConfig};
use super::vit::Act;
use crate::model::layers::{LayerNorm, Linear};
use crate::model::ops::{self, Heads, Segment};
use crate::model::params::{Built, Init, ParamError, Scope};

/// What a decoder sees of one picture: keys and values `[patches, heads, dim]` of each layer.
pub type Seen = Vec<(Tensor, Tensor)>;

struct Cross {
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
    norm: LayerNorm,
}

struct Layer {
    qkv: Linear,
    out: Linear,
    norm: LayerNorm,
    cross: Option<Cross>,
    up: Linear,
    down: Linear,
    last: LayerNorm,
}

/// The network.
pub struct Text {
    words: Tensor,
    positions: Tensor,
    /// The first kind of text, where kinds are told apart.
    kind: Option<Tensor>,
    norm: LayerNorm,
    layers: Vec<Layer>,
    heads: Heads,
    act: Act,
    decodes: bool,
}

impl Text {
    /// An encoder of texts of `kinds` kinds, of which it reads the first.
    pub fn encoder(at: &Scope<'_>, config: &TextConfig, kinds: usize) -> Built<Self> {
        let table = at.at("embeddings").at("token_type_embeddings");
        let table = table.get("weight", &[kinds, config.sizes.width], Init::Const(0.0))?;
        let kind =
            table.get(0).map_err(|source| ParamError::Tensor { name: "token_type_embeddings".into(), source })?;
        Ok(Self { kind: Some(kind), ..Self::new(at, config, None)? })
    }

    /// A decoder that looks at rows of `width` numbers.
    pub fn decoder(at: &Scope<'_>, config: &TextConfig, width: usize) -> Built<Self> {
        Self::new(at, config, Some(width))
    }

    fn new(at: &Scope<'_>, config: &TextConfig, looks: Option<usize>) -> Built<Self> {
        let Sizes { heads, width, inner, layers, act, eps } = config.sizes;
        let embeddings = at.at("embeddings");
        let table = |name, rows| embeddings.at(name).get("weight", &[rows, width], Init::Const(0.0));
        let layer = |i: usize| {
            let at = at.at("encoder").at("layer").at(i);
            let own = at.at("attention");
            let cross = |inputs| {
                let other = at.at("crossattention");
                Ok(Cross {
                    query: Linear::new(&other.at("self").at("query"), width, width, true)?,
                    key: Linear::new(&other.at("self").at("key"), inputs, width, true)?,
                    value: Linear::new(&other.at("self").at("value"), inputs, width, true)?,
                    out: Linear::new(&other.at("output").at("dense"), width, width, true)?,
                    norm: LayerNorm::new(&other.at("output").at("LayerNorm"), width, eps)?,
                })
            };
            let qkv = ["query", "key", "value"].map(|part| own.at("self").at(part));
            Ok(Layer {
                qkv: Linear::joined(&qkv, width, width)?,
                out: Linear::new(&own.at("output").at("dense"), width, width, true)?,
                norm: LayerNorm::new(&own.at("output").at("LayerNorm"), width, eps)?,
                cross: looks.map(cross).transpose()?,
                up: Linear::new(&at.at("intermediate").at("dense"), width, inner, true)?,
                down: Linear::new(&at.at("output").at("dense"), inner, width, true)?,
                last: LayerNorm::new(&at.at("output").at("LayerNorm"), width, eps)?,
            })
        };
        Ok(Self {
            words: table("word_embeddings", config.vocabulary)?,
            positions: table("position_embeddings", config.positions)?,
            kind: None,
            norm: LayerNorm::new(&embeddings.at("LayerNorm"), width, eps)?,
            layers: (0..layers).map(layer).collect::<Built<_>>()?,
            heads,
            act,
            decodes: looks.is_some(),
        })
    }

    /// What a decoder sees of a picture of `features [patches, width]`; nothing for an encoder.
    pub fn see(&self, features: &Tensor) -> Result<Seen> {
        let split = |x: Tensor| x.reshape(((), self.heads.count, self.heads.dim));
        let crosses = self.layers.iter().filter_map(|layer| layer.cross.as_ref());
        crosses.map(|at| Ok((split(at.key.forward(features)?)?, split(at.value.forward(features)?)?))).collect()
    }

    /// Sequences of ids → a row for each token `[tokens, width]`, sequence after sequence. A decoder wants what each of them sees.
    pub fn forward(&self, sequences: &[&[u32]], seen: &[&Seen]) -> Result<Tensor> {
        let mut segments = Vec::with_capacity(sequences.len());
        let mut places = Vec::new();
        for ids in sequences {
            segments.push(Segment { row: places.len(), len: ids.len(), position: 0 });
            places.extend((0u32..).take(ids.len()));
        }
        let segments = Arc::new(segments);
        let row = |table: &Tensor, ids: Vec<u32>| table.index_select(&Tensor::new(ids, &Device::Cpu)?, 0);
        let mut x = (row(&self.words, sequences.concat())? + row(&self.positions, places)?)?;
        if let Some(kind) = &self.kind {
            x = x.broadcast_add(kind)?;
        }
        x = self.norm.forward(&x)?;
        for (i, layer) in self.layers.iter().enumerate() {
            let own = ops::attention(&layer.qkv.forward(&x)?, self.heads, &segments, self.decodes, None)?;
            x = layer.norm.forward(&ops::add(&x, &layer.out.forward(&own)?)?)?;
            if let Some(cross) = &layer.cross {
                let looked = self.look(&cross.query.forward(&x)?, &segments, seen, i)?;
                x = cross.norm.forward(&ops::add(&x, &cross.out.forward(&looked)?)?)?;
            }
            let inner = self.act.apply(&layer.up.forward(&x)?)?;
            x = layer.last.forward(&ops::add(&x, &layer.down.forward(&inner)?)?)?;
        }
        Ok(x)
    }

    /// Queries `[tokens, width]` at what their sequences see in layer `layer`.
    fn look(&self, queries: &Tensor, segments: &[Segment], seen: &[&Seen], layer: usize) -> Result<Tensor> {
        let parts = segments.iter().zip(seen).map(|(segment, seen)| {
            let queries = queries.narrow(0, segment.row, segment.len)?;
            let Some((keys, values)) = seen.get(layer) else { candle_core::bail!("a layer has nothing to look at") };
            ops::cross_attention(&queries.reshape(((), self.heads.count, self.heads.dim))?, keys, values)
        });
        Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 0)
    }
}
