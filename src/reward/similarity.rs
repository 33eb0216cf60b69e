//! How alike two texts are: Python's `difflib` ratio over characters, and the soft Jaccard index over words made from it.
//! Knows no tags, no questions and no tasks.

use std::collections::{BTreeMap, BTreeSet};

/// Words this alike (a [`ratio`], 0 to 1) count as the same word in part (CoRL reference, 4.3).
const ALIKE: f64 = 0.8;
/// From this many characters on, `difflib` starts no match at a character that is common in the second text.
const JUNK_FROM: usize = 200;

/// Python's whitespace, as `str.split`, `str.strip` and `\s` have it: Unicode's, and the four separators of ASCII.
#[must_use]
pub fn space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// `difflib.SequenceMatcher(None, a, b).ratio()` of Python 3, "autojunk" included: twice the characters in matching blocks over
/// the characters of both; 0 to 1, and 1 for two empty texts. Not symmetric.
///
/// Takes time in the product of the two lengths for every matching block: meant for words and short answers.
#[must_use]
pub fn ratio(a: &str, b: &str) -> f64 {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    share(matched(&a, &b), a.len() + b.len())
}

/// The soft Jaccard index of two texts, 0 to 1 (CoRL reference, 4.3): the size of the intersection of their sets of words over
/// that of the union. Words are lowercased and set apart by whitespace. Of the words that are not in both, every one of `a`, in
/// sorted order, takes the most alike word of `b` that is left, if it is at least 0.8 alike, and adds that ratio to the
/// intersection. The original walks an unordered set here. 0 for two empty texts.
///
/// Takes time in |a|·|b|² characters at worst, |a|·|b| in practice: whoever calls it bounds `b`.
#[must_use]
pub fn soft_jaccard(a: &str, b: &str) -> f64 {
    let (a, b) = (a.to_lowercase(), b.to_lowercase());
    let (a, b) = (words(&a), words(&b));
    let mut partly = 0.0;
    let mut left: Vec<Vec<char>> = b.difference(&a).map(|word| word.chars().collect()).collect();
    for word in a.difference(&b) {
        let word: Vec<char> = word.chars().collect();
        let alike = left.iter().enumerate().filter_map(|(at, other)| {
            let total = word.len() + other.len();
            // No more characters than the shorter word has can match; most pairs are settled by that.
            let possible = share(word.len().min(other.len()), total) >= ALIKE;
            let ratio = possible.then(|| share(matched(&word, other), total)).filter(|&ratio| ratio >= ALIKE)?;
            Some((at, ratio))
        });
        if let Some((at, ratio)) = alike.reduce(|best, next| if next.1 > best.1 { next } else { best }) {
            left.remove(at);
            partly += ratio;
        }
    }
    let intersection = a.intersection(&b).count() as f64 + partly;
    let union = (a.len() + b.len()) as f64 - intersection;
    if union > 0.0 { intersection / union } else { 0.0 }
}

fn words(text: &str) -> BTreeSet<&str> {
    text.split(space).filter(|word| !word.is_empty()).collect()
}

fn share(matched: usize, total: usize) -> f64 {
    if total == 0 { 1.0 } else { 2.0 * matched as f64 / total as f64 }
}

/// A character of the second text, and whether a match may start from it.
type Letter = (char, bool);

/// The characters in matching blocks: the longest block, then the same to its left and to its right.
fn matched(a: &[char], b: &[char]) -> usize {
    let mut counts: BTreeMap<char, usize> = BTreeMap::new();
    if b.len() >= JUNK_FROM {
        b.iter().for_each(|&c| *counts.entry(c).or_default() += 1);
    }
    let common = b.len() / 100 + 1;
    let b: Vec<Letter> = b.iter().map(|&c| (c, counts.get(&c).is_none_or(|&count| count <= common))).collect();
    let mut sum = 0;
    // A list and not recursion: the depth is in the hands of whoever wrote the text.
    let mut open = vec![(a, b.as_slice())];
    while let Some((a, b)) = open.pop() {
        let Block { in_a, in_b, size } = longest(a, b);
        if size > 0 {
            sum += size;
            open.push((to(a, in_a), to(b, in_b)));
            open.push((from(a, in_a + size), from(b, in_b + size)));
        }
    }
    sum
}

/// A run of equal characters: where it starts in each text, and its length.
#[derive(Default)]
struct Block {
    in_a: usize,
    in_b: usize,
    size: usize,
}

