//! What people would think of pictures that nobody has judged: a describer of what they liked, and a taste of its numbers. Both are tried
//! on requests that it has not learned from. Knows the shapes of the ledger, not the ledger.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;

use super::describer::{Compared, Describer, Shown};
use super::features::judged;
use super::gather::is_held_out;
use super::slips::trust;
use super::taste::{Quality, Taste, auc_within, foretell};
use crate::domain::id::{BlobId, SampleId};
use crate::domain::picture::Picture;
use crate::domain::record::Asked;
use crate::domain::sample::Output;
use crate::reward::human::{Heard, Rater, Vote};
use crate::reward::{DrawReward, Label, Oracle, RewardError, Wanted};
use crate::store::RatedCall;
use crate::train::TrainError;

/// What a sample must be said to be worth to be shown to the describer, and how many it takes. It is tried by the same line: what is called
/// mediocre is not liked.
const LIKED: f64 = 0.75;
const FEWEST: usize = 300;
/// How often it must rank a liked picture of a request above one of the same that was not, and among how many pairs, to be a reward: what
/// earns that is sought out. Of requests and not of prompts, or the few that are asked for again and again, and are easy, would decide. Slips of raters count against it: where 18 % of what they say is one, a perfect judge comes to 0.82.
const WITHIN: f64 = 0.57;
const PAIRS: usize = 200;

/// What raters would think of a picture, by what a describer of what they liked makes of it.
#[derive(Clone)]
pub struct Tasted {
    pub taste: Taste,
    pub describer: Arc<Describer>,
}

impl Tasted {
    /// What they would think of pictures of a prompt, 0 to 1.
    ///
    /// # Errors
    /// When the model fails.
    pub fn of(&self, prompt: &str, pictures: &[&Picture]) -> Result<Vec<f64>, TrainError> {
        let seen: Vec<Shown<'_>> = pictures.iter().map(|&picture| (Arc::new(picture.clone()), prompt)).collect();
        Ok(self.describer.numbers(&seen)?.iter().map(|row| self.taste.of(row)).collect())
    }
}

impl DrawReward for Tasted {
    fn label(&self) -> Label {
        Label { name: "taste", version: 2, range: (0.0, 1.0) }
    }

    fn score(&self, wanted: &Wanted, group: &[&Picture], _: &dyn Oracle) -> Result<Option<Vec<f64>>, RewardError> {
        Ok(Some(self.of(&wanted.prompt, group).map_err(|e| RewardError::Oracle(e.to_string()))?))
    }
}

/// How well it foretells votes on pictures of held-out requests.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Trial {
    /// Pictures that were liked, which the describer learned from.
    pub liked: usize,
    #[serde(flatten)]
    pub quality: Quality,
    /// How often it ranks a liked picture of a request above one of the same that was not, and of how many pairs.
    pub within: f64,
    pub pairs: usize,
}

impl Trial {
    /// Whether it is good enough to be a reward.
    #[must_use]
    pub fn is_reward(&self) -> bool {
        self.pairs >= PAIRS && self.within >= WITHIN
    }
}

/// A picture that somebody who is heard has judged.
struct Seen<'a> {
    sample: SampleId,
    request: usize,
    shown: Shown<'a>,
    /// What it is said to be worth.
    value: f64,
    held_out: bool,
}

fn seen<'a>(
    rated: &'a [RatedCall],
    heard: &BTreeMap<SampleId, Heard>,
    picture: &mut dyn FnMut(&BlobId) -> Result<Arc<Picture>, TrainError>,
) -> Result<Vec<Seen<'a>>, TrainError> {
    let mut seen = Vec::new();
    for (request, RatedCall { kept, .. }) in rated.iter().enumerate() {
        let Asked::Draw(draw) = &kept.call.asked else { continue };
        let held_out = is_held_out(&kept.call.asked);
        for record in &kept.records {
            if let (Some(heard), Output::Picture(blob)) = (heard.get(&record.id), &record.sample.output) {
                let shown = (picture(blob)?, draw.prompt.as_str());
                seen.push(Seen { sample: record.id, request, shown, value: heard.value, held_out });
            }
        }
    }
    Ok(seen)
}

