//! Trials: before it answers everybody, a new version answers a share of the people, and what they say of it is held against what is said of
//! the live one in the same time. Who is among them, and how a trial ends.

use sha2::{Digest as _, Sha256};

use super::id::RoundId;
use super::sample::Version;

/// Parts of the whole that a share is counted in.
const WHOLE: u32 = 1_000_000;
/// Most opinions of the live version that one of the new version stands against.
const MOST: u32 = 9;

/// A share of all people: more than nobody, less than everybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share(u32);

impl Share {
    pub const TENTH: Self = Self(WHOLE / 10);

    /// From 0 to 1; none where that is nobody, everybody, or no number.
    #[must_use]
    pub fn new(share: f64) -> Option<Self> {
        // A number out of range becomes the nearest end of it.
        Self::of_millionths(i64::from((share * f64::from(WHOLE)).round() as u32))
    }

    #[must_use]
    pub fn of_millionths(millionths: i64) -> Option<Self> {
        u32::try_from(millionths).ok().filter(|parts| (1..WHOLE).contains(parts)).map(Self)
    }

    #[must_use]
    pub fn millionths(self) -> i64 {
        self.0.into()
    }

    /// From 0 to 1.
    #[must_use]
    pub fn get(self) -> f64 {
        f64::from(self.0) / f64::from(WHOLE)
    }

    /// How many opinions of those outside the share come with one from inside it, at most nine.
    #[must_use]
    pub fn beside(self) -> usize {
        let outside = WHOLE - self.0;
        ((outside + self.0 / 2) / self.0).clamp(1, MOST) as usize
    }
}

/// Which people get the version on trial: always the same in one trial, others in the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    /// The trial's number.
    pub trial: i64,
    pub share: Share,
}

impl Split {
    /// Whether `who` gets the version on trial. Every server says the same.
    #[must_use]
    pub fn takes(&self, who: &str) -> bool {
        let digest = Sha256::digest(format!("trial {} of {who}", self.trial));
        let lot = digest.iter().take(8).fold(0, |lot: u64, &byte| lot << 8 | u64::from(byte));
        lot % u64::from(WHOLE) < u64::from(self.share.0)
    }
}

/// How new versions are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    pub share: Share,
    /// Opinions of the new version, one a rater, after which it is taken for no worse.
    pub votes: u32,
    /// Milliseconds after which it is, however few there are.
    pub time_ms: i64,
}

/// How far a trial is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrialState {
    Running,
    /// Its version became live.
    Promoted,
    /// Its version was rated worse, cannot be served, or was taken back by hand.
    Withdrawn,
    /// Another version became live meanwhile.
    Overtaken,
}

impl TrialState {
    pub const ALL: [Self; 4] = [Self::Running, Self::Promoted, Self::Withdrawn, Self::Overtaken];

    /// As it is written and shown.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Promoted => "promoted",
            Self::Withdrawn => "withdrawn",
            Self::Overtaken => "overtaken",
        }
    }
}

/// A version on trial.
#[derive(Clone, Debug, PartialEq)]
pub struct Trial {
    /// Counted from 1.
    pub number: i64,
    pub version: Version,
    /// The promotion behind which it was begun, which says what it is held against; the next promotion ends it.
    pub after: i64,
    pub terms: Terms,
    /// Unix milliseconds.
    pub began_ms: i64,
    /// Whose hand, or which round.
    pub by: String,
    pub why: String,
    /// The round that waits for its end.
    pub round: Option<RoundId>,
    pub state: TrialState,
    pub ended_ms: Option<i64>,
    /// What it came to, in words; known once it has ended.
    pub said: Option<String>,
}

impl Trial {
    #[must_use]
    pub fn split(&self) -> Split {
        Split { trial: self.number, share: self.terms.share }
    }

    /// When it ends at the latest, Unix milliseconds.
    #[must_use]
    pub fn until_ms(&self) -> i64 {
        self.began_ms.saturating_add(self.terms.time_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_neither_nobody_nor_everybody() {
        for share in [0.0, -1.0, 1.0, 2.0, 1e-9, f64::NAN, f64::INFINITY] {
            assert_eq!(Share::new(share), None, "{share}");
        }
        for (share, beside) in [(0.1, 9), (0.01, 9), (0.2, 4), (0.3, 2), (0.5, 1), (0.9, 1), (0.999_999, 1)] {
            let share = Share::new(share).unwrap();
            assert_eq!((share.beside(), Share::of_millionths(share.millionths())), (beside, Some(share)));
        }
    }

    #[test]
    fn the_same_people_are_in_a_trial_and_others_in_the_next() {
        let share = Share::new(0.1).unwrap();
        let takes =
            |trial| -> Vec<bool> { (0..10_000).map(|n| Split { trial, share }.takes(&format!("user {n}"))).collect() };
        let (first, second) = (takes(1), takes(2));
        assert_eq!(first, takes(1));
        let both = first.iter().zip(&second).filter(|(a, b)| **a && **b).count();
        let count = |taken: &[bool]| taken.iter().filter(|&&taken| taken).count();
        // Four standard deviations of 10,000 draws, and of a hundredth of them.
        assert!(count(&first).abs_diff(1000) < 120 && count(&second).abs_diff(1000) < 120 && both.abs_diff(100) < 40);
    }
}
