//! What a round learns from that has no file of its own: what was said of samples since the last one, as lessons, exercises and
//! rewards. Knows nothing of how a round goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;
use serde_json::{Value, json};

use super::describer::{Compared, Describer, Shown};
use super::features::Tasting;
use super::gather::{Lessons, Taking, corrected, lessons, prompts, unlabelled, votes};
use super::holding::Holding;
use super::liking::{Tasted, Trial, liking};
use super::own::{MOST, Own};
use super::plan::Plan;
use super::taste::Quality;
use super::work::{Rounds, Study};
use super::{RoundError, reported};
use crate::domain::id::{BlobId, SampleId};
use crate::domain::job::{Level, RoundEvent};
use crate::domain::picture::Picture;
use crate::domain::round::Round;
use crate::domain::sample::Version;
use crate::domain::task::Draw;
use crate::model::Model;
use crate::picture::decode::{self, MAX_PIXELS};
use crate::reward::human::{Listening, Rater, Standing, Vote, hear};
use crate::reward::{Accuracy, AnswerReward, DrawReward, Format, Likeness, Majority, Mix, Variety, Verifier, Wanted};
use crate::store::RatedCall;
use crate::train::TrainError;
use crate::train::corl::advantage::Scale;
use crate::train::corl::exercise::{Exercise, Practice, Source, of_world};
use crate::train::corl::{CorlOptions, CorlStage, Scored};
use crate::train::log::replace;
use crate::train::optim::Schedule;
use crate::train::trainable::Lora;
use crate::world::Dice;

/// Requests read at once.
const PAGE: u32 = 200;

/// What was judged, gathered.
struct Gathered {
    lessons: Lessons,
    corrected: Vec<Exercise>,
    /// What was asked to be drawn, to be drawn anew and judged by what those who are heard like, where that is known well enough.
    prompts: Vec<Exercise>,
    unlabelled: Vec<Exercise>,
    liking: Option<Tasted>,
    own: Own,
    /// Of what tells raters from each other, and of what is liked.
    quality: Option<Quality>,
    trial: Option<Trial>,
    raters: Vec<Rater>,
    requests: usize,
}

impl Rounds {
    /// Gathers what was said.
    pub(super) fn of_what_was_said(
        &self,
        round: &Round,
        plan: &Plan,
        base: &Arc<Model>,
        holding: &Holding,
    ) -> Result<Study, RoundError> {
        let mut gathered = self.gather(round, plan, base, holding)?;
        let own = std::mem::take(&mut gathered.own);
        let Gathered { lessons, corrected, prompts, unlabelled, quality, trial, raters, requests, .. } = &gathered;
        if lessons.lessons.is_empty() && corrected.is_empty() && prompts.is_empty() {
            return Err(RoundError::Failed(format!(
                "there is nothing to learn from: {requests} requests were judged, {} samples of weights too old; what is judged alike, \
                 or kept for judging, tells nothing",
                lessons.too_old
            )));
        }
        let told = json!({
            "requests": requests,
            "lessons": lessons.lessons.len(),
            "pictures": lessons.pictures,
            "answers": lessons.answers,
            "corrections": corrected.len(),
            "too_old": lessons.too_old,
            "taste": quality,
            "describer": trial,
            "drawn_anew": prompts.len(),
            "unlabelled": unlabelled.len(),
            "benchmark": plan.benchmark,
            "held_out": { "prompts": own.prompts.len(), "corrections": own.corrected.len() },
            "raters": raters.iter().map(rater).collect::<Vec<_>>(),
        });
        let samples: Vec<SampleId> = lessons.samples.clone();
        Ok(Study { stage: self.stage(plan, base, gathered)?, told, samples, own })
    }

    /// What the versions of a round are judged by besides the suite, again.
    pub(super) fn own(
        &self,
        round: &Round,
        plan: &Plan,
        base: &Arc<Model>,
        holding: &Holding,
    ) -> Result<Own, RoundError> {
        Ok(self.gather(round, plan, base, holding)?.own)
    }

