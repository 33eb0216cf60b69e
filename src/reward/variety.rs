//! Variety: how rare a picture's dominant colour is. Knows nothing of what was asked for.

use std::collections::BTreeMap;

use super::{DrawReward, Drawn, Label, Oracle, RewardError, Wanted, pixels};
use crate::domain::picture::Picture;

/// How rare a picture's dominant colour is among those of its step: 1 less the share of the others that have it too. It keeps prompts that
/// leave the background open from always getting the same one, which no reward of a single picture would notice. A group alone is
/// held against itself; what it happens to be drawn on is then most of what its pictures earn.
#[derive(Clone, Copy, Debug)]
pub struct Variety;

impl DrawReward for Variety {
    fn label(&self) -> Label {
        Label { name: "variety", version: 2, range: (0.0, 1.0) }
    }

    fn score(&self, _: &Wanted, group: &[&Picture], _: &dyn Oracle) -> Result<Option<Vec<f64>>, RewardError> {
        Ok(rarity(&[colours(group)]).pop().flatten())
    }

    fn score_step(&self, step: &[Drawn<'_>], _: &dyn Oracle) -> Vec<Result<Option<Vec<f64>>, RewardError>> {
        let step: Vec<_> = step.iter().map(|group| colours(&group.pictures)).collect();
        rarity(&step).into_iter().map(Ok).collect()
    }
}

fn colours(group: &[&Picture]) -> Vec<u16> {
    group.iter().map(|picture| pixels::dominant(picture)).collect()
}

/// 1 less the share of the others of all groups that are the same; `None` where there are no others.
fn rarity(groups: &[Vec<u16>]) -> Vec<Option<Vec<f64>>> {
    let mut counts: BTreeMap<u16, usize> = BTreeMap::new();
    for &colour in groups.iter().flatten() {
        *counts.entry(colour).or_default() += 1;
    }
    let others = groups.iter().map(Vec::len).sum::<usize>().saturating_sub(1);
    let rare = |colour: &u16| 1.0 - (counts[colour] - 1) as f64 / others as f64;
    groups.iter().map(|group| (others > 0).then(|| group.iter().map(rare).collect())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_colour_is_as_rare_as_the_others_make_it() {
        assert_eq!(rarity(&[vec![7, 7, 7, 7, 1]]), [Some(vec![0.25, 0.25, 0.25, 0.25, 1.0])]);
        // A group of one colour earns alike, and more where others have another.
        let rare = rarity(&[vec![7, 7], vec![1, 7, 1]]);
        assert_eq!(rare, [Some(vec![0.5, 0.5]), Some(vec![0.75, 0.5, 0.75])]);
        assert_eq!(rarity(&[vec![7], vec![]]), [None, None]);
        assert_eq!(rarity(&[vec![7], vec![1]]), [Some(vec![1.0]), Some(vec![1.0])]);
    }
}
