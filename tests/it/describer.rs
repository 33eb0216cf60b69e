//! A describer on the demo model: it learns to tell what was asked for from pictures, is the same from its file, goes on from what it
//! knows, tells what was liked from what was not, and leaves when it is told to.

use std::sync::Arc;

use candle_core::Device;
use rand::SeedableRng as _;
use ulm::demo;
use ulm::domain::picture::Picture;
use ulm::train::round::describer::{Compared, Describer};
use ulm::world::{Category, Dice, Scene, Split, render};

/// Pictures of the world with what they show.
fn shown(n: usize, seed: u64) -> Vec<(Arc<Picture>, String)> {
    let mut dice = Dice::seed_from_u64(seed);
    let one = |_| {
        let (scene, caption) = Scene::draw(Category::Colors, Split::Train, &mut dice);
        (Arc::new(render(&scene)), caption.text)
    };
    (0..n).map(one).collect()
}

/// Those with the words of `words`.
fn with<'a>(pictures: &[(Arc<Picture>, String)], words: impl Fn(usize) -> &'a str) -> Vec<(Arc<Picture>, &'a str)> {
    pictures.iter().enumerate().map(|(at, (picture, _))| (Arc::clone(picture), words(at))).collect()
}

#[test]
fn what_was_liked_is_described() {
    let model = demo::load(&Device::Cpu).unwrap();
    let (liked, others) = (shown(256, 1), shown(24, 2));
    let liked = with(&liked, |at| &liked[at].1);
    let right = with(&others, |at| &others[at].1);
    // The same words, behind pictures of something else.
    let wrong: Vec<_> =
        right.iter().map(|(_, words)| others.iter().find(|(_, other)| other != words).unwrap()).collect();
    let wrong: Vec<_> =
        right.iter().zip(wrong).map(|((_, words), (picture, _))| (Arc::clone(picture), *words)).collect();
    let mean = |describer: &Describer, shown: &[_]| {
        let numbers = describer.numbers(shown).unwrap();
        assert!(numbers.iter().all(|&[sum, mean, least, next]| sum <= least + next && mean >= least && least <= next));
        numbers.iter().map(|numbers| f64::from(numbers[1])).sum::<f64>() / shown.len() as f64
    };
    let fresh = Describer::learn(&model, None, &[], 0, 1, |_, _| true).unwrap().unwrap();
    let mut steps = vec![];
    let learned = Describer::learn(&model, None, &liked, 6, 1, |done, of| {
        steps.push((done, of));
        true
    });
    let learned = learned.unwrap().unwrap();
    assert_eq!(steps, (0..12).map(|done| (done, 12)).collect::<Vec<_>>());
    let (before, after) = (mean(&fresh, &right), mean(&learned, &right));
    assert!(after > before + 2.0, "{before} {after}");
    let on = Describer::learn(&model, Some(&learned), &liked, 6, 2, |_, _| true).unwrap().unwrap();
    let (gone_on, beside) = (mean(&on, &right), mean(&on, &wrong));
    assert!(gone_on > after && gone_on > beside, "{after} {gone_on} {beside}");

    // What it finds likely only because it has the shape of what was liked is told apart by what was not.
    let odds = |describer: &Describer| mean(describer, &right) - mean(describer, &wrong);
    let compared: Vec<_> = liked
        .iter()
        .zip(liked.iter().cycle().skip(1))
        .filter(|(one, other)| one.1 != other.1)
        .map(|(one, other)| vec![(one.clone(), true), ((Arc::clone(&other.0), one.1), false)])
        .map(|pictures| Compared { pictures, trust: 0.64 })
        .collect();
    let told_apart = learned.compare(&model, &compared, 2, 1, |_, _| true).unwrap().unwrap();
    assert!(odds(&told_apart) > odds(&learned) + 0.3, "{} {}", odds(&learned), odds(&told_apart));
    assert!(learned.compare(&model, &compared, 2, 1, |_, _| false).unwrap().is_none());

    let again = Describer::read(&model, &learned.file().unwrap()).unwrap();
    assert_eq!(again.numbers(&right).unwrap(), learned.numbers(&right).unwrap());
    assert!(Describer::read(&model, b"no weights").is_err());
    assert!(Describer::learn(&model, None, &liked, 6, 1, |done, _| done < 1).unwrap().is_none());
}
