//! Lessons in text alone, in the very format of the think parts, and all words of the world. A look-up lesson is a list of
//! keys with their values, then keys again, each followed by the value to recall.

use std::collections::BTreeSet;
use std::ops::Range;

use rand::RngExt;
use rand::seq::{SliceRandom, index};

use super::caption::{Category, NUMBERS, Relation};
use super::draw::pick;
use super::held_out::{Split, unseen_pair};
use super::question::{self, COUNTS, Form, Kind, LETTERS};
use super::scene::{Background, Colour, Order, Place, Scene, Shape, Size};
use super::{Dice, dice};

/// Recalls of one lesson.
pub const RECALLS: usize = 8;

/// A look-up lesson: "heart red, star blue; star blue; heart red; …".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lookup {
    /// The lesson.
    pub text: String,
    /// Byte ranges of the recalled values in `text`, without the space before them: the only words that can be known.
    pub recalled: Vec<Range<usize>>,
}

impl Lookup {
    /// A random lesson of [`RECALLS`] look-ups. Names no unseen shape-colour pair.
    #[must_use]
    pub fn draw(dice: &mut Dice) -> Self {
        match dice.random_range(0..9u32) {
            0 | 1 => {
                Self::of(&objects(dice, |shape, colour, _| (shape.word().into(), colour.word().into())), None, dice)
            }
            2 => Self::of(&objects(dice, |shape, colour, _| (colour.word().into(), shape.word().into())), None, dice),
            3 => Self::of(&objects(dice, |shape, _, place| (shape.word().into(), place.word().into())), None, dice),
            4 => {
                Self::of(&objects(dice, |s, c, p| (format!("{} {}", s.word(), c.word()), p.word().into())), None, dice)
            }
            5 => {
                let letters = match dice.random_range(0..5u32) {
                    0 => options(&Colour::ALL.map(Colour::word), dice),
                    1 => options(&Shape::ALL.map(Shape::word), dice),
                    2 => options(&Place::ALL.map(Place::word), dice),
                    3 => options(&COUNTS, dice),
                    _ => options(&["yes", "no"], dice),
                };
                Self::of(&letters, None, dice)
            }
            6 => {
                let list = objects(dice, |shape, colour, _| (shape.word().into(), colour.word().into()));
                Self::of(&list, Some(&Colour::ALL.map(Colour::word)), dice)
            }
            7 => Self::of(&verdicts(dice), None, dice),
            _ => {
                let list = objects(dice, |shape, _, place| (shape.word().into(), place.word().into()));
                Self::of(&list, Some(&Place::ALL.map(Place::word)), dice)
            }
        }
    }

