//! Working on rounds: claimed, gathered, trained, judged, promoted or refused, each step written to the ledger before the next. For a
//! thread of its own.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;
use serde_json::{Map, Value, json};
use tokio::runtime::Handle;

use super::RoundError;
use super::features::{Tasted, Tasting};
use super::gate::{Verdict, decide};
use super::gather::{Lessons, Taking, corrected, lessons, prompts, votes};
use super::holding::{Held, Holding, LEASE_MS};
use super::judge::{Looks, compare};
use super::plan::{Plan, Policy};
use super::taste::{Quality, Taste};
use super::trying::by;
use crate::domain::id::{BlobId, RoundId, SampleId};
use crate::domain::picture::Picture;
use crate::domain::round::{KnownVersion, Round, RoundState};
use crate::domain::sample::Version;
use crate::domain::trial::Terms;
use crate::engine::EngineHandle;
use crate::model::{Defaults, Model};
use crate::picture::decode::{self, MAX_PIXELS};
use crate::reward::answer::QaType;
use crate::reward::human::{Listening, Rater, Vote, hear};
use crate::reward::{Accuracy, AnswerReward, DrawReward, Format, Likeness, Mix, Variety};
use crate::store::{Ledger, LedgerError, Move, RatedCall};
use crate::train::TrainError;
use crate::train::corl::exercise::{Exercise, Practice, Source};
use crate::train::corl::{CorlOptions, CorlStage};
use crate::train::optim::Schedule;
use crate::train::player::Player;
use crate::train::run::{RunOptions, run};
use crate::world::Dice;

/// Time between looks for work.
const EVERY: Duration = Duration::from_secs(1);
/// Requests read at once.
const PAGE: u32 = 200;
/// Versions that were live last whose weights are kept.
const KEPT: usize = 3;

/// Works on rounds, one after another, beside an engine that serves.
pub struct Rounds {
    pub ledger: Ledger,
    pub engine: EngineHandle,
    pub runtime: Handle,
    /// Where runs keep their checkpoints.
    pub dir: PathBuf,
    /// What this worker is called in the ledger.
    pub owner: String,
    /// How pictures are served, and so judged.
    pub served: Defaults,
    /// When rounds are opened without anybody's hand.
    pub policy: Option<Policy>,
    /// How candidates that pass the gate are tried; none where they become live at once.
    pub canary: Option<Terms>,
    pub stop: Arc<AtomicBool>,
    /// The time, Unix milliseconds.
    pub now_ms: fn() -> i64,
}

/// What was judged, gathered.
struct Gathered {
    lessons: Lessons,
    corrected: Vec<Exercise>,
    /// What was asked to be drawn, to be drawn anew and judged by the taste of those who are heard, where that is good enough.
    prompts: Vec<Exercise>,
    taste: Option<Taste>,
    /// Of taste, with what was logged and of pictures alone.
    quality: [Option<Quality>; 2],
    raters: Vec<Rater>,
    requests: usize,
}

impl Rounds {
    /// Works until told to stop. For a thread of its own, outside the async runtime.
    pub fn run(&self) {
        while !self.is_stopped() {
            match self.turn() {
                Ok(true) => {}
                Ok(false) => self.rest(),
                Err(error) => {
                    tracing::warn!(%error, "rounds cannot be worked on for now");
                    self.rest();
                }
            }
        }
    }