/// What those who are heard like, by what they said; `describe` makes a describer of pictures that they liked, and of requests of which they
/// liked some and others not. `None` where too little was liked, or too little of it is held out to try it on.
///
/// # Errors
/// When a picture is missing, the model fails, or `describe` does.
pub fn liking<E: From<TrainError>>(
    rated: &[RatedCall],
    votes: &[Vote<SampleId>],
    heard: &BTreeMap<SampleId, Heard>,
    raters: &[Rater],
    picture: &mut dyn FnMut(&BlobId) -> Result<Arc<Picture>, TrainError>,
    describe: impl FnOnce(&[Shown<'_>], &[Compared<'_>]) -> Result<Describer, E>,
) -> Result<Option<(Tasted, Trial)>, E> {
    let (held_out, others): (Vec<_>, Vec<_>) = seen(rated, heard, picture)?.into_iter().partition(|one| one.held_out);
    let mut requests: BTreeMap<usize, Vec<(Shown<'_>, bool)>> = BTreeMap::new();
    for Seen { request, shown, value, .. } in others {
        requests.entry(request).or_default().push((shown, value >= LIKED));
    }
    let liked: Vec<Shown<'_>> =
        requests.values().flatten().filter(|(_, liked)| *liked).map(|(shown, _)| shown.clone()).collect();
    if liked.len() < FEWEST || held_out.is_empty() {
        return Ok(None);
    }
    let count = |pictures: &Vec<(Shown<'_>, bool)>| {
        let liked = pictures.iter().filter(|(_, liked)| *liked).count();
        (liked, pictures.len() - liked)
    };
    let counts: Vec<(usize, usize)> = requests.values().map(count).collect();
    let told = requests.into_values().zip(trust(&counts)).zip(&counts);
    let told = told.filter(|(_, (liked, others))| *liked > 0 && *others > 0);
    let compared: Vec<Compared<'_>> = told.map(|((pictures, trust), _)| Compared { pictures, trust }).collect();
    let describer = describe(&liked, &compared)?;
    let shown: Vec<Shown<'_>> = held_out.iter().map(|one| one.shown.clone()).collect();
    let requests: BTreeMap<SampleId, usize> = held_out.iter().map(|one| (one.sample, one.request)).collect();
    let numbers = describer.numbers(&shown)?.into_iter().map(Vec::from);
    let rows: BTreeMap<SampleId, Vec<f32>> = held_out.iter().map(|one| one.sample).zip(numbers).collect();
    let silent: BTreeSet<&str> =
        raters.iter().filter(|rater| rater.weight == 0.0).map(|rater| rater.name.as_str()).collect();
    let likes = |vote: &Vote<SampleId>| (!silent.contains(vote.rater.as_str())).then_some(vote.value >= LIKED);
    let (voted, judged) = judged(&rows, votes, likes);
    let Some((leans, quality)) = foretell(&judged) else { return Ok(None) };
    let tried = voted.iter().zip(&judged).zip(&leans);
    let (within, pairs) =
        auc_within(tried.map(|((vote, judged), &lean)| (requests.get(&vote.sample), lean, judged.good)));
    let trial = Trial { liked: liked.len(), quality, within, pairs };
    Ok(Some((Tasted { taste: Taste::learn(&judged), describer: Arc::new(describer) }, trial)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_better_than_chance_or_hardly_tried_is_no_reward() {
        let quality = Quality { votes: 900, auc: 0.8, brier: 0.2, brier_of_mean: 0.24 };
        let trial = |within: f64, pairs: usize| Trial { liked: 5000, quality, within, pairs };
        assert!(trial(0.6, 2600).is_reward() && !trial(0.53, 2600).is_reward() && !trial(0.9, 40).is_reward());
        assert!(!trial(f64::NAN, 2600).is_reward());
    }
}
