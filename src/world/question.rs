//! Questions about a scene, in CoRL's templates, with solutions and grading.
//!
//! A think part is always `list; [options;] look-up`: the objects in raster order, each key before its value; the options,
//! text before letter; then the look-up itself, key, value, letter. So every answer repeats the last word written, and that
//! word follows its key in a list just read. For the colour of a star: `star red, circle blue; star red`; with options:
//! `star red, circle blue; red B, blue A, green C, yellow D; star red B`. Where a step of that is more than is easily learned, a
//! question has a thought of smaller steps beside it, for those who know the rest.

use rand::RngExt;
use rand::seq::{IndexedRandom, SliceRandom};

use super::Dice;
use super::caption::{Relation, article};
use super::draw::{pick, weighted};
use super::held_out::{self, Split, unseen_pair};
use super::scene::{Colour, MOST_OBJECTS, Object, Order, Place, Scene, Shape, words};

words! {
    /// What is asked.
    Kind {
        Colour "color", Shape "shape", Count "count", Relation "relation", Existence "existence", Place "place",
    }
}
words! {
    /// How it is asked: CoRL's open form, CoRL's A-D choice, or the bare question.
    Form { Open "open", Choice "choice", Plain "plain" }
}

/// Letters of the options.
pub(super) const LETTERS: [&str; 4] = ["A", "B", "C", "D"];
/// Digits of the counts.
pub(super) const COUNTS: [&str; MOST_OBJECTS] = ["1", "2", "3", "4"];

/// One question about one picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// What is asked.
    pub kind: Kind,
    /// How it is asked.
    pub form: Form,
    /// The whole user text, template included.
    pub text: String,
    /// The model thought: what stands between the think tags.
    pub think: String,
    /// The same in smaller steps; the same itself where they are small.
    pub smaller: String,
    /// The right answer: a letter in `Choice`, else one to three words.
    pub answer: String,
}

/// How a reply did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Graded {
    /// One think block, then one answer block, and nothing else.
    pub format: bool,
    /// The body of the answer block is the right answer, case and outer space aside.
    pub correct: bool,
}

impl Kind {
    /// A kind, each as often as its weight says (in the order of `ALL`).
    #[must_use]
    pub fn pick(weights: &[u32; 6], dice: &mut Dice) -> Self {
        weighted(&Self::ALL, weights, dice)
    }

    /// The share that blind guessing gets right.
    #[must_use]
    pub fn guessing_rate(self, form: Form) -> f64 {
        match (self, form) {
            (Self::Relation | Self::Existence, _) => 1.0 / 2.0,
            (_, Form::Choice) => 1.0 / LETTERS.len() as f64,
            (Self::Colour | Self::Shape, _) => 1.0 / 6.0,
            (Self::Count, _) => 1.0 / MOST_OBJECTS as f64,
            (Self::Place, _) => 1.0 / 9.0,
        }
    }
}

/// A question before its form: the bare words, the list (and that of smaller steps) and the key of the look-up, the value, and all other
/// values.
struct Bare {
    question: String,
    list: String,
    smaller: Option<String>,
    key: String,
    value: &'static str,
    others: Vec<&'static str>,
}

/// A random question of this kind about `scene`; `None` when the scene allows no unambiguous one. Asks about objects of unseen
/// pairs where there are any.
#[must_use]
pub fn ask(scene: &Scene, kind: Kind, form: Form, dice: &mut Dice) -> Option<Question> {
    let bare = match kind {
        Kind::Colour => colour(scene, dice),
        Kind::Shape => shape(scene, dice),
        Kind::Count => count(scene, dice),
        Kind::Relation => relation(scene, dice),
        Kind::Existence => existence(scene, dice),
        Kind::Place => place(scene, dice),
    }?;
    Some(bare.into_form(kind, form, dice))
}

