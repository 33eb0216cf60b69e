//! What people judged as lessons: their samples with advantages by what was said of them, and exercises from what they corrected.
//! Knows the shapes of the ledger, not the ledger.

use std::collections::BTreeMap;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use crate::domain::id::{BlobId, SampleId};
use crate::domain::picture::Picture;
use crate::domain::record::{Asked, Opinion, Record};
use crate::domain::sample::Version;
use crate::domain::task::{Answer, Part};
use crate::model::Model;
use crate::reward::answer::QaType;
use crate::reward::human::{Heard, Vote};
use crate::reward::{self, Wanted};
use crate::store::RatedCall;
use crate::train::TrainError;
use crate::train::corl::advantage::{Scale, advantages};
use crate::train::corl::exercise::Exercise;
use crate::train::corl::lesson::{Lesson, LessonPrompt, Try};
use crate::train::pretrain::asked as about;

/// Requests whose digest begins below this, a tenth of them, are never learned from, so that there is something to judge by.
const HELD_OUT: u8 = 26;

/// Whether a request is kept from learning: always the same for the same words and pictures.
#[must_use]
pub fn is_held_out(asked: &Asked) -> bool {
    Sha256::digest(format!("{asked:?}")).first().is_some_and(|&byte| byte < HELD_OUT)
}

/// What people said, as numbers. A comment is none, and a correction says that the sample was wrong.
#[must_use]
pub fn votes(rated: &[RatedCall]) -> Vec<Vote<SampleId>> {
    let mut votes = Vec::new();
    for feedback in rated.iter().flat_map(|rated| &rated.feedback) {
        let rater = feedback.rater.clone().unwrap_or_else(|| format!("key {}", feedback.key));
        let mut say = |sample, value| votes.push(Vote { sample, rater: rater.clone(), value });
        if let Opinion::Preferred { over } = &feedback.opinion {
            say(feedback.sample, 1.0);
            over.iter().for_each(|&other| say(other, 0.0));
        } else if let Some(value) = feedback.opinion.value() {
            say(feedback.sample, value);
        }
    }
    votes
}

/// Most samples of a lesson: what is asked for again and again, which is mostly what is easy, would otherwise fill whole steps.
const TOGETHER: usize = 8;

/// Samples that are judged beside each other: of the same request, drawn alike, by the same weights.
struct Beside<'a> {
    asked: &'a Asked,
    version: &'a Version,
    /// Guidance and temperature.
    drawn: (f32, f32),
    heard: Vec<(&'a Record, Heard)>,
}

/// What there is to learn from, and which samples it is.
#[derive(Default)]
pub struct Lessons {
    pub lessons: Vec<Lesson>,
    pub samples: Vec<SampleId>,
    pub pictures: usize,
    pub answers: usize,
    /// Samples that weights drew which are too old.
    pub too_old: usize,
}

/// How samples that others drew are taken.
#[derive(Clone, Copy, Debug)]
pub struct Taking {
    /// Most of π_base / π_drawn that a token weighs.
    pub cap: f32,
    /// What every sample earns beside what is said of it, good or bad. Nobody looks at what the weights would draw once they have moved, so
    /// without this all that keeps them among the pictures that people saw is that their steps are without noise: probability leaks to
    /// tokens that were never drawn, and no lesson calls it back (AsymRE, arXiv 2506.20520; measured in ARCHITECTURE.md's log).
    pub hold: f64,
    /// The least that is learned from.
    pub least: f64,
    /// Whether pictures become lessons. They are learned from otherwise where they do not, all that are heard of.
    pub pictures: bool,
}

impl Taking {
    /// Whether what came of a request becomes a lesson.
    fn is_lesson(&self, asked: &Asked) -> bool {
        self.pictures || !matches!(asked, Asked::Draw(_))
    }

    /// What a sample earns in the end.
    fn earned(&self, advantage: f64) -> f64 {
        let earned = advantage + self.hold;
        if earned.abs() < self.least { 0.0 } else { earned }
    }
}