    fn rest(&self) {
        let begun = Instant::now();
        while begun.elapsed() < EVERY && !self.is_stopped() {
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Works on the next round, if there is one, or is due; false when there is nothing to do.
    ///
    /// # Errors
    /// When the ledger is away.
    pub fn turn(&self) -> Result<bool, LedgerError> {
        if let Some(policy) = &self.policy {
            self.open_if_due(policy)?;
        }
        let now = (self.now_ms)();
        let claim = self.ledger.claim_round(self.owner.clone(), now, now + LEASE_MS);
        let Some(round) = self.runtime.block_on(claim)? else { return Ok(false) };
        tracing::info!(round = %round.id, state = round.state.word(), "working on a round");
        let (ledger, owner, stop) = (self.ledger.clone(), self.owner.clone(), Arc::clone(&self.stop));
        let holding = Holding::on(&self.runtime, ledger, round.id, owner, self.now_ms, stop);
        match self.work(round.clone(), &holding) {
            Ok(state) => tracing::info!(round = %round.id, state = state.word(), "a round has ended"),
            Err(RoundError::Lost) => tracing::info!(round = %round.id, "left a round"),
            Err(RoundError::Ledger(error @ LedgerError::Unavailable(_))) => return Err(error),
            Err(error) => {
                tracing::warn!(round = %round.id, %error, "a round has failed");
                let state = self.runtime.block_on(self.ledger.round(round.id))?.map_or(round.state, |now| now.state);
                let report = Some(json!({ "error": error.to_string() }).to_string());
                if !state.is_final() {
                    self.go(&round, state, RoundState::Failed, Move { report, ..self.still(&round) })?;
                }
                let _ = std::fs::remove_dir_all(self.folder(round.id));
            }
        }
        Ok(true)
    }

    /// Opens a round by policy.
    fn open_if_due(&self, policy: &Policy) -> Result<(), LedgerError> {
        let now = (self.now_ms)();
        let due = async {
            let last = self.ledger.rounds(None, 1).await?.pop();
            if last.as_ref().is_some_and(|last| !last.state.is_final()) {
                return Ok(None);
            }
            let since = self.ledger.learned_until().await?;
            // A refused round's feedback is learned from again, but does not call for another round.
            let heard = last.as_ref().map_or(since, |last| last.until_ms.max(since));
            let said = self.ledger.said_since(heard).await?;
            Ok::<_, LedgerError>(policy.is_due(now, last.map(|last| last.created_ms), said).then_some(since))
        };
        let Some(since_ms) = self.runtime.block_on(due)? else { return Ok(()) };
        let round = Round::open("policy".into(), "{}".into(), since_ms, now);
        self.runtime.block_on(self.ledger.open_round(round))
    }

    fn folder(&self, id: RoundId) -> PathBuf {
        self.dir.join(id.to_string())
    }

    /// A move that changes nothing yet.
    fn still(&self, round: &Round) -> Move {
        Move {
            id: round.id,
            owner: self.owner.clone(),
            from: round.state,
            to: round.state,
            base: None,
            candidate: None,
            report: None,
            now_ms: (self.now_ms)(),
        }
    }

    fn go(&self, round: &Round, from: RoundState, to: RoundState, with: Move) -> Result<bool, LedgerError> {
        debug_assert_eq!(round.id, with.id);
        self.runtime.block_on(self.ledger.move_round(Move { from, to, ..with }))
    }

    /// Moves a round on, or learns that it is another's.
    fn on(&self, round: &mut Round, to: RoundState, with: Move) -> Result<(), RoundError> {
        if !self.go(round, round.state, to, with)? {
            return Err(RoundError::Lost);
        }
        round.state = to;
        Ok(())
    }

    /// Takes a round from where it is to its end.
    fn work(&self, mut round: Round, holding: &Holding) -> Result<RoundState, RoundError> {
        let plan: Plan = serde_json::from_str(&round.plan)
            .map_err(|e| RoundError::Failed(format!("its plan cannot be read: {e}")))?;
        if round.state == RoundState::Open {
            let live = self.runtime.block_on(self.ledger.live())?;
            let base = live.ok_or_else(|| RoundError::Failed("no version is live".into()))?.version;
            round.base = Some(base.clone());
            let with = Move { base: Some(base), ..self.still(&round) };
            self.on(&mut round, RoundState::Rolling, with)?;
        }
        let base = round.base.clone().ok_or_else(|| RoundError::Failed("it has begun with nothing".into()))?;
        let base = self.loaded(&base)?;
        let candidate = match (round.state, &round.candidate) {
            (RoundState::Judging, Some(candidate)) => self.fetch(&base, candidate)?,
            _ => self.learn(&mut round, &plan, &base, holding)?,
        };
        // The candidate is in the ledger now.
        let _ = std::fs::remove_dir_all(self.folder(round.id));
        self.judge(&mut round, &plan, &candidate, holding)?;
        Ok(round.state)
    }

    /// Weights that the engine holds.
    fn loaded(&self, version: &Version) -> Result<Arc<Model>, RoundError> {
        let found = self.engine.models().into_iter().find(|model| model.version() == version);
        found.ok_or_else(|| {
            RoundError::Failed(format!("the version it began with, {}, is not served here any more", version.0))
        })
    }

    /// A candidate from the ledger's files.
    fn fetch(&self, base: &Model, version: &Version) -> Result<Arc<Model>, RoundError> {
        let known = self.runtime.block_on(self.ledger.version(version))?;
        let gone = || RoundError::Failed(format!("its candidate {} is gone", version.0));
        let weights = known.and_then(|known| known.weights).ok_or_else(gone)?;
        let bytes = self.runtime.block_on(self.ledger.blobs().get(&weights))?;
        let model = base.with_weights_file(&bytes)?;
        if model.version() == version { Ok(Arc::new(model)) } else { Err(gone()) }
    }

    /// Gathers and trains; the candidate is known to the ledger when this returns.
    fn learn(
        &self,
        round: &mut Round,
        plan: &Plan,
        base: &Arc<Model>,
        holding: &Holding,
    ) -> Result<Arc<Model>, RoundError> {
        let gathered = self.gather(round, plan, base)?;
        let Gathered { lessons, corrected, prompts, quality, raters, requests, .. } = &gathered;
        if lessons.lessons.is_empty() && corrected.is_empty() {
            return Err(RoundError::Failed(format!(
                "there is nothing to learn from: {requests} requests were judged, {} samples of weights too old; what is judged alike, \
                 or kept for judging, tells nothing",
                lessons.too_old
            )));
        }
        if round.state == RoundState::Rolling {
            let with = self.still(round);
            self.on(round, RoundState::Training, with)?;
        }
        let told = json!({
            "requests": requests,
            "lessons": lessons.lessons.len(),
            "pictures": lessons.pictures,
            "answers": lessons.answers,
            "corrections": corrected.len(),
            "too_old": lessons.too_old,
            "taste": quality[0],
            "taste_of_pictures_alone": quality[1],
            "drawn_anew": prompts.len(),
            "raters": raters.iter().map(rater).collect::<Vec<_>>(),
        });
        let samples: Vec<SampleId> = lessons.samples.clone();
        let dir = self.folder(round.id);
        let mut stage = self.stage(plan, base, gathered)?;
        let mut held = Held { stage: &mut stage, holding };
        let how = RunOptions { dir, every: Duration::from_secs(60), device: base.network().device().clone() };
        let record = run(&mut held, &how);
        holding.check()?;
        let record = record?;
        let model = Arc::new(stage.model()?);
        drop(stage);
        if model.version() == base.version() {
            return Err(RoundError::Failed("nothing was learned: the weights are what they were".into()));
        }
        let bytes = model.weights_file()?;
        let size = i64::try_from(bytes.len()).unwrap_or(i64::MAX);
        let file = self.runtime.block_on(self.ledger.blobs().put(bytes))?;
        let known = KnownVersion {
            version: model.version().clone(),
            parent: Some(base.version().clone()),
            round: Some(round.id),
            created_ms: (self.now_ms)(),
            weights: Some(file.id().clone()),
            bytes: size,
            scores: "{}".into(),
            pinned: false,
        };
        self.runtime.block_on(async {
            self.ledger.know(known, &[file]).await?;
            self.ledger.note_trained(model.version().clone(), samples).await
        })?;
        round.candidate = Some(model.version().clone());
        let report = json!({ "learned_from": told, "training": { "steps": record.steps, "seconds": record.seconds } });
        round.report = Some(report.to_string());
        let with = Move { candidate: round.candidate.clone(), report: round.report.clone(), ..self.still(round) };
        self.on(round, RoundState::Judging, with)?;
        Ok(model)
    }

    fn gather(&self, round: &Round, plan: &Plan, base: &Model) -> Result<Gathered, RoundError> {
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
        let (heard, raters) = hear(&votes, judge, listening);
        let taking = Taking { cap: plan.importance, hold: plan.hold };
        let lessons = lessons(&rated, &heard, base, taking, is_young, &mut picture)?;
        let corrected = corrected(&rated, &mut picture)?;
        let taste = tasting.taste(&votes, &raters);
        let prompts = if taste.is_some() { prompts(&rated) } else { vec![] };
        Ok(Gathered {
            lessons,
            corrected,
            prompts,
            taste,
            quality: [tasting.quality, tasting.of_pictures],
            raters,
            requests: rated.len(),
        })
    }

    fn stage(&self, plan: &Plan, base: &Arc<Model>, gathered: Gathered) -> Result<CorlStage, RoundError> {
        let Gathered { lessons, corrected, prompts, taste, .. } = gathered;
        let draws = lessons.pictures > 0 || corrected.iter().any(|exercise| exercise.draw.is_some());
        let answers = lessons.answers > 0 || corrected.iter().any(|exercise| exercise.ask.is_some());
        let practice = match (draws, answers) {
            (true, true) => Practice::Unified,
            (true, false) => Practice::Drawing,
            (false, _) => Practice::Answering(QaType::Open),
        };
        let each = plan.lessons.max(1);
        let mut steps = (lessons.lessons.len() as u64 * plan.epochs).div_ceil(each as u64).max(1);
        steps = steps.max(corrected.len().div_ceil(CORRECTED) as u64 * plan.epochs);
        if taste.is_some() {
            steps = steps.max(plan.steps);
        }
        let (corrections, anew) = (corrected.len().min(CORRECTED), prompts.len().min(plan.anew));
        let options = CorlOptions {
            seed: plan.seed,
            steps,
            prompts: corrections + anew,
            questions: 0,
            logged: each,
            schedule: Schedule { peak: plan.rate, warmup: 5, decay: 0.3 },
            ..CorlOptions::demo(practice, self.served)
        };
        // Each step its share of both, in turns.
        let mut prompts = prompts;
        prompts.shuffle(&mut Dice::seed_from_u64(plan.seed));
        let (mut corrected, mut prompts) = (corrected.iter().cycle(), prompts.iter().cycle());
        let step =
            |_| corrected.by_ref().take(corrections).chain(prompts.by_ref().take(anew)).cloned().collect::<Vec<_>>();
        let given: Vec<Exercise> = (0..steps).flat_map(step).collect();
        let mut draws: Vec<(Box<dyn DrawReward>, f64)> = vec![(Box::new(Likeness), 1.0)];
        if let Some(taste) = taste {
            draws.push((Box::new(Tasted { taste, model: Arc::clone(base) }), 1.0));
            draws.push((Box::new(Variety), VARIETY));
        }
        let answers: Vec<(Box<dyn AnswerReward>, f64)> = vec![(Box::new(Accuracy), 1.0), (Box::new(Format), 1.0)];
        let (given, engine) = (Source::Given(given, "corrections and prompts".into()), self.engine.clone());
        let lessons = lessons.lessons;
        Ok(CorlStage::over(engine, Arc::clone(base), options, given, Mix::new(draws), Mix::new(answers), lessons)?)
    }

    /// Holds a candidate against the live version and acts on the verdict.
    fn judge(
        &self,
        round: &mut Round,
        plan: &Plan,
        candidate: &Arc<Model>,
        holding: &Holding,
    ) -> Result<(), RoundError> {
        let live = self.runtime.block_on(self.ledger.live())?;
        let live = live.ok_or_else(|| RoundError::Failed("no version is live".into()))?;
        let by = by(round);
        if live.version == *candidate.version() && live.by == by {
            // It was promoted, and cut before it could say so.
            let with = self.still(round);
            return self.on(round, RoundState::Promoted, with);
        }
        if self.runtime.block_on(self.ledger.trial_of(round.id))?.is_some() {
            // The same, and its trial has begun.
            let with = self.still(round);
            return self.on(round, RoundState::Trying, with);
        }
        let base = self.loaded(&live.version)?;
        let verdict = self.verdict(round, plan, [&base, candidate], holding)?;
        let scores = serde_json::to_value(&verdict).unwrap_or(Value::Null);
        let mut report: Map<String, Value> =
            round.report.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        report.insert("verdict".into(), scores.clone());
        let mut to = if verdict.promote { RoundState::Promoted } else { RoundState::Refused };
        self.runtime.block_on(self.ledger.score(candidate.version().clone(), scores.to_string()))?;
        if verdict.promote {
            let why = format!("the score rose from {:.3} to {:.3}", verdict.gain.live, verdict.gain.candidate);
            to = self.publish(round, candidate.version(), live.number, why)?;
            if to == RoundState::Refused {
                let why = "another version was promoted, or put on trial, while it was judged";
                report.insert("lost".into(), why.into());
            }
        }
        let with = Move { report: Some(Value::Object(report).to_string()), ..self.still(round) };
        self.on(round, to, with)?;
        self.tidy(candidate.version(), to != RoundState::Refused)?;
        Ok(())
    }

    /// Both versions, the live one first, on the same tasks.
    fn verdict(
        &self,
        round: &Round,
        plan: &Plan,
        both: [&Arc<Model>; 2],
        holding: &Holding,
    ) -> Result<Verdict, RoundError> {
        let look = |model: &Arc<Model>| -> Result<Looks, RoundError> {
            holding.check()?;
            Ok(Looks::of(&Player::beside(&self.engine, Arc::clone(model)), plan.suite, self.served)?)
        };
        let [was, is] = [look(both[0])?, look(both[1])?];
        let learned: Value =
            round.report.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let some = |name: &str| learned["learned_from"][name].as_u64().is_some_and(|n| n > 0);
        let (measures, guards) = compare(&was, &is, some("pictures"), some("answers") || some("corrections"));
        Ok(decide(&measures, &guards, plan.suite.seed))
    }

    /// Forgets weights that nobody will want: of a refused candidate, and of versions that were live long ago.
    fn tidy(&self, candidate: &Version, passed: bool) -> Result<(), RoundError> {
        self.runtime.block_on(async {
            if !passed {
                self.ledger.shed(candidate.clone()).await?;
            }
            let mut kept: Vec<Version> = Vec::new();
            for promotion in self.ledger.promotions(1000).await? {
                if kept.len() < KEPT && !kept.contains(&promotion.version) {
                    kept.push(promotion.version);
                }
            }
            for known in self.ledger.versions().await? {
                if known.round.is_some() && known.weights.is_some() && !kept.contains(&known.version) {
                    self.ledger.shed(known.version).await?;
                }
            }
            Ok(())
        })
    }
}

/// What variety weighs beside taste, whose numbers lie close together.
const VARIETY: f64 = 0.03;

/// Corrections that a step practises.
const CORRECTED: usize = 4;

fn rater(rater: &Rater) -> Value {
    json!({
        "rater": rater.name, "votes": rater.votes, "judged": rater.judged, "agreed": rater.agreed, "weight": rater.weight,
    })
}