/// A random scene of the split and a question of this kind about it. Counts are as often 1 as 2, 3 or 4.
#[must_use]
pub fn draw(kind: Kind, form: Form, split: Split, dice: &mut Dice) -> (Scene, Question) {
    let counted = dice.random_range(1..=MOST_OBJECTS as u32) as usize;
    loop {
        let (scene, question) = if kind == Kind::Count {
            let (shape, others) = (pick(&Shape::ALL, dice), dice.random_range(0..=(MOST_OBJECTS - counted) as u32));
            let mut shapes = vec![shape; counted];
            shapes.extend((0..others).map(|_| {
                loop {
                    let other = pick(&Shape::ALL, dice);
                    if other != shape {
                        break other;
                    }
                }
            }));
            let Some(scene) = Scene::of_shapes(&shapes, split, dice) else { continue };
            let question = count_of(&scene, shape).into_form(kind, form, dice);
            (scene, Some(question))
        } else {
            let scene = Scene::mixed(split, dice);
            let question = ask(&scene, kind, form, dice);
            (scene, question)
        };
        if let Some(question) = question {
            return (scene, question);
        }
    }
}

fn colour(scene: &Scene, dice: &mut Dice) -> Option<Bare> {
    let object = subject(scene, |o| scene.objects().iter().filter(|p| p.shape == o.shape).count() == 1, dice)?;
    Some(Bare {
        question: format!("What color is the {}?", object.shape.word()),
        list: scene.describe(Order::ShapeColour),
        smaller: None,
        key: object.shape.word().to_owned(),
        value: object.colour.word(),
        others: distractors(scene, &Colour::ALL, |o| o.colour, Colour::word, dice),
    })
}

fn shape(scene: &Scene, dice: &mut Dice) -> Option<Bare> {
    let object = subject(scene, |o| scene.objects().iter().filter(|p| p.colour == o.colour).count() == 1, dice)?;
    Some(Bare {
        question: format!("What shape is the {} object?", object.colour.word()),
        list: scene.describe(Order::ColourShape),
        smaller: None,
        key: object.colour.word().to_owned(),
        value: object.shape.word(),
        others: distractors(scene, &Shape::ALL, |o| o.shape, Shape::word, dice),
    })
}

fn place(scene: &Scene, dice: &mut Dice) -> Option<Bare> {
    let object = subject(scene, |o| scene.objects().iter().filter(|p| p.shape == o.shape).count() == 1, dice)?;
    Some(Bare {
        question: format!("Where is the {}?", object.shape.word()),
        list: scene.describe(Order::ShapePlace),
        smaller: None,
        key: object.shape.word().to_owned(),
        value: object.place.word(),
        others: distractors(scene, &Place::ALL, |o| o.place, Place::word, dice),
    })
}

fn count(scene: &Scene, dice: &mut Dice) -> Option<Bare> {
    Some(count_of(scene, subject(scene, |_| true, dice)?.shape))
}

/// The list numbers the counted objects: "circle, star 1, star 2".
fn count_of(scene: &Scene, shape: Shape) -> Bare {
    let mut counted = 0;
    let list: Vec<String> = scene
        .objects()
        .iter()
        .map(|object| {
            let word = object.shape.word();
            if object.shape != shape {
                return word.to_owned();
            }
            counted += 1;
            format!("{word} {counted}")
        })
        .collect();
    Bare {
        question: format!("How many {} are there?", shape.plural()),
        list: list.join(", "),
        smaller: None,
        key: shape.word().to_owned(),
        value: COUNTS[usize::max(counted, 1) - 1],
        others: COUNTS.to_vec(),
    }
}

/// Above and below ask for rows alone, left of and right of for columns alone. Whether two places compare as asked hangs on three
/// words of which no two tell anything, so the list ends with what each verdict would mean, and the key with the comparison:
/// "star top, circle center; above yes, below no; star top, circle center, above yes".
fn relation(scene: &Scene, dice: &mut Dice) -> Option<Bare> {
    let objects = scene.objects();
    let lone = |o: &Object| objects.iter().filter(|p| p.shape == o.shape).count() == 1;
    let mut choices = Vec::new();
    for a in objects.iter().filter(|o| lone(o)) {
        for b in objects.iter().filter(|o| lone(o) && *o != a) {
            if a.place.row() != b.place.row() {
                choices.push((a, b, if a.place.row() < b.place.row() { Relation::Above } else { Relation::Below }));
            }
            if a.place.column() != b.place.column() {
                let left = a.place.column() < b.place.column();
                choices.push((a, b, if left { Relation::LeftOf } else { Relation::RightOf }));
            }
        }
    }
    let unseen = |o: &Object| unseen_pair(o.shape, o.colour);
    if choices.iter().any(|(a, b, _)| unseen(a) || unseen(b)) {
        choices.retain(|(a, b, _)| unseen(a) || unseen(b));
    }
    let &(a, b, truth) = choices.choose(dice)?;
    let yes = dice.random_bool(0.5);
    let asked = if yes { truth } else { truth.inverse() };
    let phrase = match asked {
        Relation::Above => "above",
        Relation::Below => "below",
        Relation::LeftOf => "to the left of",
        Relation::RightOf => "to the right of",
    };
    let step = |o: &Object| if asked.vertical() { o.place.row_word() } else { o.place.column_word() };
    let (first, second) = (a.shape.word(), b.shape.word());
    Some(Bare {
        question: format!("Is the {first} {phrase} the {second}?"),
        list: format!("{}; {} yes, {} no", scene.describe(Order::ShapePlace), asked.key(), asked.inverse().key()),
        smaller: None,
        key: format!("{first} {}, {second} {}, {}", step(a), step(b), truth.key()),
        value: if yes { "yes" } else { "no" },
        others: vec!["yes", "no"],
    })
}

