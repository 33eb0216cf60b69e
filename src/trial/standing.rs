//! How a new version stands beside the one it is to replace, or has replaced: whose words count, what they come to, and what follows from
//! it. Of a trial both are heard in the same time; after a switch the new one's words since then stand against the last ones of the
//! version before.

use std::collections::BTreeSet;

use super::evidence::{Evidence, LIMIT, weigh};
use crate::domain::round::Promotion;
use crate::domain::sample::Version;
use crate::domain::trial::Trial;
use crate::store::{Ledger, LedgerError, Order, Remark};

/// Remarks that are read of a version at most; what came later is not needed by then.
const MOST: u32 = 50_000;
/// Remarks on the version before a switch that are looked through for its last words, and words that are kept of them.
const LAST: u32 = 10_000;
const WORDS: usize = 1_800;
/// Words on the version before a switch that can be had before several of them stand against one.
const SINGLE: usize = 200;

/// What is said of one version.
#[derive(Clone, Debug, PartialEq)]
pub struct Arm {
    pub version: Version,
    /// Words that count, one a rater.
    pub words: usize,
    /// Their mean, 0 (bad) to 1 (good); 0 of none.
    pub mean: f64,
}

/// Two versions beside each other.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    pub other: Arm,
    pub new: Arm,
    pub evidence: Evidence,
    /// Words of the other that stand against one of the new.
    pub beside: usize,
}

/// Why a trial ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its version is rated worse.
    Worse,
    /// Enough was said, and it is not rated worse.
    Enough,
    /// Its time is over, and it is not rated worse.
    Late,
}

impl Standing {
    fn of(other: (&Version, Vec<f64>), new: (&Version, Vec<f64>), beside: usize) -> Self {
        let evidence = weigh(&other.1, &new.1, beside);
        let arm = |(version, words): (&Version, Vec<f64>)| Arm {
            version: version.clone(),
            words: words.len(),
            mean: words.iter().sum::<f64>() / words.len().max(1) as f64,
        };
        Self { other: arm(other), new: arm(new), evidence, beside }
    }

    /// What a trial that wants so many words comes to at `now_ms`; none while it goes on.
    #[must_use]
    pub fn outcome(&self, votes: u32, until_ms: i64, now_ms: i64) -> Option<Outcome> {
        if self.evidence.is_worse() {
            return Some(Outcome::Worse);
        }
        if u32::try_from(self.evidence.pairs).is_ok_and(|pairs| pairs < votes) {
            return (now_ms >= until_ms).then_some(Outcome::Late);
        }
        Some(Outcome::Enough)
    }

    /// The numbers, in words.
    #[must_use]
    pub fn said(&self) -> String {
        let Self { other, new, evidence, .. } = self;
        format!(
            "rated {:.3} by {} raters, beside {:.3} by {} of {}; evidence that it is worse {:.2} of {LIMIT:.0}",
            new.mean,
            new.words,
            other.mean,
            other.words,
            other.version.0.get(..12).unwrap_or(&other.version.0),
            evidence.against
        )
    }
}

/// How a trial stands, `live` being the version beside which it runs.
///
/// # Errors
/// When the ledger cannot be read.
pub async fn of_trial(ledger: &Ledger, trial: &Trial, live: &Version) -> Result<Standing, LedgerError> {
    let during = async |version: &Version| {
        let until = trial.ended_ms.unwrap_or(i64::MAX);
        let said = ledger.remarks(version, trial.began_ms, [trial.began_ms, until], Order::Oldest, MOST);
        Ok::<_, LedgerError>(words(said.await?, version))
    };
    let (other, new) = (during(live).await?, during(&trial.version).await?);
    Ok(Standing::of((live, other), (&trial.version, new), trial.terms.share.beside()))
}

