//! A version at work on held-out tasks: what each task came to, and what its pictures and answers are like. Two of these make the
//! gate's measures and guards. Decides nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::gate::{Guard, Margin, Measure};
use super::stats;
use crate::domain::picture::Picture;
use crate::domain::sample::{Output, Sample};
use crate::model::Defaults;
use crate::train::TrainError;
use crate::train::eval::{EvalOptions, Spread, answered, drawn};
use crate::train::player::Player;
use crate::world::{Background, Split, judge, suite};

/// What to judge by.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Suite {
    pub seed: u64,
    /// Prompts of each drawing category.
    pub draws: usize,
    /// Questions of each kind and form.
    pub answers: usize,
}

/// What a version does.
#[derive(Clone, Debug, PartialEq)]
pub struct Looks {
    /// By task, 1 where it was right.
    drawing: Vec<f64>,
    answering: Vec<f64>,
    /// Of the whole, by name.
    facts: BTreeMap<&'static str, f64>,
}

/// Seeds of each prompt whose pictures are held against each other.
const ALIKE: usize = 4;

impl Suite {
    /// One like it, of other tasks.
    #[must_use]
    pub fn another(self) -> Self {
        Self { seed: self.seed.wrapping_add(1 << 32), ..self }
    }
}

impl Looks {
    /// Draws and answers the suite. Call it outside an async runtime.
    ///
    /// # Errors
    /// When the engine fails.
    pub fn of(player: &Player, suite: Suite, served: Defaults) -> Result<Self, TrainError> {
        let options = EvalOptions {
            seed: suite.seed,
            draws: suite.draws,
            answers: suite.answers,
            guidance: served.guidance,
            draw_temperature: served.temperature,
            answer_temperature: 0.0,
        };
        // What was never learned at all would only water the measure down.
        let mut items = suite::drawing(suite.seed, suite.draws);
        items.retain(|item| item.split == Split::HeldOut);
        let samples = drawn(player, &options, &items)?;
        let judged: Vec<_> = items
            .iter()
            .zip(&samples)
            .map(|(item, sample)| (item, judge(&item.requirement, picture(sample))))
            .collect();
        let drawing = judged.iter().map(|(_, judged)| f64::from(u8::from(judged.correct))).collect();
        let mut grounds = vec![0; Background::ALL.len()];
        for ground in judged
            .iter()
            .filter(|(item, _)| item.requirement.background.is_none())
            .filter_map(|(_, j)| j.reading.background)
        {
            grounds[ground.index()] += 1;
        }
        let pictures: Vec<&Picture> = samples.iter().map(picture).collect();
        let mean = |of: &dyn Fn(&Picture) -> f64| {
            pictures.iter().map(|picture| of(picture)).sum::<f64>() / pictures.len().max(1) as f64
        };
        let mut facts = BTreeMap::from([
            ("backgrounds, bits", Spread::of(&grounds).bits),
            ("colour entropy, bits", mean(&stats::colour_entropy)),
            ("edge density", mean(&stats::edge_density)),
            ("saturation", mean(&stats::saturation)),
            ("token entropy, nats", entropy(&samples)),
        ]);
        // The same prompts without guidance, and some of them again and again.
        let few: Vec<_> = items.iter().step_by(3).cloned().collect();
        let plain = drawn(player, &EvalOptions { guidance: 1.0, ..options }, &few)?;
        let right = few.iter().zip(&plain).filter(|(item, sample)| judge(&item.requirement, picture(sample)).correct);
        facts.insert("drawing without guidance", right.count() as f64 / few.len().max(1) as f64);
        let again = items.iter().step_by(12).flat_map(|item| {
            (0..ALIKE as u64).map(|more| suite::DrawItem { seed: item.seed.wrapping_add(more), ..item.clone() })
        });
        let again = again.collect::<Vec<_>>();
        let again = drawn(player, &options, &again)?;
        let groups = again.chunks(ALIKE).map(|group| stats::diversity(&group.iter().map(picture).collect::<Vec<_>>()));
        facts.insert("diversity of one prompt", groups.sum::<f64>() / (again.len() / ALIKE).max(1) as f64);

        let mut items = suite::answering(suite.seed, suite.answers);
        items.retain(|item| item.split == Split::HeldOut);
        let samples = answered(player, &options, &items)?;
        let graded: Vec<_> =
            items.iter().zip(&samples).map(|(item, sample)| item.question.grade(text(sample))).collect();
        let share = |n: usize| n as f64 / graded.len().max(1) as f64;
        facts.insert("answers of the form asked for", share(graded.iter().filter(|graded| graded.format).count()));
        facts.insert("tokens of an answer", share(samples.iter().map(|sample| sample.tokens.len()).sum()));
        let answering = graded.iter().map(|graded| f64::from(u8::from(graded.correct))).collect();
        Ok(Self { drawing, answering, facts })
    }