/// The list says of every object whether it is the one, so that the look-up need only find a yes: "blue star no, red circle yes; any yes".
/// Half the answers are no; half of these ask for a pair that is nearly there: its colour or shape, or both, but apart. Such a verdict is of
/// two words at once; in smaller steps each has its own before it: "blue no star no no, red yes circle yes yes; any yes".
fn existence(scene: &Scene, dice: &mut Dice) -> Option<Bare> {
    let objects = scene.objects();
    let yes = dice.random_bool(0.5);
    let (shape, colour) = if yes {
        let object = subject(scene, |_| true, dice)?;
        (object.shape, object.colour)
    } else {
        let near = |&(shape, colour): &(Shape, Colour)| {
            usize::from(objects.iter().any(|o| o.shape == shape))
                + usize::from(objects.iter().any(|o| o.colour == colour))
        };
        let mut absent: Vec<(Shape, Colour)> = Shape::ALL
            .into_iter()
            .flat_map(|shape| Colour::ALL.map(|colour| (shape, colour)))
            .filter(|&(shape, colour)| !unseen_pair(shape, colour))
            .filter(|&(shape, colour)| !objects.iter().any(|o| o.shape == shape && o.colour == colour))
            .collect();
        if dice.random_bool(0.5) {
            let nearest = absent.iter().map(near).max()?;
            absent.retain(|pair| near(pair) == nearest);
        }
        *absent.choose(dice)?
    };
    let pair = format!("{} {}", colour.word(), shape.word());
    let verdict = |right: bool| if right { "yes" } else { "no" };
    let list = |one: &dyn Fn(&Object, bool, bool) -> String| {
        let of = |object| one(object, object.colour == colour, object.shape == shape);
        objects.iter().map(of).collect::<Vec<_>>().join(", ")
    };
    let whole = |object: &Object, colour, shape| {
        format!("{} {} {}", object.colour.word(), object.shape.word(), verdict(colour && shape))
    };
    let apart = |object: &Object, colour, shape| {
        let (of_colour, of_shape, of_both) = (verdict(colour), verdict(shape), verdict(colour && shape));
        format!("{} {of_colour} {} {of_shape} {of_both}", object.colour.word(), object.shape.word())
    };
    Some(Bare {
        question: format!("Is there {} {pair}?", article(&pair)),
        list: list(&whole),
        smaller: Some(list(&apart)),
        key: "any".to_owned(),
        value: verdict(yes),
        others: vec!["yes", "no"],
    })
}

/// A random object that may be asked about, of an unseen pair where there is one.
fn subject<'a>(scene: &'a Scene, may: impl Fn(&Object) -> bool, dice: &mut Dice) -> Option<&'a Object> {
    let mut objects: Vec<&Object> = scene.objects().iter().filter(|object| may(object)).collect();
    if held_out::shows_unseen_pair(scene) && objects.iter().any(|o| unseen_pair(o.shape, o.colour)) {
        objects.retain(|o| unseen_pair(o.shape, o.colour));
    }
    objects.choose(dice).copied()
}

/// All values, those that the scene shows first, so that looking for what is there does not give a choice away.
fn distractors<T: Copy + PartialEq>(
    scene: &Scene,
    all: &[T],
    of: impl Fn(&Object) -> T,
    word: impl Fn(T) -> &'static str,
    dice: &mut Dice,
) -> Vec<&'static str> {
    let mut all = all.to_vec();
    all.shuffle(dice);
    let shown = |value: &T| scene.objects().iter().any(|object| of(object) == *value);
    all.sort_by_key(|value| !shown(value));
    all.into_iter().map(word).collect()
}

