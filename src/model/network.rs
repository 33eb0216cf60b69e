//! The Janus network whole: every weight, one ragged forward pass for serving and for training. Knows tensors only; prompts,
//! files and caches come from elsewhere.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, bail};
use rayon::prelude::*;

use super::cache::{Bank, Slots};
use super::config::ModelConfig;
use super::decoder::{Decoder, Reach};
use super::layers::{Linear, Projector};
use super::ops::{self, Segment, SlotSpan, Weight};
use super::params::{Built, Init, Scope};
use super::prompt::{AnswerPrompt, Piece};
use super::vision::Vision;
use super::vq::Vq;

/// Linear layers of each projector between modalities (Janus' depth).
const PROJECTOR_DEPTH: usize = 2;

/// A run of consecutive positions of one sequence.
#[derive(Clone)]
pub struct Span<'a> {
    /// Its slot; without meaning where no cache is used.
    pub slot: usize,
    /// Position of the first element.
    pub start: usize,
    pub chunks: Vec<Chunk<'a>>,
}

/// What stands at the positions of a span.
#[derive(Clone)]
pub enum Chunk<'a> {
    /// Text ids.
    Text(&'a [u32]),
    /// Codebook ids of a picture being drawn.
    Codes(&'a [u32]),
    /// Rows of [`Network::see`], `[k, hidden]`.
    Features(Tensor),
}

impl Chunk<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Text(ids) | Self::Codes(ids) => ids.len(),
            Self::Features(rows) => rows.dims().first().copied().unwrap_or(0),
        }
    }
}

impl AnswerPrompt {
    /// The prompt as a span has it. `features` are rows of [`Network::see`], in which its first picture is number `first`.
    ///
    /// # Errors
    /// When a picture has no features.
    pub fn chunks<'a>(&'a self, features: Option<&Tensor>, first: usize) -> Result<Vec<Chunk<'a>>> {
        let chunk = |piece: &'a Piece| match (piece, features) {
            (Piece::Text(ids), _) => Ok(Chunk::Text(ids)),
            (Piece::Picture(at), Some(features)) => {
                Ok(Chunk::Features(features.narrow(0, (first + at) * self.image_tokens, self.image_tokens)?))
            }
            (Piece::Picture(_), None) => bail!("a picture without features"),
        };
        self.pieces.iter().map(chunk).collect()
    }
}

impl Span<'_> {
    /// Positions covered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.chunks.iter().map(Chunk::len).sum()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Every span attends to itself.
