//! Graders against samples whose grade is known.

use serde_json::json;

use super::super::{AnswerReward, Asked, States};
use super::graded::Graded;
use super::*;
use crate::domain::picture::Picture;
use crate::domain::task::{Answer, Part};
use crate::reward::answer::QaType;
use crate::world::{Category, Dice, Scene, Split, render};
use std::sync::{Arc, Mutex};

/// A model that says what the last text of a conversation says.
#[derive(Default)]
struct Echo(Mutex<Vec<Answer>>);

impl Oracle for Echo {
    fn answers(&self, questions: &[(Arc<Picture>, String)]) -> Result<Vec<String>, RewardError> {
        Ok(questions.iter().map(|_| "a red star".to_owned()).collect())
    }

    fn replies(&self, conversations: Vec<(Answer, Sampling)>) -> Result<Vec<String>, RewardError> {
        let last = |answer: &Answer| match answer.turns.last().and_then(|turn| turn.parts.last()) {
            Some(Part::Text(text)) => text.clone(),
            _ => String::new(),
        };
        let said = conversations.iter().map(|(answer, _)| last(answer)).collect();
        self.0.lock().unwrap().extend(conversations.into_iter().map(|(answer, _)| answer));
        Ok(said)
    }

    fn states(&self, _: &str, pictures: &[&Picture]) -> Result<Vec<States>, RewardError> {
        Ok(pictures.iter().map(|_| States { width: 1, picture: vec![1.0], text: vec![1.0] }).collect())
    }
}

fn grader(value: Value) -> Grader {
    Grader::read(&value, "grader").unwrap()
}

fn item(value: Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap()
}

fn grades(grader: &Grader, row: Value, answers: &[&str]) -> Vec<Result<f64, Fault>> {
    let samples: Vec<_> = answers.iter().map(|text| Given::Answer(text)).collect();
    let grades = grader.grade(&item(row), &samples, &Echo::default()).unwrap();
    grades.into_iter().map(|grade| grade.value).collect()
}

fn check(operation: &str) -> Value {
    json!({"type": "string_check", "name": "check", "input": "{{sample.output_text}}", "reference": "{{item.a}}", "operation": operation})
}

#[test]
fn strings_are_checked() {
    let answers = ["Red", "red", "a red star", "RED STAR", ""];
    let row = json!({"a": "red"});
    for (operation, wanted) in [
        ("eq", [0.0, 1.0, 0.0, 0.0, 0.0]),
        ("ne", [1.0, 0.0, 1.0, 1.0, 1.0]),
        ("like", [0.0, 1.0, 1.0, 0.0, 0.0]),
        ("ilike", [1.0, 1.0, 1.0, 1.0, 0.0]),
    ] {
        assert_eq!(grades(&grader(check(operation)), row.clone(), &answers), wanted.map(Ok), "{operation}");
    }
    assert!(matches!(grades(&grader(check("eq")), json!({}), &["x"])[..], [Err(Fault::Variable(_))]));
}

#[test]
fn texts_are_compared() {
    let similar = grader(json!({"type": "text_similarity", "name": "s", "input": "{{sample.output_text}}",
        "reference": "{{item.a}}", "evaluation_metric": "fuzzy_match"}));
    let found = grades(&similar, json!({"a": "this is a test!"}), &["this is a test", &"x".repeat(5000)]);
    assert!((found[0].clone().unwrap() - 28.0 / 29.0).abs() < 1e-12);
    assert!(matches!(found[1], Err(Fault::Other(_))), "too long to compare");
}