impl Bare {
    fn into_form(self, kind: Kind, form: Form, dice: &mut Dice) -> Question {
        let Self { question, list, smaller, key, value, others } = self;
        // What the model reads, what it lists before it looks up, what follows the value, and the answer.
        let (text, options, letter, answer) = match form {
            Form::Plain => (question, String::new(), String::new(), value),
            Form::Open => (open_text(&question), String::new(), String::new(), value),
            Form::Choice => {
                let mut options = vec![value];
                options.extend(others.into_iter().filter(|&other| other != value).take(LETTERS.len() - 1));
                options.shuffle(dice);
                let letter =
                    options.iter().zip(LETTERS).find(|option| *option.0 == value).map_or("", |option| option.1);
                let pairs: Vec<String> =
                    options.iter().zip(LETTERS).map(|(option, letter)| format!("{option} {letter}")).collect();
                (choice_text(&question, &options), format!("; {}", pairs.join(", ")), format!(" {letter}"), letter)
            }
        };
        let thought = |list: String| format!("{list}{options}; {key} {value}{letter}");
        let think = thought(list);
        let smaller = smaller.map_or_else(|| think.clone(), thought);
        Question { kind, form, text, think, smaller, answer: answer.to_owned() }
    }
}

/// CoRL's template for open questions.
fn open_text(question: &str) -> String {
    template(&format!("Question: {question}"), "(only 1\u{2013}3 words)", "concise answer")
}

/// CoRL's template for multiple choice.
fn choice_text(question: &str, options: &[&str]) -> String {
    let mut text = format!("Question: {question}\nOptions:");
    for (letter, option) in LETTERS.iter().zip(options) {
        text += &format!("\n{letter}. {option}");
    }
    template(&text, "(option letter, e.g., A/B/C/D)", "option letter")
}

fn template(question: &str, hint: &str, body: &str) -> String {
    format!(
        "{question}\n\nAnswer the question based on the image and your world knowledge.\n\n\
         Please write your thinking process inside <think> </think> tags, and provide your final answer {hint} inside \
         <answer> </answer> tags.\n\
         Your response MUST strictly follow this format: <think> ... </think><answer>{body}</answer>"
    )
}

impl Question {
    /// The reply to train on.
    #[must_use]
    pub fn solution(&self) -> String {
        self.reply(&self.think)
    }

    /// The same, thought in smaller steps.
    #[must_use]
    pub fn smaller_solution(&self) -> String {
        self.reply(&self.smaller)
    }

    fn reply(&self, think: &str) -> String {
        format!("<think>{think}</think><answer>{}</answer>", self.answer)
    }

    /// Grades a reply. Without an answer block nothing is correct, except that a `Plain` question may be answered bare.
    #[must_use]
    pub fn grade(&self, reply: &str) -> Graded {
        let reply = reply.trim();
        let once = |tag: &str| reply.matches(tag).count() == 1;
        let whole = reply.strip_prefix("<think>").and_then(|rest| rest.strip_suffix("</answer>"));
        let between =
            whole.and_then(|whole| whole.split_once("</think>")?.1.split_once("<answer>")).map(|parts| parts.0);
        let format = ["<think>", "</think>", "<answer>", "</answer>"].into_iter().all(once)
            && between.is_some_and(|between| between.trim().is_empty());
        let body = reply.split_once("<answer>").and_then(|(_, rest)| rest.split_once("</answer>")).map(|parts| parts.0);
        let said = body.or_else(|| (self.form == Form::Plain && !reply.contains('<')).then_some(reply));
        let correct = said.is_some_and(|said| said.trim().to_lowercase() == self.answer.to_lowercase());
        Graded { format, correct }
    }
}

#[cfg(test)]
mod tests {
    use super::super::scene::{Background, Size};
    use super::*;

    fn scene() -> Scene {
        let object = |place, shape, colour| Object { place, shape, colour, size: Size::Large };
        let objects =
            vec![object(Place::Center, Shape::Circle, Colour::Blue), object(Place::TopLeft, Shape::Star, Colour::Red)];
        Scene::new(Background::White, objects).unwrap()
    }

