//! Whether a candidate may take the live version's place: numbers of both on the same tasks with the same seeds in, a verdict out.
//! Pure; knows no model, no ledger and no picture.

use rand::{RngExt, SeedableRng};
use serde::Serialize;

use crate::world::Dice;

/// One kind of task, each done by both.
#[derive(Clone, Debug)]
pub struct Measure {
    pub name: String,
    /// What it weighs in the primary score.
    pub weight: f64,
    /// By task: what it came to with the live weights and with the candidate, 0 to 1.
    pub pairs: Vec<(f64, f64)>,
}

/// Something that no reward looks at, or that may not suffer for another's sake.
#[derive(Clone, Debug)]
pub struct Guard {
    pub name: String,
    pub live: f64,
    pub candidate: f64,
    pub margin: Margin,
}

/// How far it may go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Margin {
    /// Down by this much at most.
    Fall(f64),
    /// Down by this share of what it was at most.
    FallBy(f64),
    /// Up or down by this share of what it was at most.
    ChangeBy(f64),
}

impl Margin {
    /// The range that it may lie in, from what it was.
    pub(super) fn range(self, was: f64) -> (f64, f64) {
        match self {
            Self::Fall(by) => (was - by, f64::INFINITY),
            Self::FallBy(share) => (was - share * was.abs(), f64::INFINITY),
            Self::ChangeBy(share) => (was - share * was.abs(), was + share * was.abs()),
        }
    }
}

/// How the primary score changed: the mean over tasks, weighted by kind, with the interval that holds it in 95 of 100 draws of the tasks.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Gain {
    pub live: f64,
    pub candidate: f64,
    pub interval: [f64; 2],
    pub tasks: usize,
}

/// What became of a guard.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Guarded {
    pub name: String,
    pub live: f64,
    pub candidate: f64,
    /// The least and the most it could have been; null where there is no bound.
    pub allowed: [f64; 2],
    pub held: bool,
}

/// The gate's decision.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    pub promote: bool,
    /// Why not; empty when it is promoted.
    pub reasons: Vec<String>,
    pub gain: Gain,
    /// Each measure by itself.
    pub measures: Vec<(String, Gain)>,
    pub guards: Vec<Guarded>,
}

/// Fewest tasks that a verdict may rest on.
const FEWEST: usize = 50;
/// Draws of the tasks.
const DRAWS: usize = 2000;
/// What lies outside the interval, at each end. Who may look twice passes an equal candidate in 4.1 of 100
/// (Armitage, McPherson and Rowe 1969).
const TAIL: f64 = 0.025;

impl Verdict {
    /// Whether as many tasks again might decide: the candidate did better, and nothing but chance speaks against it.
    #[must_use]
    pub fn is_open(&self) -> bool {
        let chance = self.gain.tasks >= FEWEST && self.gain.interval[0] <= 0.0 && self.gain.candidate > self.gain.live;
        !self.promote && chance && self.guards.iter().all(|guard| guard.held)
    }
}

/// Weighs a candidate: its primary score must have risen, with confidence, and every guard must hold. The same numbers and seed give the
/// same verdict.
#[must_use]
pub fn decide(measures: &[Measure], guards: &[Guard], seed: u64) -> Verdict {
    let mut reasons = Vec::new();
    let gain = gain(&measures.iter().collect::<Vec<_>>(), seed);
    let pairs = || measures.iter().flat_map(|measure| &measure.pairs);
    if pairs().any(|(live, candidate)| !live.is_finite() || !candidate.is_finite()) {
        reasons.push("a task came to no number".to_owned());
    } else if gain.tasks < FEWEST {
        reasons.push(format!("{} tasks are too few to tell; {FEWEST} are wanted", gain.tasks));
    } else if gain.interval[0] <= 0.0 {
        reasons.push(format!(
            "the score went from {:.3} to {:.3}, which may be chance: its change lies between {:+.3} and {:+.3}",
            gain.live, gain.candidate, gain.interval[0], gain.interval[1]
        ));
    }
    let guards: Vec<Guarded> = guards.iter().map(guarded).collect();
    let broken = guards.iter().filter(|guard| !guard.held);
    reasons.extend(broken.map(|Guarded { name, live, candidate, allowed: [least, most], .. }| {
        let bound =
            if *most == f64::INFINITY { format!("at least {least:.3}") } else { format!("{least:.3} to {most:.3}") };
        format!("{name} went from {live:.3} to {candidate:.3}; {bound} is allowed")
    }));
    let each = measures.iter().map(|measure| (measure.name.clone(), self::gain(&[measure], seed))).collect();
    Verdict { promote: reasons.is_empty(), reasons, gain, measures: each, guards }
}