fn reach(spans: &[Span<'_>]) -> Reach<'static> {
    let segments = spans.iter().scan(0, |row, span| {
        let segment = Segment { row: *row, len: span.len(), position: span.start };
        *row += segment.len;
        Some(segment)
    });
    Reach::Segments(Arc::new(segments.collect()))
}

/// All weights.
pub struct Network {
    vision: Vision,
    aligner: Projector,
    embed_tokens: Tensor,
    decoder: Decoder,
    lm_head: Weight,
    code_embeddings: Tensor,
    code_aligner: Projector,
    head_projector: Linear,
    head: Linear,
    vq: Vq,
    image_size: usize,
    grid: usize,
}

impl Network {
    /// Takes every tensor that `config` asks for.
    ///
    /// # Errors
    /// When one is missing or misshapen.
    pub fn new(root: &Scope<'_>, config: &ModelConfig) -> Built<Self> {
        let (model, hidden) = (root.at("model"), config.text.hidden_size);
        let (codes, dim) = (config.vq.codebook_size, config.vq.codebook_dim);
        let language = model.at("language_model");
        let vocabulary = [config.text.vocab_size, hidden];
        let embed_tokens = language.at("embed_tokens").table("weight", &vocabulary, Init::Normal(0.02))?;
        let lm_head = root.at("lm_head").matrix("weight", vocabulary, Init::Normal(0.02))?;
        let head = model.at("generation_head");
        Ok(Self {
            vision: Vision::new(&model.at("vision_model"), &config.vision)?,
            aligner: Projector::new(&model.at("aligner"), config.vision.hidden_size, hidden, PROJECTOR_DEPTH)?,
            decoder: Decoder::new(&language, &config.text)?,
            code_embeddings: model.at("generation_embeddings").get("weight", &[codes, dim], Init::Normal(1.0))?,
            code_aligner: Projector::new(&model.at("generation_aligner"), dim, hidden, PROJECTOR_DEPTH)?,
            head_projector: Linear::new(&head.at("proj_out"), hidden, hidden, true)?,
            head: Linear::new(&head.at("vision_head"), hidden, codes, true)?,
            vq: Vq::new(&model.at("vqmodel"), &config.vq)?,
            embed_tokens,
            lm_head,
            image_size: config.image_size(),
            grid: config.grid(),
        })
    }

    #[must_use]
    pub fn device(&self) -> &Device {
        self.embed_tokens.device()
    }

    /// The understanding encoder alone: normalised pixels `[n, 3, s, s]` → `[n * patches, width]`.
    pub fn vision_features(&self, pixels: &Tensor) -> Result<Tensor> {
        self.vision.forward(pixels)
    }

    /// Normalised pixels `[n, 3, s, s]` → what the decoder reads in a picture's place, `[n * patches, hidden]`.
    pub fn see(&self, pixels: &Tensor) -> Result<Tensor> {
        self.aligner.forward(&self.vision.forward(pixels)?)
    }

    /// The spans' embeddings, row after row: `[rows, hidden]`.
    ///
    /// # Errors
    /// When there is no position, or an id is none of the model's.
    pub fn embed(&self, spans: &[Span<'_>]) -> Result<Tensor> {
        let (mut text, mut codes, mut features) = (Vec::new(), Vec::new(), Vec::new());
        for chunk in spans.iter().flat_map(|span| &span.chunks) {
            match chunk {
                Chunk::Text(ids) => text.extend_from_slice(ids),
                Chunk::Codes(ids) => codes.extend_from_slice(ids),
                Chunk::Features(rows) => features.push(rows.clone()),
            }
        }
        // Each kind is embedded at once; `order` then puts the rows where they belong.
        let (mut next_text, mut next_code, mut next_feature) =
            (0u32, text.len() as u32, (text.len() + codes.len()) as u32);
        let mut order = Vec::new();
        for chunk in spans.iter().flat_map(|span| &span.chunks) {
            let next = match chunk {
                Chunk::Text(_) => &mut next_text,
                Chunk::Codes(_) => &mut next_code,
                Chunk::Features(_) => &mut next_feature,
            };
            order.extend(*next..*next + chunk.len() as u32);
            *next += chunk.len() as u32;
        }
        let mut kinds = Vec::with_capacity(2 + features.len());
        if !text.is_empty() {
            let rows = self.embed_tokens.index_select(&Tensor::new(text, self.device())?, 0)?;
            // Rows that are f32 already are not copied, and keep their gradient.
            kinds.push(rows.to_dtype(DType::F32)?);
        }
        if !codes.is_empty() {
            let rows = self.code_embeddings.index_select(&Tensor::new(codes, self.device())?, 0)?;
            kinds.push(self.code_aligner.forward(&rows)?);
        }
        kinds.extend(features);
        match kinds.as_slice() {
            [] => bail!("a step needs at least one position"),
            [one] => Ok(one.clone()),
            kinds => Tensor::cat(kinds, 0)?.index_select(&Tensor::new(order, self.device())?, 0),
        }
    }

    /// Whole sequences at once, differentiable: the hidden state of every position, `[rows, hidden]`, span after span.
    pub fn forward(&self, spans: &[Span<'_>]) -> Result<Tensor> {
        self.decoder.forward(&self.embed(spans)?, &reach(spans), None)
    }

    /// As [`Network::forward`], of some `rows` alone, which costs less.
    ///
    /// # Errors
    /// When there is no such row.
    pub fn forward_some(&self, spans: &[Span<'_>], rows: &[u32]) -> Result<Tensor> {
        let rows = Tensor::new(rows, self.device())?;
        self.decoder.forward(&self.embed(spans)?, &reach(spans), Some(&rows))
    }

    /// How many layers the decoder has.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.decoder.depth()
    }

    /// The part of [`Network::forward`] that some of the decoder's layers are: what [`Network::embed`] or the layer before made of
    /// `spans` → what the last of `range` makes of it, both `[rows, hidden]`; the decoder's last layer makes of some `rows` alone what
    /// [`Network::forward_some`] would.
    ///
    /// # Errors
    /// When there are no such layers or rows, or `x` is not of `spans`.
    pub fn layers(&self, range: Range<usize>, x: &Tensor, spans: &[Span<'_>], rows: &[u32]) -> Result<Tensor> {
        let rows = Tensor::new(rows, self.device())?;
        self.decoder.layers(range, x, &reach(spans), Some(&rows))
    }

    /// The part of [`Network::forward`] after all layers, `[rows, hidden]`.
    pub fn norm(&self, x: &Tensor) -> Result<Tensor> {
        self.decoder.norm(x)
    }

    /// Continues the sequences in `slots`: the hidden state of the last position of each span, `[spans, hidden]`. What lies in different
    /// banks is computed side by side.
    ///
    /// # Errors
    /// When a span is empty or does not fit its slot.
    pub fn step(&self, spans: &[Span<'_>], slots: &mut Slots) -> Result<Tensor> {
        let banks = slots.banks();
        if let [bank] = banks {
            return self.step_of(bank, spans);
        }
        let of_bank = |bank: usize| (0..spans.len()).filter(move |&at| spans[at].slot % banks.len() == bank);
        let parts = banks.iter().enumerate().map(|(number, bank)| (bank, of_bank(number).collect::<Vec<_>>()));
        let parts: Vec<_> = parts.filter(|(_, spans)| !spans.is_empty()).collect();
        let compute = |(bank, part): &(&Bank, Vec<usize>)| {
            let place = |&at: &usize| Span { slot: spans[at].slot / banks.len(), ..spans[at].clone() };
            self.step_of(bank, &part.iter().map(place).collect::<Vec<_>>())
        };
        let hidden = parts.par_iter().map(compute).collect::<Result<Vec<_>>>()?;
        let mut order = vec![0; spans.len()];
        parts.iter().flat_map(|(_, part)| part).enumerate().for_each(|(row, &at)| order[at] = row as u32);
        Tensor::cat(&hidden, 0)?.index_select(&Tensor::new(order, self.device())?, 0)
    }

    /// [`Network::step`] of spans in one bank, whose slots they name.
    fn step_of(&self, bank: &Bank, spans: &[Span<'_>]) -> Result<Tensor> {
        let placed = spans.iter().scan(0, |row, span| {
            let placed = SlotSpan { slot: span.slot, row: *row, len: span.len(), position: span.start };
            *row += placed.len;
            Some(placed)
        });
        let placed: Arc<Vec<SlotSpan>> = Arc::new(placed.collect());
        if placed.iter().any(|span| span.len == 0) {
            bail!("a span without positions");
        }
        let last = |span: &SlotSpan| (span.row + span.len - 1) as u32;
        let some = match placed.iter().all(|span| span.len == 1) {
            true => None,
            false => Some(Tensor::new(placed.iter().map(last).collect::<Vec<_>>(), self.device())?),
        };
        self.decoder.forward(&self.embed(spans)?, &Reach::Slots(placed, bank), some.as_ref())
    }

    /// Hidden states `[rows, hidden]` → text logits `[rows, vocabulary]`.
    pub fn text_logits(&self, hidden: &Tensor) -> Result<Tensor> {
        ops::linear(hidden, &self.lm_head, None)
    }

    /// Hidden states `[rows, hidden]` → image-token logits `[rows, codebook]`.
    pub fn image_logits(&self, hidden: &Tensor) -> Result<Tensor> {
        self.head.forward(&ops::gelu(&self.head_projector.forward(hidden)?)?)
    }

    /// The image tokenizer.
    #[must_use]
    pub fn vq(&self) -> &Vq {
        &self.vq
    }

    /// Codebook ids of `n` whole pictures in raster order → pixels `[n, s, s, 3]`, about [-1, 1].
    pub fn paint(&self, ids: &[u32]) -> Result<Tensor> {
        let tokens = self.grid * self.grid;
        if ids.is_empty() || !ids.len().is_multiple_of(tokens) {
            bail!("{} ids are no whole pictures of {tokens}", ids.len());
        }
        let pixels = self.vq.decode_ids(ids, ids.len() / tokens, self.grid)?;
        match pixels.dim(1)? {
            side if side == self.image_size => Ok(pixels),
            side => bail!("the tokenizer paints {side} pixels, the config says {}", self.image_size),
        }
    }
}