/// Lessons for `base` from what was judged. `age` says how many promotions ago a version was live; those older than it knows are left
/// out. `picture` finds the pictures of requests.
///
/// # Errors
/// When a picture is missing or the model fails.
pub fn lessons(
    rated: &[RatedCall],
    heard: &BTreeMap<SampleId, Heard>,
    base: &Model,
    taking: Taking,
    is_young: impl Fn(&Version) -> bool,
    picture: &mut dyn FnMut(&BlobId) -> Result<Arc<Picture>, TrainError>,
) -> Result<Lessons, TrainError> {
    let mut groups: BTreeMap<(String, String, u32, u32), Beside<'_>> = BTreeMap::new();
    let mut all = Lessons::default();
    for RatedCall { kept, .. } in rated.iter().filter(|rated| !is_held_out(&rated.kept.call.asked)) {
        for record in &kept.records {
            let Some(&heard) = heard.get(&record.id) else { continue };
            let version = &record.sample.version;
            if taking.is_lesson(&kept.call.asked) && !is_young(version) {
                all.too_old += 1;
                continue;
            }
            let guidance = if matches!(kept.call.asked, Asked::Draw(_)) { record.sampling.guidance } else { 1.0 };
            // A greedy answer has the log-probabilities of temperature 1.
            let temperature = if record.sampling.temperature == 0.0 { 1.0 } else { record.sampling.temperature };
            let key = (format!("{:?}", kept.call.asked), version.0.clone(), guidance.to_bits(), temperature.to_bits());
            let fresh = || Beside { asked: &kept.call.asked, version, drawn: (guidance, temperature), heard: vec![] };
            groups.entry(key).or_insert_with(fresh).heard.push((record, heard));
        }
    }
    // One alone has nothing beside it but the others that are alone.
    let mean = |picture: bool| {
        let alone =
            groups.values().filter(|group| group.heard.len() == 1 && matches!(group.asked, Asked::Draw(_)) == picture);
        let (sum, n) = alone.fold((0.0, 0.0), |(sum, n), group| (sum + group.heard[0].1.value, n + 1.0));
        sum / f64::max(n, 1.0)
    };
    let (pictures_alone, answers_alone) = (mean(true), mean(false));
    for Beside { asked, version, drawn: (guidance, temperature), heard } in groups.into_values() {
        if !taking.is_lesson(asked) {
            all.pictures += heard.len();
            all.samples.extend(heard.iter().map(|(record, _)| record.id));
            continue;
        }
        let values: Vec<f64> = heard.iter().map(|(_, heard)| heard.value).collect();
        let baseline = if matches!(asked, Asked::Draw(_)) { pictures_alone } else { answers_alone };
        let advantages = match values.as_slice() {
            // The deviation of what is yes or no is about a half.
            [one] => vec![2.0 * (one - baseline)],
            values => advantages(values, Scale::Deviation),
        };
        let prompt = match asked {
            Asked::Draw(draw) => LessonPrompt::Picture(base.prompter().draw(draw)?),
            Asked::Answer(answer) => LessonPrompt::Answer(base.prompter().answer(&shown(answer, picture)?)?),
        };
        let one = |((record, heard), advantage): (&(&Record, Heard), f64)| Try {
            tokens: record.sample.tokens.clone(),
            sampled: record.sample.log_probs.clone(),
            importance: vec![],
            // What nobody in good standing vouches for tells less.
            advantage: advantage * heard.weight.min(1.0),
        };
        let mut tries = heard.iter().zip(advantages).map(one).peekable();
        let before = all.lessons.len();
        while tries.peek().is_some() {
            let prompt = prompt.clone();
            let mut lesson = Lesson { prompt, guidance, temperature, tries: tries.by_ref().take(TOGETHER).collect() };
            if lesson.is_mute() {
                continue;
            }
            lesson.tries.iter_mut().for_each(|one| one.advantage = taking.earned(one.advantage));
            if version != base.version() {
                lesson.renew(base, taking.cap)?;
            }
            all.lessons.push(lesson);
        }
        if all.lessons.len() == before {
            continue;
        }
        match asked {
            Asked::Draw(_) => all.pictures += heard.len(),
            Asked::Answer(_) => all.answers += heard.len(),
        }
        all.samples.extend(heard.iter().map(|(record, _)| record.id));
    }
    Ok(all)
}

