//! Which samples a gradient is computed of, where it is not to be all: the more likely the more they tell, and each stands for those that
//! were left out, so that the gradient stays the same in the mean (importance sampling; systematic, Madow 1949). Numbers only.

use rand::RngExt;

use crate::world::Dice;

/// What each of `sizes`, which tell how much samples tell, weighs: 0 for those left out, otherwise one over how likely it was to stay. A
/// `keep` of them stays in the mean, those of size 0 never do; the largest surely do, and all others weigh the more the smaller they
/// are. Neighbours stand for each other first, so samples of one group belong side by side.
#[must_use]
pub fn thin(sizes: &[f64], keep: f64, dice: &mut Dice) -> Vec<f64> {
    let by = chance(sizes, keep * sizes.len() as f64);
    let mut place: f64 = dice.random();
    let stays = |&size: &f64| {
        if size <= 0.0 {
            return 0.0;
        }
        let (likely, before) = ((by * size).min(1.0), place.floor());
        place += likely;
        if place.floor() > before { 1.0 / likely } else { 0.0 }
    };
    sizes.iter().map(stays).collect()
}

/// By what sizes are to be multiplied, those above one cut off, to come to `room` together.
fn chance(sizes: &[f64], room: f64) -> f64 {
    let mut largest: Vec<f64> = sizes.iter().copied().filter(|&size| size > 0.0).collect();
    largest.sort_by(|a, b| b.total_cmp(a));
    let mut rest: f64 = largest.iter().sum();
    for (sure, size) in largest.iter().enumerate() {
        let by = (room - sure as f64) / rest;
        if by * size <= 1.0 {
            return by.max(0.0);
        }
        rest -= size;
    }
    // There is room for all.
    f64::INFINITY
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn chances_by_hand() {
        assert_eq!(chance(&[1.0, 3.0, 2.0, 2.0], 2.0), 0.25);
        // One is sure to stay, the others share what room it leaves.
        assert_eq!(chance(&[1.0, 9.0, 1.0, 2.0], 2.0), 0.25);
        assert_eq!(chance(&[0.0, 1.0, 9.0], 2.0), 1.0);
        assert_eq!(chance(&[0.5, 1.0, 0.0], 2.5), f64::INFINITY);
        assert_eq!(chance(&[], 1.0), f64::INFINITY);
    }

    #[test]
    fn what_stays_stands_for_the_rest() {
        let sizes = [0.1, 0.9, 0.0, 0.1, 0.2, 0.05, 0.4, 0.15];
        let (runs, mut dice) = (20_000, Dice::seed_from_u64(5));
        let (mut sums, mut kept) = ([0.0; 8], 0);
        for _ in 0..runs {
            let weights = thin(&sizes, 0.5, &mut dice);
            let now = weights.iter().filter(|&&weight| weight > 0.0).count();
            assert_eq!((now, weights[1], weights[2]), (4, 1.0, 0.0));
            kept += now;
            sums.iter_mut().zip(&weights).for_each(|(sum, weight)| *sum += weight / f64::from(runs));
        }
        assert_eq!(kept, 4 * runs as usize);
        for (at, mean) in sums.iter().enumerate().filter(|(at, _)| *at != 2) {
            assert!((mean - 1.0).abs() < 0.06, "{at}: {mean}");
        }
    }

    #[test]
    fn all_stay_where_there_is_room() {
        let mut dice = Dice::seed_from_u64(5);
        assert_eq!(thin(&[0.3, 0.0, 2.0], 1.0, &mut dice), [1.0, 0.0, 1.0]);
        assert_eq!(thin(&[0.3, 0.0, 2.0], 0.9, &mut dice), [1.0, 0.0, 1.0]);
        assert_eq!(thin(&[0.0, 0.0], 0.5, &mut dice), [0.0, 0.0]);
        assert_eq!(thin(&[], 0.5, &mut dice), [0.0; 0]);
    }
}
