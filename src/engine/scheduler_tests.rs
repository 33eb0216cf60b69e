//! Traces of what runs next, and properties over arbitrary command sequences.

use std::collections::BTreeMap;

use insta::assert_snapshot;
use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits { rows: 6, background_rows: 4, prefill: 100, turn: 4 };

fn request(id: u64, lane: Lane, prompt: usize, guided: &[bool]) -> Request {
    Request { id: SubmissionId(id), lane, prompt, weights: 0, guided: guided.to_vec() }
}

/// One line a step: admitted samples, copies `from>to:len`, spans `sample side slot @start+len`, `!` where a token is drawn.
fn line(step: &Step) -> String {
    let admitted = step.admitted.iter().map(|id| format!("+{}.{}", id.submission.0, id.index));
    let copies = step.copies.iter().map(|copy| format!("{}>{}:{}", copy.from, copy.to, copy.len));
    let spans = step.spans.iter().map(|span| {
        let side = if span.side == Side::Conditional { 'c' } else { 'u' };
        let draws = if span.draws { "!" } else { "" };
        format!(
            "{}.{}{side}{}@{}+{}{draws}",
            span.sequence.submission.0, span.sequence.index, span.slot, span.start, span.len
        )
    });
    admitted.chain(copies).chain(spans).collect::<Vec<_>>().join(" ")
}

/// Runs `steps` steps; every sample ends when it has drawn `length` tokens.
fn trace(scheduler: &mut Scheduler, steps: usize, length: usize) -> String {
    let mut drawn: BTreeMap<SequenceId, usize> = BTreeMap::new();
    let mut lines = Vec::new();
    for _ in 0..steps {
        let step = scheduler.plan();
        let mut text = line(&step);
        for span in step.spans.iter().filter(|span| span.draws && span.side == Side::Conditional) {
            let count = drawn.entry(span.sequence).or_default();
            *count += 1;
            if *count == length {
                let done = if scheduler.finish(span.sequence) { " done" } else { "" };
                text += &format!(" -{}.{}{done}", span.sequence.submission.0, span.sequence.index);
            }
        }
        lines.push(text);
    }
    lines.join("\n")
}