/// The longest common run of characters that are not too common, the leftmost in `a` and then in `b`, drawn out on both sides
/// over equal characters of any kind. When there is none, what the texts have in common at their start, as in `difflib`.
fn longest(a: &[char], b: &[Letter]) -> Block {
    let mut best = Block::default();
    // Of the character of `a` before this one: the length of the run that ends at each character of `b`.
    let mut runs = vec![0; b.len()];
    for (i, &c) in a.iter().enumerate() {
        let mut before = 0;
        for (j, (run, &(other, starts))) in runs.iter_mut().zip(b).enumerate() {
            let size = if starts && other == c { before + 1 } else { 0 };
            before = std::mem::replace(run, size);
            if size > best.size {
                best = Block { in_a: i + 1 - size, in_b: j + 1 - size, size };
            }
        }
    }
    let Block { in_a, in_b, size } = best;
    let equal = |&(&c, &(other, _)): &(&char, &Letter)| c == other;
    let before = to(a, in_a).iter().rev().zip(to(b, in_b).iter().rev()).take_while(equal).count();
    let after = from(a, in_a + size).iter().zip(from(b, in_b + size)).take_while(equal).count();
    Block { in_a: in_a - before, in_b: in_b - before, size: before + size + after }
}

fn to<T>(items: &[T], end: usize) -> &[T] {
    items.get(..end).unwrap_or_default()
}

fn from<T>(items: &[T], start: usize) -> &[T] {
    items.get(start..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Python 3.11 prints.
    #[test]
    fn ratios_are_those_of_difflib() {
        for (a, b, expected) in [
            ("", "", 1.0),
            ("", "a", 0.0),
            ("a", "", 0.0),
            ("a", "a", 1.0),
            ("a", "b", 0.0),
            ("cars", "car", 0.8571428571428571),
            ("tennis", "racket", 0.16666666666666666),
            ("(b)", "b", 0.5),
            ("abcd", "bcde", 0.75),
            ("tide", "diet", 0.25),
            ("diet", "tide", 0.5),
            ("abxcd", "abcd", 0.8888888888888888),
            ("private", "privately", 0.875),
            ("qabxcd", "abycdf", 0.6666666666666666),
            ("colours", "colors", 0.9230769230769231),
            ("abab", "baba", 0.75),
            ("aaaa", "aa", 0.6666666666666666),
            ("xyx", "yxy", 0.6666666666666666),
            ("ab cd", "cd ab", 0.4),
            ("café", "cafe", 0.75),
            ("猫がいる", "猫がいた", 0.75),
            ("🦀🦀", "🦀", 0.6666666666666666),
            ("abcab", "bcabca", 0.7272727272727273),
            ("a", &"a".repeat(199), 0.01),
            // From 200 characters on a common one starts no match, but a match is drawn out over it.
            ("a", &"a".repeat(200), 0.009950248756218905),
            (&"ab".repeat(99), &"ba".repeat(99), 0.9949494949494949),
            (&"ab".repeat(100), &"ba".repeat(100), 0.0),
        ] {
            assert_eq!(ratio(a, b), expected, "{a:?} {b:?}");
        }
        let rare: String = ('\u{4e00}'..).take(150).collect();
        assert_eq!(ratio(&format!("{rare}aaaa{rare}"), &format!("aaaa{rare}{rare}")), 0.506578947368421);
        let (a, b) = (format!("zz{rare}"), format!("aaaaazz{rare}{}", "b".repeat(55)));
        assert_eq!(ratio(&a, &b), 0.8351648351648352);
    }

    #[test]
    fn words_count_once_and_alike_words_in_part() {
        for (a, b, expected) in [
            ("", "", 0.0),
            ("", "oil", 0.0),
            ("oil", "", 0.0),
            ("Oil", "oil", 1.0),
            ("oil oil", "oil", 1.0),
            ("a\u{1c}b\u{a0}c\n", "c b a", 1.0),
            ("red cars", "red car", (1.0 + 6.0 / 7.0) / (4.0 - (1.0 + 6.0 / 7.0))),
            ("a red car", "red car", 2.0 / 3.0),
            ("tennis", "tennis racket", 0.5),
            ("two lines", "two\nlines", 1.0),
            // Eight tenths alike is alike enough, and less is not.
            ("abcde", "abcdx", 0.8 / 1.2),
            ("abcd", "abcx", 0.0),
            // `carea` comes first and takes `care`, which is nearest to it; `cares` is left with what is left.
            ("cares carea", "care", (8.0 / 9.0) / (3.0 - 8.0 / 9.0)),
            ("cares carea", "carex care", (8.0 / 9.0 + 0.8) / (4.0 - (8.0 / 9.0 + 0.8))),
        ] {
            assert_eq!(soft_jaccard(a, b), expected, "{a:?} {b:?}");
        }
    }
}
