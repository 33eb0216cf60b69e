//! The one thread that computes on the device: takes commands, runs the scheduler's steps, draws, paints and sends events.
//!
//! Each step runs inside `catch_unwind`: an error or a panic fails the submissions of that step alone and the thread lives on. It waits
//! only when it is idle, and never for a reader.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::sync::{Arc, Weak};

use super::batch;
use super::command::{Command, Event};
use super::job::Job;
use super::sampler::Allowed;
use super::scheduler::{Limits, Request, RowSpan, Scheduler, SequenceId, Step, SubmissionId};
use super::sequence::Sequence;
use super::{EngineError, Halt, Shared};
use crate::domain::picture::Picture;
use crate::model::cache::Slots;
use crate::model::preprocess::Pixels;
use crate::model::{Model, ModelError};

/// Pictures in one call of the image tokenizer.
const PAINTED_AT_ONCE: usize = 4;

/// The thread's whole state.
pub(super) struct Runner {
    slots: Slots,
    scheduler: Scheduler,
    jobs: BTreeMap<SubmissionId, Pinned>,
    sequences: BTreeMap<SequenceId, Sequence>,
    next: u64,
    /// Weights are numbered as they come; the latest, and its number.
    latest: Weak<Model>,
    weights: u64,
    /// Ids that an answer may hold, and codes of a picture.
    words: Allowed,
    codes: Allowed,
    commands: Receiver<Command>,
    shared: Arc<Shared>,
}

/// A job and the weights that it keeps to its end.
pub(super) struct Pinned {
    pub job: Job,
    pub model: Arc<Model>,
}

/// A picture whose codes are all drawn.
struct Unpainted {
    id: SequenceId,
    sequence: Sequence,
    /// It is the last sample of its submission.
    last: bool,
}

impl Runner {
    pub fn new(slots: Slots, limits: Limits, commands: Receiver<Command>, shared: Arc<Shared>) -> Self {
        let model = shared.shelf.live();
        let prompter = model.prompter();
        let end = prompter.end_of_text();
        let words = Allowed::new(prompter.text_tokens(), prompter.reserved().filter(|&id| id != end).collect());
        Self {
            words,
            codes: Allowed::new(usize::MAX, Vec::new()),
            slots,
            scheduler: Scheduler::new(limits),
            jobs: BTreeMap::new(),
            sequences: BTreeMap::new(),
            next: 0,
            latest: Weak::new(),
            weights: 0,
            commands,
            shared,
        }
    }

    /// Runs until told to halt, or until no handle is left and all work is done. Work that is left then fails as stopped, by its outbox.
    pub fn run(mut self) {
        while self.listen() {
            self.forget_abandoned();
            self.turn();
            self.shared.set_running(self.scheduler.running());
        }
        tracing::debug!(unfinished = self.jobs.len(), "engine halts");
    }

    /// Takes all commands there are, waiting for one when there is nothing to compute. False to halt.
    fn listen(&mut self) -> bool {
        loop {
            let idle = self.scheduler.is_idle();
            let command = match self.shared.halt() {
                Some(Halt::Now) => return false,
                None if idle => self.commands.recv().map_err(|_| TryRecvError::Disconnected),
                None | Some(Halt::Drain) => self.commands.try_recv(),
            };
            match command {
                Ok(Command::Submit(jobs, model)) => {
                    jobs.into_iter().for_each(|job| self.accept(job, Arc::clone(&model)))
                }
                Ok(Command::Wake) => {}
                Err(_) => return !idle,
            }
        }
    }

    fn accept(&mut self, job: Job, model: Arc<Model>) {
        let id = SubmissionId(self.next);
        self.next += 1;
        let (samples, prompt) = (job.samplings.len(), job.context.len());
        tracing::debug!(submission = id.0, lane = ?job.lane, kind = ?job.kind, samples, prompt, "submitted");
        if !std::ptr::eq(self.latest.as_ptr(), Arc::as_ptr(&model)) {
            self.latest = Arc::downgrade(&model);
            self.weights += 1;
        }
        self.scheduler.submit(Request {
            id,
            lane: job.lane,
            prompt: job.context.len(),
            weights: self.weights,
            guided: job.guided(),
        });
        self.jobs.insert(id, Pinned { job, model });
    }

