//! From the log-probabilities of one row to a token: greedy, or drawn from the row or its nucleus.
//!
//! The numbers come from `model::policy`, on the host; nothing here knows tensors, sequences or what a token means. What is drawn and what
//! is reported differ on purpose: the nucleus and the ids that may not be drawn shape the draw alone, while the reported log-probability is that
//! of the whole tempered row, as the trainer recomputes it and as the OpenAI API reports it.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;

/// The ids that may be drawn: those below a bound, less a few.
#[derive(Clone, Debug)]
pub struct Allowed {
    below: usize,
    /// Sorted.
    except: Vec<u32>,
}

/// Why no token could be drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SamplerError {
    #[error("the model gave a logit that is not finite for id {id}")]
    NotFinite { id: usize },
    #[error("no id of the row may be drawn")]
    Nothing,
}

/// How to draw: the parts of a `Sampling` that concern one token. The row itself is already tempered.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// The likeliest id, the first of equals; no random number is used.
    pub greedy: bool,
    /// Mass of the nucleus in (0, 1]; 1 keeps every allowed id.
    pub top_p: f32,
}

impl Allowed {
    /// Ids below `below` that are not in `except`.
    #[must_use]
    pub fn new(below: usize, mut except: Vec<u32>) -> Self {
        except.sort_unstable();
        Self { below, except }
    }

    /// Ids of `row` that may be drawn with their log-probabilities, in index order.
    fn of<'a>(&'a self, row: &'a [f32]) -> impl Iterator<Item = (u32, f32)> + 'a {
        let ids = (0_u32..).zip(row.iter().copied()).take(self.below);
        ids.filter(|(id, _)| self.except.is_empty() || self.except.binary_search(id).is_err())
    }
}

/// Draws one id of `row` (natural-log probabilities over all ids).
///
/// A draw takes one uniform number and walks the cumulative distribution in index order, so that rounding noise in the row changes the id only
/// when the number falls next to a boundary.
///
/// # Errors
/// When the row holds a number that is not finite, or nothing may be drawn.
pub fn draw(row: &[f32], allowed: &Allowed, manner: Manner, rng: &mut ChaCha8Rng) -> Result<u32, SamplerError> {
    if let Some(id) = row.iter().position(|log_prob| !log_prob.is_finite()) {
        return Err(SamplerError::NotFinite { id });
    }
    if manner.greedy {
        return top(row, allowed, 1).first().map(|&(id, _)| id).ok_or(SamplerError::Nothing);
    }
    let weights: Vec<(u32, f64)> = allowed.of(row).map(|(id, log_prob)| (id, f64::from(log_prob.exp()))).collect();
    let weights = if manner.top_p < 1.0 { nucleus(weights, f64::from(manner.top_p)) } else { weights };
    let target = uniform(rng) * weights.iter().map(|(_, weight)| weight).sum::<f64>();
    let mut passed = 0.0;
    let mut last = None;
    for (id, weight) in weights {
        passed += weight;
        if weight > 0.0 {
            last = Some(id);
        }
        if passed > target {
            break;
        }
    }
    last.ok_or(SamplerError::Nothing)
}

/// The `count` likeliest allowed ids with their log-probabilities, likeliest first, the lower id first of equals.
#[must_use]
pub fn top(row: &[f32], allowed: &Allowed, count: usize) -> Vec<(u32, f32)> {
    let mut best: Vec<(u32, f32)> = Vec::with_capacity(count + 1);
    for (id, log_prob) in allowed.of(row) {
        if best.len() < count || best.last().is_some_and(|&(_, least)| log_prob > least) {
            let at = best.partition_point(|&(_, other)| other >= log_prob);
            best.insert(at, (id, log_prob));
            best.truncate(count);
        }
    }
    best
}

/// The smallest set of likeliest ids that holds `top_p` of the mass, in index order; of equals the lower id comes first.
fn nucleus(weights: Vec<(u32, f64)>, top_p: f64) -> Vec<(u32, f64)> {
    let total: f64 = weights.iter().map(|(_, weight)| weight).sum();
    let wanted = top_p * total;
    // All ids below this weight together hold less than what may be left out, so the set lies above it and few ids need sorting.
    let least = (total - wanted) / weights.len().max(1) as f64;
    let mut likely: Vec<(u32, f64)> = weights.into_iter().filter(|&(_, weight)| weight >= least).collect();
    likely.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let mut mass = 0.0;
    let kept = likely.iter().position(|&(_, weight)| {
        mass += weight;
        mass >= wanted
    });
    likely.truncate(kept.map_or(likely.len(), |at| at + 1));
    likely.sort_by_key(|&(id, _)| id);
    likely
}

