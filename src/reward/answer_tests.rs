//! The worked tables of the reference, row by row; what only the original's text tells; hostile completions.

use super::*;

const PROBLEM: &str = "Question: Which colour is it?\nOptions:\nA. red\nB. blue\n C.  sea  green \nD.\nP. two";

fn tagged(body: &str) -> String {
    format!("<think>t</think><answer>{body}</answer>")
}

#[test]
fn accuracy_as_in_the_worked_table() {
    // Prediction, right answer, value of an open question, value of a choice.
    for (prediction, right, open, choice) in [
        ("B", "B", 1.0, 1.0),
        ("B.", "B", 1.0, 1.0),
        ("b", "B", 1.0, 1.0),
        ("A", "B", 0.0, 0.0),
        ("(B)", "B", 0.0, 0.0),
        ("B. blue", "B", 0.0, 0.0),
        ("B cat", "B", 0.5, 0.0),
        ("Choose B", "B", 0.5, 0.0),
        ("The answer is B", "B", 0.25, 1.0),
        ("blue", "B", 0.0, 1.0),
        ("The answer is \"blue\"", "B", 0.0, 1.0),
    ] {
        let solution = format!("<answer>{right}</answer>");
        for (kind, expected) in [(QaType::Open, open), (QaType::Choice, choice)] {
            assert_eq!(accuracy(&tagged(prediction), PROBLEM, &solution, kind), expected, "{prediction:?} {kind:?}");
        }
    }
    for completion in ["<think>t</think>B", "Answer: B"] {
        for kind in [QaType::Open, QaType::Choice] {
            assert_eq!(accuracy(completion, PROBLEM, "<answer>B</answer>", kind), 1.0, "{completion:?} {kind:?}");
        }
    }
    for (prediction, right, expected) in [
        ("two", "2", 1.0),
        ("2", "two", 1.0),
        ("hundred", "100", 1.0),
        ("point", "0", 1.0),
        ("twenty one", "21", 0.0),
        ("1,000", "1000", 8.0 / 9.0 / (2.0 - 8.0 / 9.0)),
        ("red cars", "red car", (13.0 / 7.0) / (15.0 / 7.0)),
        ("a red car", "red car", 2.0 / 3.0),
        ("tennis", "tennis racket", 0.5),
        ("Oil.", "oil", 1.0),
        ("oil!", "oil", 1.0),
        ("two\nlines", "two lines", 1.0),
        ("", "oil", 0.0),
    ] {
        let value = accuracy(&tagged(prediction), "", &format!("<answer>{right}</answer>"), QaType::Open);
        assert!((value - expected).abs() < 1e-15, "{prediction:?}: {value}");
    }
}

#[test]
fn a_choice_is_named_or_told_in_its_words() {
    for (prediction, right, expected) in [
        // The phrases of the original.
        ("answer as B", "B", 1.0),
        ("I pick option B.", "B", 1.0),
        ("the choice would be letter B", "B", 1.0),
        ("answer : B", "B", 1.0),
        ("answer: B", "B", 0.0),
        ("answer is  B", "B", 1.0),
        ("answer  is B", "B", 0.0),
        ("Option B or option A", "B", 0.0),
        ("Option A or B", "B", 0.0),
        ("Answer is Blue, B", "B", 1.0),
        ("the answer is b", "b", 0.0),
        // The text of an option, as words, in its own letter case.
        ("It is blue", "B", 0.0),
        ("bluest", "B", 0.0),
        ("Blue", "B", 0.0),
        ("sea  green.", "C", 1.0),
        ("CHOICE = 'sea  green', not red", "C", 1.0),
        ("Answer:\"blue\" or answer is \"red\"", "A", 0.0),
        ("right answer is \"\" \"red\"", "A", 0.0),
        // No such option, no text, not a letter, nothing.
        ("anything", "E", 0.0),
        ("anything", "D", 0.0),
        ("two", "P", 0.0),
        ("the blue one", "blue", 0.0),
        ("anything", "", 0.0),
    ] {
        let value = accuracy(&tagged(prediction), PROBLEM, right, QaType::Choice);
        assert_eq!(value, expected, "{prediction:?} {right:?}");
    }
}

