//! The VQ image tokenizer (LlamaGen's VQ-16 as Janus uses it): pixels ↔ grids of codebook ids. Channels last throughout.
//! Knows nothing of the language model.

use std::sync::Arc;

use candle_core::{D, Result, Tensor};

use super::config::{VQ_GROUPS, VqConfig};
use super::layers::Linear;
use super::ops::{self, Heads, Segment};
use super::params::{Built, Init, Scope};

const EPS: f64 = 1e-6;

struct Conv {
    weight: Tensor,
    bias: Tensor,
}

impl Conv {
    fn new(at: &Scope<'_>, inputs: usize, outputs: usize) -> Built<Self> {
        let weight = at.get("weight", &[9 * inputs, outputs], Init::fan_in(9 * inputs))?;
        Ok(Self { weight, bias: at.get("bias", &[outputs], Init::Const(0.0))? })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::conv3x3(x, &self.weight, &self.bias)
    }
}

struct Norm {
    weight: Tensor,
    bias: Tensor,
}

impl Norm {
    fn new(at: &Scope<'_>, channels: usize) -> Built<Self> {
        let weight = at.get("weight", &[channels], Init::Const(1.0))?;
        Ok(Self { weight, bias: at.get("bias", &[channels], Init::Const(0.0))? })
    }

    fn forward(&self, x: &Tensor, swish: bool) -> Result<Tensor> {
        ops::group_norm(x, &self.weight, &self.bias, VQ_GROUPS, EPS, swish)
    }
}

/// A 1×1 convolution: a linear layer on every pixel.
fn pointwise(layer: &Linear, x: &Tensor) -> Result<Tensor> {
    let (n, h, w, c) = x.dims4()?;
    let y = layer.forward(&x.reshape((n * h * w, c))?)?;
    let out = y.dim(1)?;
    y.reshape((n, h, w, out))
}

struct ResBlock {
    norm1: Norm,
    conv1: Conv,
    norm2: Norm,
    conv2: Conv,
    shortcut: Option<Linear>,
}

