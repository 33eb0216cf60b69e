//! How alike two texts are by measures that others publish: fuzzy match (rapidfuzz's ratio), BLEU, GLEU, ROUGE-N and ROUGE-L. Each from
//! 0 to 1, of one text against one reference. Knows no grader.

use std::collections::BTreeMap;

/// A measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Twice the characters of the longest common subsequence over the characters of both (`rapidfuzz.fuzz.ratio` / 100).
    Fuzzy,
    /// The geometric mean of the precisions of 1 to 4 words in a row, times a penalty for what is too short (Papineni et al. 2002), as
    /// `nltk.translate.bleu_score.sentence_bleu` has it without smoothing: 0 where no four words in a row are right.
    Bleu,
    /// Of the runs of 1 to 4 words, the share that is in both, of the text or of the reference, whichever is the less (Wu et al. 2016).
    Gleu,
    /// F-measure of runs of so many words, 1 to 5 (Lin 2004).
    Rouge(usize),
    /// F-measure of the longest common subsequence of words.
    RougeL,
}

impl Metric {
    /// As OpenAI calls them.
    pub const ALL: [(&'static str, Self); 9] = [
        ("fuzzy_match", Self::Fuzzy),
        ("bleu", Self::Bleu),
        ("gleu", Self::Gleu),
        ("rouge_1", Self::Rouge(1)),
        ("rouge_2", Self::Rouge(2)),
        ("rouge_3", Self::Rouge(3)),
        ("rouge_4", Self::Rouge(4)),
        ("rouge_5", Self::Rouge(5)),
        ("rouge_l", Self::RougeL),
    ];

    /// How alike `text` and `reference` are, 0 to 1. Takes time in the product of their lengths at most.
    #[must_use]
    pub fn of(self, text: &str, reference: &str) -> f64 {
        match self {
            Self::Fuzzy => {
                let (a, b): (Vec<char>, Vec<char>) = (text.chars().collect(), reference.chars().collect());
                ratio(2 * common(&a, &b), a.len() + b.len(), 1.0)
            }
            Self::Bleu => bleu(&spaced(text), &spaced(reference)),
            Self::Gleu => gleu(&spaced(text), &spaced(reference)),
            Self::Rouge(n) => {
                let (a, b) = (words(text), words(reference));
                f_measure(shared(&a, &b, n), runs(&a, n), runs(&b, n))
            }
            Self::RougeL => {
                let (a, b) = (words(text), words(reference));
                f_measure(common(&a, &b), a.len(), b.len())
            }
        }
    }
}

/// Longest run of words that BLEU and GLEU count.
const RUN: usize = 4;

fn spaced(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// Words as ROUGE's reference has them, without stemming: lower-case letters and digits.
fn words(text: &str) -> Vec<String> {
    let text = text.to_lowercase();
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn ratio(part: usize, whole: usize, of_nothing: f64) -> f64 {
    if whole == 0 { of_nothing } else { part as f64 / whole as f64 }
}

fn f_measure(both: usize, of_text: usize, of_reference: usize) -> f64 {
    // 2 P R / (P + R), with P and R over the same numerator.
    ratio(2 * both, of_text + of_reference, 0.0)
}

/// How many runs of `n` words there are.
fn runs(words: &[String], n: usize) -> usize {
    (words.len() + 1).saturating_sub(n)
}

/// Runs of `n` words that are in both, each as often as it is in either.
fn shared(a: &[String], b: &[String], n: usize) -> usize {
    let mut left: BTreeMap<&[String], usize> = BTreeMap::new();
    b.windows(n).for_each(|run| *left.entry(run).or_default() += 1);
    let mut found = 0;
    for run in a.windows(n) {
        if let Some(count) = left.get_mut(run).filter(|count| **count > 0) {
            *count -= 1;
            found += 1;
        }
    }
    found
}

fn bleu(text: &[String], reference: &[String]) -> f64 {
    let precision = |n| ratio(shared(text, reference, n), runs(text, n), 0.0);
    let mean = (1..=RUN).map(|n| precision(n).ln()).sum::<f64>() / RUN as f64;
    let short = (1.0 - reference.len() as f64 / text.len().max(1) as f64).min(0.0);
    (mean + short).exp()
}

fn gleu(text: &[String], reference: &[String]) -> f64 {
    let all = |words: &[String]| (1..=RUN).map(|n| runs(words, n)).sum::<usize>();
    let found: usize = (1..=RUN).map(|n| shared(text, reference, n)).sum();
    ratio(found, all(text).max(all(reference)), 0.0)
}

/// Length of the longest common subsequence.
fn common<T: PartialEq>(a: &[T], b: &[T]) -> usize {
    // Of the part of `a` so far, by the length of the part of `b`.
    let mut best = vec![0; b.len() + 1];
    for x in a {
        let mut before = 0;
        for (at, y) in b.iter().enumerate() {
            let above = best.get(at + 1).copied().unwrap_or(0);
            let left = best.get(at).copied().unwrap_or(0);
            let now = if x == y { before + 1 } else { above.max(left) };
            if let Some(place) = best.get_mut(at + 1) {
                before = std::mem::replace(place, now);
            }
        }
    }
    best.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(metric: Metric, text: &str, reference: &str, wanted: f64) {
        let found = metric.of(text, reference);
        assert!((found - wanted).abs() < 1e-9, "{metric:?}: {found}, not {wanted}");
    }

    #[test]
    fn fuzzy_match_is_rapidfuzz() {
        // The example of rapidfuzz's page.
        close(Metric::Fuzzy, "this is a test", "this is a test!", 0.965_517_241_379_310_3);
        close(Metric::Fuzzy, "", "", 1.0);
        close(Metric::Fuzzy, "abc", "", 0.0);
        close(Metric::Fuzzy, "red", "rod", 2.0 / 3.0);
    }

    const GUIDE: &str =
        "It is a guide to action which ensures that the military always obeys the commands of the party";
    const OTHER: &str = "It is to insure the troops forever hearing the activity guidebook that party direct";
    const REFERENCE: &str = "It is a guide to action that ensures that the military will forever heed Party commands";

    #[test]
    fn bleu_and_gleu_are_those_of_nltks_documentation() {
        let book = "he read the book because he was interested in world history";
        let turned = "he was interested in world history because he read the book";
        // Of 1 to 4 words 11/11, 9/10, 6/9 and 4/8 are right: the fourth root of 0.3.
        close(Metric::Bleu, book, turned, 0.3_f64.powf(0.25));
        close(Metric::Bleu, book, turned, 0.740_082_804_492_285_3);
        // 29 of 66 runs, and 7 of 58.
        close(Metric::Gleu, GUIDE, REFERENCE, 29.0 / 66.0);
        close(Metric::Gleu, OTHER, REFERENCE, 7.0 / 58.0);
        close(Metric::Bleu, GUIDE, GUIDE, 1.0);
        close(Metric::Bleu, "a red star", "a red star", 0.0);
        // Half as long: exp(1 - 2).
        close(Metric::Bleu, "a b c d", "a b c d e f g h", (-1.0_f64).exp());
        for metric in [Metric::Bleu, Metric::Gleu] {
            close(metric, "", REFERENCE, 0.0);
            close(metric, "x", "", 0.0);
        }
    }

    #[test]
    fn rouge_is_that_of_rouge_scores_page() {
        let (fox, log) = ("The quick brown fox jumps over the lazy dog", "The quick brown dog jumps on the log.");
        close(Metric::Rouge(1), log, fox, 0.705_882_352_941_176_5);
        close(Metric::RougeL, log, fox, 0.588_235_294_117_647);
        // "the quick", "quick brown" of 7 and 8.
        close(Metric::Rouge(2), log, fox, 4.0 / 15.0);
        close(Metric::Rouge(3), log, fox, 2.0 / 13.0);
        close(Metric::Rouge(5), log, fox, 0.0);
        close(Metric::Rouge(5), "a b", "a b", 0.0);
        close(Metric::RougeL, "", "", 0.0);
    }

    #[test]
    fn every_measure_is_a_share() {
        let texts = ["", "a", "a a a a a a", GUIDE, OTHER, "ß é 木", "...", "a b c d e f"];
        for (_, metric) in Metric::ALL {
            for (a, b) in texts.iter().flat_map(|a| texts.iter().map(move |b| (a, b))) {
                assert!((0.0..=1.0).contains(&metric.of(a, b)), "{metric:?} {a} {b}");
            }
        }
    }
}
