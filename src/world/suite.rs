//! The evaluation items: prompts to draw and questions to answer, the same for the same seed, none of them seen in training.

use rand::RngExt;

use super::caption::{Category, Requirement};
use super::held_out::Split;
use super::question::{self, Form, Kind, Question};
use super::render::render;
use super::scene::Scene;
use super::{Dice, dice};
use crate::domain::picture::Picture;

/// A prompt to draw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrawItem {
    /// Its category.
    pub category: Category,
    /// `HeldOut`, or `UnseenPairs`, which is reported apart.
    pub split: Split,
    /// The prompt.
    pub prompt: String,
    /// What the picture must show.
    pub requirement: Requirement,
    /// A seed of its own, to sample with.
    pub seed: u64,
}

/// A question to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerItem {
    /// `HeldOut`, or `UnseenPairs`, which is reported apart.
    pub split: Split,
    /// What the picture shows.
    pub scene: Scene,
    /// The picture.
    pub picture: Picture,
    /// The question, in `Open` or `Choice` form.
    pub question: Question,
    /// A seed of its own, to sample with.
    pub seed: u64,
}

/// `per_category` plain prompts of each of the six categories, of held-out compositions where the category has such; then, as
/// `UnseenPairs`, `per_category` each of colors and attribution. No prompt comes again before its category is exhausted.
#[must_use]
pub fn drawing(seed: u64, per_category: usize) -> Vec<DrawItem> {
    let mut dice = dice(seed);
    let held_out = Category::ALL.map(|category| (category, Split::HeldOut));
    let unseen = [(Category::Colors, Split::UnseenPairs), (Category::Attribution, Split::UnseenPairs)];
    let groups = held_out.into_iter().chain(unseen);
    groups.flat_map(|(category, split)| prompts(category, split, per_category, &mut dice)).collect()
}

fn prompts(category: Category, split: Split, n: usize, dice: &mut Dice) -> Vec<DrawItem> {
    /// Draws without a new prompt after which a category counts as exhausted.
    const PATIENCE: usize = 400;
    let mut items: Vec<DrawItem> = Vec::with_capacity(n);
    // Prompts since the category was last exhausted.
    let mut fresh_from = 0;
    let mut repeats = 0;
    while items.len() < n {
        let (_, caption) = Scene::draw(category, split, dice);
        if items[fresh_from..].iter().any(|item| item.prompt == caption.text) {
            repeats += 1;
            if repeats >= PATIENCE {
                (fresh_from, repeats) = (items.len(), 0);
            }
            continue;
        }
        repeats = 0;
        let (prompt, requirement, seed) = (caption.text, caption.requirement, dice.random());
        items.push(DrawItem { category, split, prompt, requirement, seed });
    }
    items
}

/// `per_kind` questions of each kind in open form and as many in choice form, about held-out scenes; then a quarter as many, as
/// `UnseenPairs`, about scenes with an unseen shape-colour pair.
#[must_use]
pub fn answering(seed: u64, per_kind: usize) -> Vec<AnswerItem> {
    let mut dice = dice(seed);
    let mut items = Vec::new();
    for (split, n) in [(Split::HeldOut, per_kind), (Split::UnseenPairs, per_kind.div_ceil(4))] {
        for kind in Kind::ALL {
            for form in [Form::Open, Form::Choice] {
                for _ in 0..n {
                    let (scene, question) = question::draw(kind, form, split, &mut dice);
                    let picture = render(&scene);
                    items.push(AnswerItem { split, scene, picture, question, seed: dice.random() });
                }
            }
        }
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_suite_is_a_function_of_its_seed() {
        assert_eq!(drawing(7, 20), drawing(7, 20));
        assert_ne!(drawing(7, 20), drawing(8, 20));
        assert_eq!(answering(7, 3), answering(7, 3));
    }

    #[test]
    fn prompts_repeat_only_when_exhausted() {
        let items = drawing(1, 60);
        assert_eq!(items.len(), 8 * 60);
        let distinct = |category, split| {
            let items = items.iter().filter(|item| item.category == category && item.split == split);
            items.map(|item| &item.prompt).collect::<BTreeSet<_>>().len()
        };
        assert_eq!(Category::ALL.map(|category| distinct(category, Split::HeldOut)), [6, 6, 18, 32, 14, 60]);
    }
}
