//! A model of what people like: logistic regression on features of samples, held out rater by rater. Numbers only; knows no network
//! and no ledger.

use std::collections::BTreeMap;

use serde::Serialize;

/// One judged sample.
#[derive(Clone, Debug)]
pub struct Judged<'a> {
    pub features: &'a [f32],
    pub rater: &'a str,
    /// It was liked.
    pub good: bool,
}

/// How well the model foretells raters it has not seen.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Quality {
    pub votes: usize,
    /// How often it ranks a liked sample above one that was not.
    pub auc: f64,
    /// Mean squared error of its probabilities, and that of always saying what is usual.
    pub brier: f64,
    pub brier_of_mean: f64,
}

impl Quality {
    /// Whether it is believed.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.auc >= GOOD
    }
}

/// The AUC from which it is believed.
const GOOD: f64 = 0.6;

/// Parts that raters are divided into.
const FOLDS: usize = 5;
/// Steps of gradient descent, and their length.
const STEPS: usize = 300;
const RATE: f64 = 0.5;
/// What squared weights cost, by the number of votes.
const DECAY: f64 = 20.0;

/// Weights of standardised features.
#[derive(Clone)]
pub struct Taste {
    means: Vec<f64>,
    scales: Vec<f64>,
    weights: Vec<f64>,
    bias: f64,
}