#[test]
fn the_body_is_the_first_on_one_line() {
    for (text, body) in [
        ("<answer> B </answer>", Some("B")),
        ("<answer>A</answer><answer>B</answer>", Some("A")),
        ("<answer>A\n</answer> <answer>\u{1d}B\r</answer>", Some("B")),
        ("<answer><answer>B</answer>", Some("<answer>B")),
        ("</answer><answer>B", None),
        ("<Answer>B</Answer>", None),
        ("", None),
    ] {
        assert_eq!(answer_body(text), body, "{text:?}");
    }
}

#[test]
fn without_tags_thinking_and_litter_are_left_out() {
    for (completion, left) in [
        ("<think>a\nb</think> B <think>c</think>", "B"),
        ("<think>a</think><think>b", "b"),
        ("a</think>b", "ab"),
        ("Answer: Answer <answer>B", "B"),
        ("<th<think>ink>B", "<think>B"),
    ] {
        assert_eq!(untagged(completion), left, "{completion:?}");
    }
}

#[test]
fn letters_as_in_the_worked_table() {
    for (text, expected) in [
        ("<answer>B</answer>", Some('B')),
        ("<answer>b</answer>", None),
        ("<answer>G</answer>", None),
        ("<answer>B. cat</answer>", Some('B')),
        ("<answer>B and C and B</answer>", Some('B')),
        ("Answer: D", Some('D')),
        ("answer: d", None),
        ("The answer is Z", Some('Z')),
        ("Option G", Some('G')),
        ("A cat and B", Some('A')),
        ("<think>A A A</think> B", Some('A')),
    ] {
        assert_eq!(letter(text), expected, "{text:?}");
    }
}

#[test]
fn what_comes_first_decides_a_letter() {
    for (text, expected) in [
        ("", None),
        ("no letter", None),
        ("B<ANSWER>\n C\n</answer>", Some('C')),
        ("B<answer> </answer>B", None),
        ("B<answer>G it is</answer>", None),
        ("<answer>B", Some('B')),
        ("Answer: d, that is D", None),
        ("my ANS:\n Dog", Some('D')),
        ("Answer: green. Ans: C", Some('C')),
        ("means: C, an Option E", Some('E')),
        ("The answer is Zebra", Some('Z')),
        ("My answer is Cat. The answer is Dog", Some('D')),
        ("Option Cat, I choose B", Some('B')),
        ("A_ BÉ C", Some('C')),
    ] {
        assert_eq!(letter(text), expected, "{text:?}");
    }
}

/// No clock: a scan that is not linear would not end in the patience of a test.
#[test]
fn hostile_completions_end_soon() {
    let spaces = " ".repeat(50);
    let pieces = [
        "<think>",
        "</think>",
        "<answer>",
        "<answer>\n",
        "</answer>",
        "answer ",
        "answer is \"",
        "answer=\"\"",
        "choice='",
        "Answer: ",
        "ans:",
        "The answer is ",
        "A ",
        "B",
        "\u{1c}",
        "blue ",
        "sea",
        "é",
        "ab ba ",
        spaces.as_str(),
    ];
    let long = "ab ba ".repeat(100_000 / 6);
    for piece in pieces {
        let text = piece.repeat(100_000 / piece.len());
        let _ = letter(&text);
        let problem = format!("B. {text}");
        for right in ["B", "blue car", "ab bb", &"ba".repeat(LONGEST_OPEN / 2), &long] {
            let value =
                accuracy(&text, PROBLEM, right, QaType::Open) + accuracy(&text, &problem, right, QaType::Choice);
            assert!((0.0..=2.0).contains(&value), "{piece:?} {right:?}");
        }
    }
    // Many different words, all of them nearly a right one.
    let words: String = ('\u{4e00}'..).take(10_000).map(|c| format!("abcdefgh{c} ")).collect();
    let right: String = ('\u{ac00}'..).take(LONGEST_OPEN / 10).map(|c| format!("abcdefgh{c} ")).collect();
    assert!(accuracy(&words, "", &right, QaType::Open) > 0.0);
}