#[test]
fn a_lone_picture_draws_in_its_first_step() {
    let mut scheduler = Scheduler::new(LIMITS);
    scheduler.submit(request(0, Lane::Interactive, 5, &[true]));
    assert_snapshot!(trace(&mut scheduler, 4, 3), @"
    +0.0 0.0c0@0+5! 0.0u1@0+5!
    0.0c0@5+1! 0.0u1@5+1!
    0.0c0@6+1! 0.0u1@6+1! -0.0 done
    ");
    assert!(scheduler.is_idle());
    assert_eq!(scheduler.free_rows(), 6);
}

#[test]
fn pictures_of_one_prompt_share_its_prefill() {
    let mut scheduler = Scheduler::new(LIMITS);
    scheduler.submit(request(0, Lane::Interactive, 5, &[true, true, false]));
    assert_snapshot!(trace(&mut scheduler, 3, 9), @"
    +0.0 +0.1 +0.2 0.0c0@0+5! 0.0u1@0+5!
    0>2:4 1>3:4 0>4:4 0.0c0@5+1! 0.0u1@5+1! 0.1c2@4+1! 0.1u3@4+1! 0.2c4@4+1!
    0.0c0@6+1! 0.0u1@6+1! 0.1c2@5+1! 0.1u3@5+1! 0.2c4@5+1!
    ");
}

#[test]
fn a_late_sample_copies_the_prompt_from_a_running_sibling() {
    let mut scheduler = Scheduler::new(LIMITS);
    scheduler.submit(request(0, Lane::Interactive, 3, &[false; 2]));
    scheduler.submit(request(1, Lane::Interactive, 9, &[true, true]));
    scheduler.submit(request(2, Lane::Interactive, 9, &[true]));
    assert_snapshot!(trace(&mut scheduler, 5, 3), @"
    +0.0 +0.1 +1.0 +1.1 0.0c0@0+3! 1.0c2@0+9! 1.0u3@0+9!
    0>1:2 2>4:8 3>5:8 0.0c0@3+1! 0.1c1@2+1! 1.0c2@9+1! 1.0u3@9+1! 1.1c4@8+1! 1.1u5@8+1!
    0.0c0@4+1! 0.1c1@3+1! 1.0c2@10+1! 1.0u3@10+1! 1.1c4@9+1! 1.1u5@9+1! -0.0 -1.0
    +2.0 5>2:8 0.1c1@4+1! 1.1c4@10+1! 1.1u5@10+1! 2.0c0@0+9! 2.0u2@8+1! -0.1 done -1.1 done
    2.0c0@9+1! 2.0u2@9+1!
    ");
}

#[test]
fn a_long_prompt_is_computed_in_parts_beside_running_rows() {
    let mut scheduler = Scheduler::new(Limits { prefill: 4, ..LIMITS });
    scheduler.submit(request(0, Lane::Interactive, 2, &[false]));
    scheduler.submit(request(1, Lane::Interactive, 8, &[false, false]));
    scheduler.submit(request(2, Lane::Interactive, 3, &[false]));
    assert_snapshot!(trace(&mut scheduler, 5, 9), @"
    +0.0 +1.0 +1.1 +2.0 0.0c0@0+2! 1.0c1@0+3
    0.0c0@2+1! 1.0c1@3+5!
    1>2:7 0.0c0@3+1! 1.0c1@8+1! 1.1c2@7+1! 2.0c3@0+3!
    0.0c0@4+1! 1.0c1@9+1! 1.1c2@8+1! 2.0c3@3+1!
    0.0c0@5+1! 1.0c1@10+1! 1.1c2@9+1! 2.0c3@4+1!
    ");
}

#[test]
fn answers_and_pictures_share_a_step_and_the_head_is_not_overtaken() {
    let mut scheduler = Scheduler::new(LIMITS);
    scheduler.submit(request(0, Lane::Interactive, 2, &[true, true]));
    scheduler.submit(request(1, Lane::Interactive, 2, &[false]));
    scheduler.submit(request(2, Lane::Interactive, 2, &[true]));
    scheduler.submit(request(3, Lane::Interactive, 2, &[false]));
    assert_snapshot!(trace(&mut scheduler, 4, 3), @"
    +0.0 +0.1 +1.0 0.0c0@0+2! 0.0u1@0+2! 1.0c4@0+2!
    0>2:1 1>3:1 0.0c0@2+1! 0.0u1@2+1! 0.1c2@1+1! 0.1u3@1+1! 1.0c4@2+1!
    0.0c0@3+1! 0.0u1@3+1! 0.1c2@2+1! 0.1u3@2+1! 1.0c4@3+1! -0.0 -1.0 done
    +2.0 +3.0 3>1:1 0.1c2@3+1! 0.1u3@3+1! 2.0c0@0+2! 2.0u1@1+1! 3.0c4@0+2! -0.1 done
    ");
}

#[test]
fn background_takes_its_share_of_what_is_left() {
    let mut scheduler = Scheduler::new(LIMITS);
    scheduler.submit(request(0, Lane::Background, 2, &[false; 9]));
    scheduler.submit(request(1, Lane::Interactive, 2, &[false]));
    let step = scheduler.plan();
    assert_eq!(step.admitted.iter().map(|id| id.submission.0).collect::<Vec<_>>(), [1, 0, 0, 0, 0]);
    scheduler.submit(request(2, Lane::Interactive, 2, &[true]));
    scheduler.finish(SequenceId { submission: SubmissionId(0), index: 0 });
    assert_eq!(line(&scheduler.plan()).split(' ').next(), Some("+2.0"), "interactive work wins the freed row");
    scheduler.submit(request(3, Lane::Interactive, 2, &[true]));
    scheduler.finish(SequenceId { submission: SubmissionId(0), index: 1 });
    assert!(scheduler.plan().admitted.is_empty(), "background may not take the row that the waiting picture needs");
}

#[test]
fn a_huge_submission_gives_way_after_its_turn() {
    let mut scheduler = Scheduler::new(LIMITS);
    scheduler.submit(request(0, Lane::Interactive, 2, &[false; 100]));
    scheduler.submit(request(1, Lane::Interactive, 2, &[false]));
    let step = scheduler.plan();
    assert_eq!(step.admitted.iter().map(|id| id.submission.0).collect::<Vec<_>>(), [0, 0, 0, 0, 1, 0]);
}

#[test]
fn a_cancelled_leader_hands_the_prompt_on() {
    let mut scheduler = Scheduler::new(Limits { prefill: 4, ..LIMITS });
    scheduler.submit(request(0, Lane::Interactive, 9, &[true]));
    scheduler.submit(request(1, Lane::Interactive, 9, &[true]));
    scheduler.plan();
    scheduler.cancel(SubmissionId(0));
    assert_eq!(scheduler.free_rows(), 4);
    assert_snapshot!(trace(&mut scheduler, 5, 2), @"
    1.0c2@0+4
    1.0c2@4+4
    1.0u3@0+4
    1.0c2@8+1! 1.0u3@4+5!
    1.0c2@9+1! 1.0u3@9+1! -1.0 done
    ");
}

/// What a caller may do between steps.
#[derive(Clone, Debug)]
enum Act {
    Submit { background: bool, prompt: usize, guided: Vec<bool>, length: usize },
    Cancel(usize),
    Step,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        2 => (any::<bool>(), 1_usize..30, prop::collection::vec(any::<bool>(), 1..12), 1_usize..9)
            .prop_map(|(background, prompt, guided, length)| Act::Submit { background, prompt, guided, length }),
        1 => (0_usize..20).prop_map(Act::Cancel),
        6 => Just(Act::Step),
    ]
}

/// Plays the runner: keeps what a cache would hold, so that a span or copy that reads a position nobody computed is seen.
struct Player {
    scheduler: Scheduler,
    limits: Limits,
    /// By submission: (prompt, tokens a sample draws, samples still to end, terminal events seen).
    submissions: Vec<(usize, usize, usize, usize)>,
    held: BTreeMap<SequenceId, BTreeMap<Side, usize>>,
    /// By slot: the owner's prompt (submission, or blank of a length), positions in the cache.
    cache: BTreeMap<usize, (Prefix, usize)>,
    drawn: BTreeMap<SequenceId, usize>,
}

impl Player {
    fn new(limits: Limits) -> Self {
        let scheduler = Scheduler::new(limits);
        Self {
            scheduler,
            limits,
            submissions: vec![],
            held: BTreeMap::new(),
            cache: BTreeMap::new(),
            drawn: BTreeMap::new(),
        }
    }

    fn forget(&mut self, ends: impl Fn(SequenceId) -> bool) {
        self.held.retain(|&id, _| !ends(id));
    }

    fn step(&mut self) -> Result<(), TestCaseError> {
        let step = self.scheduler.plan();
        for &id in &step.admitted {
            prop_assert!(self.held.insert(id, BTreeMap::new()).is_none(), "admitted twice");
        }
        for copy in &step.copies {
            let (prefix, ready) = self.cache[&copy.from];
            prop_assert!(ready >= copy.len, "copied before it was computed");
            self.cache.insert(copy.to, (prefix, copy.len));
        }
        let mut prefilled = 0;
        for span in &step.spans {
            let slots = self.held.get_mut(&span.sequence);
            prop_assert!(slots.is_some(), "a span of a sequence that holds no rows");
            let (prompt, length, ..) = self.submissions[span.sequence.submission.0 as usize];
            let prefix = match span.side {
                Side::Conditional => Prefix::Prompt(span.sequence.submission),
                Side::Unconditional => Prefix::Blank { weights: 0, len: prompt },
            };
            if let Some(slots) = slots {
                prop_assert_eq!(*slots.entry(span.side).or_insert(span.slot), span.slot, "a row moved");
            }
            let entry = self.cache.entry(span.slot).or_insert((prefix, 0));
            if span.start == 0 {
                *entry = (prefix, 0);
            }
            prop_assert!(entry.0 == prefix, "reads another prompt's positions");
            prop_assert_eq!(entry.1, span.start, "positions must follow each other");
            entry.1 += span.len;
            let drawn = self.drawn.get(&span.sequence).copied().unwrap_or(0);
            prop_assert!(drawn < length);
            prop_assert_eq!(span.draws, entry.1 == prompt + drawn, "draws exactly at the last known position");
            prefilled += span.len - usize::from(span.draws);
        }
        prop_assert!(prefilled <= self.limits.prefill, "over the budget");
        let slots: Vec<usize> = self.held.values().flat_map(BTreeMap::values).copied().collect();
        let distinct: BTreeSet<usize> = slots.iter().copied().collect();
        prop_assert_eq!(slots.len(), distinct.len(), "two sequences share a slot");
        prop_assert!(self.scheduler.is_idle() || !step.spans.is_empty(), "work stands still");
        let draws: BTreeSet<SequenceId> =
            step.spans.iter().filter(|span| span.draws).map(|span| span.sequence).collect();
        for id in draws {
            let count = self.drawn.entry(id).or_default();
            *count += 1;
            let submission = &mut self.submissions[id.submission.0 as usize];
            if *count == submission.1 {
                submission.2 -= 1;
                let done = self.scheduler.finish(id);
                prop_assert_eq!(done, submission.2 == 0, "done exactly with the last sample");
                submission.3 += usize::from(done);
                self.forget(|other| other == id);
            }
        }
        let rows: usize = self.scheduler.running.iter().map(|running| running.rows.len()).sum();
        prop_assert_eq!(rows + self.scheduler.free_rows(), self.limits.rows, "rows leak");
        let background = self.scheduler.running.iter().filter(|running| running.lane == Lane::Background);
        prop_assert!(background.map(|running| running.rows.len()).sum::<usize>() <= self.limits.background_rows);
        Ok(())
    }

    fn play(&mut self, acts: &[Act]) -> Result<(), TestCaseError> {
        for act in acts {
            match act {
                Act::Submit { background, prompt, guided, length } => {
                    let lane = if *background { Lane::Background } else { Lane::Interactive };
                    let id = self.submissions.len() as u64;
                    self.scheduler.submit(request(id, lane, *prompt, guided));
                    self.submissions.push((*prompt, *length, guided.len(), 0));
                }
                Act::Cancel(at) => {
                    let Some(submission) = self.submissions.get_mut(*at) else { continue };
                    let id = SubmissionId(*at as u64);
                    self.scheduler.cancel(id);
                    submission.3 += usize::from(submission.3 == 0);
                    self.forget(|other| other.submission == id);
                }
                Act::Step => self.step()?,
            }
        }
        for _ in 0..4_000 {
            if self.scheduler.is_idle() {
                break;
            }
            self.step()?;
        }
        prop_assert!(self.scheduler.is_idle(), "everything admitted finishes");
        prop_assert_eq!(self.scheduler.free_rows(), self.limits.rows);
        prop_assert!(self.submissions.iter().all(|submission| submission.3 == 1), "one end each");
        Ok(())
    }
}

proptest! {
    #[test]
    fn whatever_is_asked_rows_are_whole_and_everything_ends(
        acts in prop::collection::vec(act(), 0..60),
        rows in 2_usize..9,
        background in 2_usize..9,
        prefill in 1_usize..40,
        turn in 1_usize..5,
    ) {
        Player::new(Limits { rows, background_rows: background.min(rows), prefill, turn }).play(&acts)?;
    }

    #[test]
    fn the_same_commands_give_the_same_steps(acts in prop::collection::vec(act(), 0..40)) {
        let run = || {
            let mut scheduler = Scheduler::new(LIMITS);
            let mut lines = Vec::new();
            for (id, act) in acts.iter().enumerate() {
                match act {
                    Act::Submit { prompt, guided, .. } => scheduler.submit(request(id as u64, Lane::Interactive, *prompt, guided)),
                    Act::Cancel(at) => scheduler.cancel(SubmissionId(*at as u64)),
                    Act::Step => lines.push(line(&scheduler.plan())),
                }
            }
            lines
        };
        prop_assert_eq!(run(), run());
    }
}
