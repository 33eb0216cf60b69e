//! What people said of samples as rewards: opinions in, a number from 0 to 1 for each sample out, with what the opinions weigh. One rater's
//! word is capped, and raters who contradict an independent judge beyond chance are not heard, but listed. Pure; knows no ledger.

use std::collections::BTreeMap;
use std::hash::Hash;

/// One opinion of one sample, as a number.
#[derive(Clone, Debug, PartialEq)]
pub struct Vote<S> {
    pub sample: S,
    /// Whose it is; those without a name are one rater together.
    pub rater: String,
    /// 0 (bad) to 1 (good).
    pub value: f64,
}

/// What is said of a sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Heard {
    /// Weighted mean of its votes, 0 to 1.
    pub value: f64,
    /// What they weigh together; a vote of an ordinary rater weighs 1.
    pub weight: f64,
}

/// Votes that the judge had a clear opinion on, and how many of them agreed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    pub judged: usize,
    pub agreed: usize,
}

impl std::ops::AddAssign for Standing {
    fn add_assign(&mut self, other: Self) {
        self.judged = self.judged.saturating_add(other.judged);
        self.agreed = self.agreed.saturating_add(other.agreed);
    }
}

/// How a rater did beside the judge.
#[derive(Clone, Debug, PartialEq)]
pub struct Rater {
    pub name: String,
    pub votes: usize,
    /// By these votes, and by earlier ones.
    pub now: Standing,
    pub before: Standing,
    /// What each of its votes weighs.
    pub weight: f64,
}

/// How votes are weighed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Listening {
    /// The most that one rater's votes may weigh, as a share of all votes.
    pub cap: f64,
    /// How unlikely it must be that somebody who says anything agrees with the judge so seldom, for them to be heard no more.
    pub doubt: f64,
}

impl Default for Listening {
    fn default() -> Self {
        Self { cap: 0.25, doubt: 0.01 }
    }
}

/// What each sample is said to be worth, and how each rater did. `judge` is an opinion from elsewhere, 0 to 1, that did not see the
/// votes of the rater in question; `None` where there is none. `before` is how raters did with earlier votes, which are not
/// forgotten.
pub fn hear<S: Clone + Ord + Hash>(
    votes: &[Vote<S>],
    judge: impl Fn(&Vote<S>) -> Option<f64>,
    before: &BTreeMap<String, Standing>,
    listening: Listening,
) -> (BTreeMap<S, Heard>, Vec<Rater>) {
    let mut raters: BTreeMap<&str, Rater> = BTreeMap::new();
    for vote in votes {
        let fresh = || Rater {
            name: vote.rater.clone(),
            votes: 0,
            now: Standing::default(),
            before: before.get(&vote.rater).copied().unwrap_or_default(),
            weight: 1.0,
        };
        let rater = raters.entry(&vote.rater).or_insert_with(fresh);
        rater.votes += 1;
        // What is neither good nor bad contradicts nobody.
        if let Some(judged) = judge(vote)
            && judged != 0.5
            && vote.value != 0.5
        {
            rater.now += Standing { judged: 1, agreed: usize::from((judged > 0.5) == (vote.value > 0.5)) };
        }
    }
    for rater in raters.values_mut() {
        let mut all = rater.before;
        all += rater.now;
        if chance(all) < listening.doubt {
            rater.weight = 0.0;
        }
    }
    cap(&mut raters, listening.cap);
    let mut sums: BTreeMap<S, (f64, f64)> = BTreeMap::new();
    for vote in votes {
        let weight = raters.get(vote.rater.as_str()).map_or(0.0, |rater| rater.weight);
        let sum = sums.entry(vote.sample.clone()).or_default();
        *sum = (sum.0 + weight * vote.value, sum.1 + weight);
    }
    let heard = sums.into_iter().filter(|(_, (_, weight))| *weight > 0.0);
    let heard = heard.map(|(sample, (sum, weight))| (sample, Heard { value: sum / weight, weight })).collect();
    (heard, raters.into_values().collect())
}

/// Lowers the votes of those who would weigh more than their share, until none does. Where too few are heard for the cap to hold, they
/// weigh the same.
fn cap(raters: &mut BTreeMap<&str, Rater>, share: f64) {
    let heard: usize = raters.values().filter(|rater| rater.weight > 0.0).count();
    let share = share.max(1.0 / heard.max(1) as f64);
    // All that weigh more than `most` are lowered to it; `most` is that share of what all come to then.
    let mut sizes: Vec<f64> =
        raters.values().filter(|rater| rater.weight > 0.0).map(|rater| rater.votes as f64).collect();
    sizes.sort_by(f64::total_cmp);
    let mut most = f64::INFINITY;
    for lowered in 0..=sizes.len() {
        let (kept, over) = sizes.split_at(sizes.len() - lowered);
        let rest: f64 = kept.iter().sum();
        let bound = if lowered == 0 { share * rest } else { share * rest / (1.0 - share * lowered as f64).max(1e-9) };
        let fits = kept.last().is_none_or(|largest| *largest <= bound + 1e-9);
        if fits {
            if !over.is_empty() {
                // Where nobody is left to weigh against, the smallest sets the measure.
                most = if rest > 0.0 { bound } else { over[0] };
            }
            break;
        }
    }
    for rater in raters.values_mut().filter(|rater| rater.weight > 0.0) {
        rater.weight = (most / rater.votes as f64).min(1.0);
    }
}

