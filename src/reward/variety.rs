//! Variety: how rare a picture's dominant colour is. Knows nothing of what was asked for.

use std::collections::BTreeMap;

use super::{DrawReward, Drawn, Label, Oracle, RewardError, Wanted, pixels};
use crate::domain::picture::Picture;

/// How rare a picture's dominant colour is: 1 less the share of the others that have it too, half of it among all of its step, half among
/// those of its own prompt. The first keeps prompts that leave the background open from always getting the same one, which no reward of
/// a single picture would notice; the second keeps each prompt from getting one of its own.
#[derive(Clone, Copy, Debug)]
pub struct Variety;

impl DrawReward for Variety {
    fn label(&self) -> Label {
        Label { name: "variety", version: 3, range: (0.0, 1.0) }
    }

    fn score(&self, _: &Wanted, group: &[&Picture], _: &dyn Oracle) -> Result<Option<Vec<f64>>, RewardError> {
        Ok(rare(&colours(group)))
    }

    fn score_step(&self, step: &[Drawn<'_>], _: &dyn Oracle) -> Vec<Result<Option<Vec<f64>>, RewardError>> {
        let groups: Vec<_> = step.iter().map(|group| colours(&group.pictures)).collect();
        rarity(&groups).into_iter().map(Ok).collect()
    }
}

fn colours(group: &[&Picture]) -> Vec<u16> {
    group.iter().map(|picture| pixels::dominant(picture)).collect()
}

/// 1 less the share of the others that are the same, of each; `None` where there are no others.
fn rare(colours: &[u16]) -> Option<Vec<f64>> {
    let mut counts: BTreeMap<u16, usize> = BTreeMap::new();
    for &colour in colours {
        *counts.entry(colour).or_default() += 1;
    }
    let others = colours.len().checked_sub(1).filter(|&others| others > 0)?;
    Some(colours.iter().map(|colour| 1.0 - (counts[colour] - 1) as f64 / others as f64).collect())
}

/// The mean of how rare each is in its group and among those of all groups; by the latter alone in a group of one.
fn rarity(groups: &[Vec<u16>]) -> Vec<Option<Vec<f64>>> {
    let Some(all) = rare(&groups.concat()) else { return vec![None; groups.len()] };
    let mut all = all.into_iter();
    let of = |group: &Vec<u16>| {
        let among: Vec<f64> = all.by_ref().take(group.len()).collect();
        let Some(inside) = rare(group) else { return Some(among) };
        Some(among.iter().zip(inside).map(|(a, b)| (a + b) / 2.0).collect())
    };
    groups.iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_colour_is_as_rare_as_the_others_make_it() {
        let alone = [0.25, 0.25, 0.25, 0.25, 1.0];
        assert_eq!(rare(&[7, 7, 7, 7, 1]), Some(alone.to_vec()));
        assert_eq!(rarity(&[vec![7, 7, 7, 7, 1]]), [Some(alone.to_vec())]);
        // A group of one colour earns alike, and more where others have another; the odd one of a group earns most.
        let rare = rarity(&[vec![7, 7], vec![1, 7, 1]]);
        assert_eq!(rare, [Some(vec![0.25, 0.25]), Some(vec![0.625, 0.75, 0.625])]);
        assert_eq!(rarity(&[vec![7], vec![]]), [None, None]);
        assert_eq!(rarity(&[vec![7], vec![1]]), [Some(vec![1.0]), Some(vec![1.0])]);
    }
}
