//! What a round is to do, and when one is due. Pure; knows no ledger and no clock.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::judge::Suite;

/// What a round is to do. What a plan does not say is as here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Plan {
    pub seed: u64,
    /// Times that everything is learned from.
    pub epochs: u64,
    /// Lessons of a step.
    pub lessons: usize,
    /// Exercises of a step from the world of shapes, which a verifier judges: what share of all practice is a benchmark.
    pub benchmark: usize,
    /// Questions of a step, by letter, that people asked and did not correct; most of the model's own answers are taken for right.
    pub unlabelled: usize,
    /// Times that a describer learns from what was liked; 0 for no describer.
    pub describe: u64,
    /// Times that it then compares what was liked with what was not, of the same request.
    pub compare: u64,
    /// Where it knows well enough what people like: prompts of a step that are drawn anew and judged by it, in place of what was logged;
    /// steps, and the learning rate at its peak.
    pub anew: usize,
    pub steps: u64,
    pub anew_rate: f64,
    /// Learning rate at its peak, of what was logged.
    pub rate: f64,
    /// Promotions ago that the weights which drew a sample may have been live at most.
    pub oldest: i64,
    /// Most that a token of older weights weighs.
    pub importance: f32,
    /// What every logged sample earns beside what was said of it, so that the weights stay among what was seen.
    pub hold: f64,
    /// What earns less than this, either way and with `hold`, is left out: it tells next to nothing and costs as much.
    pub least: f64,
    /// Most that one rater's votes weigh, as a share of all.
    pub loudest: f64,
    /// What the candidate is judged by.
    pub suite: Suite,
    /// Times the learning rate.
    pub multiplier: f64,
    /// Times the samples of each row of a file.
    pub effort: f64,
    /// It learns from rows of a file in place of what was said of samples; `lessons` of them a step.
    pub rows: Option<RowsPlan>,
    /// Its candidate stays, to be asked for by name, whatever the gate says.
    pub keep: bool,
}

/// What a round learns from that has a file of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RowsPlan {
    /// The digest of the file.
    pub file: String,
    /// What its samples earn.
    pub grader: Value,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            seed: 1,
            epochs: 2,
            lessons: 24,
            benchmark: 0,
            unlabelled: 0,
            describe: 4,
            compare: 2,
            anew: 12,
            steps: 150,
            anew_rate: 8e-4,
            rate: 5e-4,
            oldest: 2,
            importance: 2.0,
            hold: 1.0,
            least: 0.35,
            loudest: 0.25,
            suite: Suite { seed: 3, draws: 100, answers: 20 },
            multiplier: 1.0,
            effort: 1.0,
            rows: None,
            keep: false,
        }
    }
}

/// When a round is opened without anybody's hand.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    /// So much must have been said since the last.
    pub feedback: u64,
    /// Milliseconds since the last was opened, at least.
    pub apart_ms: i64,
    /// Hours of the day (UTC) in which it may be, from and to; over midnight where the first is the later.
    pub hours: (u8, u8),
}

impl Policy {
    /// Whether a round is due at `now_ms`, after one that was opened at `last_ms` and so much that was said since.
    #[must_use]
    pub fn is_due(&self, now_ms: i64, last_ms: Option<i64>, said: u64) -> bool {
        let hour = (now_ms / 3_600_000).rem_euclid(24);
        let (from, to) = (i64::from(self.hours.0), i64::from(self.hours.1));
        let allowed = if from <= to { (from..to).contains(&hour) } else { hour >= from || hour < to };
        said >= self.feedback && allowed && last_ms.is_none_or(|last| now_ms - last >= self.apart_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_says_only_what_is_otherwise() {
        let plan: Plan =
            serde_json::from_str(r#"{"epochs": 2, "suite": {"seed": 5, "draws": 10, "answers": 5}}"#).unwrap();
        assert_eq!((plan.epochs, plan.suite.draws, plan.rate), (2, 10, Plan::default().rate));
        assert!(serde_json::from_str::<Plan>(r#"{"epoch": 2}"#).is_err());
    }

    #[test]
    fn a_round_is_due_by_feedback_distance_and_hour() {
        const HOUR: i64 = 3_600_000;
        let policy = Policy { feedback: 100, apart_ms: 2 * HOUR, hours: (22, 6) };
        let at = |hour: i64| 1_000 * 24 * HOUR + hour * HOUR;
        assert!(policy.is_due(at(23), None, 100) && policy.is_due(at(5), None, 100));
        assert!(!policy.is_due(at(23), None, 99), "too little was said");
        assert!(!policy.is_due(at(6), None, 500) && !policy.is_due(at(21), None, 500), "not now");
        assert!(!policy.is_due(at(23), Some(at(22)), 500) && policy.is_due(at(24), Some(at(22)), 500));
        let always = Policy { hours: (0, 24), ..policy };
        assert!((0..24).all(|hour| always.is_due(at(hour), None, 100)));
    }
}