/// How the version that was made live by `switch` stands beside the one before, by the last that was said of that.
///
/// # Errors
/// When the ledger cannot be read.
pub async fn of_switch(ledger: &Ledger, switch: &Promotion, before: &Version) -> Result<Standing, LedgerError> {
    let last = ledger.remarks(before, 0, [0, switch.at_ms], Order::Newest, LAST);
    let mut last = words(last.await?, before);
    last.truncate(WORDS);
    let since = ledger.remarks(&switch.version, switch.at_ms, [switch.at_ms, i64::MAX], Order::Oldest, MOST);
    let since = words(since.await?, &switch.version);
    // All that is known stands against as many words as it suffices for; it is settled by what was said before.
    let beside = (last.len() / SINGLE).max(1);
    Ok(Standing::of((before, last), (&switch.version, since), beside))
}

/// The first word of each rater, 0 to 1, on what was not asked of this version by name: who asks for it knows what to expect of it, and
/// was not drawn.
fn words(remarks: Vec<Remark>, version: &Version) -> Vec<f64> {
    let name = format!("@{}", version.0.get(..12).unwrap_or(&version.0));
    let mut heard = BTreeSet::new();
    let counts = remarks.into_iter().filter(|remark| !remark.model.ends_with(&name));
    counts.filter_map(|remark| Some((remark.opinion.value()?, remark.rater))).fold(
        Vec::new(),
        |mut words, (value, rater)| {
            if heard.insert(rater) {
                words.push(value);
            }
            words
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::record::Opinion;

    fn version() -> Version {
        Version("7ef41cf1fea9".repeat(5))
    }

    fn remark(rater: &str, up: bool) -> Remark {
        Remark { rater: rater.into(), model: "ulm".into(), opinion: Opinion::Thumb(up) }
    }

    #[test]
    fn a_rater_has_one_word() {
        let mut said = vec![remark("ann", true), remark("bob", false), remark("ann", false)];
        said.extend((0..1000).map(|_| remark("bob", false)));
        let pinned = Remark { model: "ulm@7ef41cf1fea9".into(), ..remark("cid", false) };
        let comment = Remark { opinion: Opinion::Comment("hm".into()), ..remark("dan", true) };
        said.extend([pinned, comment, Remark { model: "ulm@of".into(), ..remark("eve", true) }]);
        assert_eq!(words(said, &version()), [1.0, 0.0, 1.0]);
    }

    /// However much an angry rater says, in whichever company.
    #[test]
    fn nobody_alone_takes_a_version_back() {
        let angry: Vec<Remark> = (0..5000).map(|_| remark("angry", false)).collect();
        let others = (0..400).map(|n| remark(&format!("user {n}"), true)).collect();
        let standing = Standing::of((&version(), words(others, &version())), (&version(), words(angry, &version())), 1);
        assert_eq!((standing.new.words, standing.evidence.pairs), (1, 1));
        assert!(standing.evidence.against <= 1.5, "{standing:?}");
        assert_eq!(standing.outcome(200, 10, 9), None);
    }

    #[test]
    fn a_trial_ends_by_words_or_by_time() {
        let stands =
            |other: &[f64], new: &[f64]| Standing::of((&version(), other.to_vec()), (&version(), new.to_vec()), 2);
        let (good, bad) = ([1.0; 60], [0.0; 30]);
        assert_eq!(stands(&good, &bad).outcome(30, 10, 9), Some(Outcome::Worse));
        assert_eq!(stands(&good, &good).outcome(30, 10, 9), Some(Outcome::Enough));
        let few = stands(&good[..10], &good);
        assert_eq!((few.evidence.pairs, few.outcome(30, 10, 9)), (5, None), "there are too few to stand beside");
        assert_eq!(few.outcome(30, 10, 10), Some(Outcome::Late));
        let said = stands(&good, &bad).said();
        assert!(said.starts_with("rated 0.000 by 30 raters, beside 1.000 by 60 of 7ef41cf1fea9; evidence"), "{said}");
    }
}
