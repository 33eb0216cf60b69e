//! What a model makes of a drawn picture with its prompt, as numbers for a model of taste, and what that one foretells of votes: whether
//! raters say what others would. It knows easy prompts from hard ones more than pictures of one prompt, so it is no reward.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rayon::prelude::*;

use super::taste::{Judged, Quality, foretell};
use crate::domain::id::{BlobId, SampleId};
use crate::domain::picture::Picture;
use crate::domain::record::Asked;
use crate::domain::sample::{Output, Sample};
use crate::model::Model;
use crate::model::network::Span;
use crate::reward::human::Vote;
use crate::store::RatedCall;
use crate::train::TrainError;
use crate::train::pretrain::asked;

/// Pictures of one pass.
const AT_ONCE: usize = 16;

/// The state of the model behind each picture and its prompt: a row of numbers for each, all of one length.
fn features(model: &Model, seen: &[(Arc<Picture>, &str)]) -> Result<Vec<Vec<f32>>, TrainError> {
    let parts = seen.par_chunks(AT_ONCE).map(|some| of_some(model, some));
    Ok(parts.collect::<Result<Vec<_>, _>>()?.concat())
}

/// [`features`] by one pass.
fn of_some(model: &Model, some: &[(Arc<Picture>, &str)]) -> Result<Vec<Vec<f32>>, TrainError> {
    let failed = |e: &dyn std::fmt::Display| TrainError::State(e.to_string());
    let prompts = some.iter().map(|(picture, prompt)| model.prompter().answer(&asked(picture, prompt)));
    let prompts = prompts.collect::<Result<Vec<_>, _>>()?;
    let pictures: Vec<_> = prompts.iter().flat_map(|prompt| prompt.pictures.iter().cloned()).collect();
    let eyes = model.see(&pictures).map_err(|e| failed(&e))?;
    let mut spans = Vec::with_capacity(prompts.len());
    for (at, prompt) in prompts.iter().enumerate() {
        let patches = model.config().image_tokens();
        let eyes = eyes.narrow(0, at * patches, patches)?;
        spans.push(Span { slot: 0, start: 0, chunks: prompt.chunks(Some(&eyes), 0)? });
    }
    let last = spans.iter().scan(0, |end, span| {
        *end += span.len() as u32;
        Some(*end - 1)
    });
    let last: Vec<u32> = last.collect();
    Ok(model.network().forward_some(&spans, &last)?.detach().to_vec2()?)
}

/// How likely a picture was when it was drawn.
fn logged(sample: &Sample<BlobId>) -> [f32; 3] {
    let mean = |of: &[f32]| of.iter().sum::<f32>() / of.len().max(1) as f32;
    let least = sample.conditional_log_probs.iter().copied().fold(0.0, f32::min);
    [mean(&sample.log_probs), mean(&sample.conditional_log_probs), least]
}

/// Votes on pictures and what is foretold of them.
pub struct Tasting<'a> {
    /// None where there are too few raters to tell.
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
        let (mut samples, mut seen) = (vec![], vec![]);
        for kept in rated.iter().map(|rated| &rated.kept) {
            let Asked::Draw(draw) = &kept.call.asked else { continue };
            for record in kept.records.iter().filter(|record| voted.contains(&record.id)) {
                if let Output::Picture(blob) = &record.sample.output {
                    samples.push((record.id, logged(&record.sample)));
                    seen.push((picture(blob)?, draw.prompt.as_str()));
                }
            }
        }
        let whole = |((id, logged), row): ((SampleId, [f32; 3]), Vec<f32>)| (id, [row.as_slice(), &logged].concat());
        let rows: BTreeMap<SampleId, Vec<f32>> = samples.into_iter().zip(features(base, &seen)?).map(whole).collect();
        let (voted, judged) = judged(&rows, votes, |vote| (vote.value != 0.5).then_some(vote.value > 0.5));
        let Some((leans, quality)) = foretell(&judged) else {
            return Ok(Self { quality: None, foretold: BTreeMap::new() });
        };
        let mut sorted = leans.clone();
        sorted.sort_by(f64::total_cmp);
        let third = |of: usize| sorted.get(of * sorted.len() / 3).copied().unwrap_or(0.0);
        let clear = voted.into_iter().zip(leans).filter_map(|(vote, lean)| {
            let likes = (lean >= third(2)).then_some(1.0).or_else(|| (lean <= third(1)).then_some(0.0))?;
            Some(((vote.sample, vote.rater.as_str()), likes))
        });
        let foretold = if quality.is_good() { clear.collect() } else { BTreeMap::new() };
        Ok(Self { quality: Some(quality), foretold })
    }
}

/// Votes on pictures that have a row of numbers, where `likes` says whether they are for or against one.
pub(super) fn judged<'r, 'v: 'r>(
    rows: &'r BTreeMap<SampleId, Vec<f32>>,
    votes: &'v [Vote<SampleId>],
    likes: impl Fn(&Vote<SampleId>) -> Option<bool>,
) -> (Vec<&'v Vote<SampleId>>, Vec<Judged<'r>>) {
    let judged = votes.iter().filter_map(|vote| {
        let (features, good) = (rows.get(&vote.sample)?, likes(vote)?);
        Some((vote, Judged { features, rater: &vote.rater, good }))
    });
    judged.unzip()
}
