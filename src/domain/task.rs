//! What may be asked of a model: draw, or answer about pictures; and how to sample the reply.

use std::sync::Arc;

use super::picture::Picture;

/// A request for a picture of `prompt`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draw {
    pub prompt: String,
}

/// A conversation to go on with; the last turn is the user's. Its pictures are pixels, or whatever stands for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer<P = Arc<Picture>> {
    /// `None` uses the checkpoint's own default; `Some("")` uses none.
    pub system: Option<String>,
    pub turns: Vec<Turn<P>>,
}

/// One speaker's message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn<P = Arc<Picture>> {
    pub role: Role,
    pub parts: Vec<Part<P>>,
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    User,
    Assistant,
}

impl Role {
    /// As chat formats call it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// A piece of a message, in the order given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part<P = Arc<Picture>> {
    Text(String),
    Picture(P),
}

impl<P> Answer<P> {
    /// The same with other pictures.
    ///
    /// # Errors
    /// The first of `picture`.
    pub fn try_map<Q, E>(self, mut picture: impl FnMut(P) -> Result<Q, E>) -> Result<Answer<Q>, E> {
        let mut part = |part| match part {
            Part::Text(text) => Ok(Part::Text(text)),
            Part::Picture(p) => picture(p).map(Part::Picture),
        };
        let mut turn = |turn: Turn<P>| {
            Ok(Turn { role: turn.role, parts: turn.parts.into_iter().map(&mut part).collect::<Result<_, E>>()? })
        };
        let turns = self.turns.into_iter().map(&mut turn).collect::<Result<_, E>>()?;
        Ok(Answer { system: self.system, turns })
    }
}

/// How one sample is drawn from the model. The sample is a function of (version, task, sampling).
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    pub seed: u64,
    /// 0 is greedy.
    pub temperature: f32,
    /// Nucleus mass in (0, 1]; answers only.
    pub top_p: f32,
    /// Classifier-free guidance weight w of `u + w (c - u)`; pictures only. 1 is no guidance.
    pub guidance: f32,
    /// Most tokens of an answer; a picture's length is the model's own.
    pub max_tokens: usize,
    /// An answer ends before the first of these strings.
    pub stop: Vec<String>,
    /// How many alternatives to report beside each answer token.
    pub top_log_probs: usize,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            seed: 0,
            temperature: 1.0,
            top_p: 1.0,
            guidance: 1.0,
            max_tokens: 512,
            stop: Vec::new(),
            top_log_probs: 0,
        }
    }
}
