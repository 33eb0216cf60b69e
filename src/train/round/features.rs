//! What a model makes of a drawn picture and its prompt, as numbers for a model of taste (its state behind both, and how likely the
//! picture was when it was drawn); and what that model foretells of votes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

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

/// A drawn picture with its prompt.
struct Seen<'a> {
    picture: Arc<Picture>,
    prompt: &'a str,
    sample: &'a Sample<BlobId>,
}

/// Pictures of one pass.
const AT_ONCE: usize = 16;

/// A row of numbers for each, all of one length.
fn features(model: &Model, seen: &[Seen<'_>]) -> Result<Vec<Vec<f32>>, TrainError> {
    let failed = |e: &dyn std::fmt::Display| TrainError::State(e.to_string());
    let mut rows = Vec::with_capacity(seen.len());
    for some in seen.chunks(AT_ONCE) {
        let prompts = some.iter().map(|one| model.prompter().answer(&asked(&one.picture, one.prompt)));
        let prompts = prompts.collect::<Result<Vec<_>, _>>()?;
        let pictures: Vec<_> = prompts.iter().flat_map(|prompt| prompt.pictures.iter().cloned()).collect();
        let eyes = model.see(&pictures).map_err(|e| failed(&e))?;
        let patches = model.config().image_tokens();
        let mut spans = Vec::with_capacity(prompts.len());
        let mut eyes_of = Vec::with_capacity(prompts.len());
        for at in 0..prompts.len() {
            eyes_of.push(eyes.narrow(0, at * patches, patches)?);
        }
        for (prompt, eyes) in prompts.iter().zip(&eyes_of) {
            spans.push(Span { slot: 0, start: 0, chunks: prompt.chunks(Some(eyes), 0)? });
        }
        let hidden = model.network().forward(&spans)?.detach();
        let mut end = 0;
        for (span, one) in spans.iter().zip(some) {
            end += span.len();
            let mut row = hidden.narrow(0, end - 1, 1)?.flatten_all()?.to_vec1::<f32>()?;
            let mean = |of: &[f32]| of.iter().sum::<f32>() / of.len().max(1) as f32;
            let least = one.sample.conditional_log_probs.iter().copied().fold(0.0, f32::min);
            row.extend([mean(&one.sample.log_probs), mean(&one.sample.conditional_log_probs), least]);
            rows.push(row);
        }
    }
    Ok(rows)
}

/// The AUC from which a model of taste is believed.
pub const GOOD_TASTE: f64 = 0.6;

/// What a model of taste foretells of votes on pictures, by sample and rater, from the votes of other raters; where it is good enough, and
/// for the third of pictures that it likes best and the third that it likes least.
///
/// # Errors
/// When a picture is missing or the model fails.
pub fn foretold<'a>(
    base: &Model,
    rated: &[RatedCall],
    votes: &'a [Vote<SampleId>],
    picture: &mut dyn FnMut(&BlobId) -> Result<Arc<Picture>, TrainError>,
) -> Result<(BTreeMap<(SampleId, &'a str), f64>, Option<Quality>), TrainError> {
    let mut seen: Vec<(SampleId, Seen<'_>)> = Vec::new();
    let voted: BTreeSet<SampleId> = votes.iter().map(|vote| vote.sample).collect();
    for kept in rated.iter().map(|rated| &rated.kept) {
        let Asked::Draw(draw) = &kept.call.asked else { continue };
        for record in kept.records.iter().filter(|record| voted.contains(&record.id)) {
            if let Output::Picture(blob) = &record.sample.output {
                seen.push((record.id, Seen { picture: picture(blob)?, prompt: &draw.prompt, sample: &record.sample }));
            }
        }
    }
    let (ids, seen): (Vec<SampleId>, Vec<Seen<'_>>) = seen.into_iter().unzip();
    let rows: BTreeMap<SampleId, Vec<f32>> = ids.into_iter().zip(features(base, &seen)?).collect();
    let judged: Vec<(&Vote<SampleId>, Judged<'_>)> = votes
        .iter()
        .filter(|vote| vote.value != 0.5)
        .filter_map(|vote| {
            let features = rows.get(&vote.sample)?;
            Some((vote, Judged { features, rater: &vote.rater, good: vote.value > 0.5 }))
        })
        .collect();
    let Some((foretold, quality)) = foretell(&judged.iter().map(|(_, judged)| judged.clone()).collect::<Vec<_>>())
    else {
        return Ok((BTreeMap::new(), None));
    };
    if quality.auc < GOOD_TASTE {
        return Ok((BTreeMap::new(), Some(quality)));
    }
    let mut sorted = foretold.clone();
    sorted.sort_by(f64::total_cmp);
    let third = |of: usize| sorted.get(of * sorted.len() / 3).copied().unwrap_or(0.5);
    let clear = judged.iter().zip(foretold).filter_map(|((vote, _), foretold)| {
        let likes = (foretold >= third(2)).then_some(1.0).or_else(|| (foretold <= third(1)).then_some(0.0))?;
        Some(((vote.sample, vote.rater.as_str()), likes))
    });
    Ok((clear.collect(), Some(quality)))
}