/// A number in [0, 1) of 53 bits; written out so that a seed keeps its meaning whatever the random-number crates do.
fn uniform(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand_chacha::rand_core::SeedableRng;

    use super::*;

    const PLAIN: Manner = Manner { greedy: false, top_p: 1.0 };
    const GREEDY: Manner = Manner { greedy: true, top_p: 1.0 };

    fn rng(seed: u64) -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(seed)
    }

    fn logs(weights: &[f32]) -> Vec<f32> {
        let total: f32 = weights.iter().sum();
        weights.iter().map(|weight| (weight / total).ln()).collect()
    }

    fn all(row: &[f32]) -> Allowed {
        Allowed::new(row.len(), vec![])
    }

    #[test]
    fn greedy_takes_the_first_of_equals_and_no_random_number() {
        let row = logs(&[1.0, 3.0, 3.0, 2.0]);
        let mut used = rng(7);
        assert_eq!(draw(&row, &all(&row), GREEDY, &mut used), Ok(1));
        assert_eq!(uniform(&mut used), uniform(&mut rng(7)));
    }

    #[test]
    fn ids_that_may_not_be_drawn_never_are() {
        let row = logs(&[9.0, 1.0, 9.0, 1.0, 9.0]);
        let allowed = Allowed::new(4, vec![2, 0]);
        assert_eq!(draw(&row, &allowed, GREEDY, &mut rng(0)), Ok(1));
        let drawn: Vec<u32> = (0..64).filter_map(|seed| draw(&row, &allowed, PLAIN, &mut rng(seed)).ok()).collect();
        assert!(
            drawn.len() == 64 && drawn.iter().all(|id| [1, 3].contains(id)) && drawn.contains(&1) && drawn.contains(&3)
        );
        assert_eq!(draw(&row, &Allowed::new(1, vec![0]), PLAIN, &mut rng(0)), Err(SamplerError::Nothing));
        assert_eq!(draw(&row, &Allowed::new(1, vec![0]), GREEDY, &mut rng(0)), Err(SamplerError::Nothing));
    }

    #[test]
    fn a_row_that_is_not_finite_is_refused() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let row = [-1.0, bad, -1.0];
            assert_eq!(draw(&row, &all(&row), PLAIN, &mut rng(0)), Err(SamplerError::NotFinite { id: 1 }));
            assert_eq!(draw(&row, &all(&row), GREEDY, &mut rng(0)), Err(SamplerError::NotFinite { id: 1 }));
        }
    }

    #[test]
    fn the_nucleus_is_the_smallest_set_with_the_mass() {
        let kept = |weights: &[f64], top_p| -> Vec<u32> {
            nucleus((0..).zip(weights.iter().copied()).collect(), top_p).into_iter().map(|(id, _)| id).collect()
        };
        assert_eq!(kept(&[0.1, 0.4, 0.2, 0.3], 0.5), [1, 3]);
        assert_eq!(kept(&[0.1, 0.4, 0.2, 0.3], 0.4), [1]);
        assert_eq!(kept(&[0.1, 0.4, 0.2, 0.3], 0.95), [0, 1, 2, 3]);
        assert_eq!(kept(&[0.25, 0.25, 0.25, 0.25], 0.5), [0, 1]);
        assert_eq!(kept(&[0.25, 0.25, 0.25, 0.25], 1e-9), [0]);
    }

    #[test]
    fn draws_follow_the_distribution() {
        let row = logs(&[1.0, 2.0, 5.0]);
        let mut rng = rng(3);
        let mut counts = [0_u32; 3];
        for _ in 0..8_000 {
            counts[draw(&row, &all(&row), PLAIN, &mut rng).map_or(0, |id| id as usize)] += 1;
        }
        for (count, expected) in counts.into_iter().zip([1_000, 2_000, 5_000]) {
            assert!(count.abs_diff(expected) < 200, "{counts:?}");
        }
    }

    #[test]
    fn alternatives_come_likeliest_first() {
        let row = logs(&[1.0, 4.0, 2.0, 4.0, 8.0]);
        let ids = |count| top(&row, &Allowed::new(4, vec![]), count).iter().map(|&(id, _)| id).collect::<Vec<_>>();
        assert_eq!(ids(3), [1, 3, 2]);
        assert_eq!(ids(9), [1, 3, 2, 0]);
        assert!(ids(0).is_empty());
    }

    proptest! {
        #[test]
        fn a_seed_gives_one_id_and_it_is_in_the_nucleus(
            weights in prop::collection::vec(0.001_f32..1.0, 1..40),
            top_p in 0.01_f32..1.0,
            seed in any::<u64>(),
        ) {
            let row = logs(&weights);
            let manner = Manner { greedy: false, top_p };
            let id = draw(&row, &all(&row), manner, &mut rng(seed));
            prop_assert_eq!(id, draw(&row, &all(&row), manner, &mut rng(seed)));
            let above: f64 = row.iter().map(|&log_prob| f64::from(log_prob.exp())).filter(|&weight| {
                id.is_ok_and(|id| weight > f64::from(row[id as usize].exp()))
            }).sum();
            prop_assert!(above < f64::from(top_p) + 1e-6, "more than top_p is likelier than the drawn id");
        }
    }
}
