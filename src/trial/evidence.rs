//! Whether one version is rated worse than another, asked as often as one likes: a bet that is a fair game where it is not worse, so that
//! it makes its stake twentyfold in at most one of twenty such games, whenever one stops. Pure; knows no version and no ledger.
//!
//! Two samples tested by betting: S. Shekhar and A. Ramdas, "Nonparametric Two-Sample Testing by Betting", IEEE Transactions on
//! Information Theory 70 (2024); I. Waudby-Smith and A. Ramdas, "Estimating means of bounded random variables by betting", JRSS B 86
//! (2024). The bound is Ville's inequality (1939). Bets of several sizes share the stake, so none has to be tuned.

/// How often a version that is not worse may be called so, over all looks together.
pub const ALPHA: f64 = 0.05;
/// What the stake must grow to for that.
pub const LIMIT: f64 = 1.0 / ALPHA;
/// Shares of what it has that each of the bets puts on the next pair. Half of it at most: no single pair then counts more than 1.5 times,
/// and eleven at least are needed.
const BETS: [f64; 4] = [0.5, 0.25, 0.125, 0.0625];

/// What a comparison has come to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evidence {
    /// Opinions of the new version that stood against as many of the other one.
    pub pairs: usize,
    /// The most that a stake of 1 on "it is worse" has grown to (an e-value).
    pub against: f64,
}

impl Evidence {
    #[must_use]
    pub fn is_worse(&self) -> bool {
        self.against >= LIMIT
    }
}

/// Holds opinions (0 to 1, in the order in which they came) of the new version against those of the other, each against the mean of
/// `beside` of them. Ends at the pair that decides.
#[must_use]
pub fn weigh(other: &[f64], new: &[f64], beside: usize) -> Evidence {
    let beside = beside.max(1);
    let mut stakes = BETS.map(|_| 1.0 / BETS.len() as f64);
    let mut evidence = Evidence { pairs: 0, against: 1.0 };
    for (others, one) in other.chunks_exact(beside).zip(new) {
        let worse = others.iter().sum::<f64>() / beside as f64 - one;
        for (stake, bet) in stakes.iter_mut().zip(BETS) {
            *stake *= 1.0 + bet * worse;
        }
        evidence.pairs += 1;
        evidence.against = evidence.against.max(stakes.iter().sum());
        if evidence.is_worse() {
            break;
        }
    }
    evidence
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// Opinions of so many raters, each asked once; a fifth of them like or dislike whatever they see.
    fn opinions(n: usize, liked: f64, dice: &mut ChaCha8Rng) -> Vec<f64> {
        (0..n)
            .map(|_| {
                let mood: f64 = dice.random();
                let share = if mood < 0.1 {
                    0.0
                } else if mood < 0.2 {
                    1.0
                } else {
                    liked
                };
                f64::from(u8::from(dice.random_bool(share)))
            })
            .collect()
    }

    /// Of 400 runs, those that end with "worse", and the pairs that half of these needed.
    fn called_worse(pairs: usize, beside: usize, liked: f64, now: f64) -> (usize, usize) {
        let run = |seed| {
            let mut dice = ChaCha8Rng::seed_from_u64(seed);
            let (other, new) = (opinions(pairs * beside, liked, &mut dice), opinions(pairs, now, &mut dice));
            weigh(&other, &new, beside)
        };
        let mut worse: Vec<usize> =
            (0..400).map(run).filter(Evidence::is_worse).map(|evidence| evidence.pairs).collect();
        worse.sort_unstable();
        (worse.len(), worse.get(worse.len() / 2).copied().unwrap_or(0))
    }

    /// Of what a version makes, the share that those who judge by what they see like.
    const SAME: f64 = 0.65;

    #[test]
    fn an_equal_version_is_called_worse_in_at_most_five_of_a_hundred_long_runs() {
        let (found, _) = called_worse(3000, 9, SAME, SAME);
        assert!(found <= 20, "{found} of 400");
        let each = [(1, 0.5), (1, 0.9), (2, 0.3), (4, 0.1), (9, 0.5)];
        let found: usize = each.into_iter().map(|(beside, liked)| called_worse(2000, beside, liked, liked).0).sum();
        assert!(found <= 100, "{found} of 2000");
        let (better, _) = called_worse(500, 9, SAME, SAME + 0.125);
        assert!(better <= 2, "{better} of 400");
    }

    #[test]
    fn one_that_is_fifteen_points_worse_is_found_within_some_hundred_opinions() {
        // Four of five raters judge by what they see, so that these are 15 points of all.
        let worse = SAME - 0.15 / 0.8;
        let (found, half) = called_worse(200, 9, SAME, worse);
        assert!(found >= 340 && half <= 100, "{found} of 400, half of them within {half}");
        let (found, half) = called_worse(300, 1, SAME, worse);
        assert!(found >= 340 && half <= 150, "one against one: {found} of 400, half of them within {half}");
        let (found, half) = called_worse(100, 9, SAME, 0.25);
        assert!(found == 400 && half <= 40, "40 points less: {found} of 400, half of them within {half}");
    }

    #[test]
    fn few_are_never_enough() {
        let (good, bad) = ([1.0; 100], [0.0; 100]);
        assert!(!weigh(&good, &bad[..9], 1).is_worse(), "whatever nine of them say");
        let found = weigh(&good, &bad, 1);
        assert!(found.is_worse() && found.pairs <= 12, "{found:?}");
        assert_eq!(weigh(&good[..8], &bad, 9), Evidence { pairs: 0, against: 1.0 });
        assert_eq!(weigh(&bad, &good, 0), Evidence { pairs: 100, against: 1.0 }, "better is not worse");
    }
}