#[test]
fn a_model_scores_with_a_number_of_the_range() {
    let judge = grader(json!({"type": "score_model", "name": "j", "model": "m", "range": [0, 10],
        "input": [{"role": "system", "content": "Rate."}, {"role": "user", "content": [
            {"type": "input_text", "text": "{{item.q}}"}, {"type": "input_text", "text": "{{sample.output_text}}"}]}]}));
    let said = [
        "7",
        "<think>8 or 9</think><answer> 9.5 </answer>",
        "{\"result\": 3}",
        "I give it 4.",
        "1 or 2",
        "11",
        "none",
        "",
    ];
    let found = grades(&judge, json!({"q": "?"}), &said);
    let wanted = [Some(7.0), Some(9.5), Some(3.0), Some(4.0), None, None, None, None];
    assert_eq!(found.iter().map(|grade| grade.clone().ok()).collect::<Vec<_>>(), wanted);
    assert!(matches!(found[4], Err(Fault::Unparsed(_))));
    assert_eq!(judge.models().collect::<Vec<_>>(), ["m"]);
    // A sample that is not judged tells nothing, and the others what they tell.
    let graded = Graded { grader: judge, judge: Echo::default() };
    let asked = Asked {
        conversation: Answer { system: None, turns: vec![] },
        problem: String::new(),
        solution: None,
        kind: QaType::Open,
        item: Some(Arc::new(item(json!({"q": "?"})))),
    };
    assert_eq!(
        AnswerReward::score(&graded, &asked, &["2", "what?", "4"], &Echo::default()),
        Ok(Some(vec![2.0, 3.0, 4.0]))
    );
    assert_eq!(AnswerReward::score(&graded, &asked, &["what?"], &Echo::default()), Ok(Some(vec![0.0])));
    assert_eq!(graded.weight(), 10.0);
    let lost = Asked { item: Some(Arc::default()), ..asked.clone() };
    assert!(matches!(AnswerReward::score(&graded, &lost, &["2"], &Echo::default()), Err(RewardError::Grader(_))));
    assert_eq!(AnswerReward::score(&graded, &Asked { item: None, ..asked }, &["2"], &Echo::default()), Ok(None));
}

#[test]
fn a_judge_sees_pictures() {
    let judge =
        grader(json!({"type": "score_model", "name": "j", "model": "m", "input": [{"role": "user", "content": [
        {"type": "input_image", "image_url": "{{sample.output_image}}"}, {"type": "input_text", "text": "0.5"}]}]}));
    let (picture, echo) = (Picture::filled(4, 4, [9; 3]), Echo::default());
    let grades = judge.grade(&Map::new(), &[Given::Picture(&picture), Given::Answer("x")], &echo).unwrap();
    assert_eq!(grades[0].value, Ok(0.5));
    assert!(matches!(grades[1].value, Err(Fault::Sample(_))));
    let asked = echo.0.into_inner().unwrap();
    assert!(matches!(&asked[0].turns[0].parts[0], Part::Picture(shown) if shown.rgb() == picture.rgb()));
}

#[test]
fn pictures_are_judged_as_rewards_judge_them() {
    let mut dice = <Dice as rand::SeedableRng>::seed_from_u64(3);
    let (scene, caption) = Scene::draw(Category::Colors, Split::Train, &mut dice);
    let (right, wrong) = (render(&scene), Picture::filled(64, 64, [255; 3]));
    let samples = [Given::Picture(&right), Given::Picture(&wrong), Given::Answer("x")];
    let row = item(json!({"prompt": caption.text, "odd": "a dog"}));
    let of = |value: Value| -> Vec<Result<f64, Fault>> {
        let grades = grader(value).grade(&row, &samples, &Echo::default()).unwrap();
        grades.into_iter().map(|grade| grade.value).collect()
    };
    let found = of(json!({"type": "verifier"}));
    assert_eq!(found[..2], [Ok(1.0), Ok(0.0)]);
    assert!(matches!(found[2], Err(Fault::Sample(_))));
    assert_eq!(of(json!({"type": "verifier", "partial": 0.5}))[0], Ok(1.5));
    assert!(matches!(of(json!({"type": "verifier", "prompt": "{{item.odd}}"}))[0], Err(Fault::Other(_))));
    assert_eq!(of(json!({"type": "caption", "prompt": "a red star"}))[0], Ok(1.0));
    assert_eq!(of(json!({"type": "matching"}))[0], Ok(1.0));
    assert!(matches!(of(json!({"type": "likeness", "reference": "{{item.prompt}}"}))[0], Err(Fault::Variable(_))));
}

#[test]
fn a_formula_joins_several() {
    let both = grader(
        json!({"type": "multi", "name": "both", "calculate_output": "0.5 * exact + 0.5 * near / (1 - 0 * exact)",
        "graders": {"exact": check("eq"), "near": {"type": "text_similarity", "input": "{{sample.output_text}}",
        "reference": "{{item.a}}", "evaluation_metric": "rouge_l"}}}),
    );
    let samples = [Given::Answer("red star"), Given::Answer("red")];
    let grades = both.grade(&item(json!({"a": "red star"})), &samples, &Echo::default()).unwrap();
    assert_eq!(grades[0].value, Ok(1.0));
    assert_eq!(grades[0].parts, [("exact".to_owned(), 1.0), ("near".to_owned(), 1.0)]);
    assert!((grades[1].value.clone().unwrap() - 1.0 / 3.0).abs() < 1e-12);
    let none = grader(json!({"type": "multi", "calculate_output": "1 / exact", "graders": {"exact": check("eq")}}));
    let grades = none.grade(&item(json!({"a": "x"})), &samples, &Echo::default()).unwrap();
    assert!(matches!(grades[0].value, Err(Fault::Other(_))), "divided by zero");
}

