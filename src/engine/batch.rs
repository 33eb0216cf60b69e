//! One pass of the network over all rows of a step, and the log-probabilities of those that draw, brought to the host at once.
//!
//! It reads prompts and sequences and changes neither; which rows run is the scheduler's affair and what is drawn the sampler's.

use std::collections::BTreeMap;

use candle_core::Tensor;

use super::job::Kind;
use super::runner::Pinned;
use super::scheduler::{RowSpan, SequenceId, Side, SubmissionId};
use super::sequence::Sequence;
use crate::model::cache::Slots;
use crate::model::network::Span;
use crate::model::{Model, ModelError, policy};

/// What a step found out about every sequence that draws.
#[derive(Default)]
pub(super) struct Outlook {
    answers: Vec<SequenceId>,
    pictures: Vec<SequenceId>,
    /// [answers, vocabulary]: log-probabilities at each row's temperature.
    words: Table,
    /// [2 * pictures, codebook]: guided rows first, then the conditional rows alone.
    codes: Table,
}

#[derive(Default)]
struct Table {
    values: Vec<f32>,
    width: usize,
}

/// A picture that draws: its spans and how its rows mix.
struct Drawing {
    id: SequenceId,
    conditional: usize,
    unconditional: Option<usize>,
    guidance: f32,
    temperature: f32,
}

impl Outlook {
    /// Of each answer, its row.
    pub fn answers(&self) -> impl Iterator<Item = (SequenceId, &[f32])> {
        self.answers.iter().enumerate().map(|(at, &id)| (id, self.words.row(at)))
    }

    /// Of each picture, its guided row and its conditional row.
    pub fn pictures(&self) -> impl Iterator<Item = (SequenceId, &[f32], &[f32])> {
        let count = self.pictures.len();
        self.pictures.iter().enumerate().map(move |(at, &id)| (id, self.codes.row(at), self.codes.row(count + at)))
    }
}

impl Table {
    fn read(rows: &Tensor) -> candle_core::Result<Self> {
        Ok(Self { width: rows.dim(1)?, values: rows.flatten_all()?.to_vec1()? })
    }

    fn row(&self, at: usize) -> &[f32] {
        self.values.get(at * self.width..(at + 1) * self.width).unwrap_or(&[])
    }
}

/// Computes these spans, all of one model, and the distributions of the rows that draw.
///
/// # Errors
/// When the network fails; the rows of the step are then undefined.
pub(super) fn forward(
    model: &Model,
    slots: &mut Slots,
    spans: &[RowSpan],
    jobs: &BTreeMap<SubmissionId, Pinned>,
    sequences: &BTreeMap<SequenceId, Sequence>,
) -> Result<Outlook, ModelError> {
    let mut inputs = Vec::with_capacity(spans.len());
    let mut answers: Vec<(SequenceId, usize, f32)> = Vec::new();
    let mut drawings: Vec<Drawing> = Vec::new();
    for span in spans {
        let (Some(Pinned { job, .. }), Some(sequence)) =
            (jobs.get(&span.sequence.submission), sequences.get(&span.sequence))
        else {
            continue;
        };
        let positions = span.start..span.start + span.len;
        let mut chunks = Vec::new();
        job.context.read(span.side, &positions, &mut chunks)?;
        chunks.extend(sequence.chunk(job.context.len(), &positions));
        let at = inputs.len();
        inputs.push(Span { slot: span.slot, start: span.start, chunks });
        let (id, temperature) = (span.sequence, sequence.sampling().temperature);
        match (span.draws, sequence.kind(), span.side) {
            (false, ..) => {}
            (true, Kind::Answer, _) => answers.push((id, at, temperature)),
            (true, Kind::Picture, Side::Conditional) => {
                let guidance = sequence.sampling().guidance;
                drawings.push(Drawing { id, conditional: at, unconditional: None, guidance, temperature });
            }
            // The two rows of a picture draw together, the conditional one first.
            (true, Kind::Picture, Side::Unconditional) => {
                if let Some(drawing) = drawings.last_mut().filter(|drawing| drawing.id == id) {
                    drawing.unconditional = Some(at);
                }
            }
        }
    }
    let hidden = model.step(&inputs, slots)?; // [spans, hidden]
    answers.sort_by(|a, b| a.2.total_cmp(&b.2));
    drawings.sort_by(|a, b| {
        let kind = a.unconditional.is_some().cmp(&b.unconditional.is_some());
        kind.then(a.guidance.total_cmp(&b.guidance)).then(a.temperature.total_cmp(&b.temperature))
    });
    Ok(Outlook {
        words: words(model, &hidden, &answers)?,
        codes: codes(model, &hidden, &drawings)?,
        answers: answers.iter().map(|answer| answer.0).collect(),
        pictures: drawings.iter().map(|drawing| drawing.id).collect(),
    })
}

/// Log-probabilities of the answers' next tokens; `answers` is sorted by temperature, so that each temperature is one operation.
fn words(model: &Model, hidden: &Tensor, answers: &[(SequenceId, usize, f32)]) -> Result<Table, ModelError> {
    if answers.is_empty() {
        return Ok(Table::default());
    }
    let logits = model.text_logits(&pick(hidden, answers.iter().map(|answer| answer.1))?)?; // [answers, vocabulary]
    let mut rows = Vec::new();
    let mut at = 0;
    for group in answers.chunk_by(|a, b| a.2 == b.2) {
        rows.push(policy::log_probs(&logits.narrow(0, at, group.len())?, f64::from(group[0].2))?);
        at += group.len();
    }
    Ok(Table::read(&Tensor::cat(&rows, 0)?)?)
}

/// Log-probabilities of the pictures' next codes, guided and conditional; `drawings` is sorted: the unguided first, then by weight and temperature.
fn codes(model: &Model, hidden: &Tensor, drawings: &[Drawing]) -> Result<Table, ModelError> {
    if drawings.is_empty() {
        return Ok(Table::default());
    }
    let spans = drawings
        .iter()
        .map(|drawing| drawing.conditional)
        .chain(drawings.iter().filter_map(|drawing| drawing.unconditional));
    let logits = model.image_logits(&pick(hidden, spans)?)?; // [conditional rows + unconditional rows, codebook]
    let (mut guided, mut alone) = (Vec::new(), Vec::new());
    let (mut at, mut blank) = (0, drawings.len());
    for group in drawings.chunk_by(|a, b| {
        a.unconditional.is_some() == b.unconditional.is_some()
            && a.guidance == b.guidance
            && a.temperature == b.temperature
    }) {
        let temperature = f64::from(group[0].temperature);
        let conditional = logits.narrow(0, at, group.len())?;
        alone.push(policy::log_probs(&conditional, temperature)?);
        at += group.len();
        if group[0].unconditional.is_some() {
            let mix =
                policy::guide(&conditional, &logits.narrow(0, blank, group.len())?, f64::from(group[0].guidance))?;
            guided.push(policy::log_probs(&mix, temperature)?);
            blank += group.len();
        } else {
            guided.extend(alone.last().cloned());
        }
    }
    guided.append(&mut alone);
    Ok(Table::read(&Tensor::cat(&guided, 0)?)?)
}

/// Rows of `hidden` in the order given.
fn pick(hidden: &Tensor, rows: impl Iterator<Item = usize>) -> candle_core::Result<Tensor> {
    let rows: Vec<u32> = rows.map(|row| row as u32).collect();
    let count = rows.len();
    hidden.index_select(&Tensor::from_vec(rows, count, hidden.device())?, 0)
}
