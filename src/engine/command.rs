//! What crosses into and out of the engine thread: submissions and their events, as closed enums.
//!
//! A submission's events travel in a channel that has room for all of them, so that the engine never waits for a slow reader. Nothing here
//! computes, and nothing here knows the scheduler's or the model's workings.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::EngineError;
use super::job::Job;
use crate::domain::sample::Sample;
use crate::domain::task::Sampling;
use crate::model::Model;
use crate::model::prompt::{AnswerPrompt, DrawPrompt};

/// Who waits for the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// A person; always first.
    Interactive,
    /// Nobody: training and evaluation. Takes rows only when no interactive sample waits, and at most its share of them.
    Background,
}

/// A prompt to go on with.
#[derive(Clone)]
pub enum Work {
    Draw(DrawPrompt),
    Answer(AnswerPrompt),
}

/// One prompt and how to sample each of its n replies.
pub struct Submission {
    pub work: Work,
    /// One a sample, at least one. Pictures heed `seed`, `temperature` and `guidance`; answers heed all but `guidance`.
    pub samplings: Vec<Sampling>,
    pub lane: Lane,
}

/// What becomes of a submission. Exactly one terminal event (`Done` or `Failed`) comes, and nothing after it.
#[derive(Debug)]
pub enum Event {
    /// A token of an answer, the end token included.
    Token {
        /// Which sample, counted from 0.
        index: usize,
        token: u32,
        /// What the token adds to the answer, whole UTF-8; empty while a character or a possible stop string is pending. The texts of a
        /// sample joined are its answer.
        text: String,
        /// Natural log of its probability in the whole row at the sampling temperature (1 for a greedy draw).
        log_prob: f32,
        /// The likeliest ids with their log-probabilities, likeliest first; as many as `Sampling::top_log_probs`.
        top: Vec<(u32, f32)>,
    },
    /// A sample is whole.
    Finished { index: usize, sample: Sample },
    /// Terminal: every sample has finished.
    Done,
    /// Terminal: no more events come, unfinished samples are lost.
    Failed(EngineError),
}

/// The events of one submission. Dropping it cancels the submission: its rows are free before the next step.
#[derive(Debug)]
pub struct Events {
    receiver: mpsc::Receiver<Event>,
}

impl Events {
    /// The next event; `None` after the terminal one.
    pub async fn next(&mut self) -> Option<Event> {
        self.receiver.recv().await
    }

    /// `next` for threads outside an async runtime (inside one, tokio panics).
    pub fn blocking_next(&mut self) -> Option<Event> {
        self.receiver.blocking_recv()
    }
}

/// What the engine thread is told.
pub(super) enum Command {
    /// Jobs that begin in the same step, and the weights they keep to their end.
    Submit(Vec<Job>, Arc<Model>),
    /// Look at the stop flag.
    Wake,
}

/// The engine's end of a submission's events. Sees to it that exactly one terminal event is sent, whatever happens to its owner.
pub(super) struct Outbox {
    /// `None` once the terminal event is sent.
    sender: Option<mpsc::Sender<Event>>,
}

impl Outbox {
    /// A channel with room for `events` events and the terminal one.
    pub fn new(events: usize) -> (Self, Events) {
        let (sender, receiver) = mpsc::channel(events.saturating_add(1).min(tokio::sync::Semaphore::MAX_PERMITS));
        (Self { sender: Some(sender) }, Events { receiver })
    }

    /// Sends an event that is not terminal.
    pub fn send(&self, event: Event) {
        if let Some(sender) = &self.sender {
            // The channel has room for all events, so only a reader that left refuses one; the next step sees that and cancels.
            let _ = sender.try_send(event);
        }
    }

    /// Sends the terminal event.
    pub fn close(mut self, last: Event) {
        self.end(last);
    }

    /// The reader has gone.
    pub fn is_abandoned(&self) -> bool {
        self.sender.as_ref().is_none_or(mpsc::Sender::is_closed)
    }

    fn end(&mut self, last: Event) {
        if let Some(sender) = self.sender.take() {
            let _ = sender.try_send(last);
        }
    }
}

impl Drop for Outbox {
    /// Work that is dropped before its end is work that the engine stopped.
    fn drop(&mut self) {
        self.end(Event::Failed(EngineError::Stopped));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_one_terminal_event_comes_whatever_happens() {
        let (outbox, mut events) = Outbox::new(0);
        outbox.close(Event::Done);
        assert!(matches!(events.blocking_next(), Some(Event::Done)));
        assert!(events.blocking_next().is_none());

        let (outbox, mut events) = Outbox::new(0);
        drop(outbox);
        assert!(matches!(events.blocking_next(), Some(Event::Failed(EngineError::Stopped))));
        assert!(events.blocking_next().is_none());
    }

    #[test]
    fn a_reader_that_left_is_seen() {
        let (outbox, events) = Outbox::new(1);
        assert!(!outbox.is_abandoned());
        drop(events);
        assert!(outbox.is_abandoned());
    }
}
