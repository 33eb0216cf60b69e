//! What runs next: admission by rows in two lanes, shared prompts, and the positions each row computes in a step.
//!
//! Pure and deterministic: the same calls give the same steps. It knows slot numbers and lengths, and refuses to know tensors, clocks,
//! channels, tokens and threads. Nothing is paged or pre-empted: a sample's rows are reserved whole when it is admitted and freed whole when it
//! ends.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::command::Lane;

/// A submission, for as long as the engine knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubmissionId(pub u64);

/// One sample of a submission, once it holds rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceId {
    pub submission: SubmissionId,
    pub index: usize,
}

/// Which prompt a row reads: the user's, or the blank one that guidance steers away from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    Conditional,
    Unconditional,
}

/// The sizes that the scheduler shares out.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Cache rows in all; at least 2, or a guided picture could never start.
    pub rows: usize,
    /// Rows that the background lane may hold at once; at least 2.
    pub background_rows: usize,
    /// Prompt positions computed in one step over all rows, so that a long prompt does not hold up the running rows. At least 1.
    pub prefill: usize,
    /// Samples that one submission starts before the next submission of its lane has its turn. At least 1.
    pub turn: usize,
}

/// What the scheduler must know of a submission.
#[derive(Clone, Debug)]
pub struct Request {
    pub id: SubmissionId,
    pub lane: Lane,
    /// Positions of the prompt, at least 1; equal on both sides.
    pub prompt: usize,
    /// Number of the weights that compute it; rows of different weights share nothing.
    pub weights: u64,
    /// One entry a sample: whether it needs a second, unconditional row.
    pub guided: Vec<bool>,
}

/// What to do in one pass, in this order: create the admitted sequences, copy, compute all spans, draw.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Step {
    pub admitted: Vec<SequenceId>,
    pub copies: Vec<PrefixCopy>,
    pub spans: Vec<RowSpan>,
}

/// The first `len` positions of slot `from` are also those of slot `to`, a row of `sequence`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixCopy {
    pub sequence: SequenceId,
    pub from: usize,
    pub to: usize,
    pub len: usize,
}

/// Positions `start..start + len` of one row: prompt positions first, then the tokens drawn so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowSpan {
    pub sequence: SequenceId,
    pub side: Side,
    pub slot: usize,
    pub start: usize,
    pub len: usize,
    /// The span reaches the last known position, so its output gives the next token.
    pub draws: bool,
}

/// Rows whose first positions are equal: the samples of a submission share its prompt, and a blank prompt depends
/// on its length and the weights alone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Prefix {
    Prompt(SubmissionId),
    Blank { weights: u64, len: usize },
}

struct Row {
    side: Side,
    slot: usize,
    prefix: Prefix,
    /// Positions in the cache.
    ready: usize,
}

struct Running {
    id: SequenceId,
    lane: Lane,
    prompt: usize,
    /// Positions whose content is known: the prompt and the tokens drawn.
    known: usize,
    rows: Vec<Row>,
}

struct Waiting {
    request: Request,
    /// Samples admitted so far.
    admitted: usize,
    /// Of these, in the present turn.
    in_turn: usize,
}

/// See the module text.
pub struct Scheduler {
    limits: Limits,
    free: BTreeSet<usize>,
    interactive: VecDeque<Waiting>,
    background: VecDeque<Waiting>,
    running: Vec<Running>,
}