    /// Recalls from `list`; with `choices`, the values are also offered as options and the letter is recalled after the value.
    fn of(list: &[(String, String)], choices: Option<&[&'static str]>, dice: &mut Dice) -> Self {
        let letters = choices.map(|choices| letters_for(list, choices, dice));
        let mut lesson = Self { text: listed(list), recalled: Vec::with_capacity(2 * RECALLS) };
        if let Some(letters) = &letters {
            lesson.text += "; ";
            lesson.text += &listed(letters);
        }
        let known = |value: &str| letters.as_ref().is_none_or(|letters| letters.iter().any(|(text, _)| text == value));
        let mut asked: Vec<&(String, String)> = list.iter().filter(|pair| known(&pair.1)).collect();
        asked.shuffle(dice);
        for (key, value) in asked.into_iter().cycle().take(RECALLS) {
            lesson.text += "; ";
            lesson.text += key;
            lesson.recall(value);
            if let Some((_, letter)) = letters.iter().flatten().find(|(text, _)| text == value) {
                lesson.recall(letter);
            }
        }
        lesson
    }

    fn recall(&mut self, value: &str) {
        self.text.push(' ');
        let start = self.text.len();
        self.text += value;
        self.recalled.push(start..self.text.len());
    }
}

/// 2 to 6 objects of distinct shapes, colours and places, as key and value, in random order.
fn objects(dice: &mut Dice, pair: impl Fn(Shape, Colour, Place) -> (String, String)) -> Vec<(String, String)> {
    let (mut shapes, mut colours, mut places) = (Shape::ALL, Colour::ALL, Place::ALL);
    shapes.shuffle(dice);
    places.shuffle(dice);
    loop {
        colours.shuffle(dice);
        if !shapes.iter().zip(colours).any(|(&shape, colour)| unseen_pair(shape, colour)) {
            break;
        }
    }
    let length = dice.random_range(2..=6u32) as usize;
    let objects = shapes.into_iter().zip(colours).zip(places).take(length);
    objects.map(|((shape, colour), place)| pair(shape, colour, place)).collect()
}

/// What each comparison of two places would mean: "below yes, leftmost no, above no, rightmost yes".
fn verdicts(dice: &mut Dice) -> Vec<(String, String)> {
    let mut asked = vec![];
    for relation in [Relation::Above, Relation::LeftOf] {
        let relation = if dice.random_bool(0.5) { relation } else { relation.inverse() };
        asked.extend([(relation.key().into(), "yes".into()), (relation.inverse().key().into(), "no".into())]);
    }
    asked.shuffle(dice);
    asked
}

/// Up to four of `texts`, lettered.
fn options(texts: &[&'static str], dice: &mut Dice) -> Vec<(String, String)> {
    let picked = index::sample(dice, texts.len(), texts.len().min(LETTERS.len()));
    picked.into_iter().zip(LETTERS).map(|(at, letter)| (texts[at].to_owned(), letter.to_owned())).collect()
}

/// Four lettered options of `choices`; the values of `list` first, so that there is always something to ask.
fn letters_for(list: &[(String, String)], choices: &[&'static str], dice: &mut Dice) -> Vec<(String, String)> {
    let mut texts: Vec<&str> = choices.to_vec();
    texts.shuffle(dice);
    texts.sort_by_key(|text| !list.iter().any(|pair| pair.1 == **text));
    texts.truncate(LETTERS.len());
    texts.shuffle(dice);
    texts.into_iter().zip(LETTERS).map(|(text, letter)| (text.to_owned(), letter.to_owned())).collect()
}

fn listed(pairs: &[(String, String)]) -> String {
    let parts: Vec<String> = pairs.iter().map(|(key, value)| format!("{key} {value}")).collect();
    parts.join(", ")
}

/// `n` training texts of every sort (captions, questions with solutions, descriptions, look-ups), to build a tokenizer from.
#[must_use]
pub fn corpus(seed: u64, n: usize) -> Vec<String> {
    let mut dice = dice(seed);
    let text = |_| match dice.random_range(0..4u32) {
        0 => Scene::draw(pick(&Category::ALL, &mut dice), Split::Train, &mut dice).1.text,
        1 => {
            let (kind, form) = (pick(&Kind::ALL, &mut dice), pick(&Form::ALL, &mut dice));
            let (_, question) = question::draw(kind, form, Split::Train, &mut dice);
            format!("{}\n{}", question.text, question.solution())
        }
        2 => Scene::mixed(Split::Train, &mut dice).describe(Order::ShapeColourPlace),
        _ => Lookup::draw(&mut dice).text,
    };
    (0..n).map(text).collect()
}

/// Every word and every mark that any text of the world can hold, sorted: the vocabulary of a word-level tokenizer.
#[must_use]
pub fn words() -> Vec<String> {
    let mut texts: Vec<&str> = Vec::new();
    texts.extend(Shape::ALL.map(Shape::word));
    texts.extend(Shape::ALL.map(Shape::plural));
    texts.extend(Colour::ALL.map(Colour::word));
    texts.extend(Size::ALL.map(Size::word));
    texts.extend(Background::ALL.map(Background::word));
    texts.extend(Place::ALL.map(Place::word));
    texts.extend(Relation::ALL.map(Relation::word));
    texts.extend(NUMBERS);
    texts.extend(COUNTS);
    texts.extend(LETTERS);
    texts.extend(["yes", "no", "a", "an", "and", "on", "background", "object", "photo", "of", "draw", "picture"]);
    let mut words: BTreeSet<String> = texts.iter().flat_map(|text| text.split(' ')).map(str::to_owned).collect();
    // The templates and the wording of the questions, taken from questions themselves: a few of every sort hold them all.
    let mut dice = dice(0);
    for kind in Kind::ALL {
        for form in Form::ALL {
            for _ in 0..64 {
                let (_, question) = question::draw(kind, form, Split::Train, &mut dice);
                words.extend(split(&question.text));
                words.extend(split(&question.solution()));
            }
        }
    }
    words.into_iter().collect()
}

/// The words and marks of a text: runs of letters and digits, and every other character but white space by itself.
pub fn split(text: &str) -> impl Iterator<Item = String> + '_ {
    let mut rest = text.trim_start();
    std::iter::from_fn(move || {
        let first = rest.chars().next()?;
        let end = if first.is_alphanumeric() {
            rest.find(|c: char| !c.is_alphanumeric()).unwrap_or(rest.len())
        } else {
            first.len_utf8()
        };
        let (word, after) = rest.split_at(end);
        rest = after.trim_start();
        Some(word.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recalled_values_are_in_the_list_right_after_their_key() {
        let mut dice = dice(5);
        for _ in 0..500 {
            let lesson = Lookup::draw(&mut dice);
            assert!(lesson.recalled.len() >= RECALLS, "{}", lesson.text);
            let (list, _) = lesson.text.split_once("; ").unwrap();
            let first = &lesson.text[lesson.recalled[0].clone()];
            assert!(list.contains(&format!(" {first}")), "{}", lesson.text);
            for pair in super::super::held_out::UNSEEN_PAIRS {
                assert!(!lesson.text.contains(&format!("{} {}", pair.0.word(), pair.1.word())));
                assert!(!lesson.text.contains(&format!("{} {}", pair.1.word(), pair.0.word())));
            }
        }
    }

    #[test]
    fn every_text_is_made_of_the_words() {
        let words = words();
        for text in corpus(9, 3000) {
            for word in split(&text) {
                assert!(words.contains(&word), "{word} in {text}");
            }
        }
        assert!(words.len() < 300, "{}", words.len());
    }
}