impl Taste {
    /// Learns from votes; none is no taste: one half for everything.
    #[must_use]
    pub fn learn(votes: &[Judged<'_>]) -> Self {
        let width = votes.first().map_or(0, |vote| vote.features.len());
        let n = votes.len().max(1) as f64;
        let mut means = vec![0.0; width];
        let mut scales = vec![0.0; width];
        for vote in votes {
            means.iter_mut().zip(vote.features).for_each(|(mean, &x)| *mean += f64::from(x) / n);
        }
        for vote in votes {
            let parts = scales.iter_mut().zip(&means).zip(vote.features);
            parts.for_each(|((scale, mean), &x)| *scale += (f64::from(x) - mean).powi(2) / n);
        }
        scales.iter_mut().for_each(|scale| *scale = if *scale > 1e-12 { scale.sqrt().recip() } else { 0.0 });
        let mut taste = Self { means, scales, weights: vec![0.0; width], bias: 0.0 };
        let rows: Vec<Vec<f64>> = votes.iter().map(|vote| taste.standard(vote.features)).collect();
        // The curvature of a row is a quarter of its squared length at most.
        let rate = RATE / (1.0 + 0.25 * width as f64).sqrt();
        for _ in 0..STEPS {
            let (mut slope, mut lift) = (vec![0.0; width], 0.0);
            for (row, vote) in rows.iter().zip(votes) {
                let error = (f64::from(u8::from(vote.good)) - sigmoid(taste.bias + dot(&taste.weights, row))) / n;
                slope.iter_mut().zip(row).for_each(|(slope, x)| *slope += error * x);
                lift += error;
            }
            let moved = taste.weights.iter_mut().zip(&slope);
            moved.for_each(|(weight, slope)| *weight += rate * (slope - DECAY / n * *weight));
            taste.bias += rate * lift;
        }
        taste
    }

    fn standard(&self, features: &[f32]) -> Vec<f64> {
        let parts = features.iter().zip(&self.means).zip(&self.scales);
        parts.map(|((&x, mean), scale)| (f64::from(x) - mean) * scale).collect()
    }

    /// How likely it is that somebody likes it, 0 to 1.
    #[must_use]
    pub fn of(&self, features: &[f32]) -> f64 {
        sigmoid(self.bias + self.lean(features))
    }

    /// By how much more or less than usual, log-odds.
    fn lean(&self, features: &[f32]) -> f64 {
        dot(&self.weights, &self.standard(features))
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// How much better or worse than usual each vote's sample is foretold to be by votes of other raters alone (log-odds), and how well that
/// goes. `None` where there are too few raters.
#[must_use]
pub fn foretell(votes: &[Judged<'_>]) -> Option<(Vec<f64>, Quality)> {
    let mut raters: BTreeMap<&str, usize> = BTreeMap::new();
    for vote in votes {
        let next = raters.len();
        raters.entry(vote.rater).or_insert(next);
    }
    if raters.len() < FOLDS {
        return None;
    }
    let fold = |vote: &Judged<'_>| raters.get(vote.rater).map_or(0, |at| at % FOLDS);
    let mut foretold = vec![0.0; votes.len()];
    let mut quality = Quality { votes: votes.len(), auc: 0.0, brier: 0.0, brier_of_mean: 0.0 };
    for part in 0..FOLDS {
        let (held, others): (Vec<_>, Vec<_>) = votes.iter().enumerate().partition(|(_, vote)| fold(vote) == part);
        let taste = Taste::learn(&others.into_iter().map(|(_, vote)| vote.clone()).collect::<Vec<_>>());
        let share = held.len() as f64 / votes.len().max(1) as f64;
        let good = |vote: &Judged<'_>| f64::from(u8::from(vote.good));
        let error = |of: &dyn Fn(&Judged<'_>) -> f64| {
            held.iter().map(|(_, vote)| (good(vote) - of(vote)).powi(2)).sum::<f64>() / held.len().max(1) as f64
        };
        // Within a part: others' mean leans away from its own, which would count against the ranking of all together.
        quality.auc += share * auc(held.iter().map(|(_, vote)| (taste.lean(vote.features), vote.good)).collect());
        quality.brier += share * error(&|vote| taste.of(vote.features));
        quality.brier_of_mean += share * error(&|_| sigmoid(taste.bias));
        for (at, vote) in held {
            foretold[at] = taste.lean(vote.features);
        }
    }
    Some((foretold, quality))
}

/// The share of pairs of a good and a bad one in which the good one has the higher number; equal ones count half. One half where there is
/// no such pair.
fn auc(mut scored: Vec<(f64, bool)>) -> f64 {
    scored.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut wins, mut bad) = (0.0, 0.0);
    for equal in scored.chunk_by(|a, b| a.0 == b.0) {
        let worse = equal.iter().filter(|(_, good)| !good).count() as f64;
        wins += (equal.len() as f64 - worse) * (bad + worse / 2.0);
        bad += worse;
    }
    let good = scored.len() as f64 - bad;
    if good * bad == 0.0 { 0.5 } else { wins / (good * bad) }
}

/// The share of pairs of one group in which the good one has the higher number, equal ones half, and how many pairs there are. Of groups,
/// because what tells easy prompts from hard ones tells nothing of the pictures of one.
pub fn auc_within<G: Ord>(scored: impl IntoIterator<Item = (G, f64, bool)>) -> (f64, usize) {
    let mut groups: BTreeMap<G, Vec<(f64, bool)>> = BTreeMap::new();
    for (group, number, good) in scored {
        groups.entry(group).or_default().push((number, good));
    }
    let (mut wins, mut pairs) = (0.0, 0);
    for group in groups.into_values() {
        let good = group.iter().filter(|(_, good)| *good).count();
        let here = good * (group.len() - good);
        pairs += here;
        wins += here as f64 * auc(group);
    }
    (if pairs == 0 { 0.5 } else { wins / pairs as f64 }, pairs)
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};

    use super::*;
    use crate::world::Dice;

    #[test]
    fn the_area_by_hand() {
        assert_eq!(auc(vec![(0.1, false), (0.4, true), (0.35, false), (0.8, true)]), 1.0);
        assert_eq!(auc(vec![(0.1, true), (0.4, false), (0.35, false), (0.8, true)]), 0.5);
        assert_eq!(auc(vec![(0.5, true), (0.5, false)]), 0.5);
        assert_eq!((auc(vec![(0.5, true)]), auc(vec![])), (0.5, 0.5));
    }

    #[test]
    fn pairs_are_of_one_group() {
        // Within each group the worse has the higher number, though the group of good ones lies higher.
        let scored = [(1, 0.9, true), (1, 0.8, true), (1, 1.0, false), (2, 0.1, true), (2, 0.2, false), (3, 0.5, true)];
        assert_eq!(auc_within(scored), (0.0, 3));
        assert_eq!(auc_within([(1, 0.5, true), (1, 0.5, false), (2, 0.7, true), (2, 0.6, false)]), (0.75, 2));
        assert_eq!(auc_within([(1, 0.5, true)]), (0.5, 0));
    }

    /// Votes of raters who like what the first feature says, but for slips.
    fn votes(slips: f64, seed: u64) -> Vec<(Vec<f32>, String, bool)> {
        let mut dice = Dice::seed_from_u64(seed);
        (0..1500)
            .map(|at| {
                let features: Vec<f32> = (0..20).map(|_| dice.random_range(-1.0..1.0)).collect();
                let good = (features[0] + 0.3 * features[1] > 0.0) != dice.random_bool(slips);
                (features, format!("rater {}", at % 30), good)
            })
            .collect()
    }

    fn judged(votes: &[(Vec<f32>, String, bool)]) -> Vec<Judged<'_>> {
        votes.iter().map(|(features, rater, good)| Judged { features, rater, good: *good }).collect()
    }

    #[test]
    fn taste_is_found_and_what_is_none_is_not() {
        let clear = votes(0.15, 7);
        let (foretold, quality) = foretell(&judged(&clear)).unwrap();
        // A perfect judge of such votes would come to 0.85.
        assert!(quality.auc > 0.78 && quality.brier < quality.brier_of_mean - 0.05, "{quality:?}");
        let agrees = foretold.iter().zip(&clear).filter(|(lean, (_, _, good))| (**lean > 0.0) == *good).count();
        assert!(agrees > 1100, "{agrees}");
        let nothing: Vec<Quality> = (0..8).map(|seed| foretell(&judged(&votes(0.5, seed))).unwrap().1).collect();
        let mean = nothing.iter().map(|quality| quality.auc).sum::<f64>() / 8.0;
        assert!((mean - 0.5).abs() < 0.03, "{nothing:?}");
        assert!(nothing.iter().all(|quality| quality.brier < quality.brier_of_mean + 0.02), "{nothing:?}");
        let taste = Taste::learn(&judged(&clear));
        let mut features = vec![0.0; 20];
        features[0] = 0.9;
        assert!(taste.of(&features) > 0.7);
        features[0] = -0.9;
        assert!(taste.of(&features) < 0.3);
    }

    #[test]
    fn too_few_raters_or_votes_say_nothing() {
        let some = votes(0.1, 7);
        assert!(foretell(&judged(&some[..4])).is_none());
        assert_eq!(Taste::learn(&[]).of(&[]), 0.5);
        let alike = vec![(vec![1.0; 3], "a".to_owned(), true); 3];
        assert!(Taste::learn(&judged(&alike)).of(&[1.0; 3]).is_finite());
    }
}
