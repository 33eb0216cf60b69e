//! What a completion answers, and whether that is right (CoRL reference, 4.3 and 4.4): the answer in its tags, the letter of an
//! option, the accuracy reward of a question. Knows no pictures, no groups and no weights.
//!
//! The original's regular expressions are plain scans here, because a completion may be hostile. A scan takes time linear in the
//! completion; only seeking the text of an option and comparing an open answer multiply that by the length of the task's text.
//! Two liberties: letter case is ASCII's where the original ignores it, and a character of a word is Rust's `is_alphanumeric` or
//! `_`, which takes in a few combining marks that Python leaves out.

use serde::Serialize;

use super::similarity::{soft_jaccard, space};
use super::vote::most_frequent;

/// An open answer is asked for in one to three words (2.2). A right answer of more characters than this is compared for equality
/// alone, which bounds the work of [`soft_jaccard`].
const LONGEST_OPEN: usize = 300;

/// Single words that stand for their digits: the American table of Python's `word2number`, where `point` reads as 0.
const NUMBERS: [(&str, &str); 33] = [
    ("zero", "0"),
    ("one", "1"),
    ("two", "2"),
    ("three", "3"),
    ("four", "4"),
    ("five", "5"),
    ("six", "6"),
    ("seven", "7"),
    ("eight", "8"),
    ("nine", "9"),
    ("ten", "10"),
    ("eleven", "11"),
    ("twelve", "12"),
    ("thirteen", "13"),
    ("fourteen", "14"),
    ("fifteen", "15"),
    ("sixteen", "16"),
    ("seventeen", "17"),
    ("eighteen", "18"),
    ("nineteen", "19"),
    ("twenty", "20"),
    ("thirty", "30"),
    ("forty", "40"),
    ("fifty", "50"),
    ("sixty", "60"),
    ("seventy", "70"),
    ("eighty", "80"),
    ("ninety", "90"),
    ("hundred", "100"),
    ("thousand", "1000"),
    ("million", "1000000"),
    ("billion", "1000000000"),
    ("point", "0"),
];

/// How a question is to be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum QaType {
    /// With the letter of an option (`MC`).
    Choice,
    /// In words (`OE`).
    Open,
}

/// The body of the first `<answer>…</answer>` that lies on one line, stripped.
#[must_use]
pub fn answer_body(text: &str) -> Option<&str> {
    let body = |line| between(line, "<answer>", "</answer>").map(|(_, body, _)| body);
    text.split('\n').find_map(body).map(strip)
}

/// The accuracy reward, 0 to 1 (CoRL reference, 4.3), with the multiple-choice branch reached where the question is one: the
/// original compares a list with a text and never gets there (12, defect 3).
///
/// `solution` is the right answer, in `<answer>` tags or bare. The prediction is the completion's [`answer_body`], else what is
/// left without the thinking, the tags and the word `Answer`. One that equals the right answer (letter case, a full stop at the
/// end, and `two` for `2` aside) earns 1. Another earns, to an open question, its [`soft_jaccard`] index; to a choice, 1 when
///
/// - the right letter is in it as a word, and the letter that it names is that one, as in `The answer is B` or `Option B`; or
/// - the right letter is not in it, but the text of the right option is, and is all that it says, or all that it quotes, as in
///   `The answer is "blue"`. That text is looked up in the lines `B. blue` of `problem`, A to N.
///
/// A choice earns 0 when `problem` has no text for the option, where the original fails.
#[must_use]
pub fn accuracy(completion: &str, problem: &str, solution: &str, kind: QaType) -> f64 {
    let right = answer_body(solution).unwrap_or_else(|| strip(solution));
    let prediction = answer_body(completion).map_or_else(|| untagged(completion), str::to_owned);
    if equal(&prediction, right) {
        return 1.0;
    }
    match kind {
        QaType::Choice => f64::from(chosen(&prediction, problem, right)),
        QaType::Open if right.chars().nth(LONGEST_OPEN).is_some() => 0.0,
        QaType::Open => soft_jaccard(prediction.trim_end_matches(['.', ',', '!', '?']), right),
    }
}