    /// Both of the same version, at suites of one size.
    #[must_use]
    pub fn and(mut self, mut other: Self) -> Self {
        self.drawing.append(&mut other.drawing);
        self.answering.append(&mut other.answering);
        for (name, fact) in &mut self.facts {
            *fact = (*fact + other.facts.get(name).copied().unwrap_or(f64::NAN)) / 2.0;
        }
        self
    }
}

fn picture(sample: &Sample) -> &Picture {
    static NONE: std::sync::LazyLock<Picture> = std::sync::LazyLock::new(|| Picture::filled(1, 1, [0; 3]));
    if let Output::Picture(picture) = &sample.output { picture } else { &NONE }
}

fn text(sample: &Sample) -> &str {
    if let Output::Text(text) = &sample.output { text } else { "" }
}

/// Mean surprise of a token, which estimates the entropy of the policy.
fn entropy(samples: &[Sample]) -> f64 {
    let all = || samples.iter().flat_map(|sample| &sample.log_probs);
    -all().map(|&log_prob| f64::from(log_prob)).sum::<f64>() / all().count().max(1) as f64
}

/// What each of these may lose.
const MARGINS: [(&str, Margin); 9] = [
    ("drawing without guidance", Margin::Fall(0.06)),
    ("backgrounds, bits", Margin::Fall(0.2)),
    ("colour entropy, bits", Margin::ChangeBy(0.25)),
    ("edge density", Margin::ChangeBy(0.3)),
    ("saturation", Margin::ChangeBy(0.25)),
    // Who is right more often is more certain: some 58 % less where pictures are as unlike each other as before, 75 where they are not.
    ("token entropy, nats", Margin::FallBy(0.7)),
    ("diversity of one prompt", Margin::FallBy(0.25)),
    ("answers of the form asked for", Margin::Fall(0.02)),
    ("tokens of an answer", Margin::ChangeBy(0.4)),
];
/// What a task that was not practised may lose.
const OTHER: f64 = 0.03;