    /// Cancels what nobody waits for any more.
    fn forget_abandoned(&mut self) {
        let abandoned: Vec<SubmissionId> =
            self.jobs.iter().filter(|(_, pinned)| pinned.job.outbox.is_abandoned()).map(|(&id, _)| id).collect();
        for id in abandoned {
            tracing::debug!(submission = id.0, "cancelled: its reader left");
            self.forget(id);
        }
    }

    /// One step.
    fn turn(&mut self) {
        let step = self.scheduler.plan();
        if step.spans.is_empty() {
            return;
        }
        let span = tracing::trace_span!(
            "step",
            spans = step.spans.len(),
            positions = step.spans.iter().map(|span| span.len).sum::<usize>()
        );
        let _entered = span.enter();
        self.admit(&step);
        self.shared.set_running(self.scheduler.running());
        match guard(|| self.compute(&step)) {
            Ok(unpainted) => self.paint(unpainted),
            Err(error) => {
                let copied = step.copies.iter().map(|copy| copy.sequence);
                let failed: BTreeSet<_> =
                    step.spans.iter().map(|span| span.sequence).chain(copied).map(|id| id.submission).collect();
                failed.into_iter().for_each(|id| self.fail(id, error.clone()));
            }
        }
    }

    fn admit(&mut self, step: &Step) {
        for &id in &step.admitted {
            let Some(Pinned { job, model }) = self.jobs.get_mut(&id.submission) else { continue };
            let Some(sampling) = job.samplings.get(id.index) else { continue };
            self.sequences.insert(id, Sequence::new(Arc::clone(model), job.kind, sampling.clone(), job.submitted));
            if id.index + 1 == job.samplings.len() {
                job.ticket = None;
            }
        }
    }

    /// A step but for painting: looks, computes and draws. Gives back the pictures that became whole.
    fn compute(&mut self, step: &Step) -> Result<Vec<Unpainted>, EngineError> {
        for copy in &step.copies {
            self.slots.copy(copy.from, copy.to, copy.len).map_err(ModelError::from)?;
        }
        let mut unpainted = Vec::new();
        for (model, spans) in self.by_model(step) {
            self.see(&model, &spans)?;
            let outlook = batch::forward(&model, &mut self.slots, &spans, &self.jobs, &self.sequences)?;
            for (id, row) in outlook.answers() {
                self.draw_word(id, row);
            }
            for (id, guided, conditional) in outlook.pictures() {
                unpainted.extend(self.draw_code(id, guided, conditional));
            }
        }
        Ok(unpainted)
    }

    /// The spans of a step by their weights: mostly one kind, two while new weights take over.
    fn by_model(&self, step: &Step) -> Vec<(Arc<Model>, Vec<RowSpan>)> {
        let mut parts: Vec<(Arc<Model>, Vec<RowSpan>)> = Vec::new();
        for span in &step.spans {
            let Some(Pinned { model, .. }) = self.jobs.get(&span.sequence.submission) else { continue };
            match parts.iter_mut().find(|(of, _)| Arc::ptr_eq(of, model)) {
                Some((_, spans)) => spans.push(*span),
                None => parts.push((Arc::clone(model), vec![*span])),
            }
        }
        parts
    }

    /// Computes the features of the pictures that these spans read for the first time, all together.
    fn see(&mut self, model: &Model, spans: &[RowSpan]) -> Result<(), EngineError> {
        let mut wanted = Vec::new();
        let mut pixels: Vec<Pixels> = Vec::new();
        for span in spans {
            let id = span.sequence.submission;
            let Some(Pinned { job, .. }) = self.jobs.get_mut(&id) else { continue };
            for (index, picture) in job.context.take_unseen(&(span.start..span.start + span.len)) {
                wanted.push((id, index));
                pixels.push(picture);
            }
        }
        if pixels.is_empty() {
            return Ok(());
        }
        let features = model.see(&pixels)?; // [pictures * patches, hidden]
        let patches = model.config().image_tokens();
        for (at, (id, index)) in wanted.into_iter().enumerate() {
            if let Some(Pinned { job, .. }) = self.jobs.get_mut(&id) {
                job.context.show(index, features.narrow(0, at * patches, patches).map_err(ModelError::from)?);
            }
        }
        Ok(())
    }

