//! A picture against what its caption demands, as GenEval judges: exactly the named objects, with the named properties, in the
//! named relation. Works on what [`verify`](super::verify) reads.

use super::caption::{Phrase, Relation, Requirement};
use super::verify::{Reading, Seen, read};
use crate::domain::picture::Picture;

/// How well a picture meets a requirement.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// Everything demanded is there, and nothing else.
    pub correct: bool,
    /// The share of the demanded facts that hold, 0 to 1; 1 exactly when `correct`.
    pub fraction: f32,
    /// What was seen.
    pub reading: Reading,
}

/// Judges a picture.
#[must_use]
pub fn judge(requirement: &Requirement, picture: &Picture) -> Judgement {
    Judgement::of(requirement, read(picture))
}

impl Judgement {
    /// Judges what was read.
    #[must_use]
    pub fn of(requirement: &Requirement, reading: Reading) -> Self {
        let facts = facts(requirement, &reading);
        let held = facts.iter().filter(|&&fact| fact).count();
        Self { correct: held == facts.len(), fraction: held as f32 / facts.len().max(1) as f32, reading }
    }
}

/// Every demanded fact, and whether it holds: the shape, colour and size of each demanded object as far as named, the number of
/// objects, the relation, the background.
fn facts(requirement: &Requirement, reading: &Reading) -> Vec<bool> {
    let demanded: Vec<(usize, &Phrase)> = requirement
        .phrases
        .iter()
        .enumerate()
        .flat_map(|(i, phrase)| std::iter::repeat_n((i, phrase), phrase.count))
        .collect();
    let matches = assign(&demanded, &reading.objects);
    let mut facts = Vec::new();
    for (&(_, phrase), seen) in demanded.iter().zip(&matches) {
        facts.push(seen.is_some_and(|seen| seen.shape == Some(phrase.shape)));
        facts.extend(phrase.colour.map(|colour| seen.is_some_and(|seen| seen.colour == Some(colour))));
        facts.extend(phrase.size.map(|size| seen.is_some_and(|seen| seen.size == size)));
    }
    facts.push(reading.objects.len() == requirement.count());
    facts.extend(requirement.relation.map(|relation| {
        let middle = |i: usize| {
            let mut objects = demanded.iter().zip(&matches).filter(|((of, _), _)| *of == i);
            let sum = objects.try_fold((0, 0, 0), |(x, y, n), ((_, phrase), seen)| {
                let seen = seen.filter(|seen| seen.shape == Some(phrase.shape))?;
                Some((x + seen.centre.0, y + seen.centre.1, n + 1))
            })?;
            (sum.2 > 0).then(|| (sum.0 / sum.2, sum.1 / sum.2))
        };
        middle(0).zip(middle(1)).is_some_and(|(first, second)| holds(relation, first, second))
    }));
    // Without a named background any one of the world will do; a picture without one is no picture of the world.
    facts.push(reading.background.is_some_and(|ground| requirement.background.is_none_or(|named| named == ground)));
    facts
}

/// For each demanded object the seen one that fits it best, none twice; the best fits are settled first.
fn assign(demanded: &[(usize, &Phrase)], seen: &[Seen]) -> Vec<Option<Seen>> {
    let fit = |phrase: &Phrase, seen: &Seen| {
        4 * u32::from(seen.shape == Some(phrase.shape))
            + 2 * u32::from(phrase.colour.is_some() && seen.colour == phrase.colour)
            + u32::from(phrase.size == Some(seen.size))
    };
    let mut pairs: Vec<(u32, usize, usize)> = Vec::with_capacity(demanded.len() * seen.len());
    for (d, (_, phrase)) in demanded.iter().enumerate() {
        pairs.extend(seen.iter().enumerate().map(|(s, seen)| (fit(phrase, seen), d, s)).filter(|pair| pair.0 > 0));
    }
    pairs.sort_by_key(|&(fit, d, s)| (std::cmp::Reverse(fit), d, s));
    let mut matches = vec![None; demanded.len()];
    let mut taken = vec![false; seen.len()];
    for (_, d, s) in pairs {
        if matches[d].is_none() && !taken[s] {
            matches[d] = Some(seen[s]);
            taken[s] = true;
        }
    }
    matches
}

/// The relation holds along its axis, and the objects are further apart along it than across.
fn holds(relation: Relation, first: (i32, i32), second: (i32, i32)) -> bool {
    let (dx, dy) = (second.0 - first.0, second.1 - first.1);
    let (along, across) = match relation {
        Relation::Above => (dy, dx),
        Relation::Below => (-dy, dx),
        Relation::LeftOf => (dx, dy),
        Relation::RightOf => (-dx, dy),
    };
    along > across.abs()
}