fn guarded(guard: &Guard) -> Guarded {
    let (least, most) = guard.margin.range(guard.live);
    // What is no number is in no range.
    let held = (least..=most).contains(&guard.candidate);
    Guarded { name: guard.name.clone(), live: guard.live, candidate: guard.candidate, allowed: [least, most], held }
}

/// Paired bootstrap: tasks are drawn anew, each kind by itself, always with both of their outcomes.
fn gain(measures: &[&Measure], seed: u64) -> Gain {
    let measures: Vec<&&Measure> = measures.iter().filter(|measure| !measure.pairs.is_empty()).collect();
    let weights: f64 = measures.iter().map(|measure| measure.weight).sum();
    let total = |of: &mut dyn FnMut(&Measure) -> f64| -> f64 {
        measures.iter().map(|measure| measure.weight / weights * of(measure)).sum()
    };
    let mean = |values: &mut dyn Iterator<Item = f64>, n: usize| values.sum::<f64>() / n as f64;
    let live = total(&mut |m| mean(&mut m.pairs.iter().map(|pair| pair.0), m.pairs.len()));
    let candidate = total(&mut |m| mean(&mut m.pairs.iter().map(|pair| pair.1), m.pairs.len()));
    let mut dice = Dice::seed_from_u64(seed);
    let mut changes: Vec<f64> = (0..DRAWS)
        .map(|_| {
            total(&mut |measure| {
                let pairs = &measure.pairs;
                let mut drawn = (0..pairs.len()).map(|_| {
                    let (live, candidate) = pairs[dice.random_range(0..pairs.len())];
                    candidate - live
                });
                mean(&mut drawn, pairs.len())
            })
        })
        .collect();
    changes.sort_by(f64::total_cmp);
    let at = |share: f64| changes[((DRAWS as f64 * share) as usize).min(DRAWS - 1)];
    let tasks = measures.iter().map(|measure| measure.pairs.len()).sum();
    Gain { live, candidate, interval: [at(TAIL), at(1.0 - TAIL)], tasks }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tasks of unequal difficulty, each done by both by chance, the candidate better by `by`.
    fn tasks(n: usize, by: f64, seed: u64) -> Vec<(f64, f64)> {
        let mut dice = Dice::seed_from_u64(seed);
        (0..n)
            .map(|_| {
                let hard: f64 = dice.random();
                let mut done = |share: f64| f64::from(u8::from(dice.random_bool(share.clamp(0.0, 1.0))));
                (done(hard), done(hard + by))
            })
            .collect()
    }

    fn measure(pairs: Vec<(f64, f64)>) -> Measure {
        Measure { name: "drawing".into(), weight: 1.0, pairs }
    }

    fn guard(live: f64, candidate: f64, margin: Margin) -> Guard {
        Guard { name: "guard".into(), live, candidate, margin }
    }

    /// Of 200 candidates, those promoted at a first look or a second.
    fn promoted(by: f64) -> usize {
        let one = |&seed: &u64| {
            let mut pairs = tasks(400, by, seed);
            let first = decide(&[measure(pairs.clone())], &[], seed);
            pairs.extend(tasks(400, by, seed + 1000));
            first.promote || first.is_open() && decide(&[measure(pairs)], &[], seed).promote
        };
        (0..200).filter(one).count()
    }

    #[test]
    fn an_equal_one_is_promoted_in_at_most_five_of_a_hundred_a_better_one_nearly_always() {
        let (equal, better, worse) = (promoted(0.0), promoted(0.15), promoted(-0.1));
        assert!(equal <= 10 && better >= 195 && worse == 0, "of 200: {equal}, {better}, {worse}");
    }

    #[test]
    fn the_same_weights_are_never_promoted() {
        let same = tasks(400, 0.0, 1).into_iter().map(|(live, _)| (live, live)).collect();
        let verdict = decide(&[measure(same)], &[], 1);
        assert!(!verdict.promote && verdict.reasons[0].contains("chance"), "{:?}", verdict.reasons);
        assert!(!verdict.is_open());
    }

    #[test]
    fn only_chance_is_worth_another_look() {
        let pairs = |n: usize| (0..n).map(|at| (0.0, f64::from(u8::from(at == 0)))).collect::<Vec<_>>();
        let fall = guard(1.0, 0.5, Margin::Fall(0.1));
        for (pairs, guards, open) in [
            (pairs(400), vec![], true),
            (pairs(400), vec![guard(1.0, 1.0, Margin::Fall(0.1))], true),
            (pairs(400), vec![fall], false),
            (pairs(49), vec![], false),
            (tasks(400, 0.3, 1), vec![], false),
            (tasks(400, -0.1, 1), vec![], false),
            (vec![(0.0, f64::NAN); 400], vec![], false),
            (vec![], vec![], false),
        ] {
            let verdict = decide(&[measure(pairs)], &guards, 1);
            assert_eq!(verdict.is_open(), open, "{:?}", verdict.reasons);
        }
    }

    /// A reward that is hacked: the score rises, and what nobody rewarded falls.
    #[test]
    fn what_no_reward_sees_holds_it_back() {
        let better = || measure(tasks(400, 0.3, 1));
        assert!(decide(&[better()], &[], 1).promote);
        for (guard, held) in [
            (guard(1.58, 1.50, Margin::Fall(0.15)), true),
            (guard(1.58, 1.01, Margin::Fall(0.15)), false),
            (guard(0.4, 0.9, Margin::Fall(0.1)), true),
            (guard(0.2, 0.15, Margin::FallBy(0.3)), true),
            (guard(0.2, 0.13, Margin::FallBy(0.3)), false),
            (guard(30.0, 80.0, Margin::ChangeBy(0.5)), false),
            (guard(30.0, 10.0, Margin::ChangeBy(0.5)), false),
            (guard(30.0, 40.0, Margin::ChangeBy(0.5)), true),
            (guard(0.2, f64::NAN, Margin::FallBy(0.3)), false),
        ] {
            let verdict = decide(&[better()], std::slice::from_ref(&guard), 1);
            assert_eq!((verdict.promote, verdict.guards[0].held), (held, held), "{guard:?}: {:?}", verdict.reasons);
            assert_eq!(verdict.reasons.is_empty(), held);
        }
    }

    #[test]
    fn what_is_no_number_or_too_little_is_refused() {
        let mut pairs = tasks(400, 0.3, 1);
        pairs[7].1 = f64::NAN;
        let said = |pairs: Vec<(f64, f64)>| decide(&[measure(pairs)], &[], 1).reasons.join("; ");
        assert!(said(pairs).contains("no number"));
        assert!(said(tasks(49, 0.9, 1)).contains("too few"));
        assert!(said(vec![]).contains("too few"));
        assert!(decide(&[], &[], 1).reasons[0].contains("too few"));
    }

    #[test]
    fn kinds_of_tasks_weigh_what_they_weigh_however_many_they_are() {
        let all = |n: usize, live: f64, candidate: f64| vec![(live, candidate); n];
        let one = Measure { weight: 3.0, ..measure(all(10, 0.0, 1.0)) };
        let other = measure(all(90, 1.0, 0.5));
        let verdict = decide(&[one, other], &[], 1);
        assert!((verdict.gain.live - 0.25).abs() < 1e-12 && (verdict.gain.candidate - 0.875).abs() < 1e-12);
        assert!((verdict.gain.interval[0] - 0.625).abs() < 1e-12 && verdict.promote);
        assert_eq!((verdict.measures[1].1.candidate, verdict.gain.tasks), (0.5, 100));
    }
}
