//! How far what was said of the pictures of a request tells them apart, where some of it are slips. Numbers only; knows no pictures and no raters.

use std::collections::BTreeMap;

/// How often what is said is taken for a slip.
pub const SLIPS: f64 = 0.18;
/// Shares of a request's pictures that are right, from none to all in so many steps.
const GRID: usize = 20;
/// Steps of expectation maximisation: few, or it settles on some shares alone, and on others with every other [`SLIPS`].
const TIMES: usize = 50;

/// By how much it is likelier that a liked picture of a request is better than one that was not than the other way round, for requests of
/// which so many were liked and so many not, 0 to 1 - 2 [`SLIPS`]. Which share of pictures is right differs from request to request, as
/// all of them together tell (Robbins' empirical Bayes; the mixing distribution by maximum likelihood on a grid): where nearly all
/// are liked, what is not is mostly a slip, and says nothing of the picture.
#[must_use]
pub fn trust(said: &[(usize, usize)]) -> Vec<f64> {
    // Requests are many, and differ in few ways.
    let mut alike: BTreeMap<(usize, usize), f64> = BTreeMap::new();
    said.iter().for_each(|&counts| *alike.entry(counts).or_default() += 1.0 / said.len() as f64);
    let mut prior = [1.0 / (GRID + 1) as f64; GRID + 1];
    for _ in 0..TIMES {
        let mut next = [0.0; GRID + 1];
        for (&counts, share) in &alike {
            next.iter_mut().zip(posterior(&prior, counts)).for_each(|(next, likely)| *next += share * likely);
        }
        prior = next;
    }
    let told = |counts: &(usize, usize)| {
        let by_share = posterior(&prior, *counts).into_iter().enumerate().map(|(at, likely)| {
            let (right, liked) = (right(at), liked(at));
            let (liked_is_right, other_is_wrong) =
                (right * (1.0 - SLIPS) / liked, (1.0 - right) * (1.0 - SLIPS) / (1.0 - liked));
            likely * (liked_is_right + other_is_wrong - 1.0)
        });
        by_share.sum::<f64>().max(0.0)
    };
    said.iter().map(told).collect()
}

fn right(at: usize) -> f64 {
    at as f64 / GRID as f64
}

/// The share of pictures that is liked where so many are right.
fn liked(at: usize) -> f64 {
    SLIPS + (1.0 - 2.0 * SLIPS) * right(at)
}

/// How likely each share is, given what was said of a request.
fn posterior(prior: &[f64; GRID + 1], (likes, others): (usize, usize)) -> [f64; GRID + 1] {
    let logs: [f64; GRID + 1] = std::array::from_fn(|at| {
        prior[at].ln() + likes as f64 * liked(at).ln() + others as f64 * (1.0 - liked(at)).ln()
    });
    let most = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let likely = logs.map(|log| (log - most).exp());
    let sum: f64 = likely.iter().sum();
    likely.map(|likely| likely / sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By Bayes' rule: of what is liked where half is right, 0.82 is, and of the rest 0.18.
    #[test]
    fn where_half_is_right_what_is_said_is_trusted_and_where_all_is_it_is_not() {
        let half = vec![(4, 4); 100];
        assert!((trust(&half)[0] - 0.64).abs() < 0.02, "{:?}", &trust(&half)[..1]);
        // Of 800 pictures 144 are not liked, just what slips come to.
        let all: Vec<_> = [vec![(6, 2); 56], vec![(7, 1); 32], vec![(8, 0); 12]].concat();
        assert!(trust(&all)[0] < 0.1, "{:?}", &trust(&all)[..1]);
        // Beside requests of which half is right, they are still trusted less, the fewer are not liked.
        let both = trust(&[half, all].concat());
        assert!(both[0] > 0.5 && both[100] < both[0] - 0.05 && both[156] < both[0] - 0.15, "{both:?}");
        assert!(both.iter().all(|trust| (0.0..=0.64 + 1e-9).contains(trust)));
    }

    #[test]
    fn nothing_and_much_do_no_harm() {
        assert!(trust(&[]).is_empty());
        assert!(trust(&[(0, 0), (100_000, 1), (0, 5000), (3, 0)]).iter().all(|trust| (0.0..=0.64).contains(trust)));
    }
}
