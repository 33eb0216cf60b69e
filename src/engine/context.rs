//! A submission's prompt as numbered positions: text ids, and pictures whose features fill in when they are first needed.
//!
//! Its pictures are seen once for all samples of the submission. It hands out what stands at any run of positions, and refuses to know rows,
//! steps and how a position is computed.

use std::ops::Range;

use candle_core::Tensor;

use super::command::Work;
use super::scheduler::Side;
use crate::model::network::Chunk;
use crate::model::preprocess::Pixels;
use crate::model::prompt::Piece;

/// The prompt of one submission.
pub(super) struct Context {
    conditional: Vec<Piece>,
    /// The blank prompt of guidance; as long as the conditional one, empty for answers.
    unconditional: Vec<u32>,
    pictures: Vec<Sight>,
    /// Positions that a picture takes.
    patches: usize,
    len: usize,
}

enum Sight {
    Unseen(Pixels),
    /// Its pixels are at the vision tower.
    Looking,
    /// Features [patches, hidden].
    Seen(Tensor),
}

impl Context {
    /// Lays out a prompt; `None` when it is empty, names a picture that is not there, or its two sides differ in length.
    pub fn new(work: Work, patches: usize) -> Option<Self> {
        let (conditional, unconditional, pictures) = match work {
            Work::Draw(prompt) if prompt.conditional.len() == prompt.unconditional.len() => {
                (vec![Piece::Text(prompt.conditional)], prompt.unconditional, Vec::new())
            }
            Work::Draw(_) => return None,
            Work::Answer(prompt) => (prompt.pieces, Vec::new(), prompt.pictures),
        };
        let whole = conditional.iter().all(|piece| !matches!(piece, Piece::Picture(index) if *index >= pictures.len()));
        let len = conditional.iter().map(|piece| length(piece, patches)).sum();
        let pictures = pictures.into_iter().map(Sight::Unseen).collect();
        (whole && len > 0).then_some(Self { conditional, unconditional, pictures, patches, len })
    }

    /// Positions of either side.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Takes the pixels of pictures that stand in `positions` and were never seen; `show` is to follow for each.
    pub fn take_unseen(&mut self, positions: &Range<usize>) -> Vec<(usize, Pixels)> {
        let wanted = places(&self.conditional, self.patches).filter(|(_, place)| overlap(place, positions).is_some());
        let mut taken = Vec::new();
        for (piece, _) in wanted {
            let Piece::Picture(index) = piece else { continue };
            let Some(sight @ Sight::Unseen(_)) = self.pictures.get_mut(*index) else { continue };
            if let Sight::Unseen(pixels) = std::mem::replace(sight, Sight::Looking) {
                taken.push((*index, pixels));
            }
        }
        taken
    }

    /// Stores the features of a picture, [patches, hidden].
    pub fn show(&mut self, index: usize, features: Tensor) {
        if let Some(sight) = self.pictures.get_mut(index) {
            *sight = Sight::Seen(features);
        }
    }

    /// What stands at `positions` of `side`, added to `chunks`; positions past the prompt add nothing.
    pub fn read<'a>(
        &'a self,
        side: Side,
        positions: &Range<usize>,
        chunks: &mut Vec<Chunk<'a>>,
    ) -> candle_core::Result<()> {
        if positions.start >= self.len {
            return Ok(());
        }
        if side == Side::Unconditional {
            chunks.extend(
                overlap(&(0..self.unconditional.len()), positions).map(|part| Chunk::Text(&self.unconditional[part])),
            );
            return Ok(());
        }
        for (piece, place) in places(&self.conditional, self.patches) {
            let Some(part) = overlap(&place, positions) else { continue };
            match piece {
                Piece::Text(ids) => chunks.push(Chunk::Text(&ids[part])),
                Piece::Picture(index) => match self.pictures.get(*index) {
                    Some(Sight::Seen(features)) => {
                        chunks.push(Chunk::Features(features.narrow(0, part.start, part.len())?))
                    }
                    _ => candle_core::bail!("picture {index} was not seen before its positions were read"),
                },
            }
        }
        Ok(())
    }
}