/// How likely it is to agree `agreed` times or fewer of `judged` by saying anything: the lower tail of a binomial with one half.
fn chance(Standing { judged, agreed }: Standing) -> f64 {
    let (mut term, mut sum) = (-(judged as f64) * std::f64::consts::LN_2, 0.0);
    for k in 0..=agreed.min(judged) {
        sum += f64::exp(term);
        term += ((judged - k) as f64 / (k + 1) as f64).ln();
    }
    f64::min(sum, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vote(sample: u32, rater: &str, value: f64) -> Vote<u32> {
        Vote { sample, rater: rater.into(), value }
    }

    /// Against the binomial's table: P(X <= 2 | 10, 1/2) = 56 / 1024.
    #[test]
    fn chance_is_the_binomials_tail() {
        let chance = |judged, agreed| chance(Standing { judged, agreed });
        assert!((chance(10, 2) - 56.0 / 1024.0).abs() < 1e-12);
        assert!((chance(10, 10) - 1.0).abs() < 1e-9 && (chance(0, 0) - 1.0).abs() < 1e-12);
        assert!(chance(1000, 400) < 1e-9 && chance(1000, 500) > 0.4);
    }

    #[test]
    fn votes_on_a_sample_make_a_mean() {
        let votes = [vote(1, "a", 1.0), vote(1, "b", 0.0), vote(2, "c", 1.0), vote(3, "d", 0.25), vote(3, "a", 0.75)];
        let (heard, raters) = hear(&votes, |_| None, &BTreeMap::new(), Listening { cap: 1.0, doubt: 0.01 });
        assert_eq!(heard[&1], Heard { value: 0.5, weight: 2.0 });
        assert_eq!((heard[&2].value, heard[&3].value), (1.0, 0.5));
        assert_eq!(raters.iter().map(|rater| rater.votes).collect::<Vec<_>>(), [2, 1, 1, 1]);
    }

    #[test]
    fn who_contradicts_the_judge_beyond_chance_is_heard_no_more() {
        let mut votes = vec![];
        for sample in 0..40 {
            let good = f64::from(sample % 2);
            votes.push(vote(sample, "honest", if sample % 7 == 0 { 1.0 - good } else { good }));
            votes.push(vote(sample, "malicious", 1.0 - good));
            votes.push(vote(sample, "moody", f64::from(sample / 2 % 2)));
            votes.push(vote(sample, "unsure", 0.5));
        }
        votes.push(vote(0, "new", 1.0));
        let parity = |vote: &Vote<u32>| Some(f64::from(vote.sample % 2));
        let (heard, raters) = hear(&votes, parity, &BTreeMap::new(), Listening { cap: 1.0, doubt: 0.01 });
        let weights: BTreeMap<&str, f64> = raters.iter().map(|rater| (rater.name.as_str(), rater.weight)).collect();
        assert_eq!(weights["malicious"], 0.0);
        assert!(["honest", "moody", "unsure", "new"].iter().all(|name| weights[name] == 1.0), "{raters:?}");
        assert!(heard[&3].value > 0.5 && heard[&3].weight == 3.0);
        // Nobody is found out by six votes alone, but by those and earlier ones.
        let few: Vec<_> = votes.iter().filter(|vote| vote.sample < 6).cloned().collect();
        let before = BTreeMap::from([("malicious".to_owned(), Standing { judged: 20, agreed: 5 })]);
        for (before, weight) in [(BTreeMap::new(), 1.0), (before, 0.0)] {
            let (_, raters) = hear(&few, parity, &before, Listening { cap: 1.0, doubt: 0.01 });
            let found = raters.iter().find(|rater| rater.name == "malicious").unwrap();
            assert_eq!((found.weight, found.now), (weight, Standing { judged: 6, agreed: 0 }));
        }
        // Where only they spoke there is nothing.
        let (heard, _) = hear(&votes[1..2], |_| Some(0.0), &BTreeMap::new(), Listening { cap: 1.0, doubt: 0.6 });
        assert!(heard.is_empty());
    }

    #[test]
    fn one_raters_word_is_capped() {
        let many = |rater: &'static str, n: u32| (0..n).map(move |sample| vote(sample, rater, 1.0));
        let weights = |votes: &[Vote<u32>], cap: f64| -> Vec<f64> {
            let (_, raters) = hear(votes, |_| None, &BTreeMap::new(), Listening { cap, doubt: 0.01 });
            raters.iter().map(|rater| rater.weight * rater.votes as f64).collect()
        };
        // 25 % of what all come to: 10 + 10 + 10 and 10 of the loud one's 900.
        let votes: Vec<_> =
            ["a", "b", "c"].into_iter().flat_map(|rater| many(rater, 10)).chain(many("loud", 900)).collect();
        let found = weights(&votes, 0.25);
        assert!(found.iter().all(|weight| (weight - 10.0).abs() < 1e-6), "{found:?}");
        // Two loud ones, of six: 20 % each of 60 together with 36 of four quiet ones.
        let quiet = ["a", "b", "c", "d"].into_iter().flat_map(|rater| many(rater, 9));
        let votes: Vec<_> = quiet.chain(many("x", 50)).chain(many("y", 70)).collect();
        let found = weights(&votes, 0.2);
        assert!((found[4] - 12.0).abs() < 1e-6 && (found[5] - 12.0).abs() < 1e-6 && found[0] == 9.0, "{found:?}");
        // One or two alone are heard.
        assert_eq!(weights(&many("a", 5).collect::<Vec<_>>(), 0.25), [5.0]);
        let found = weights(&many("a", 5).chain(many("b", 50)).collect::<Vec<_>>(), 0.25);
        assert!((found[0] - 5.0).abs() < 1e-6 && (found[1] - 5.0).abs() < 1e-6, "{found:?}");
        assert!(weights(&[], 0.25).is_empty());
    }
}
