//! The objective of a step: clipped token ratios times advantages, less a penalty for leaving the reference (GRPO, arXiv 2402.03300;
//! DAPO's clip, arXiv 2503.14476). Log-probabilities in, a scalar out; knows no network and no reward.

use candle_core::{Result, Tensor};
use serde::Serialize;

/// How far tokens may move in one batch, and what it costs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Objective {
    /// Ratios are clipped to 1 - `clip_low` … 1 + `clip_high`; equal for PPO, 0.2 and 0.28 for DAPO.
    pub clip_low: f64,
    pub clip_high: f64,
    /// Weight of the KL estimate to the reference; 0 for none.
    pub beta: f64,
    pub divergence: Divergence,
}

/// How leaving the reference is told from tokens that were drawn, by d = log π_ref - log π.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Divergence {
    /// k3 = exp(d) - d - 1 (CoRL, GRPO). Where it is drawn from π, its slope is in the mean that of KL(π_ref ‖ π): what the reference draws
    /// at times must not go, slips included.
    Reference,
    /// k2 = d² / 2, whose slope is that of KL(π ‖ π_ref): what the reference hardly draws must not come.
    Policy,
}

/// How tokens of samples become one mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Aggregate {
    /// Mean over the tokens of each sample, then over samples: CoRL, GRPO.
    Sequences,
    /// Mean over all tokens: DAPO.
    Tokens,
    /// Sum over all tokens, by the number of samples times this many: Dr.GRPO.
    Constant(usize),
}

impl Aggregate {
    /// The weight of each token of a sample of `length` tokens, among `samples` samples of `tokens` tokens together.
    #[must_use]
    pub fn weight(self, length: usize, samples: usize, tokens: usize) -> f64 {
        let by = |n: usize| 1.0 / n.max(1) as f64;
        match self {
            Self::Sequences => by(samples) * by(length),
            Self::Tokens => by(tokens),
            Self::Constant(most) => by(samples) * by(most),
        }
    }
}

/// One token each, `[tokens]`; all but `now` without gradient.
pub struct Tokens<'a> {
    /// log π under the weights that learn.
    pub now: &'a Tensor,
    /// log π as it was sampled.
    pub sampled: &'a Tensor,
    /// log π under the reference, where there is one.
    pub reference: Option<&'a Tensor>,
    pub advantages: &'a Tensor,
    /// Share in the mean, by [`Aggregate::weight`]; times the importance weight of a sample that older weights drew.
    pub weights: &'a Tensor,
}

/// The loss, and what is worth watching of it.
pub struct Outcome {
    /// -Σ weight (min(ρ A, clip(ρ) A) - β k), scalar.
    pub loss: Tensor,
    /// Weighted sum of k, by [`Divergence`].
    pub kl: Option<Tensor>,
    /// log ρ, `[tokens]`, without gradient.
    pub log_ratio: Tensor,
}