impl Scheduler {
    /// An empty scheduler; limits below their least values are raised to them.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let rows = limits.rows.max(2);
        let limits = Limits {
            rows,
            background_rows: limits.background_rows.clamp(2, rows),
            prefill: limits.prefill.max(1),
            turn: limits.turn.max(1),
        };
        Self {
            limits,
            free: (0..rows).collect(),
            interactive: VecDeque::new(),
            background: VecDeque::new(),
            running: Vec::new(),
        }
    }

    /// Puts a submission at the end of its lane. One without samples is forgotten at once.
    pub fn submit(&mut self, request: Request) {
        if request.guided.is_empty() {
            return;
        }
        let waiting = Waiting { request, admitted: 0, in_turn: 0 };
        match waiting.request.lane {
            Lane::Interactive => self.interactive.push_back(waiting),
            Lane::Background => self.background.push_back(waiting),
        }
    }

    /// A sample has its last token: its rows are free. True when its submission has nothing left to run.
    pub fn finish(&mut self, id: SequenceId) -> bool {
        self.release(|running| running.id == id);
        !self.knows(id.submission)
    }

    /// Forgets a submission, waiting and running.
    pub fn cancel(&mut self, id: SubmissionId) {
        self.interactive.retain(|waiting| waiting.request.id != id);
        self.background.retain(|waiting| waiting.request.id != id);
        self.release(|running| running.id.submission == id);
    }

    /// Nothing waits and nothing runs.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.interactive.is_empty() && self.background.is_empty()
    }

    /// Samples that hold rows.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Rows that nothing holds.
    #[must_use]
    pub fn free_rows(&self) -> usize {
        self.free.len()
    }

    /// Admits what fits and says what to compute next. Empty only when idle.
    ///
    /// Every row whose content is known to its end advances and draws in the same step. Rows that lack prompt positions take them from a row with
    /// the same prefix when one has it, wait while one computes it, and else compute it themselves within the step's budget.
    pub fn plan(&mut self) -> Step {
        let mut step = Step::default();
        self.admit(Lane::Interactive, &mut step);
        if self.interactive.is_empty() {
            self.admit(Lane::Background, &mut step);
        }
        let prefixes = self.furthest();
        let mut budget = self.limits.prefill;
        for lane in [Lane::Interactive, Lane::Background] {
            for running in self.running.iter_mut().filter(|running| running.lane == lane) {
                running.advance(&prefixes, &mut budget, &mut step);
            }
        }
        step
    }

    fn knows(&self, id: SubmissionId) -> bool {
        self.interactive.iter().chain(&self.background).any(|waiting| waiting.request.id == id)
            || self.running.iter().any(|running| running.id.submission == id)
    }

    fn release(&mut self, ends: impl Fn(&Running) -> bool) {
        let free = &mut self.free;
        self.running.retain(|running| {
            let ended = ends(running);
            if ended {
                free.extend(running.rows.iter().map(|row| row.slot));
            }
            !ended
        });
    }

    /// First come, first served by sample, with one exception: a submission of more than `turn` samples goes to the back of its lane after
    /// each `turn` of them, so that it cannot keep small ones waiting for ever. The head is never overtaken for lack of rows.
    fn admit(&mut self, lane: Lane, step: &mut Step) {
        let mut held: usize =
            self.running.iter().filter(|running| running.lane == lane).map(|running| running.rows.len()).sum();
        let (queue, most) = match lane {
            Lane::Interactive => (&mut self.interactive, self.limits.rows),
            Lane::Background => (&mut self.background, self.limits.background_rows),
        };
        while let Some(mut head) = queue.pop_front() {
            let Some(&guided) = head.request.guided.get(head.admitted) else { continue };
            let wanted = 1 + usize::from(guided);
            if wanted > self.free.len() || held + wanted > most {
                queue.push_front(head);
                return;
            }
            held += wanted;
            let request = &head.request;
            let id = SequenceId { submission: request.id, index: head.admitted };
            let sides: &[Side] = if guided { &[Side::Conditional, Side::Unconditional] } else { &[Side::Conditional] };
            let rows = sides.iter().filter_map(|&side| {
                let prefix = match side {
                    Side::Conditional => Prefix::Prompt(request.id),
                    Side::Unconditional => Prefix::Blank { weights: request.weights, len: request.prompt },
                };
                self.free.pop_first().map(|slot| Row { side, slot, prefix, ready: 0 })
            });
            self.running.push(Running {
                id,
                lane,
                prompt: request.prompt,
                known: request.prompt,
                rows: rows.collect(),
            });
            step.admitted.push(id);
            head.admitted += 1;
            head.in_turn += 1;
            if head.admitted == head.request.guided.len() {
                continue;
            }
            if head.in_turn < self.limits.turn {
                queue.push_front(head);
            } else {
                head.in_turn = 0;
                queue.push_back(head);
            }
        }
    }

    /// Of each prefix, the row that has most of it in the cache now (the first of equals): (its slot, its positions).
    fn furthest(&self) -> BTreeMap<Prefix, (usize, usize)> {
        let mut best = BTreeMap::new();
        for row in self.running.iter().flat_map(|running| &running.rows) {
            let entry = best.entry(row.prefix).or_insert((row.slot, row.ready));
            if row.ready > entry.1 {
                *entry = (row.slot, row.ready);
            }
        }
        best
    }
}

impl Running {
    /// Adds this sample's part of a step. The last prompt position is always computed by every row itself, beside its siblings: its output
    /// gives the first token.
    fn advance(&mut self, prefixes: &BTreeMap<Prefix, (usize, usize)>, budget: &mut usize, step: &mut Step) {
        let shared = self.prompt.saturating_sub(1);
        let mut waits = false;
        for row in self.rows.iter_mut().filter(|row| row.ready < shared) {
            match prefixes.get(&row.prefix) {
                Some(&(slot, ready)) if ready >= shared => {
                    step.copies.push(PrefixCopy { sequence: self.id, from: slot, to: row.slot, len: shared });
                    row.ready = shared;
                }
                Some(&(slot, _)) if slot != row.slot => waits = true,
                _ => {}
            }
        }
        let leads = |row: &Row| prefixes.get(&row.prefix).is_none_or(|&(slot, _)| slot == row.slot);
        let lacking = |row: &Row| self.known.saturating_sub(1 + row.ready);
        let total: usize = self.rows.iter().map(lacking).sum();
        let draws = !waits && total <= *budget;
        for row in &mut self.rows {
            let prefill = self.known.saturating_sub(1 + row.ready);
            let len = if draws {
                *budget -= prefill;
                prefill + 1
            } else if leads(row) {
                let len = prefill.min(*budget);
                *budget -= len;
                len
            } else {
                0
            };
            if len > 0 {
                step.spans.push(RowSpan {
                    sequence: self.id,
                    side: row.side,
                    slot: row.slot,
                    start: row.ready,
                    len,
                    draws,
                });
                row.ready += len;
            }
        }
        self.known += usize::from(draws);
    }
}

#[cfg(test)]
#[path = "scheduler_tests.rs"]
mod tests;
