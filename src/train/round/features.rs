//! What a model makes of a drawn picture with its prompt, as numbers for a model of taste; what that one foretells of votes, and as a
//! reward what it thinks of pictures that nobody has judged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::taste::{Judged, Quality, Taste, foretell};
use crate::domain::id::{BlobId, SampleId};
use crate::domain::picture::Picture;
use crate::domain::record::Asked;
use crate::domain::sample::Output;
use crate::model::Model;
use crate::model::network::Span;
use crate::reward::human::{Rater, Vote};
use crate::reward::{DrawReward, Label, Oracle, RewardError, Wanted};
use crate::store::RatedCall;
use crate::train::TrainError;
use crate::train::pretrain::asked;

/// Pictures of one pass.
const AT_ONCE: usize = 16;
/// The AUC from which a model of taste is believed.
const GOOD: f64 = 0.6;

/// The state of the model behind each picture and its prompt: a row of numbers for each, all of one length.
fn features(model: &Model, seen: &[(Arc<Picture>, &str)]) -> Result<Vec<Vec<f32>>, TrainError> {
    let failed = |e: &dyn std::fmt::Display| TrainError::State(e.to_string());
    let mut rows = Vec::with_capacity(seen.len());
    for some in seen.chunks(AT_ONCE) {
        let prompts = some.iter().map(|(picture, prompt)| model.prompter().answer(&asked(picture, prompt)));
        let prompts = prompts.collect::<Result<Vec<_>, _>>()?;
        let pictures: Vec<_> = prompts.iter().flat_map(|prompt| prompt.pictures.iter().cloned()).collect();
        let eyes = model.see(&pictures).map_err(|e| failed(&e))?;
        let patches = model.config().image_tokens();
        let eyes = (0..prompts.len()).map(|at| eyes.narrow(0, at * patches, patches));
        let eyes = eyes.collect::<Result<Vec<_>, _>>()?;
        let mut spans = Vec::with_capacity(prompts.len());
        for (prompt, eyes) in prompts.iter().zip(&eyes) {
            spans.push(Span { slot: 0, start: 0, chunks: prompt.chunks(Some(eyes), 0)? });
        }
        let hidden = model.network().forward(&spans)?.detach();
        let mut end = 0;
        for span in &spans {
            end += span.len();
            rows.push(hidden.narrow(0, end - 1, 1)?.flatten_all()?.to_vec1::<f32>()?);
        }
    }
    Ok(rows)
}

/// Votes on pictures and what is foretold of them.
pub struct Tasting<'a> {
    rows: BTreeMap<SampleId, Vec<f32>>,
    /// `None` where there are too few raters to tell.
    pub quality: Option<Quality>,
    /// By sample and rater, whether the rater should like it, by the votes of other raters; where taste is good enough, and for the third of
    /// pictures that it likes best and the third that it likes least.
    pub foretold: BTreeMap<(SampleId, &'a str), f64>,
}

impl<'a> Tasting<'a> {
    /// Looks at all pictures that were voted on.
    ///
    /// # Errors
    /// When a picture is missing or the model fails.
    pub fn of(
        base: &Model,
        rated: &[RatedCall],
        votes: &'a [Vote<SampleId>],
        picture: &mut dyn FnMut(&BlobId) -> Result<Arc<Picture>, TrainError>,
    ) -> Result<Self, TrainError> {
        let voted: BTreeSet<SampleId> = votes.iter().map(|vote| vote.sample).collect();
        let (mut ids, mut seen) = (vec![], vec![]);
        for kept in rated.iter().map(|rated| &rated.kept) {
            let Asked::Draw(draw) = &kept.call.asked else { continue };
            for record in kept.records.iter().filter(|record| voted.contains(&record.id)) {
                if let Output::Picture(blob) = &record.sample.output {
                    ids.push(record.id);
                    seen.push((picture(blob)?, draw.prompt.as_str()));
                }
            }
        }
        let rows: BTreeMap<SampleId, Vec<f32>> = ids.into_iter().zip(features(base, &seen)?).collect();
        let (voted, judged) = judged(&rows, votes, |_| true);
        let Some((leans, quality)) = foretell(&judged) else {
            return Ok(Self { rows, quality: None, foretold: BTreeMap::new() });
        };
        let mut sorted = leans.clone();
        sorted.sort_by(f64::total_cmp);
        let third = |of: usize| sorted.get(of * sorted.len() / 3).copied().unwrap_or(0.0);
        let clear = voted.into_iter().zip(leans).filter_map(|(vote, lean)| {
            let likes = (lean >= third(2)).then_some(1.0).or_else(|| (lean <= third(1)).then_some(0.0))?;
            Some(((vote.sample, vote.rater.as_str()), likes))
        });
        let foretold = if quality.auc >= GOOD { clear.collect() } else { BTreeMap::new() };
        Ok(Self { rows, quality: Some(quality), foretold })
    }

    /// Taste is good enough to be heard.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.quality.is_some_and(|quality| quality.auc >= GOOD)
    }

    /// The taste of all raters who are heard, where it is good enough.
    #[must_use]
    pub fn taste(&self, votes: &[Vote<SampleId>], raters: &[Rater]) -> Option<Taste> {
        let silent: BTreeSet<&str> =
            raters.iter().filter(|rater| rater.weight == 0.0).map(|rater| rater.name.as_str()).collect();
        self.is_good().then(|| Taste::learn(&judged(&self.rows, votes, |rater| !silent.contains(rater)).1))
    }
}

/// Votes for or against pictures, by raters who are `heard`.
fn judged<'r, 'v: 'r>(
    rows: &'r BTreeMap<SampleId, Vec<f32>>,
    votes: &'v [Vote<SampleId>],
    heard: impl Fn(&str) -> bool,
) -> (Vec<&'v Vote<SampleId>>, Vec<Judged<'r>>) {
    let sound = votes.iter().filter(|vote| vote.value != 0.5 && heard(&vote.rater));
    let judged = sound.filter_map(|vote| {
        let features = rows.get(&vote.sample)?;
        Some((vote, Judged { features, rater: &vote.rater, good: vote.value > 0.5 }))
    });
    judged.unzip()
}

/// What raters would think of a picture, by the model of their taste.
pub struct Tasted {
    pub taste: Taste,
    /// Whose features it is of.
    pub model: Arc<Model>,
}

impl DrawReward for Tasted {
    fn label(&self) -> Label {
        Label { name: "taste", version: 1, range: (0.0, 1.0) }
    }

    fn score(&self, wanted: &Wanted, group: &[&Picture], _: &dyn Oracle) -> Result<Option<Vec<f64>>, RewardError> {
        let seen: Vec<_> = group.iter().map(|&picture| (Arc::new(picture.clone()), wanted.prompt.as_str())).collect();
        let rows = features(&self.model, &seen).map_err(|e| RewardError::Oracle(e.to_string()))?;
        Ok(Some(rows.iter().map(|row| self.taste.of(row)).collect()))
    }
}