/// The option that a completion chooses (CoRL reference, 4.4), for work without labels. The first of these that is there decides:
///
/// 1. `<answer>` tags: their only character, if that is a capital A to F, else the most frequent A to F among its words;
/// 2. `Answer:` or `Ans:` before an A to F, with which a longer word may begin; none if the letter is small;
/// 3. a phrase that names an option, see below; its letter may be beyond F;
/// 4. the most frequent A to F among the words of the text.
///
/// Tags, `Answer:` and `Ans:` are known in any letter case. Of equally frequent letters the first seen counts.
///
/// The phrases are those of the original, and their letter case matters. The first such place counts: one of `answer`, `choice`,
/// `option`, `select`, `choose` and `pick`, whitespace, perhaps one of `is`, `as`, `being`, `would be`, `should be` and `:`,
/// perhaps `option`, `choice` or `letter`, and a capital that ends a word. Failing that, in this order: `The answer is`,
/// `The correct answer is`, `Answer is`, `Option` and `Choice`, their first letter in either case, and a capital with which a
/// longer word may begin.
#[must_use]
pub fn letter(text: &str) -> Option<char> {
    let lower = text.to_ascii_lowercase();
    if let Some((before, body, _)) = between(&lower, "<answer>", "</answer>") {
        let start = before.len() + "<answer>".len();
        let body = strip(text.get(start..start + body.len())?);
        return only_char(body).map_or_else(|| frequent_option(body), |letter| Some(letter).filter(is_option));
    }
    let labelled = first(&lower, &["answer:", "ans:"], |start, end| {
        let letter = text.get(end..)?.trim_start_matches(space).chars().next()?;
        (boundary(&lower, start) && is_option(&letter.to_ascii_uppercase())).then_some(letter)
    });
    match labelled {
        Some(letter) => Some(letter).filter(is_option),
        None => named(text).or_else(|| frequent_option(text)),
    }
}

/// The prediction of a completion without an answer in tags.
fn untagged(completion: &str) -> String {
    let mut kept = String::new();
    let mut rest = completion;
    while let Some((before, _, after)) = between(rest, "<think>", "</think>") {
        kept.push_str(before);
        rest = after;
    }
    kept.push_str(rest);
    let litter = ["<think>", "</think>", "<answer>", "</answer>", "Answer:", "Answer"];
    strip(&litter.iter().fold(kept, |text, litter| text.replace(litter, ""))).to_owned()
}

/// Equal but for letter case, full stops at the end of the prediction, and a number word on either side.
fn equal(prediction: &str, right: &str) -> bool {
    let prediction = prediction.trim_end_matches('.').to_lowercase();
    let right = right.to_lowercase();
    let (prediction, right) = (strip(&prediction), strip(&right));
    prediction == right || NUMBERS.contains(&(prediction, right)) || NUMBERS.contains(&(right, prediction))
}

/// Whether a prediction that does not equal the right letter chooses it all the same.
fn chosen(prediction: &str, problem: &str, right: &str) -> bool {
    // Two characters or fewer are a letter, and a wrong one; a solution that is no letter is nothing to choose.
    if prediction.chars().nth(2).is_none() || only_char(right).is_none() {
        return false;
    }
    if has_word(prediction, right) {
        return named(prediction).is_some_and(|letter| equal(letter.encode_utf8(&mut [0; 4]), right));
    }
    option_text(problem, right)
        .is_some_and(|option| has_word(prediction, option) && equal(quoted(prediction).unwrap_or(prediction), option))
}

/// The text of an option in the lines `X. text` of a question.
fn option_text<'a>(problem: &'a str, letter: &str) -> Option<&'a str> {
    only_char(letter).filter(|letter| ('A'..='N').contains(&letter.to_ascii_uppercase()))?;
    let text = |line| strip(line).strip_prefix(letter)?.strip_prefix('.').map(strip).filter(|text| !text.is_empty());
    problem.split('\n').find_map(text)
}

