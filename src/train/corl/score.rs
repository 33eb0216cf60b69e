//! log π of tokens that were drawn, under weights that may learn: the trainer's side of what the engine noted while drawing. One ragged
//! pass over whole sequences; guidance included. Knows nothing of rewards, and not how the hidden states are computed.

use std::ops::Range;

use candle_core::{Result, Tensor};

use crate::model::network::{Chunk, Network, Span};
use crate::model::policy;
use crate::model::prompt::{AnswerPrompt, DrawPrompt};

/// A sample as it was drawn.
#[derive(Clone, Debug)]
pub struct Drawn<'a> {
    pub prompt: Prompt<'a>,
    /// At least one.
    pub tokens: &'a [u32],
    pub temperature: f32,
}

/// What it continues.
#[derive(Clone, Debug)]
pub enum Prompt<'a> {
    /// Scored as `u + guidance (c - u)`; at guidance 1 by the conditional row alone.
    Picture { prompt: &'a DrawPrompt, guidance: f32 },
    /// With what the decoder reads in its pictures' place, `[pictures * patches, hidden]`.
    Answer { prompt: &'a AnswerPrompt, features: Option<Tensor> },
}

impl Drawn<'_> {
    /// Positions that scoring it computes.
    #[must_use]
    pub fn positions(&self) -> usize {
        let reply = self.tokens.len().saturating_sub(1);
        match &self.prompt {
            Prompt::Picture { prompt, guidance: 1.0 } => prompt.conditional.len() + reply,
            Prompt::Picture { prompt, .. } => 2 * (prompt.conditional.len() + reply),
            Prompt::Answer { prompt, .. } => prompt.len() + reply,
        }
    }

    /// Samples with the same key are scored by the same operations: is it a picture, guidance, temperature.
    fn key(&self) -> (bool, u32, u32) {
        match self.prompt {
            Prompt::Picture { guidance, .. } => (true, guidance.to_bits(), self.temperature.to_bits()),
            Prompt::Answer { .. } => (false, 0, self.temperature.to_bits()),
        }
    }
}

/// Sequences to run, and which of their positions predict something.
#[derive(Default)]
struct Run<'a> {
    spans: Vec<Span<'a>>,
    positions: usize,
    rows: Vec<u32>,
}

impl<'a> Run<'a> {
    /// Adds a sequence that ends with a reply of `length` tokens, less the last, and tells which of the rows predict the reply: those
    /// of its prompt's last position and of what follows.
    fn place(&mut self, chunks: Vec<Chunk<'a>>, length: usize) -> Range<u32> {
        let (span, first) = (Span { slot: 0, start: 0, chunks }, self.rows.len());
        self.positions += span.len();
        self.spans.push(span);
        self.rows.extend((self.positions - length) as u32..self.positions as u32);
        first as u32..self.rows.len() as u32
    }
}

/// Samples laid out for one pass: the sequences to run, and which rows of them predict what.
pub struct Plan<'a> {
    samples: &'a [Drawn<'a>],
    run: Run<'a>,
    /// What unconditional sequences come to, where they do not learn and so are not among these.
    still: Option<Tensor>,
    /// Of each sample, the rows that predict its reply: conditional, and unconditional where guidance needs them.
    rows: Vec<(Range<u32>, Option<Range<u32>>)>,
}

