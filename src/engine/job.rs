//! A submission inside the engine: checked, with its prompt laid out, its event channel open and its place in the queue held.
//!
//! What passes `Job::new` can run to its end: no later step rejects it. It knows nothing of rows and steps.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::SubmitError;
use super::command::{Events, Lane, Outbox, Submission, Work};
use super::context::Context;
use crate::domain::task::Sampling;

/// Most alternatives a token is reported with.
const MOST_ALTERNATIVES: usize = 20;

/// One submission's lasting state.
pub(super) struct Job {
    pub lane: Lane,
    pub kind: Kind,
    pub context: Context,
    /// Answers: `max_tokens` is already cut to what the context has room for.
    pub samplings: Vec<Sampling>,
    pub outbox: Outbox,
    pub submitted: Instant,
    /// Held until the last sample has its rows.
    pub ticket: Option<Ticket>,
}

/// Which head the tokens come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Picture,
    Answer,
}

/// What a job must fit into.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// Positions of a cache row.
    pub capacity: usize,
    /// Tokens of a picture, drawn or seen.
    pub image_tokens: usize,
}

impl Job {
    /// Checks a submission.
    pub fn new(submission: Submission, room: Room, ticket: Ticket) -> Result<(Self, Events), SubmitError> {
        let Submission { work, mut samplings, lane } = submission;
        let kind = match work {
            Work::Draw(_) => Kind::Picture,
            Work::Answer(_) => Kind::Answer,
        };
        if samplings.is_empty() {
            return Err(SubmitError::Invalid { field: "n", supported: "at least 1" });
        }
        samplings.iter().try_for_each(|sampling| check(kind, sampling))?;
        let unusable =
            SubmitError::Invalid { field: "prompt", supported: "at least one token, and every picture it names" };
        let context = Context::new(work, room.image_tokens).ok_or(unusable)?;
        // The last token is drawn but never read, so it takes no position.
        let least = if kind == Kind::Picture { room.image_tokens } else { 1 };
        let tokens = context.len() + least.saturating_sub(1);
        if tokens > room.capacity {
            return Err(SubmitError::TooLong { tokens, limit: room.capacity });
        }
        let mut events = samplings.len();
        if kind == Kind::Answer {
            for sampling in &mut samplings {
                sampling.max_tokens = sampling.max_tokens.min(room.capacity - context.len() + 1);
                events = events.saturating_add(sampling.max_tokens);
            }
        }
        let (outbox, receiver) = Outbox::new(events);
        Ok((Self { lane, kind, context, samplings, outbox, submitted: Instant::now(), ticket: Some(ticket) }, receiver))
    }

    /// Of each sample, whether it needs an unconditional row.
    pub fn guided(&self) -> Vec<bool> {
        self.samplings.iter().map(|sampling| self.kind == Kind::Picture && sampling.guidance != 1.0).collect()
    }
}

fn check(kind: Kind, sampling: &Sampling) -> Result<(), SubmitError> {
    let bad = |field, supported| Err(SubmitError::Invalid { field, supported });
    if !(sampling.temperature.is_finite() && sampling.temperature >= 0.0) {
        return bad("temperature", "a finite number, 0 (greedy) or more");
    }
    match kind {
        Kind::Picture if !sampling.guidance.is_finite() => bad("guidance", "a finite number"),
        Kind::Answer if !(sampling.top_p > 0.0 && sampling.top_p <= 1.0) => bad("top_p", "above 0, at most 1"),
        Kind::Answer if sampling.max_tokens == 0 => bad("max_tokens", "at least 1"),
        Kind::Answer if sampling.top_log_probs > MOST_ALTERNATIVES => bad("top_log_probs", "0 to 20"),
        _ => Ok(()),
    }
}

/// A count of waiting submissions with a limit; its tickets give their places back when dropped.
#[derive(Debug)]
pub(super) struct Queue {
    limit: usize,
    waiting: AtomicUsize,
}

/// A place in a queue.
#[derive(Debug)]
pub(super) struct Ticket(Arc<Queue>);