/// A conversation with its pictures.
fn shown(
    answer: &Answer<BlobId>,
    picture: &mut dyn FnMut(&BlobId) -> Result<Arc<Picture>, TrainError>,
) -> Result<Answer, TrainError> {
    answer.clone().try_map(|blob| picture(&blob))
}

/// Exercises with a label from what people corrected: a question about one picture with the right answer, a prompt with the right picture.
/// Of requests that are held out, or of all others.
///
/// # Errors
/// When a picture is missing.
pub fn corrected(
    rated: &[RatedCall],
    held_out: bool,
    picture: &mut dyn FnMut(&BlobId) -> Result<Arc<Picture>, TrainError>,
) -> Result<Vec<Exercise>, TrainError> {
    let mut exercises = Vec::new();
    for RatedCall { kept, feedback } in rated.iter().filter(|rated| is_held_out(&rated.kept.call.asked) == held_out) {
        for feedback in feedback {
            let exercise = match (&kept.call.asked, &feedback.opinion) {
                (Asked::Answer(answer), Opinion::CorrectAnswer(text)) => match alone(answer) {
                    Some((blob, question)) => {
                        let ask = reward::Asked {
                            conversation: about(&picture(blob)?, &question),
                            problem: question,
                            solution: Some(format!("<answer>{text}</answer>")),
                            kind: QaType::Open,
                            item: None,
                        };
                        Exercise { draw: None, ask: Some(ask) }
                    }
                    None => continue,
                },
                (Asked::Draw(draw), Opinion::CorrectPicture(blob)) => {
                    let (prompt, real) = (draw.prompt.clone(), Some(picture(blob)?));
                    Exercise { draw: Some(Wanted { real, ..Wanted::of(prompt) }), ask: None }
                }
                _ => continue,
            };
            exercises.push(exercise);
        }
    }
    Ok(exercises)
}

/// What was asked to be drawn and was judged, as often as it was; of requests that are held out, or of all others.
pub fn prompts(rated: &[RatedCall], held_out: bool) -> impl Iterator<Item = &str> {
    let asked = rated.iter().map(|rated| &rated.kept.call.asked).filter(move |asked| is_held_out(asked) == held_out);
    asked.filter_map(|asked| if let Asked::Draw(draw) = asked { Some(draw.prompt.as_str()) } else { None })
}

/// Questions by letter that nobody corrected, each once: what most of the model's own answers say is taken for right (TTRL, arXiv 2504.16084).
///
/// # Errors
/// When a picture is missing.
pub fn unlabelled(
    rated: &[RatedCall],
    picture: &mut dyn FnMut(&BlobId) -> Result<Arc<Picture>, TrainError>,
) -> Result<Vec<Exercise>, TrainError> {
    let mut asked = BTreeMap::new();
    for RatedCall { kept, feedback } in rated.iter().filter(|rated| !is_held_out(&rated.kept.call.asked)) {
        if let Asked::Answer(answer) = &kept.call.asked
            && let Some((blob, problem)) = alone(answer)
            && problem.contains("\nA. ")
            && problem.contains("\nB. ")
            && !feedback.iter().any(|said| matches!(said.opinion, Opinion::CorrectAnswer(_)))
        {
            asked.insert((blob.to_string(), problem), blob);
        }
    }
    let exercise = |((_, problem), blob): ((String, String), &BlobId)| {
        let conversation = about(&picture(blob)?, &problem);
        let ask = reward::Asked { conversation, problem, solution: None, kind: QaType::Choice, item: None };
        Ok(Exercise { draw: None, ask: Some(ask) })
    };
    asked.into_iter().map(exercise).collect()
}

/// The picture and the words of a conversation that is one question about one picture.
fn alone(answer: &Answer<BlobId>) -> Option<(&BlobId, String)> {
    let [turn] = answer.turns.as_slice() else { return None };
    let mut blobs = turn.parts.iter().filter_map(|part| if let Part::Picture(blob) = part { Some(blob) } else { None });
    let words =
        turn.parts.iter().filter_map(|part| if let Part::Text(text) = part { Some(text.as_str()) } else { None });
    let (Some(blob), None) = (blobs.next(), blobs.next()) else { return None };
    Some((blob, words.collect()))
}
