//! Groups of samples from an engine: prompts are submitted together, so that in an idle engine the same weights and seeds give the
//! same samples to the last bit. Knows nothing of rewards.

use super::super::TrainError;
use super::super::player::Player;
use crate::domain::sample::Sample;
use crate::domain::task::Sampling;
use crate::engine::command::{Event, Work};

/// The samples of each prompt, in the order of its samplings.
///
/// # Errors
/// When the engine refuses or fails. Call it outside an async runtime.
pub fn roll(player: &Player, prompts: Vec<(Work, Vec<Sampling>)>) -> Result<Vec<Vec<Sample>>, TrainError> {
    let failed = |e: &dyn std::fmt::Display| TrainError::State(format!("a group could not be drawn: {e}"));
    let mut groups = Vec::with_capacity(prompts.len());
    let mut prompts = prompts.into_iter().peekable();
    while prompts.peek().is_some() {
        let some: Vec<_> = prompts.by_ref().take(player.at_once.max(1)).collect();
        let sizes: Vec<usize> = some.iter().map(|(_, samplings)| samplings.len()).collect();
        let some = some.into_iter().map(|(work, samplings)| player.submission(work, samplings)).collect();
        let all = player.engine.submit_all(&player.model, some).map_err(|e| failed(&e))?;
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
            groups.push(
                group.into_iter().collect::<Option<Vec<_>>>().ok_or_else(|| failed(&"the engine lost a sample"))?,
            );
        }
    }
    Ok(groups)
}