/// Live and candidate as the gate wants them: tasks that were practised are measured, all else is guarded.
#[must_use]
pub fn compare(live: &Looks, candidate: &Looks, drew: bool, answered: bool) -> (Vec<Measure>, Vec<Guard>) {
    let (mut measures, mut guards) = (vec![], vec![]);
    let tasks = [
        ("drawing", &live.drawing, &candidate.drawing, drew || !answered),
        ("answering", &live.answering, &candidate.answering, answered),
    ];
    for (name, was, is, practised) in tasks {
        if practised {
            let pairs = was.iter().copied().zip(is.iter().copied()).collect();
            measures.push(Measure { name: name.to_owned(), weight: 1.0, pairs });
        } else {
            let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
            guards.push(Guard {
                name: name.to_owned(),
                live: mean(was),
                candidate: mean(is),
                margin: Margin::Fall(OTHER),
            });
        }
    }
    guards.extend(MARGINS.map(|(name, margin)| {
        let of = |looks: &Looks| looks.facts.get(name).copied().unwrap_or(f64::NAN);
        Guard { name: name.to_owned(), live: of(live), candidate: of(candidate), margin }
    }));
    (measures, guards)
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};

    use super::super::gate::decide;
    use super::*;
    use crate::world::Dice;

    fn looks(drawn: usize, answered: usize) -> Looks {
        let of = |right: usize| (0..200).map(|at| f64::from(u8::from(at < right))).collect();
        let facts = MARGINS.iter().map(|(name, _)| (*name, 1.0)).collect();
        Looks { drawing: of(drawn), answering: of(answered), facts }
    }

    #[test]
    fn two_looks_are_one_of_all_tasks() {
        let mut other = looks(50, 100);
        other.facts.insert("saturation", 3.0);
        let both = looks(100, 150).and(other);
        let right = |tasks: &[f64]| (tasks.iter().sum::<f64>(), tasks.len());
        assert_eq!((right(&both.drawing), right(&both.answering)), ((150.0, 400), (250.0, 400)));
        assert_eq!((both.facts["saturation"], both.facts["edge density"]), (2.0, 1.0));
    }

    #[test]
    fn what_was_practised_must_rise_and_the_rest_must_hold() {
        let verdict = |live: &Looks, candidate: &Looks, drew, answered| {
            let (measures, guards) = compare(live, candidate, drew, answered);
            assert_eq!(measures.len() + guards.len(), 2 + MARGINS.len());
            decide(&measures, &guards, 1)
        };
        let live = looks(100, 150);
        assert!(verdict(&live, &looks(120, 148), true, false).promote);
        assert!(!verdict(&live, &looks(120, 140), true, false).promote, "answering fell");
        assert!(!verdict(&live, &looks(100, 150), true, true).promote);
        assert!(verdict(&live, &looks(100, 170), false, true).promote);
        let mut dull = looks(130, 150);
        dull.facts.insert("backgrounds, bits", 0.5);
        let refused = verdict(&live, &dull, true, false);
        assert!(!refused.promote && refused.reasons[0].contains("backgrounds"), "{:?}", refused.reasons);
    }

    /// Looks of a version that does so large a share of the tasks, by chance.
    fn by_chance(drawn: f64, answered: f64, dice: &mut Dice) -> Looks {
        let mut of = |share: f64| (0..200).map(|_| f64::from(u8::from(dice.random_bool(share)))).collect();
        let facts = MARGINS.iter().map(|(name, _)| (*name, 1.0)).collect();
        Looks { drawing: of(drawn), answering: of(answered), facts }
    }

    /// Worse in what was practised; or better in it, at the cost of what nobody rewarded.
    #[test]
    fn of_a_hundred_bad_candidates_none_is_promoted_and_of_equal_ones_at_most_five() {
        let verdict = |seed: u64, candidate: &dyn Fn(&mut Dice) -> Looks| {
            let mut dice = Dice::seed_from_u64(seed);
            let (live, candidate) = (by_chance(0.65, 0.9, &mut dice), candidate(&mut dice));
            let (measures, guards) = compare(&live, &candidate, true, false);
            decide(&measures, &guards, seed)
        };
        for seed in 0..100_u64 {
            let (kind, at) = (seed % 4, usize::try_from(seed / 4).unwrap());
            let bad = |dice: &mut Dice| match kind {
                0 => by_chance(0.6 - 0.02 * at as f64, 0.9, dice),
                1 => by_chance(0.9, 0.75, dice),
                _ => {
                    let (name, margin) = MARGINS[at % MARGINS.len()];
                    let mut hacked = by_chance(0.9, 0.9, dice);
                    let (least, most) = margin.range(1.0);
                    let beyond = if kind == 2 || most == f64::INFINITY { least - 0.01 } else { most + 0.01 };
                    hacked.facts.insert(name, if at == 24 { f64::NAN } else { beyond });
                    hacked
                }
            };
            let verdict = verdict(seed, &bad);
            assert!(!verdict.promote, "candidate {seed}: {verdict:?}");
            assert_eq!(verdict.gain.interval[0] > 0.0, kind > 0, "what is better is refused for another reason");
        }
        let equal = (0..100).filter(|&seed| verdict(seed, &|dice| by_chance(0.65, 0.9, dice)).promote).count();
        assert!(equal <= 5, "{equal} of 100");
    }
}
