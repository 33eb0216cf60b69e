//! The model under training as rewards may ask it: answers through the engine, states by a pass of the network. Knows no reward.

use std::sync::Arc;

use super::super::player::Player;
use super::rollout::roll;
use crate::domain::picture::Picture;
use crate::domain::sample::Output;
use crate::domain::task::{Answer, Sampling};
use crate::engine::command::Work;
use crate::model::Model;
use crate::model::network::Span;
use crate::model::prompt::{AnswerPrompt, Piece};
use crate::reward::{Oracle, RewardError, States};
use crate::train::pretrain::asked;

/// See the module text.
pub struct Eyes {
    pub player: Player,
    /// Most tokens of an answer.
    pub answer_tokens: usize,
}

fn failed(error: impl std::fmt::Display) -> RewardError {
    RewardError::Oracle(error.to_string())
}

impl Oracle for Eyes {
    fn answers(&self, questions: &[(Arc<Picture>, String)]) -> Result<Vec<String>, RewardError> {
        let sampling = Sampling { temperature: 0.0, max_tokens: self.answer_tokens, ..Sampling::default() };
        let conversations = questions.iter().map(|(picture, question)| (asked(picture, question), sampling.clone()));
        self.replies(conversations.collect())
    }

    fn replies(&self, conversations: Vec<(Answer, Sampling)>) -> Result<Vec<String>, RewardError> {
        let model = &self.player.model;
        let work = conversations.into_iter().map(|(conversation, sampling)| {
            let prompt = model.prompter().answer(&conversation).map_err(failed)?;
            Ok((Work::Answer(prompt), vec![sampling]))
        });
        let groups = roll(&self.player, work.collect::<Result<_, RewardError>>()?).map_err(failed)?;
        let texts = groups.into_iter().flatten().map(|sample| match sample.output {
            Output::Text(text) => Ok(text),
            Output::Picture(_) => Err(failed("a question was answered with a picture")),
        });
        texts.collect()
    }

    fn states(&self, text: &str, pictures: &[&Picture]) -> Result<Vec<States>, RewardError> {
        let model = &self.player.model;
        pictures.iter().map(|&picture| states(model, text, picture)).collect()
    }
}

fn states(model: &Model, text: &str, picture: &Picture) -> Result<States, RewardError> {
    let picture = Arc::new(picture.clone());
    let prompt = |text: &str| model.prompter().answer(&asked(&picture, text)).map_err(failed);
    let (with, without) = (prompt(text)?, prompt("")?);
    let features = model.see(&with.pictures).map_err(failed)?;
    let chunks = with.chunks(Some(&features), 0).map_err(failed)?;
    let hidden = model.network().forward(&[Span { slot: 0, start: 0, chunks }]).map_err(failed)?;
    let rows = |(from, to): (usize, usize)| -> Result<Vec<f32>, RewardError> {
        let rows = hidden.narrow(0, from, to - from).and_then(|rows| rows.flatten_all());
        rows.and_then(|rows| rows.to_vec1()).map_err(failed)
    };
    let (picture, text) = places(&with, &without);
    let width = hidden.dim(1).map_err(failed)?;
    Ok(States { width, picture: rows(picture)?, text: rows(text)? })
}

/// The positions of the picture, and those of the text behind it: where the message differs from the same one without the text.
fn places(with: &AnswerPrompt, without: &AnswerPrompt) -> ((usize, usize), (usize, usize)) {
    let (mut at, mut picture) = (0, (0, 0));
    for piece in &with.pieces {
        match piece {
            Piece::Text(ids) => at += ids.len(),
            Piece::Picture(_) => {
                picture = (at, at + with.image_tokens);
                at = picture.1;
            }
        }
    }
    let behind = |prompt: &AnswerPrompt| match prompt.pieces.last() {
        Some(Piece::Text(ids)) => ids.clone(),
        _ => Vec::new(),
    };
    let (with, without) = (behind(with), behind(without));
    let before = with.iter().zip(&without).take_while(|(a, b)| a == b).count();
    let (with_rest, without_rest) = (&with[before..], &without[before..]);
    let after = with_rest.iter().rev().zip(without_rest.iter().rev()).take_while(|(a, b)| a == b).count();
    (picture, (picture.1 + before, picture.1 + with.len() - after))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt(before: &[u32], behind: &[u32]) -> AnswerPrompt {
        let pieces = vec![Piece::Text(before.to_vec()), Piece::Picture(0), Piece::Text(behind.to_vec())];
        AnswerPrompt { pieces, pictures: vec![], image_tokens: 4 }
    }

    #[test]
    fn a_text_lies_where_the_message_without_it_differs() {
        let without = prompt(&[1, 2], &[8, 9]);
        assert_eq!(places(&prompt(&[1, 2], &[8, 5, 6, 9]), &without), ((2, 6), (7, 9)));
        // Ids that are also of the template count once.
        assert_eq!(places(&prompt(&[1, 2], &[8, 9, 9]), &without), ((2, 6), (8, 9)));
        assert_eq!(places(&without, &without), ((2, 6), (8, 8)));
    }
}