    #[test]
    fn the_open_form_is_corls_template() {
        let bare = Bare {
            question: "What color is the star?".to_owned(),
            list: scene().describe(Order::ShapeColour),
            smaller: None,
            key: "star".to_owned(),
            value: "red",
            others: vec!["blue", "red", "green", "yellow"],
        };
        let question = bare.into_form(Kind::Colour, Form::Open, &mut super::super::dice(0));
        assert_eq!(
            question.text,
            "Question: What color is the star?\n\nAnswer the question based on the image and your world knowledge.\n\nPlease write your thinking process inside <think> </think> tags, and provide your final answer (only 1–3 words) inside <answer> </answer> tags.\nYour response MUST strictly follow this format: <think> ... </think><answer>concise answer</answer>"
        );
        assert_eq!(question.solution(), "<think>star red, circle blue; star red</think><answer>red</answer>");
    }

    #[test]
    fn the_choice_form_is_corls_template() {
        assert_eq!(
            choice_text("Is there a red star?", &["no", "yes"]),
            "Question: Is there a red star?\nOptions:\nA. no\nB. yes\n\nAnswer the question based on the image and your world knowledge.\n\nPlease write your thinking process inside <think> </think> tags, and provide your final answer (option letter, e.g., A/B/C/D) inside <answer> </answer> tags.\nYour response MUST strictly follow this format: <think> ... </think><answer>option letter</answer>"
        );
    }

    #[test]
    fn thoughts_end_with_the_answer() {
        let mut dice = super::super::dice(1);
        let counted = count_of(&scene(), Shape::Star).into_form(Kind::Count, Form::Plain, &mut dice);
        assert_eq!((counted.think.as_str(), counted.answer.as_str()), ("star 1, circle; star 1", "1"));
        for kind in Kind::ALL {
            for form in Form::ALL {
                for split in [Split::Train, Split::HeldOut, Split::UnseenPairs] {
                    let (_, question) = draw(kind, form, split, &mut dice);
                    for thought in [&question.think, &question.smaller] {
                        assert!(thought.ends_with(&format!(" {}", question.answer)), "{question:?}");
                    }
                    assert_eq!(question.think == question.smaller, kind != Kind::Existence, "{question:?}");
                }
            }
        }
    }

    #[test]
    fn each_word_has_its_verdict_in_smaller_steps() {
        let mut dice = super::super::dice(4);
        let scene = scene();
        let asked = |colour: &str, shape: &str, dice: &mut Dice| {
            let text = format!("Is there a {colour} {shape}?");
            std::iter::from_fn(|| ask(&scene, Kind::Existence, Form::Plain, dice)).find(|one| one.text == text).unwrap()
        };
        for (colour, shape, think, smaller) in [
            (
                "red",
                "star",
                "red star yes, blue circle no; any yes",
                "red yes star yes yes, blue no circle no no; any yes",
            ),
            (
                "blue",
                "star",
                "red star no, blue circle no; any no",
                "red no star yes no, blue yes circle no no; any no",
            ),
        ] {
            let question = asked(colour, shape, &mut dice);
            assert_eq!((question.think.as_str(), question.smaller.as_str()), (think, smaller));
        }
    }

    #[test]
    fn grading_is_strict_about_form_and_lenient_about_space() {
        let question = ask(&scene(), Kind::Colour, Form::Open, &mut super::super::dice(3)).unwrap();
        let grade = |reply: &str| {
            let graded = question.grade(&reply.replace("VALUE", &question.answer));
            (graded.format, graded.correct)
        };
        assert_eq!(grade("<think>a</think><answer>VALUE</answer>"), (true, true));
        assert_eq!(grade(" <think>a</think>\n<answer> VALUE </answer>\n"), (true, true));
        assert_eq!(grade("<think>a</think><answer>mauve</answer>"), (true, false));
        assert_eq!(grade("<answer>VALUE</answer>"), (false, true));
        assert_eq!(grade("<answer>VALUE</answer><think>a</think>"), (false, true));
        assert_eq!(grade("<think>a</think> so <answer>VALUE</answer>"), (false, true));
        assert_eq!(grade("<think>a</think><answer>VALUE</answer><answer>VALUE</answer>"), (false, true));
        assert_eq!(grade("VALUE"), (false, false));
        assert_eq!(grade(""), (false, false));
    }
}
