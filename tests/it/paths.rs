//! The two ways to run a sequence through the network, behind one face: cache slots one token after another, as serving does,
//! and whole sequences at once, as training does. Knows nothing of what is compared.

use candle_core::{DType, Device, Tensor};
use ulm::model::Model;
use ulm::model::network::{Chunk, Span};
use ulm::model::prompt::AnswerPrompt;

use crate::golden;

pub fn load(variant: &str) -> Model {
    Model::load(&golden::path(variant), &Device::Cpu).unwrap()
}

pub fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// A prompt as the network reads it, its pictures seen.
pub fn chunks<'a>(model: &Model, prompt: &'a AnswerPrompt) -> Vec<Chunk<'a>> {
    let features = (!prompt.pictures.is_empty()).then(|| model.see(&prompt.pictures).unwrap());
    prompt.chunks(features.as_ref(), 0).unwrap()
}

fn span<'a>(slot: usize, start: usize, chunks: &[Chunk<'a>]) -> Span<'a> {
    Span { slot, start, chunks: chunks.to_vec() }
}

fn length(chunks: &[Chunk<'_>]) -> usize {
    span(0, 0, chunks).len()
}

/// How the ids of a reply stand in a sequence: [`text`] or [`codes`].
pub type Kind = for<'a> fn(&'a [u32]) -> Chunk<'a>;

pub fn text(ids: &[u32]) -> Chunk<'_> {
    Chunk::Text(ids)
}

pub fn codes(ids: &[u32]) -> Chunk<'_> {
    Chunk::Codes(ids)
}

/// Hidden states after each prompt and then after each id of `reply` but the last, all prompts continued with the same reply:
/// per prompt `[reply, hidden]`. Through slots: the prompts' first chunks in one step, the rest in another, then id by id.
pub fn through_slots(model: &Model, prompts: &[Vec<Chunk<'_>>], reply: &[u32], kind: Kind) -> Vec<Tensor> {
    let capacity = model.config().text.max_positions;
    let mut slots = model.slots(prompts.len() + 1, capacity).unwrap();
    let rows: Vec<usize> = (1..=prompts.len()).collect(); // so that slots and rows are not the same numbers
    let prefilled = usize::from(prompts.iter().all(|chunks| chunks.len() > 1));
    if prefilled == 1 {
        let spans: Vec<_> = prompts.iter().zip(&rows).map(|(chunks, &slot)| span(slot, 0, &chunks[..1])).collect();
        model.step(&spans, &mut slots).unwrap();
    }
    let rest = prompts.iter().zip(&rows).map(|(chunks, &slot)| {
        let (done, rest) = chunks.split_at(prefilled);
        span(slot, length(done), rest)
    });
    let spans: Vec<_> = rest.collect();
    let mut hidden = vec![model.step(&spans, &mut slots).unwrap()];
    for (at, id) in reply[..reply.len() - 1].chunks(1).enumerate() {
        let next = prompts.iter().zip(&rows).map(|(chunks, &slot)| span(slot, length(chunks) + at, &[kind(id)]));
        hidden.push(model.step(&next.collect::<Vec<_>>(), &mut slots).unwrap());
    }
    let steps = Tensor::stack(&hidden, 1).unwrap();
    (0..rows.len()).map(|row| steps.get(row).unwrap()).collect()
}

/// The same hidden states from one differentiable pass over the whole sequences.
pub fn at_once(model: &Model, prompts: &[Vec<Chunk<'_>>], reply: &[u32], kind: Kind) -> Vec<Tensor> {
    let said = &reply[..reply.len() - 1];
    let spans: Vec<_> = prompts
        .iter()
        .map(|chunks| {
            let mut whole = span(0, 0, chunks);
            whole.chunks.push(kind(said));
            whole
        })
        .collect();
    let hidden = model.network().forward(&spans).unwrap();
    let ends = spans.iter().scan(0, |row, span| {
        *row += span.len();
        Some(*row)
    });
    ends.map(|end| hidden.narrow(0, end - reply.len(), reply.len()).unwrap()).collect()
}

/// Both ways, by name.
pub type Way = fn(&Model, &[Vec<Chunk<'_>>], &[u32], Kind) -> Vec<Tensor>;
pub const WAYS: [(&str, Way); 2] = [("slots", through_slots), ("forward", at_once)];