/// The letter of an option that a phrase names; the phrases are those of [`letter`].
fn named(text: &str) -> Option<char> {
    const ACTS: [&str; 6] = ["answer", "choice", "option", "select", "choose", "pick"];
    const LINKS: [&str; 6] = ["is", "as", "being", "would be", "should be", ":"];
    const NOUNS: [&str; 3] = ["option", "choice", "letter"];
    const PLAIN: [[&str; 2]; 5] = [
        ["The answer is ", "the answer is "],
        ["The correct answer is ", "the correct answer is "],
        ["Answer is ", "answer is "],
        ["Option ", "option "],
        ["Choice ", "choice "],
    ];
    let capital = |rest: &str| rest.chars().next().filter(char::is_ascii_uppercase);
    let linked = |_, end| {
        let rest = text.get(end..)?.strip_prefix(space)?;
        let rest = LINKS.iter().find_map(|link| rest.strip_prefix(link)).unwrap_or(rest).trim_start_matches(space);
        let rest = NOUNS.iter().find_map(|noun| rest.strip_prefix(noun)?.strip_prefix(space)).unwrap_or(rest);
        capital(rest).filter(|_| boundary(rest, 1))
    };
    let plain = |words: &[&str; 2]| first(text, words, |_, end| capital(text.get(end..)?));
    first(text, &ACTS, linked).or_else(|| PLAIN.iter().find_map(plain))
}

/// The text in quotes after `answer is`, `choice:` and the like, whatever their letter case; double quotes before single ones.
fn quoted(text: &str) -> Option<&str> {
    let lower = text.to_ascii_lowercase();
    let within = |quote: char| {
        first(&lower, &["answer", "choice"], |_, end| {
            let rest = text.get(end..)?;
            let trimmed = rest.trim_start_matches(space);
            let is = || trimmed.get(..2).filter(|is| is.eq_ignore_ascii_case("is") && trimmed.len() < rest.len());
            let after = trimmed.strip_prefix(['=', ':']).or_else(|| trimmed.get(is()?.len()..))?;
            let (said, _) = after.trim_start_matches(space).strip_prefix(quote)?.split_once(quote)?;
            Some(said).filter(|said| !said.is_empty())
        })
    };
    within('"').or_else(|| within('\'')).map(strip)
}

/// What the leftmost occurrence of any of `words` leads to, of those that lead to anything. `follow` gets start and end. No word
/// overlaps itself, and no two are found at the same place.
fn first<T>(text: &str, words: &[&str], follow: impl Fn(usize, usize) -> Option<T>) -> Option<T> {
    let found = words.iter().filter_map(|word| {
        text.match_indices(word).find_map(|(start, _)| Some((start, follow(start, start + word.len())?)))
    });
    found.min_by_key(|&(start, _)| start).map(|(_, led_to)| led_to)
}

/// The most frequent of the words A to F.
fn frequent_option(text: &str) -> Option<char> {
    most_frequent(text.split(|c| !in_word(c)).filter_map(only_char).filter(is_option))
}

fn is_option(letter: &char) -> bool {
    ('A'..='F').contains(letter)
}

/// Whether `sought` occurs with a word boundary at its start and at its end.
fn has_word(text: &str, sought: &str) -> bool {
    let mut places = text.char_indices().map(|(start, _)| (start, start + sought.len()));
    places.any(|(start, end)| text.get(start..end) == Some(sought) && boundary(text, start) && boundary(text, end))
}

/// Whether a word begins or ends at a place (`\b`).
fn boundary(text: &str, at: usize) -> bool {
    let before = text.get(..at).and_then(|before| before.chars().next_back()).is_some_and(in_word);
    let after = text.get(at..).and_then(|after| after.chars().next()).is_some_and(in_word);
    before != after
}

fn in_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn only_char(text: &str) -> Option<char> {
    let mut chars = text.chars();
    chars.next().filter(|_| chars.next().is_none())
}

fn strip(text: &str) -> &str {
    text.trim_matches(space)
}

/// What is before, between and after the first `open` and the first `close` behind it.
pub(super) fn between<'a>(text: &'a str, open: &str, close: &str) -> Option<(&'a str, &'a str, &'a str)> {
    let (before, rest) = text.split_once(open)?;
    let (body, after) = rest.split_once(close)?;
    Some((before, body, after))
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
