//! Rewards of groups → advantages of samples (GRPO, arXiv 2402.03300; the coupling of CoRL, arXiv 2505.17534). Numbers only; knows no
//! tensors, no samples and no rewards by name.

use serde::Serialize;

/// Added to the standard deviation, as TRL and CoRL's code have it.
const EPSILON: f64 = 1e-4;

/// How a group's rewards are scaled once their mean is taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Scale {
    /// By their standard deviation (n - 1), plus 1e-4: GRPO.
    Deviation,
    /// Not at all: Dr.GRPO (arXiv 2503.20783).
    None,
    /// By how far it lies above the least of the group: MaxRL (arXiv 2602.02710), whose rewards are 0 and 1. The likelihood of what
    /// earns more is learned then and not the expected reward, so that a model whose doubts are sound keeps them.
    Mean,
}

/// How the pictures and the answers of one exercise share what they earned. They are drawn independently of each other, so pairing
/// them by index adds noise to both; it is the method as published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Pairing {
    /// Each task learns from its own rewards; answers weigh λ.
    Separate,
    /// Picture i and answer i share one reward, picture + λ answer, and the advantage of it.
    SharedReward,
    /// Picture i and answer i share one advantage, picture + λ answer.
    SharedAdvantage,
}

/// Advantages of one group: rewards less their mean, scaled. A group without spread (or of one sample) tells nothing: all zeros.
#[must_use]
pub fn advantages(rewards: &[f64], scale: Scale) -> Vec<f64> {
    let n = rewards.len() as f64;
    let mean = rewards.iter().sum::<f64>() / n.max(1.0);
    let squares: f64 = rewards.iter().map(|reward| (reward - mean).powi(2)).sum();
    let deviation = (squares / (n - 1.0).max(1.0)).sqrt();
    // The mean of equal numbers may differ from them in the last bit.
    if deviation <= 1e-12 * mean.abs().max(1.0) {
        return vec![0.0; rewards.len()];
    }
    let divisor = match scale {
        Scale::Deviation => deviation + EPSILON,
        Scale::None => 1.0,
        Scale::Mean => mean - rewards.iter().copied().fold(f64::INFINITY, f64::min),
    };
    rewards.iter().map(|reward| (reward - mean) / divisor).collect()
}

/// How the two tasks of an exercise become advantages.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Coupling {
    pub pairing: Pairing,
    /// What answers weigh beside pictures.
    pub lambda: f64,
    /// Of pictures, and of what is shared.
    pub pictures: Scale,
    /// Of answers where they learn from their own.
    pub answers: Scale,
}

impl Coupling {
    /// Advantages of the pictures and of the answers of one exercise. Where the two are not equally many (one task alone, say)
    /// nothing can be paired, and each learns from its own.
    #[must_use]
    pub fn advantages(&self, pictures: &[f64], answers: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let Self { pairing, lambda, pictures: scale, answers: own } = *self;
        let sum = |a: &[f64], b: &[f64]| -> Vec<f64> { a.iter().zip(b).map(|(a, b)| a + lambda * b).collect() };
        match pairing {
            Pairing::SharedReward if pictures.len() == answers.len() => {
                let shared = advantages(&sum(pictures, answers), scale);
                (shared.clone(), shared)
            }
            Pairing::SharedAdvantage if pictures.len() == answers.len() => {
                let shared = sum(&advantages(pictures, scale), &advantages(answers, scale));
                (shared.clone(), shared)
            }
            _ => {
                let weighted = advantages(answers, own).into_iter().map(|advantage| lambda * advantage).collect();
                (advantages(pictures, scale), weighted)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: &[f64], wanted: &[f64]) {
        assert_eq!(found.len(), wanted.len());
        assert!(found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-4), "{found:?} {wanted:?}");
    }

    fn coupling(pairing: Pairing, scale: Scale) -> Coupling {
        Coupling { pairing, lambda: 0.8, pictures: scale, answers: scale }
    }

    /// The worked example of CoRL's code, G = 4.
    #[test]
    fn the_three_pairings_by_hand() {
        let (pictures, answers) = ([1.2, 1.0, 0.9, 1.1], [2.0, 1.0, 0.0, 1.0]);
        let of = |pairing| coupling(pairing, Scale::Deviation).advantages(&pictures, &answers);
        let (a, b) = of(Pairing::SharedReward);
        close(&a, &[1.2229, -0.0644, -1.2229, 0.0644]);
        close(&b, &a);
        let (a, b) = of(Pairing::SharedAdvantage);
        close(&a, &[2.1407, -0.3870, -2.1407, 0.3870]);
        close(&b, &a);
        let (a, b) = of(Pairing::Separate);
        close(&a, &[1.1610, -0.3870, -1.1610, 0.3870]);
        close(&b, &[0.8 * 1.2246, 0.0, -0.8 * 1.2246, 0.0]);
    }

    #[test]
    fn one_of_four() {
        close(&advantages(&[1.0, 0.0, 0.0, 0.0], Scale::Deviation), &[1.4997, -0.4999, -0.4999, -0.4999]);
        close(&advantages(&[1.0, 0.0, 0.0, 0.0], Scale::None), &[0.75, -0.25, -0.25, -0.25]);
        // (r - mean) / mean of what is 0 or 1, whatever else all of the group earn.
        close(&advantages(&[1.0, 0.0, 0.0, 0.0], Scale::Mean), &[3.0, -1.0, -1.0, -1.0]);
        close(&advantages(&[3.0, 3.0, 3.0, 1.0], Scale::Mean), &[1.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0, -1.0]);
    }

    #[test]
    fn without_spread_there_is_nothing_to_learn() {
        for rewards in [&[][..], &[0.7], &[0.1; 7], &[0.3, 0.3, 0.1 + 0.2]] {
            for scale in [Scale::Deviation, Scale::None, Scale::Mean] {
                assert!(advantages(rewards, scale).iter().all(|&advantage| advantage == 0.0), "{rewards:?}");
            }
        }
    }

    #[test]
    fn what_has_no_partner_learns_from_its_own() {
        let (pictures, answers) = coupling(Pairing::SharedReward, Scale::None).advantages(&[1.0, 0.0], &[]);
        close(&pictures, &[0.5, -0.5]);
        assert!(answers.is_empty());
    }
}