impl Queue {
    /// Room for `limit` submissions, at least one.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit: limit.max(1), waiting: AtomicUsize::new(0) })
    }

    /// A place, or `None` when all are taken.
    pub fn enter(self: &Arc<Self>) -> Option<Ticket> {
        let more = |waiting| (waiting < self.limit).then_some(waiting + 1);
        self.waiting.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok().map(|_| Ticket(Arc::clone(self)))
    }

    /// Places taken.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::prompt::{AnswerPrompt, DrawPrompt, Piece};

    const ROOM: Room = Room { capacity: 20, image_tokens: 16 };

    fn submit(work: Work, sampling: Sampling) -> Result<Job, SubmitError> {
        let ticket = Queue::new(1).enter().ok_or(SubmitError::Busy)?;
        Job::new(Submission { work, samplings: vec![sampling], lane: Lane::Interactive }, ROOM, ticket)
            .map(|(job, _)| job)
    }

    fn draw(tokens: usize) -> Work {
        Work::Draw(DrawPrompt { conditional: vec![1; tokens], unconditional: vec![0; tokens] })
    }

    fn answer(tokens: usize) -> Work {
        Work::Answer(AnswerPrompt { pieces: vec![Piece::Text(vec![1; tokens])], pictures: vec![], image_tokens: 16 })
    }

    fn refused(work: Work, sampling: Sampling) -> SubmitError {
        submit(work, sampling).err().unwrap()
    }

    #[test]
    fn a_ticket_gives_its_place_back() {
        let queue = Queue::new(0);
        let ticket = queue.enter();
        assert!(ticket.is_some() && queue.enter().is_none());
        drop(ticket);
        assert_eq!(queue.waiting(), 0);
        assert!(queue.enter().is_some());
    }

    #[test]
    fn a_prompt_must_leave_room_for_its_reply() {
        assert!(submit(draw(5), Sampling::default()).is_ok());
        assert_eq!(refused(draw(6), Sampling::default()), SubmitError::TooLong { tokens: 21, limit: 20 });
        assert_eq!(submit(answer(20), Sampling::default()).unwrap().samplings[0].max_tokens, 1);
        assert_eq!(
            submit(answer(5), Sampling { max_tokens: 3, ..Sampling::default() }).unwrap().samplings[0].max_tokens,
            3
        );
        assert_eq!(refused(answer(21), Sampling::default()), SubmitError::TooLong { tokens: 21, limit: 20 });
    }

    #[test]
    fn what_cannot_run_is_refused_by_name() {
        let field = |work, sampling| match refused(work, sampling) {
            SubmitError::Invalid { field, .. } => field,
            _ => "",
        };
        let plain = Sampling::default();
        for temperature in [f32::NAN, -0.1, f32::INFINITY] {
            assert_eq!(field(draw(1), Sampling { temperature, ..plain.clone() }), "temperature");
        }
        assert_eq!(field(draw(1), Sampling { guidance: f32::NAN, ..plain.clone() }), "guidance");
        for top_p in [f32::NAN, 0.0, 1.5] {
            assert_eq!(field(answer(1), Sampling { top_p, ..plain.clone() }), "top_p");
        }
        assert_eq!(field(answer(1), Sampling { max_tokens: 0, ..plain.clone() }), "max_tokens");
        assert_eq!(field(answer(1), Sampling { top_log_probs: 21, ..plain.clone() }), "top_log_probs");
        assert_eq!(field(answer(0), plain.clone()), "prompt");
        assert_eq!(
            field(Work::Draw(DrawPrompt { conditional: vec![1], unconditional: vec![] }), plain.clone()),
            "prompt"
        );
        assert_eq!(
            field(
                Work::Answer(AnswerPrompt { pieces: vec![Piece::Picture(0)], pictures: vec![], image_tokens: 16 }),
                plain
            ),
            "prompt"
        );
    }

    #[test]
    fn only_pictures_off_weight_one_are_guided() {
        let guided = |work, guidance| submit(work, Sampling { guidance, ..Sampling::default() }).unwrap().guided();
        assert_eq!(guided(draw(2), 1.0), [false]);
        assert_eq!(guided(draw(2), 5.0), [true]);
        assert_eq!(guided(draw(2), 0.0), [true]);
        assert_eq!(guided(answer(2), 5.0), [false]);
    }
}
