//! Held-out requests of users, which no round learns from, done by both versions: what the raters' taste makes of the pictures, and whether
//! answers are what people said they should have been. Decides nothing.

use rand::{RngExt, SeedableRng};

use super::gate::{Guard, Margin};
use super::liking::Tasted;
use crate::domain::picture::Picture;
use crate::domain::sample::Output;
use crate::domain::task::{Draw, Sampling};
use crate::engine::command::Work;
use crate::model::Defaults;
use crate::reward::answer::accuracy;
use crate::reward::{Asked, Oracle as _};
use crate::train::TrainError;
use crate::train::corl::oracle::Eyes;
use crate::train::corl::rollout::roll;
use crate::train::player::Player;
use crate::world::Dice;

/// Most prompts, and most corrected questions, that are done.
pub(super) const MOST: usize = 64;
/// Fewest of each that tell anything.
const FEWEST: usize = 20;
/// Pictures of each prompt.
const EACH: usize = 2;
/// Most tokens of an answer.
const ANSWER: usize = 96;
/// How far the taste of pictures may fall, and the share of right answers: some four times what chance moves them by.
const TASTE: f64 = 0.05;
const RIGHT: f64 = 0.1;

/// What is held out, and the taste that judges it.
#[derive(Default)]
pub struct Own {
    pub prompts: Vec<Draw>,
    /// Of those who are heard; none where it is not known well enough.
    pub taste: Option<Tasted>,
    /// With the answers that people gave.
    pub corrected: Vec<Asked>,
}

/// What a version made of it: by task, 0 to 1.
pub struct OwnLooks {
    liked: Vec<f64>,
    right: Vec<f64>,
}

impl Own {
    /// Draws and answers it. The same seeds for every version. Call it outside an async runtime.
    ///
    /// # Errors
    /// When the engine fails.
    pub fn looks(&self, player: &Player, served: Defaults) -> Result<OwnLooks, TrainError> {
        let (mut liked, mut right) = (vec![], vec![]);
        if let Some(taste) = &self.taste
            && self.prompts.len() >= FEWEST
        {
            let mut dice = Dice::seed_from_u64(0x0a11);
            let Defaults { guidance, temperature } = served;
            let work = self.prompts.iter().take(MOST).map(|draw| {
                let samplings = (0..EACH)
                    .map(|_| Sampling { seed: dice.random(), guidance, temperature, ..Sampling::default() })
                    .collect();
                Ok((Work::Draw(player.model.prompter().draw(draw)?), samplings))
            });
            let work = work.collect::<Result<Vec<_>, TrainError>>()?;
            for (draw, samples) in self.prompts.iter().zip(roll(player, work)?) {
                let pictures: Vec<&Picture> = samples
                    .iter()
                    .filter_map(|one| if let Output::Picture(picture) = &one.output { Some(picture) } else { None })
                    .collect();
                liked.extend(taste.of(&draw.prompt, &pictures)?);
            }
        }
        if self.corrected.len() >= FEWEST {
            let some: Vec<&Asked> = self.corrected.iter().take(MOST).collect();
            let greedy = Sampling { temperature: 0.0, max_tokens: ANSWER, ..Sampling::default() };
            let questions = some.iter().map(|one| (one.conversation.clone(), greedy.clone())).collect();
            let eyes = Eyes { player: player.clone(), answer_tokens: ANSWER };
            let said = eyes.replies(questions).map_err(|e| TrainError::State(e.to_string()))?;
            right = said
                .iter()
                .zip(some)
                .filter_map(|(said, one)| Some(accuracy(said, &one.problem, one.solution.as_deref()?, one.kind)))
                .collect();
        }
        Ok(OwnLooks { liked, right })
    }
}

/// What may not fall, as far as there is enough of it.
#[must_use]
pub fn guards(live: &OwnLooks, candidate: &OwnLooks) -> Vec<Guard> {
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
    [
        ("taste of held-out requests", &live.liked, &candidate.liked, TASTE),
        ("held-out corrections", &live.right, &candidate.right, RIGHT),
    ]
    .into_iter()
    .filter(|(_, was, is, _)| !was.is_empty() || !is.is_empty())
    .map(|(name, was, is, by)| Guard {
        name: name.to_owned(),
        live: mean(was),
        candidate: mean(is),
        margin: Margin::Fall(by),
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_there_is_none_of_guards_nothing() {
        let looks = |liked: f64, right: f64| OwnLooks { liked: vec![liked; 40], right: vec![right; 20] };
        let none = || OwnLooks { liked: vec![], right: vec![] };
        assert!(guards(&none(), &none()).is_empty());
        let both = guards(&looks(0.6, 0.9), &looks(0.5, 0.95));
        let held = |guard: &Guard| super::super::gate::decide(&[], std::slice::from_ref(guard), 1).guards[0].held;
        assert_eq!(both.iter().map(held).collect::<Vec<_>>(), [false, true]);
    }
}