impl ResBlock {
    fn new(at: &Scope<'_>, inputs: usize, outputs: usize) -> Built<Self> {
        let shortcut = || Linear::new(&at.at("nin_shortcut"), inputs, outputs, true);
        Ok(Self {
            norm1: Norm::new(&at.at("norm1"), inputs)?,
            conv1: Conv::new(&at.at("conv1"), inputs, outputs)?,
            norm2: Norm::new(&at.at("norm2"), outputs)?,
            conv2: Conv::new(&at.at("conv2"), outputs, outputs)?,
            shortcut: (inputs != outputs).then(shortcut).transpose()?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let h = self.conv1.forward(&self.norm1.forward(x, true)?)?;
        let h = self.conv2.forward(&self.norm2.forward(&h, true)?)?;
        match &self.shortcut {
            Some(layer) => ops::add(&pointwise(layer, x)?, &h),
            None => ops::add(x, &h),
        }
    }
}

/// Self-attention over the pixels of a picture, one head of all channels.
struct AttnBlock {
    norm: Norm,
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    channels: usize,
}

impl AttnBlock {
    fn new(at: &Scope<'_>, c: usize) -> Built<Self> {
        let linear = |name| Linear::new(&at.at(name), c, c, true);
        Ok(Self {
            norm: Norm::new(&at.at("norm"), c)?,
            q: linear("q")?,
            k: linear("k")?,
            v: linear("v")?,
            out: linear("proj_out")?,
            channels: c,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (n, h, w, c) = x.dims4()?;
        let rows = self.norm.forward(x, false)?.reshape((n * h * w, c))?;
        let qkv = Tensor::cat(&[self.q.forward(&rows)?, self.k.forward(&rows)?, self.v.forward(&rows)?], 1)?;
        let pictures = (0..n).map(|i| Segment { row: i * h * w, len: h * w, position: 0 }).collect();
        let heads = Heads { count: 1, kv: 1, dim: self.channels };
        let y = ops::attention(&qkv, heads, &Arc::new(pictures), false, None)?;
        ops::add(x, &self.out.forward(&y)?.reshape((n, h, w, c))?)
    }
}

/// The lowest-resolution middle of encoder and decoder.
struct Middle {
    first: ResBlock,
    attention: AttnBlock,
    second: ResBlock,
}

impl Middle {
    fn new(at: &Scope<'_>, c: usize) -> Built<Self> {
        Ok(Self {
            first: ResBlock::new(&at.at("block_1"), c, c)?,
            attention: AttnBlock::new(&at.at("attn_1"), c)?,
            second: ResBlock::new(&at.at("block_2"), c, c)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.second.forward(&self.attention.forward(&self.first.forward(x)?)?)
    }
}

/// One resolution: residual blocks, each followed by attention at the lowest one, then a change of resolution.
struct Level {
    blocks: Vec<ResBlock>,
    attention: Vec<AttnBlock>,
    resample: Option<Conv>,
}

impl Level {
    fn new(
        at: &Scope<'_>,
        (inputs, outputs): (usize, usize),
        blocks: usize,
        attention: bool,
        resample: Option<&str>,
    ) -> Built<Self> {
        let block = |i| ResBlock::new(&at.at("block").at(i), if i == 0 { inputs } else { outputs }, outputs);
        let attend = |i| AttnBlock::new(&at.at("attn").at(i), outputs);
        Ok(Self {
            blocks: (0..blocks).map(block).collect::<Built<_>>()?,
            attention: (0..if attention { blocks } else { 0 }).map(attend).collect::<Built<_>>()?,
            resample: resample.map(|name| Conv::new(&at.at(name).at("conv"), outputs, outputs)).transpose()?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = x.clone();
        for (i, block) in self.blocks.iter().enumerate() {
            x = block.forward(&x)?;
            if let Some(attention) = self.attention.get(i) {
                x = attention.forward(&x)?;
            }
        }
        Ok(x)
    }
}

struct Encoder {
    conv_in: Conv,
    levels: Vec<Level>,
    middle: Middle,
    norm_out: Norm,
    conv_out: Conv,
}

/// Channels of each level, full resolution first.
fn widths(config: &VqConfig) -> Vec<usize> {
    config.channel_multiplier.iter().map(|m| m * config.base_channels).collect()
}

impl Encoder {
    fn new(at: &Scope<'_>, config: &VqConfig) -> Built<Self> {
        let widths = widths(config);
        let (lowest, last) = (widths.len() - 1, widths[widths.len() - 1]);
        let level = |(i, &width): (usize, &usize)| {
            let inputs = if i == 0 { config.base_channels } else { widths[i - 1] };
            let resample = (i != lowest).then_some("downsample");
            Level::new(&at.at("down").at(i), (inputs, width), config.num_res_blocks, i == lowest, resample)
        };
        Ok(Self {
            conv_in: Conv::new(&at.at("conv_in"), 3, config.base_channels)?,
            levels: widths.iter().enumerate().map(level).collect::<Built<_>>()?,
            middle: Middle::new(&at.at("mid"), last)?,
            norm_out: Norm::new(&at.at("norm_out"), last)?,
            conv_out: Conv::new(&at.at("conv_out"), last, config.latent_channels)?,
        })
    }

    fn forward(&self, pixels: &Tensor) -> Result<Tensor> {
        let mut x = self.conv_in.forward(pixels)?;
        for level in &self.levels {
            x = level.forward(&x)?;
            if let Some(conv) = &level.resample {
                x = halve(&conv.forward(&x)?)?;
            }
        }
        self.conv_out.forward(&self.norm_out.forward(&self.middle.forward(&x)?, true)?)
    }
}

/// Keeps the odd pixels. A stride-2 convolution padded on the right and below equals the padded stride-1 one at these.
fn halve(x: &Tensor) -> Result<Tensor> {
    let (n, h, w, c) = x.dims4()?;
    let x = x.reshape((n, h / 2, 2, w, c))?.narrow(2, 1, 1)?.contiguous()?;
    x.reshape((n, h / 2, w / 2, 2, c))?.narrow(3, 1, 1)?.contiguous()?.reshape((n, h / 2, w / 2, c))
}

struct Decoder {
    conv_in: Conv,
    middle: Middle,
    levels: Vec<Level>,
    norm_out: Norm,
    conv_out: Conv,
}

impl Decoder {
    fn new(at: &Scope<'_>, config: &VqConfig) -> Built<Self> {
        let mut widths = widths(config);
        widths.reverse();
        let (first, last) = (widths[0], widths[widths.len() - 1]);
        let level = |(i, &width): (usize, &usize)| {
            let inputs = if i == 0 { first } else { widths[i - 1] };
            let resample = (i + 1 != widths.len()).then_some("upsample");
            Level::new(&at.at("up").at(i), (inputs, width), config.num_res_blocks + 1, i == 0, resample)
        };
        Ok(Self {
            conv_in: Conv::new(&at.at("conv_in"), config.latent_channels, first)?,
            middle: Middle::new(&at.at("mid"), first)?,
            levels: widths.iter().enumerate().map(level).collect::<Built<_>>()?,
            norm_out: Norm::new(&at.at("norm_out"), last)?,
            conv_out: Conv::new(&at.at("conv_out"), last, 3)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = self.middle.forward(&self.conv_in.forward(x)?)?;
        for level in &self.levels {
            x = level.forward(&x)?;
            if let Some(conv) = &level.resample {
                x = conv.forward(&ops::upsample2x(&x)?)?;
            }
        }
        self.conv_out.forward(&self.norm_out.forward(&x, true)?)
    }
}

/// The tokenizer, both ways.
pub struct Vq {
    encoder: Encoder,
    quant_conv: Linear,
    codebook: Tensor,
    post_quant_conv: Linear,
    decoder: Decoder,
}

impl Vq {
    pub fn new(at: &Scope<'_>, config: &VqConfig) -> Built<Self> {
        let (codes, dim, latent) = (config.codebook_size, config.codebook_dim, config.latent_channels);
        Ok(Self {
            encoder: Encoder::new(&at.at("encoder"), config)?,
            quant_conv: Linear::new(&at.at("quant_conv"), latent, dim, true)?,
            codebook: at.at("quantize").at("embedding").get("weight", &[codes, dim], Init::Normal(1.0))?,
            post_quant_conv: Linear::new(&at.at("post_quant_conv"), dim, latent, true)?,
            decoder: Decoder::new(&at.at("decoder"), config)?,
        })
    }

    /// `pixels [n, s, s, 3]` in [-1, 1] → unit-length features `[n, g, g, dim]`, before quantisation.
    pub fn features(&self, pixels: &Tensor) -> Result<Tensor> {
        unit(&pointwise(&self.quant_conv, &self.encoder.forward(pixels)?)?)
    }

    /// The unit-length codebook `[codes, dim]`.
    pub fn codes(&self) -> Result<Tensor> {
        unit(&self.codebook)
    }

    /// Id of the nearest code (largest cosine, first wins a tie) for each unit-length row of `features [.., dim]`, in order.
    pub fn nearest(&self, features: &Tensor) -> Result<Vec<u32>> {
        let dim = features.dim(D::Minus1)?;
        let rows = features.detach().reshape(((), dim))?;
        ops::linear(&rows, &self.codes()?.detach().into(), None)?.argmax(D::Minus1)?.to_vec1()
    }

    /// `pixels [n, s, s, 3]` in [-1, 1] → ids in raster order, picture after picture.
    pub fn encode(&self, pixels: &Tensor) -> Result<Vec<u32>> {
        self.nearest(&self.features(pixels)?)
    }

    /// Unit-length codes `[n, g, g, dim]` → pixels `[n, s, s, 3]`, about [-1, 1], not clamped.
    pub fn decode(&self, codes: &Tensor) -> Result<Tensor> {
        self.decoder.forward(&pointwise(&self.post_quant_conv, codes)?)
    }

    /// Ids of `n` pictures in raster order → pixels `[n, s, s, 3]`.
    pub fn decode_ids(&self, ids: &[u32], n: usize, grid: usize) -> Result<Tensor> {
        let ids = Tensor::new(ids, self.codebook.device())?;
        let codes = self.codes()?.index_select(&ids, 0)?;
        self.decode(&codes.reshape((n, grid, grid, ()))?)
    }
}

/// Rows scaled to length 1 (as `torch.nn.functional.normalize`).
pub fn unit(x: &Tensor) -> Result<Tensor> {
    let length = x.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?.maximum(1e-12)?;
    x.broadcast_div(&length)
}