    /// A describer of what was liked; the one that this round has made before, where it has, or one that goes on from that of earlier rounds.
    fn describer(
        &self,
        round: &Round,
        plan: &Plan,
        base: &Model,
        holding: &Holding,
        liked: &[Shown<'_>],
        compared: &[Compared<'_>],
    ) -> Result<Describer, RoundError> {
        let read = |path: &Path| {
            let file = std::fs::read(path).ok()?;
            Describer::read(base, &file).inspect_err(|error| tracing::warn!(%error, "a describer begins anew")).ok()
        };
        let path = self.describer_of(round);
        if let Some(describer) = read(&path) {
            return Ok(describer);
        }
        let whole = |other: &PathBuf| other.extension() == path.extension();
        let before = others(&path).into_iter().filter(whole).max().and_then(|newest| read(&newest));
        // It can describe then; what it is blind to it learns by comparing, where there is enough to compare.
        let epochs = match before {
            None => plan.describe,
            Some(_) if compared.iter().map(|one| one.pictures.len()).sum::<usize>() < liked.len() => {
                plan.describe.div_ceil(KNOWN)
            }
            Some(_) => 0,
        };
        let going = |what: &'static str| {
            let mut told = 0;
            move |done: u64, of: u64| {
                let tenth = 10 * done / of.max(1);
                if tenth > told {
                    told = tenth;
                    let message = format!("{what}: {tenth}0 %");
                    self.tell(RoundEvent::say(round.id, (self.now_ms)(), Level::Info, message));
                }
                holding.check().is_ok()
            }
        };
        let go_on = going("Learning to describe what was liked");
        let describer = Describer::learn(base, before.as_ref(), liked, epochs, plan.seed, go_on)?;
        let describer = describer.ok_or(RoundError::Lost)?;
        let go_on = going("Learning to tell it from what was not");
        let describer = describer.compare(base, compared, plan.compare, plan.seed, go_on)?;
        let describer = describer.ok_or(RoundError::Lost)?;
        let dir = self.dir.join(DESCRIBERS);
        std::fs::create_dir_all(&dir).map_err(|e| RoundError::Failed(format!("{}: {e}", dir.display())))?;
        replace(&path, describer.file()?)?;
        Ok(describer)
    }

    fn describer_of(&self, round: &Round) -> PathBuf {
        self.dir.join(DESCRIBERS).join(format!("{}.safetensors", round.id))
    }

    fn gather(&self, round: &Round, plan: &Plan, base: &Arc<Model>, holding: &Holding) -> Result<Gathered, RoundError> {
        let mut rated: Vec<RatedCall> = Vec::new();
        loop {
            let after = rated.last().map(|rated| rated.kept.call.id);
            let page = self.runtime.block_on(self.ledger.rated(round.since_ms, round.until_ms, after, PAGE))?;
            if page.is_empty() {
                break;
            }
            rated.extend(page);
        }
        let promotions = self.runtime.block_on(self.ledger.promotions(u32::MAX >> 1))?;
        let newest = promotions.first().map_or(0, |newest| newest.number);
        let mut last: BTreeMap<Version, i64> = BTreeMap::new();
        for promotion in promotions.iter().rev() {
            last.insert(promotion.version.clone(), promotion.number);
        }
        let is_young = |version: &Version| last.get(version).is_some_and(|number| newest - number <= plan.oldest);
        let mut pictures: BTreeMap<BlobId, Arc<Picture>> = BTreeMap::new();
        let mut picture = |blob: &BlobId| -> Result<Arc<Picture>, TrainError> {
            if let Some(picture) = pictures.get(blob) {
                return Ok(Arc::clone(picture));
            }
            let failed = |e: &dyn std::fmt::Display| TrainError::State(format!("picture {blob}: {e}"));
            let bytes = self.runtime.block_on(self.ledger.blobs().get(blob)).map_err(|e| failed(&e))?;
            let picture = Arc::new(decode::picture(&bytes, MAX_PIXELS).map_err(|e| failed(&e))?);
            pictures.insert(blob.clone(), Arc::clone(&picture));
            Ok(picture)
        };
        let votes = votes(&rated);
        let tasting = Tasting::of(base, &rated, &votes, &mut picture)?;
        let judge = |vote: &Vote<SampleId>| tasting.foretold.get(&(vote.sample, vote.rater.as_str())).copied();
        let listening = Listening { cap: plan.loudest, ..Listening::default() };
        let before = standings(&self.runtime.block_on(self.ledger.rounds(Some(round.id), REMEMBERED))?, round.since_ms);
        let (heard, raters) = hear(&votes, judge, &before, listening);
        let describe = |liked: &[Shown<'_>], compared: &[Compared<'_>]| {
            self.describer(round, plan, base, holding, liked, compared)
        };
        let known = match plan.describe {
            0 => None,
            _ => liking::<RoundError>(&rated, &votes, &heard, &raters, &mut picture, describe)?,
        };
        let (known, trial) = known.unzip();
        let taste = known.clone().filter(|_| trial.is_some_and(|trial| trial.is_reward()));
        // The next round goes on from the last that was good.
        let path = self.describer_of(round);
        let past = if taste.is_some() { others(&path) } else { vec![path] };
        past.iter().for_each(|path| drop(std::fs::remove_file(path)));
        // What people like is told better by new pictures than by those that were looked at: slips are averaged out, and what the weights
        // draw now is called back as they move (see ARCHITECTURE's log).
        let (cap, hold, least, pictures) = (plan.importance, plan.hold, plan.least, taste.is_none());
        let taking = Taking { cap, hold, least, pictures };
        let lessons = lessons(&rated, &heard, base, taking, is_young, &mut picture)?;
        let anew = |prompt: &str| Exercise { draw: Some(Wanted::of(prompt.to_owned())), ask: None };
        let wanted = if taste.is_some() { prompts(&rated, false).map(anew).collect() } else { vec![] };
        let unlabelled = match plan.unlabelled {
            0 => vec![],
            _ => unlabelled(&rated, &mut picture)?,
        };
        let own: BTreeSet<&str> = prompts(&rated, true).collect();
        let own = Own {
            prompts: own.into_iter().take(MOST).map(|of| Draw { prompt: of.to_owned() }).collect(),
            taste: known.filter(|_| trial.is_some_and(|trial| trial.quality.is_good())),
            corrected: corrected(&rated, true, &mut picture)?.into_iter().filter_map(|one| one.ask).collect(),
        };
        Ok(Gathered {
            lessons,
            corrected: corrected(&rated, false, &mut picture)?,
            prompts: wanted,
            unlabelled,
            liking: taste,
            own,
            quality: tasting.quality,
            trial,
            raters,
            requests: rated.len(),
        })
    }

    fn stage(&self, plan: &Plan, base: &Arc<Model>, gathered: Gathered) -> Result<CorlStage, RoundError> {
        let Gathered { lessons, corrected, mut prompts, unlabelled, liking, .. } = gathered;
        let draws = lessons.pictures > 0 || corrected.iter().any(|exercise| exercise.draw.is_some());
        let answers =
            lessons.answers > 0 || corrected.iter().any(|exercise| exercise.ask.is_some()) || !unlabelled.is_empty();
        let practice = Practice::of(draws, answers);
        let each = plan.lessons.max(1);
        let mut steps = (lessons.lessons.len() as u64 * plan.epochs).div_ceil(each as u64).max(1);
        steps = steps.max(corrected.len().div_ceil(CORRECTED) as u64 * plan.epochs);
        let (corrections, anew) = (corrected.len().min(CORRECTED), prompts.len().min(plan.anew));
        let asked = unlabelled.len().min(plan.unlabelled);
        let mut options = CorlOptions {
            seed: plan.seed,
            prompts: corrections + anew + asked + plan.benchmark,
            cold: 0,
            questions: 0,
            logged: each,
            // What was logged is gone through by ever smaller steps: noise in large ones is never called back (see ARCHITECTURE's log).
            schedule: Schedule { peak: plan.rate * plan.multiplier, warmup: 5, decay: 1.0 },
            ..CorlOptions::demo(practice, self.served)
        };
        if liking.is_some() {
            steps = steps.max(plan.steps);
            options.schedule = Schedule { peak: plan.anew_rate * plan.multiplier, warmup: 10, decay: 0.3 };
            // Pictures that are liked alike would tell by their deviation what nobody has said.
            options.coupling.pictures = Scale::None;
            (options.scored, options.keep, options.sharpen) = (Scored::Detached, KEEP, SHARPEN);
            options.temperature *= HEAT;
            options.lora = Some(Lora::of(RANK, plan.seed));
        }
        options.steps = steps;
        // Each step its share of both, in turns.
        let mut dice = Dice::seed_from_u64(plan.seed);
        prompts.shuffle(&mut dice);
        let mut turns = [(&corrected, corrections), (&prompts, anew), (&unlabelled, asked)]
            .map(|(exercises, share)| (exercises.iter().cycle(), share));
        let mut given: Vec<Exercise> = Vec::new();
        for _ in 0..steps {
            for (exercises, share) in &mut turns {
                given.extend(exercises.by_ref().take(*share).cloned());
            }
            given.extend((0..plan.benchmark).map(|_| benchmark(practice, &mut dice)));
        }
        let mut draws: Vec<(Box<dyn DrawReward>, f64)> = vec![(Box::new(Likeness), 1.0)];
        if let Some(liking) = liking {
            draws.push((Box::new(liking), 1.0));
            draws.push((Box::new(Variety), VARIETY));
        }
        if plan.benchmark > 0 {
            draws.push((Box::new(Verifier::default()), 1.0));
        }
        let mut answers: Vec<(Box<dyn AnswerReward>, f64)> = vec![(Box::new(Accuracy), 1.0), (Box::new(Format), 1.0)];
        if asked > 0 {
            answers.push((Box::new(Majority), 1.0));
        }
        let (given, engine) = (Source::Given(given, "corrections, prompts and benchmark".into()), self.engine.clone());
        let (draws, answers, lessons) = (Mix::new(draws), Mix::new(answers), lessons.lessons);
        Ok(CorlStage::over(engine, Arc::clone(base), options, given, draws, answers, lessons)?)
    }
}

/// Where describers' weights are kept: the last one that was good enough, and that of the round under way, by round.
const DESCRIBERS: &str = "describers";

/// Where one has learned before and there is little to compare, it learns from what is new so many times less.
const KNOWN: u64 = 3;

/// What else lies beside a file.
fn others(path: &Path) -> Vec<PathBuf> {
    let all = path.parent().and_then(|dir| std::fs::read_dir(dir).ok()).into_iter().flatten().flatten();
    all.map(|entry| entry.path()).filter(|other| other != path).collect()
}

/// An exercise of the world. Its real picture is one of many that would do, so pictures are not held against it.
fn benchmark(practice: Practice, dice: &mut Dice) -> Exercise {
    let Exercise { draw, ask } = of_world(practice, dice);
    Exercise { draw: draw.map(|wanted| Wanted { real: None, ..wanted }), ask }
}

/// Share of the pictures that gradients are computed of: drawing them costs less, and few tell most.
const KEEP: f64 = 0.5;

/// Rank of what is learned of new pictures: it is little, and noise spreads over all weights that may change, so few may.
pub const RANK: usize = 8;

/// How fast, beside a weight, what image logits are scaled by learns.
const SHARPEN: f64 = 10.0;

/// How much hotter than they are served pictures are drawn to be learned from: weights that grow sure of what they draw have nothing left to
/// choose from, and those that are right at this are surer as they are served.
const HEAT: f32 = 1.25;

/// What variety weighs beside what is liked.
const VARIETY: f64 = 0.3;

/// Corrections that a step practises.
const CORRECTED: usize = 4;

/// Rounds back that it is remembered how raters did.
const REMEMBERED: u32 = 20;

fn rater(rater: &Rater) -> Value {
    let Standing { judged, agreed } = rater.now;
    let before = json!({ "judged": rater.before.judged, "agreed": rater.before.agreed });
    json!({
        "rater": rater.name, "votes": rater.votes, "judged": judged, "agreed": agreed, "before": before, "weight": rater.weight,
    })
}

/// How raters did up to `until_ms`, as `rounds`, newest first, have reported; what two of them heard counts once.
fn standings(rounds: &[Round], mut until_ms: i64) -> BTreeMap<String, Standing> {
    let mut standings: BTreeMap<String, Standing> = BTreeMap::new();
    for round in rounds {
        let report = reported(round);
        let Some(Value::Array(raters)) = report.get("learned_from").map(|from| &from["raters"]) else {
            continue;
        };
        if round.until_ms > until_ms {
            continue;
        }
        until_ms = round.since_ms;
        for rater in raters {
            let number = |of: &str| usize::try_from(rater[of].as_u64()?).ok();
            if let (Some(name), Some(judged), Some(agreed)) =
                (rater["rater"].as_str(), number("judged"), number("agreed"))
            {
                *standings.entry(name.to_owned()).or_default() += Standing { judged, agreed };
            }
        }
    }
    standings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_raters_did_is_remembered_once() {
        let round = |[since_ms, until_ms]: [i64; 2], raters: Value| {
            let report = json!({ "learned_from": { "raters": raters } }).to_string();
            Round { report: Some(report), ..Round::open("somebody".into(), "{}".into(), since_ms, until_ms) }
        };
        let said = |name: &str, judged: usize, agreed: usize| {
            let now = Standing { judged, agreed };
            rater(&Rater { name: name.into(), votes: judged, now, before: now, weight: 1.0 })
        };
        let rounds = [
            round([20, 30], json!([said("a", 5, 1), said("b", 7, 7)])),
            // Refused, so that the next heard it again.
            round([0, 10], json!([said("a", 50, 50)])),
            round([0, 20], json!([said("a", 60, 2), { "rater": "b", "judged": -1, "agreed": 0 }])),
            Round::open("somebody".into(), "{}".into(), 0, 0),
        ];
        let newest_first = |at: &[usize]| at.iter().map(|&at| rounds[at].clone()).collect::<Vec<_>>();
        let found = standings(&newest_first(&[0, 2, 1, 3]), 30);
        assert_eq!(found["a"], Standing { judged: 65, agreed: 3 });
        assert_eq!(found["b"], Standing { judged: 7, agreed: 7 });
        assert_eq!(standings(&newest_first(&[0, 2, 1, 3]), 20)["a"], Standing { judged: 60, agreed: 2 });
    }
}
