//! One sample while it grows: the weights it began with, its own random numbers, its tokens and their log-probabilities.
//!
//! Batch mates are unknown here, so that a sample is a function of version, task and sampling. Rows and slots are the scheduler's.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::job::Kind;
use super::sampler::{self, Allowed, Manner, SamplerError};
use super::text::TextStream;
use crate::domain::picture::Picture;
use crate::domain::sample::{Finish, Output, Sample, Timings};
use crate::domain::task::Sampling;
use crate::model::Model;
use crate::model::network::Chunk;

/// See the module text.
pub(super) struct Sequence {
    model: Arc<Model>,
    sampling: Sampling,
    rng: ChaCha8Rng,
    reply: Reply,
    tokens: Vec<u32>,
    log_probs: Vec<f32>,
    conditional_log_probs: Vec<f32>,
    finish: Finish,
    submitted: Instant,
    admitted: Instant,
    first_token: Option<Instant>,
}

enum Reply {
    /// Of so many codes.
    Picture(usize),
    Answer(TextStream),
}

/// An answer token and what to tell of it.
pub(super) struct Word {
    pub token: u32,
    pub text: String,
    pub log_prob: f32,
    pub top: Vec<(u32, f32)>,
    /// The answer is whole.
    pub last: bool,
}

impl Sequence {
    /// Nothing drawn yet. The random numbers depend on the sample's seed alone.
    pub fn new(model: Arc<Model>, kind: Kind, sampling: Sampling, submitted: Instant) -> Self {
        let (reply, tokens) = match kind {
            Kind::Picture => (Reply::Picture(model.config().image_tokens()), model.config().image_tokens()),
            Kind::Answer => (Reply::Answer(TextStream::new(&sampling.stop)), sampling.max_tokens),
        };
        Self {
            rng: ChaCha8Rng::seed_from_u64(sampling.seed),
            model,
            sampling,
            reply,
            tokens: Vec::with_capacity(tokens),
            log_probs: Vec::with_capacity(tokens),
            conditional_log_probs: Vec::new(),
            finish: Finish::Stop,
            submitted,
            admitted: Instant::now(),
            first_token: None,
        }
    }

    pub fn kind(&self) -> Kind {
        match self.reply {
            Reply::Picture(_) => Kind::Picture,
            Reply::Answer(_) => Kind::Answer,
        }
    }

    /// The weights it is drawn with.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    pub fn sampling(&self) -> &Sampling {
        &self.sampling
    }

    /// The drawn tokens in `positions`, where the first drawn token stands at position `prompt`.
    pub fn chunk(&self, prompt: usize, positions: &Range<usize>) -> Option<Chunk<'_>> {
        let range = positions.start.saturating_sub(prompt)..positions.end.saturating_sub(prompt);
        let tokens = self.tokens.get(range).filter(|tokens| !tokens.is_empty())?;
        Some(match self.reply {
            Reply::Picture(_) => Chunk::Codes(tokens),
            Reply::Answer(_) => Chunk::Text(tokens),
        })
    }

    /// Draws a code of a picture from its guided row and notes what the conditional row alone says of it. True when the picture is whole.
    pub fn draw_code(&mut self, guided: &[f32], conditional: &[f32], allowed: &Allowed) -> Result<bool, SamplerError> {
        let manner = Manner { greedy: self.sampling.temperature == 0.0, top_p: 1.0 };
        let code = sampler::draw(guided, allowed, manner, &mut self.rng)?;
        let at = code as usize;
        let given = conditional
            .get(at)
            .copied()
            .filter(|log_prob| log_prob.is_finite())
            .ok_or(SamplerError::NotFinite { id: at })?;
        self.first_token.get_or_insert_with(Instant::now);
        self.tokens.push(code);
        self.log_probs.push(guided[at]);
        self.conditional_log_probs.push(given);
        Ok(matches!(self.reply, Reply::Picture(codes) if self.tokens.len() >= codes))
    }

    /// Draws a token of an answer.
    pub fn draw_word(&mut self, row: &[f32], allowed: &Allowed) -> Result<Word, SamplerError> {
        let manner = Manner { greedy: self.sampling.temperature == 0.0, top_p: self.sampling.top_p };
        let token = sampler::draw(row, allowed, manner, &mut self.rng)?;
        let log_prob = row[token as usize];
        let top = sampler::top(row, allowed, self.sampling.top_log_probs);
        self.first_token.get_or_insert_with(Instant::now);
        self.tokens.push(token);
        self.log_probs.push(log_prob);
        let prompter = self.model.prompter();
        let decode = |ids: &[u32]| prompter.decode(ids);
        let ended = token == prompter.end_of_text();
        let full = self.tokens.len() >= self.sampling.max_tokens;
        let (mut text, mut stopped) = (String::new(), false);
        if let Reply::Answer(stream) = &mut self.reply {
            if !ended {
                let piece = stream.push(token, decode);
                (text, stopped) = (piece.text, piece.stopped);
            }
            if !stopped && (ended || full) {
                let piece = stream.finish(decode);
                text += &piece.text;
                stopped = piece.stopped;
            }
        }
        let whole = ended || stopped;
        self.finish = if whole { Finish::Stop } else { Finish::Length };
        Ok(Word { token, text, log_prob, top, last: whole || full })
    }

    /// The codes of a picture.
    pub fn codes(&self) -> &[u32] {
        &self.tokens
    }

    /// The finished sample; a picture comes with its pixels.
    pub fn into_sample(self, picture: Option<Picture>) -> Sample {
        let text = match self.reply {
            Reply::Picture(_) => String::new(),
            Reply::Answer(stream) => stream.into_text(),
        };
        let since = |then: Instant| then.saturating_duration_since(self.submitted);
        let now = Instant::now();
        Sample {
            timings: Timings {
                admitted: since(self.admitted),
                first_token: since(self.first_token.unwrap_or(now)),
                finished: since(now),
            },
            tokens: self.tokens,
            log_probs: self.log_probs,
            conditional_log_probs: self.conditional_log_probs,
            seed: self.sampling.seed,
            version: self.model.version().clone(),
            finish: self.finish,
            output: picture.map_or(Output::Text(text), Output::Picture),
        }
    }
}
