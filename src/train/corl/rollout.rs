//! Groups of samples from an engine: every prompt of a step is submitted at once, so that in an idle engine the same weights and seeds
//! give the same samples to the last bit. Knows nothing of rewards.

use super::super::TrainError;
use crate::domain::sample::Sample;
use crate::domain::task::Sampling;
use crate::engine::EngineHandle;
use crate::engine::command::{Event, Lane, Submission, Work};

/// The samples of each prompt, in the order of its samplings.
///
/// # Errors
/// When the engine refuses or fails. Call it outside an async runtime.
pub fn roll(engine: &EngineHandle, prompts: Vec<(Work, Vec<Sampling>)>) -> Result<Vec<Vec<Sample>>, TrainError> {
    let failed = |e: &dyn std::fmt::Display| TrainError::State(format!("a group could not be drawn: {e}"));
    let sizes: Vec<usize> = prompts.iter().map(|(_, samplings)| samplings.len()).collect();
    let submissions =
        prompts.into_iter().map(|(work, samplings)| Submission { work, samplings, lane: Lane::Background }).collect();
    let all = engine.submit_all(&engine.model(), submissions).map_err(|e| failed(&e))?;
    let mut groups = Vec::with_capacity(all.len());
    for (mut events, size) in all.into_iter().zip(sizes) {
        let mut group: Vec<Option<Sample>> = vec![None; size];
        loop {
            match events.blocking_next() {
                Some(Event::Finished { index, sample }) => {
                    if let Some(place) = group.get_mut(index) {
                        *place = Some(sample);
                    }
                }
                Some(Event::Token { .. }) => {}
                Some(Event::Failed(error)) => return Err(failed(&error)),
                Some(Event::Done) | None => break,
            }
        }
        groups.push(group.into_iter().collect::<Option<Vec<_>>>().ok_or_else(|| failed(&"the engine lost a sample"))?);
    }
    Ok(groups)
}