impl Objective {
    /// # Errors
    /// When the shapes differ.
    pub fn of(&self, tokens: &Tokens<'_>) -> Result<Outcome> {
        let log_ratio = (tokens.now - tokens.sampled)?;
        let ratio = log_ratio.exp()?;
        let clipped = ratio.clamp(1.0 - self.clip_low, 1.0 + self.clip_high)?;
        let gain = (&ratio * tokens.advantages)?.minimum(&(clipped * tokens.advantages)?)?;
        let mut loss = (gain * tokens.weights)?.sum_all()?.neg()?;
        let mut kl = None;
        if let Some(reference) = tokens.reference {
            let d = (reference - tokens.now)?;
            let k = match self.divergence {
                Divergence::Reference => ((d.exp()? - &d)? - 1.0)?,
                Divergence::Policy => (d.sqr()? * 0.5)?,
            };
            let sum = (k * tokens.weights)?.sum_all()?;
            loss = (loss + (&sum * self.beta)?)?;
            kl = Some(sum.detach());
        }
        Ok(Outcome { loss, kl, log_ratio: log_ratio.detach() })
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    fn row(values: &[f64]) -> Tensor {
        Tensor::new(values, &Device::Cpu).unwrap()
    }

    const OBJECTIVE: Objective =
        Objective { clip_low: 0.2, clip_high: 0.28, beta: 0.1, divergence: Divergence::Reference };
    const SAMPLED: [f64; 4] = [-1.0, -2.0, -0.5, -0.7];
    const REFERENCE: [f64; 4] = [-1.2, -1.9, -0.4, -0.7];
    const ADVANTAGES: [f64; 4] = [1.5, -0.5, 2.0, -1.0];
    const WEIGHTS: [f64; 4] = [0.1, 0.2, 0.3, 0.4];

    fn loss(now: &Tensor) -> Outcome {
        let (sampled, reference) = (row(&SAMPLED), row(&REFERENCE));
        let (advantages, weights) = (row(&ADVANTAGES), row(&WEIGHTS));
        let tokens =
            Tokens { now, sampled: &sampled, reference: Some(&reference), advantages: &advantages, weights: &weights };
        OBJECTIVE.of(&tokens).unwrap()
    }

    fn scalar(tensor: &Tensor) -> f64 {
        tensor.to_scalar().unwrap()
    }

    #[test]
    fn two_tokens_by_hand() {
        let objective = Objective { clip_low: 0.2, clip_high: 0.2, beta: 0.5, divergence: Divergence::Reference };
        let (now, sampled, reference) = (row(&[-1.0, -0.5]), row(&[-1.0, -1.0]), row(&[-1.2, -0.5]));
        let tokens = Tokens {
            now: &now,
            sampled: &sampled,
            reference: Some(&reference),
            advantages: &row(&[2.0, 1.0]),
            weights: &row(&[0.5, 0.5]),
        };
        let outcome = objective.of(&tokens).unwrap();
        // ρ = 1 and e^0.5, the second clipped to 1.2; k3 = 0.018731 and 0.
        let kl = 0.5 * ((-0.2f64).exp() + 0.2 - 1.0);
        assert!((scalar(outcome.kl.as_ref().unwrap()) - kl).abs() < 1e-12);
        assert!((scalar(&outcome.loss) - (-0.5 * (2.0 + 1.2) + 0.5 * kl)).abs() < 1e-12);
    }

    #[test]
    fn the_gradient_is_that_of_finite_differences() {
        let at = [-0.9, -1.5, -0.9, -0.2];
        let var = Var::from_tensor(&row(&at)).unwrap();
        let grads = loss(var.as_tensor()).loss.backward().unwrap();
        let found = grads.get(&var).unwrap().to_vec1::<f64>().unwrap();
        for (i, found) in found.iter().enumerate() {
            let moved = |by: f64| {
                let mut now = at;
                now[i] += by;
                scalar(&loss(&row(&now)).loss)
            };
            let wanted = (moved(1e-6) - moved(-1e-6)) / 2e-6;
            assert!((found - wanted).abs() < 1e-7, "{i}: {found} {wanted}");
        }
    }

    #[test]
    fn with_the_weights_that_sampled_it_is_the_policy_gradient() {
        let var = Var::from_tensor(&row(&SAMPLED)).unwrap();
        let tokens = Tokens {
            now: var.as_tensor(),
            sampled: &row(&SAMPLED),
            reference: None,
            advantages: &row(&ADVANTAGES),
            weights: &row(&WEIGHTS),
        };
        let outcome = OBJECTIVE.of(&tokens).unwrap();
        let grads = outcome.loss.backward().unwrap().get(&var).unwrap().to_vec1::<f64>().unwrap();
        for ((grad, advantage), weight) in grads.iter().zip(ADVANTAGES).zip(WEIGHTS) {
            assert!((grad + advantage * weight).abs() < 1e-12);
        }
        assert!(outcome.kl.is_none() && outcome.log_ratio.to_vec1::<f64>().unwrap() == [0.0; 4]);
    }

    /// One token of four, of which each is drawn as often as it is likely.
    #[test]
    fn each_estimate_has_the_slope_of_its_divergence() {
        const LOGITS: [f64; 4] = [0.3, -1.0, 1.2, -2.5];
        const OTHERS: [f64; 4] = [1.0, -2.0, 0.1, 0.4];
        let softmax = |logits: &[f64; 4]| {
            let sum: f64 = logits.iter().map(|logit| logit.exp()).sum();
            logits.map(|logit| logit.exp() / sum)
        };
        let reference = softmax(&OTHERS);
        let kl = |p: [f64; 4], q: [f64; 4]| p.iter().zip(q).map(|(p, q)| p * (p / q).ln()).sum::<f64>();
        let drawn = softmax(&LOGITS);
        for divergence in [Divergence::Reference, Divergence::Policy] {
            let objective = Objective { beta: 1.0, divergence, ..OBJECTIVE };
            let var = Var::from_tensor(&row(&LOGITS)).unwrap();
            let sum = var.exp().unwrap().sum_all().unwrap().log().unwrap();
            let now = var.broadcast_sub(&sum).unwrap();
            let tokens = Tokens {
                now: &now,
                sampled: &now.detach(),
                reference: Some(&row(&reference.map(f64::ln))),
                advantages: &row(&[0.0; 4]),
                weights: &row(&drawn),
            };
            let grads = objective.of(&tokens).unwrap().loss.backward().unwrap();
            for (i, found) in grads.get(&var).unwrap().to_vec1::<f64>().unwrap().into_iter().enumerate() {
                let moved = |by: f64| {
                    let mut logits = LOGITS;
                    logits[i] += by;
                    match divergence {
                        Divergence::Reference => kl(reference, softmax(&logits)),
                        Divergence::Policy => kl(softmax(&logits), reference),
                    }
                };
                let wanted = (moved(1e-6) - moved(-1e-6)) / 2e-6;
                assert!((found - wanted).abs() < 1e-7, "{divergence:?} {i}: {found} {wanted}");
            }
        }
    }

    #[test]
    fn weights_of_all_tokens_make_a_mean() {
        let lengths = [3, 64, 1];
        let total = |aggregate: Aggregate| -> f64 {
            lengths.iter().map(|&length| length as f64 * aggregate.weight(length, 3, 68)).sum()
        };
        assert!((total(Aggregate::Sequences) - 1.0).abs() < 1e-12);
        assert!((total(Aggregate::Tokens) - 1.0).abs() < 1e-12);
        assert!((total(Aggregate::Constant(64)) - 68.0 / (3.0 * 64.0)).abs() < 1e-12);
    }
}