impl<'a> Plan<'a> {
    /// With the same weights as a `still` network, of which nothing learns, unconditional sequences are run here and do not learn.
    ///
    /// # Errors
    /// When a picture of a prompt has no features, or the network fails.
    pub fn new(samples: &'a [Drawn<'a>], still: Option<&Network>) -> Result<Self> {
        let (mut run, mut aside) = (Run::default(), Run::default());
        let mut rows = Vec::with_capacity(samples.len());
        for sample in samples {
            let length = sample.tokens.len();
            let said = sample.tokens.get(..length.saturating_sub(1)).unwrap_or_default();
            match &sample.prompt {
                Prompt::Picture { prompt, guidance } => {
                    let conditional = run.place(vec![Chunk::Text(&prompt.conditional), Chunk::Codes(said)], length);
                    let unconditional = (*guidance != 1.0).then(|| {
                        let run = if still.is_some() { &mut aside } else { &mut run };
                        run.place(vec![Chunk::Text(&prompt.unconditional), Chunk::Codes(said)], length)
                    });
                    rows.push((conditional, unconditional));
                }
                Prompt::Answer { prompt, features } => {
                    let mut chunks = prompt.chunks(features.as_ref(), 0)?;
                    chunks.push(Chunk::Text(said));
                    rows.push((run.place(chunks, length), None));
                }
            }
        }
        let still = still.filter(|_| !aside.spans.is_empty());
        let still = still.map(|still| still.forward_some(&aside.spans, &aside.rows)).transpose()?;
        Ok(Self { samples, run, still, rows })
    }

    /// log π of every token under `network`, as [`Plan::log_probs`] has them.
    ///
    /// # Errors
    /// As there, or when the network fails.
    pub fn score(&self, network: &Network) -> Result<Tensor> {
        self.log_probs(network, &network.forward_some(&self.run.spans, &self.run.rows)?)
    }

    /// The sequences and those rows of them that [`Plan::log_probs`] needs, for [`Network::forward_some`].
    #[must_use]
    pub fn run(&self) -> (&[Span<'a>], &[u32]) {
        (&self.run.spans, &self.run.rows)
    }

    /// The hidden states of [`Plan::run`], `[rows, hidden]` → log π of every token, sample after sample, `[tokens]`, f32, differentiable
    /// in both the states and the heads of `network`.
    ///
    /// # Errors
    /// When there is no sample, a sample is empty, or an id is none of the model's.
    pub fn log_probs(&self, network: &Network, hidden: &Tensor) -> Result<Tensor> {
        let Self { samples, rows, .. } = self;
        let mut order: Vec<usize> = (0..samples.len()).collect();
        order.sort_by_key(|&at| samples[at].key());
        let mut groups = Vec::new();
        // Where each sample's tokens begin in the groups one after another.
        let (mut begins, mut done) = (vec![0u32; samples.len()], 0);
        for group in order.chunk_by(|&a, &b| samples[a].key() == samples[b].key()) {
            let pick = |hidden: &Tensor, rows: Vec<u32>| hidden.index_select(&Tensor::new(rows, hidden.device())?, 0);
            let ids: Vec<u32> = group.iter().flat_map(|&at| samples[at].tokens).copied().collect();
            let conditional = pick(hidden, group.iter().flat_map(|&at| rows[at].0.clone()).collect())?;
            let unconditional: Vec<u32> = group.iter().filter_map(|&at| rows[at].1.clone()).flatten().collect();
            let first = &samples[group[0]];
            let logits = match first.prompt {
                Prompt::Answer { .. } => network.text_logits(&conditional)?,
                Prompt::Picture { guidance, .. } if !unconditional.is_empty() => {
                    let (c, u) = (
                        network.image_logits(&conditional)?,
                        network.image_logits(&pick(self.still.as_ref().unwrap_or(hidden), unconditional)?)?,
                    );
                    policy::guide(&c, &u, f64::from(guidance))?
                }
                Prompt::Picture { .. } => network.image_logits(&conditional)?,
            };
            groups.push(policy::log_prob_of(&logits, &ids, f64::from(first.temperature))?);
            for &at in group {
                begins[at] = done;
                done += samples[at].tokens.len() as u32;
            }
        }
        let all = Tensor::cat(&groups, 0)?;
        let back: Vec<u32> =
            samples.iter().zip(begins).flat_map(|(sample, begin)| begin..begin + sample.tokens.len() as u32).collect();
        all.index_select(&Tensor::new(back, all.device())?, 0)
    }
}

/// log π of every token, sample after sample, `[tokens]`, f32, differentiable in the weights of `network`.
///
/// # Errors
/// When there is no sample, a sample is empty, or an id is none of the model's.
pub fn log_probs(network: &Network, samples: &[Drawn<'_>]) -> Result<Tensor> {
    Plan::new(samples, None)?.score(network)
}
