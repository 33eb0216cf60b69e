//! One finished generation, as the engine reports it and the trainer reads it.

use std::time::Duration;

use super::picture::Picture;

/// Content hash of a set of weights (lower-case hexadecimal), named in every answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version(pub String);

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// End token or stop string; for pictures: all tokens drawn.
    Stop,
    /// `max_tokens` reached.
    Length,
}

/// When things came of a sample, counted from its submission to the engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// It got its rows.
    pub admitted: Duration,
    /// Its first token was drawn.
    pub first_token: Duration,
    /// It was whole; a picture painted.
    pub finished: Duration,
}

/// Tokens with the log-probabilities they were drawn with.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample<P = Picture> {
    /// Generated ids: codebook ids of a picture in raster order, or text ids with the end token where one was drawn.
    pub tokens: Vec<u32>,
    /// log pi(token) under the distribution really sampled from: guided, tempered. Natural log, one a token.
    pub log_probs: Vec<f32>,
    /// Pictures: log pi(token) of the conditional row alone at the same temperature. Empty for answers.
    pub conditional_log_probs: Vec<f32>,
    pub seed: u64,
    pub version: Version,
    pub finish: Finish,
    pub output: Output<P>,
    pub timings: Timings,
}

impl<P> Sample<P> {
    /// The same with another picture, where it is one.
    ///
    /// # Errors
    /// That of `picture`.
    pub fn try_map<Q, E>(self, picture: impl FnOnce(P) -> Result<Q, E>) -> Result<Sample<Q>, E> {
        Ok(Sample {
            output: match self.output {
                Output::Picture(p) => Output::Picture(picture(p)?),
                Output::Text(text) => Output::Text(text),
            },
            tokens: self.tokens,
            log_probs: self.log_probs,
            conditional_log_probs: self.conditional_log_probs,
            seed: self.seed,
            version: self.version,
            finish: self.finish,
            timings: self.timings,
        })
    }
}

/// What the user receives; a picture is pixels, or whatever stands for them.
#[derive(Clone, Debug, PartialEq)]
pub enum Output<P = Picture> {
    Picture(P),
    Text(String),
}