    fn draw_word(&mut self, id: SequenceId, row: &[f32]) {
        let Some(sequence) = self.sequences.get_mut(&id) else { return };
        match sequence.draw_word(row, &self.words) {
            Ok(word) => {
                self.send(
                    id,
                    Event::Token {
                        index: id.index,
                        token: word.token,
                        text: word.text,
                        log_prob: word.log_prob,
                        top: word.top,
                    },
                );
                if word.last
                    && let Some(sequence) = self.sequences.remove(&id)
                {
                    let last = self.scheduler.finish(id);
                    self.deliver(id, sequence, None, last);
                }
            }
            Err(error) => self.fail(id.submission, error.into()),
        }
    }

    /// Draws a code. A picture that is whole by it gives its rows back and waits to be painted.
    fn draw_code(&mut self, id: SequenceId, guided: &[f32], conditional: &[f32]) -> Option<Unpainted> {
        match self.sequences.get_mut(&id)?.draw_code(guided, conditional, &self.codes) {
            Ok(false) => None,
            Ok(true) => {
                let sequence = self.sequences.remove(&id)?;
                Some(Unpainted { id, sequence, last: self.scheduler.finish(id) })
            }
            Err(error) => {
                self.fail(id.submission, error.into());
                None
            }
        }
    }

    /// Paints the pictures that became whole in one step, a few at a time: the tokenizer computes on whole pictures, so more at once
    /// takes more memory and no less time.
    fn paint(&mut self, mut unpainted: Vec<Unpainted>) {
        while let Some(first) = unpainted.first() {
            let model = Arc::clone(first.sequence.model());
            let alike = unpainted.iter().take_while(|picture| Arc::ptr_eq(picture.sequence.model(), &model)).count();
            let rest = unpainted.split_off(alike.min(PAINTED_AT_ONCE));
            let codes: Vec<Vec<u32>> = unpainted.iter().map(|picture| picture.sequence.codes().to_vec()).collect();
            match guard(|| Ok(model.paint(&codes)?)) {
                Ok(pictures) => {
                    for (Unpainted { id, sequence, last }, picture) in unpainted.into_iter().zip(pictures) {
                        self.deliver(id, sequence, Some(picture), last);
                    }
                }
                Err(error) => unpainted.iter().for_each(|picture| self.fail(picture.id.submission, error.clone())),
            }
            unpainted = rest;
        }
    }

    fn deliver(&mut self, id: SequenceId, sequence: Sequence, picture: Option<Picture>, last: bool) {
        let sample = sequence.into_sample(picture);
        tracing::debug!(submission = id.submission.0, index = id.index, tokens = sample.tokens.len(), finish = ?sample.finish, "finished");
        self.send(id, Event::Finished { index: id.index, sample });
        if last && let Some(Pinned { job, .. }) = self.jobs.remove(&id.submission) {
            job.outbox.close(Event::Done);
        }
    }

    fn send(&self, id: SequenceId, event: Event) {
        if let Some(Pinned { job, .. }) = self.jobs.get(&id.submission) {
            job.outbox.send(event);
        }
    }

    fn fail(&mut self, id: SubmissionId, error: EngineError) {
        if let Some(job) = self.forget(id) {
            tracing::warn!(submission = id.0, %error, "failed");
            job.outbox.close(Event::Failed(error));
        }
    }

    /// Drops a submission and frees its rows.
    fn forget(&mut self, id: SubmissionId) -> Option<Job> {
        self.scheduler.cancel(id);
        self.sequences.retain(|sequence, _| sequence.submission != id);
        self.jobs.remove(&id).map(|pinned| pinned.job)
    }
}

/// Runs `work`; a panic is an error like any other.
fn guard<T>(work: impl FnOnce() -> Result<T, EngineError>) -> Result<T, EngineError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(EngineError::Panicked(message(&*panic))))
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_like_any_other() {
        let text = |result: Result<(), EngineError>| result.err().map(|error| error.to_string());
        assert_eq!(text(guard(|| panic!("row {}", 3))), Some("the computation broke off: row 3".to_owned()));
        assert_eq!(text(guard(|| panic!("no row"))), Some("the computation broke off: no row".to_owned()));
        assert_eq!(text(guard(|| Ok(()))), None);
    }
}