fn length(piece: &Piece, patches: usize) -> usize {
    match piece {
        Piece::Text(ids) => ids.len(),
        Piece::Picture(_) => patches,
    }
}

/// The pieces with the positions that they take.
fn places(pieces: &[Piece], patches: usize) -> impl Iterator<Item = (&Piece, Range<usize>)> {
    pieces.iter().scan(0, move |start, piece| {
        let place = *start..*start + length(piece, patches);
        *start = place.end;
        Some((piece, place))
    })
}

/// The part of `place` inside `positions`, counted from the start of `place`.
fn overlap(place: &Range<usize>, positions: &Range<usize>) -> Option<Range<usize>> {
    let (start, end) = (place.start.max(positions.start), place.end.min(positions.end));
    (start < end).then(|| start - place.start..end - place.start)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::model::prompt::{AnswerPrompt, DrawPrompt};

    fn question() -> Context {
        let pieces = vec![
            Piece::Text(vec![1, 2]),
            Piece::Picture(0),
            Piece::Text(vec![3]),
            Piece::Picture(1),
            Piece::Text(vec![4, 5]),
        ];
        let pictures = vec![Pixels::new(1, vec![0.0; 3]), Pixels::new(1, vec![0.0; 3])];
        Context::new(Work::Answer(AnswerPrompt { pieces, pictures, image_tokens: 4 }), 4).unwrap()
    }

    /// Ids as they are, features by their first number.
    fn read(context: &Context, side: Side, positions: Range<usize>) -> Vec<u32> {
        let mut chunks = Vec::new();
        context.read(side, &positions, &mut chunks).unwrap();
        let numbers = |chunk: Chunk<'_>| match chunk {
            Chunk::Text(ids) | Chunk::Codes(ids) => ids.to_vec(),
            Chunk::Features(features) => {
                features.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().map(|&x| x as u32).collect()
            }
        };
        chunks.into_iter().flat_map(numbers).collect()
    }

    #[test]
    fn pictures_are_seen_once_and_only_when_they_are_reached() {
        let mut context = question();
        assert_eq!(context.len(), 13);
        let taken = |context: &mut Context, positions| {
            context.take_unseen(&positions).iter().map(|(index, _)| *index).collect::<Vec<_>>()
        };
        assert!(taken(&mut context, 0..2).is_empty());
        assert_eq!(taken(&mut context, 0..3), [0]);
        assert!(taken(&mut context, 0..7).is_empty());
        assert_eq!(taken(&mut context, 3..8), [1]);
    }

    #[test]
    fn any_run_of_positions_reads_what_stands_there() {
        let mut context = question();
        context.take_unseen(&(0..13));
        context.show(0, Tensor::new(&[[10_f32], [11.0], [12.0], [13.0]], &Device::Cpu).unwrap());
        context.show(1, Tensor::new(&[[20_f32], [21.0], [22.0], [23.0]], &Device::Cpu).unwrap());
        let whole = [1, 2, 10, 11, 12, 13, 3, 20, 21, 22, 23, 4, 5];
        for start in 0..whole.len() {
            for end in start + 1..=whole.len() {
                assert_eq!(read(&context, Side::Conditional, start..end), whole[start..end]);
            }
        }
        assert!(read(&context, Side::Conditional, 13..14).is_empty());
    }

    #[test]
    fn a_picture_that_was_not_seen_is_an_error() {
        assert!(question().read(Side::Conditional, &(0..3), &mut Vec::new()).is_err());
    }

    #[test]
    fn the_blank_side_has_its_own_ids() {
        let context =
            Context::new(Work::Draw(DrawPrompt { conditional: vec![1, 2, 3], unconditional: vec![1, 0, 3] }), 4)
                .unwrap();
        assert_eq!(read(&context, Side::Unconditional, 0..3), [1, 0, 3]);
        assert_eq!(read(&context, Side::Conditional, 1..3), [2, 3]);
    }
}