#[test]
fn what_cannot_be_had_is_refused_by_its_place() {
    let text =
        |metric: &str| json!({"type": "text_similarity", "input": "a", "reference": "b", "evaluation_metric": metric});
    let multi = |formula: &str| json!({"type": "multi", "graders": {"a": check("eq")}, "calculate_output": formula});
    let judge = |input: Value| json!({"type": "score_model", "model": "m", "input": input});
    for (value, param, told) in [
        (json!({}), "grader.type", "Missing"),
        (json!(3), "grader.type", "Missing"),
        (json!({"type": "python", "source": "x"}), "grader.type", "`python` is not supported"),
        (json!({"type": "label_model"}), "grader.type", "`label_model` is not supported"),
        (json!({"type": "clip"}), "grader.type", "needs networks"),
        (json!({"type": "magic"}), "grader.type", "There is no grader `magic`"),
        (
            json!({"type": "string_check", "input": "a", "reference": "b", "operation": "is"}),
            "grader.operation",
            "one of eq",
        ),
        (json!({"type": "string_check", "input": "a", "operation": "eq"}), "grader.reference", "Missing"),
        (json!({"type": "string_check", "inputs": "a"}), "grader.inputs", "Unknown parameter"),
        (
            json!({"type": "string_check", "input": "{{x}}", "reference": "", "operation": "eq"}),
            "grader.input",
            "names `x`",
        ),
        (text("meteor"), "grader.evaluation_metric", "`meteor` is not supported"),
        (text("cosine"), "grader.evaluation_metric", "`cosine` is not supported"),
        (text("rouge_6"), "grader.evaluation_metric", "one of fuzzy_match"),
        (multi("a + b"), "grader.calculate_output", "names `b`"),
        (multi(&"(".repeat(900)), "grader.calculate_output", "nested deeper"),
        (
            json!({"type": "multi", "graders": {"a": multi("1")}, "calculate_output": "a"}),
            "grader.graders.a.type",
            "no `multi`",
        ),
        (json!({"type": "multi", "graders": {}, "calculate_output": "1"}), "grader.graders", "1 to 16"),
        (judge(json!([])), "grader.input", "1 to 16"),
        (judge(json!([{"role": "assistant", "content": "x"}])), "grader.input", "the user's"),
        (judge(json!([{"role": "user", "content": {"type": "audio"}}])), "grader.input[0].content.type", "input_text"),
        (
            json!({"type": "score_model", "model": "m", "input": [{"role": "user", "content": "x"}], "range": [1, 0]}),
            "grader.range",
            "two numbers",
        ),
        (json!({"type": "verifier", "prompt": "{{sample.output_text}}"}), "grader.prompt", "cannot name the sample"),
        (json!({"type": "verifier", "image": "x"}), "grader.image", "only be"),
        (json!({"type": "verifier", "partial": 2}), "grader.partial", "from 0 to 1"),
        (json!({"type": "likeness"}), "grader.reference", "Missing"),
    ] {
        let error = Grader::read(&value, "grader").unwrap_err();
        assert_eq!(error.param, param, "{value}");
        assert!(error.message.contains(told), "{value}: {}", error.message);
    }
}

#[test]
fn a_row_must_have_what_its_grader_names() {
    let told = |value: Value, line: &str| grader(value).check(&Row::read(line.as_bytes()).unwrap()).unwrap_err();
    let asks = r#"{"messages": [{"role": "user", "content": "hi"}], "a": "x"}"#;
    let draws = r#"{"prompt": "a dog", "a": "x"}"#;
    assert!(told(check("eq"), r#"{"messages": [{"role": "user", "content": "hi"}]}"#).contains("has no `a`"));
    assert!(told(check("eq"), draws).contains("asks for a picture"));
    assert!(told(json!({"type": "verifier"}), draws).contains("cannot be graded"));
    assert!(told(json!({"type": "caption", "prompt": "x"}), asks).contains("asks for words"));
    assert!(told(json!({"type": "likeness", "reference": "{{item.a}}"}), draws).contains("no data URL"));
    let many = json!({"type": "multi", "graders": {"a": check("eq")}, "calculate_output": "a"});
    assert!(told(many, draws).contains("asks for a picture"));
    assert!(grader(check("eq")).check(&Row::read(asks.as_bytes()).unwrap()).is_ok());
    assert!(grader(json!({"type": "verifier"})).check(&Row::read(br#"{"prompt": "a red star"}"#).unwrap()).is_ok());
}
