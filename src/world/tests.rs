//! What must hold for every scene, caption, question and picture of the world, on arbitrary and on exhaustive input.

use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use rand::RngExt;

use super::caption::{Phrase, Relation};
use super::held_out::{self, UNSEEN_PAIRS};
use super::scene::{Order, Patch, SIDE};
use super::verify::read;
use super::*;
use crate::domain::picture::Picture;

fn scenes() -> impl Strategy<Value = Scene> {
    let object = (select(&Shape::ALL[..]), select(&Colour::ALL[..]), select(&Size::ALL[..]));
    let objects = (subsequence(Place::ALL.to_vec(), 1..=4), prop::collection::vec(object, 4));
    (select(&Background::ALL[..]), objects).prop_map(|(background, (places, looks))| {
        let object = |(place, (shape, colour, size))| Object { place, shape, colour, size };
        Scene::new(background, places.into_iter().zip(looks).map(object).collect()).unwrap()
    })
}

fn splits() -> impl Strategy<Value = Split> {
    select(&[Split::Train, Split::HeldOut, Split::UnseenPairs][..])
}

/// Blurred `passes` times by weights 1 2 1 each way, then noise of standard deviation `sigma` on every byte.
fn spoil(picture: &Picture, sigma: f32, passes: usize, dice: &mut Dice) -> Picture {
    let mut values: Vec<f32> = picture.rgb().iter().map(|&byte| f32::from(byte)).collect();
    for pass in 0..2 * passes {
        let step = if pass % 2 == 0 { 3 } else { 3 * SIDE };
        let before = values.clone();
        let line = |at: usize| at / step % SIDE;
        for (at, value) in values.iter_mut().enumerate() {
            let (low, high) = (
                if line(at) > 0 { before[at - step] } else { *value },
                if line(at) + 1 < SIDE { before[at + step] } else { *value },
            );
            *value = 0.25 * (low + 2.0 * *value + high);
        }
    }
    let mut normal = || (0..12).map(|_| dice.random::<f32>()).sum::<f32>() - 6.0;
    let rgb = values.into_iter().map(|value| (value + sigma * normal()).round() as u8).collect();
    Picture::new(SIDE, SIDE, rgb).unwrap()
}

/// All plain captions: every requirement that the six categories can state without sizes and backgrounds.
fn plain_requirements() -> Vec<Requirement> {
    let mut all = Vec::new();
    for first in Shape::ALL {
        all.extend((1..=4).map(|count| Requirement::of(&[Phrase { count, ..Phrase::one(first) }])));
        all.extend(Colour::ALL.map(|colour| Requirement::of(&[Phrase::coloured(first, colour)])));
        for second in Shape::ALL.into_iter().filter(|&second| second != first) {
            let two = Requirement::of(&[Phrase::one(first), Phrase::one(second)]);
            all.extend(Relation::ALL.map(|relation| Requirement { relation: Some(relation), ..two.clone() }));
            all.push(two);
            for colour in Colour::ALL {
                all.extend(
                    Colour::ALL.map(|other| {
                        Requirement::of(&[Phrase::coloured(first, colour), Phrase::coloured(second, other)])
                    }),
                );
            }
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_render_reads_back(scene in scenes()) {
        prop_assert_eq!(read(&render(&scene)).scene(), Some(scene));
    }

    #[test]
    fn a_blurred_noisy_render_reads_back(scene in scenes(), seed: u64) {
        let picture = spoil(&render(&scene), 15.0, 1, &mut dice(seed));
        prop_assert_eq!(read(&picture).scene(), Some(scene));
    }

    #[test]
    fn an_enlarged_render_reads_back(scene in scenes(), scale in 2_usize..7) {
        let small = render(&scene);
        let side = SIDE * scale;
        let rgb = (0..side * side).flat_map(|at| small.pixel(at % side / scale, at / side / scale).unwrap()).collect();
        prop_assert_eq!(read(&Picture::new(side, side, rgb).unwrap()).scene(), Some(scene));
    }

    #[test]
    fn a_caption_is_true_of_its_render_and_parses(category in select(&Category::ALL[..]), split in splits(), seed: u64) {
        let (scene, caption) = Scene::draw(category, split, &mut dice(seed));
        let judgement = judge(&caption.requirement, &render(&scene));
        prop_assert!(judgement.correct, "{} {:?}", caption.text, judgement);
        prop_assert_eq!(judgement.fraction, 1.0);
        prop_assert_eq!(caption.requirement.category(), category);
        prop_assert_eq!(Requirement::parse(&caption.text), Some(caption.requirement));
    }

    /// The judge against the truth, told from the scene: counts of matching objects, places, background.
    #[test]
    fn the_judge_agrees_with_the_scene(scene in scenes(), requirement in select(plain_requirements()), near in any::<bool>(), seed: u64) {
        let mut requirement = requirement;
        if near {
            // Most captions have nothing to do with most scenes: take the shapes and half the colours from the scene.
            let mut dice = dice(seed);
            let objects = scene.objects();
            let shapes: Vec<Shape> = objects.iter().map(|o| o.shape).collect();
            for (phrase, &shape) in requirement.phrases.iter_mut().zip(&shapes) {
                phrase.shape = shape;
                phrase.colour = phrase.colour.map(|colour| {
                    objects.iter().find(|o| o.shape == shape).filter(|_| dice.random_bool(0.8)).map_or(colour, |o| o.colour)
                });
            }
            prop_assume!(requirement.phrases.windows(2).all(|pair| pair[0].shape != pair[1].shape));
        }
        let fits = |phrase: &Phrase, object: &&Object| {
            object.shape == phrase.shape && phrase.colour.is_none_or(|colour| colour == object.colour)
        };
        let matching = |phrase: &Phrase| scene.objects().iter().filter(|object| fits(phrase, object)).count();
        let counts = requirement.phrases.iter().all(|phrase| matching(phrase) == phrase.count);
        let related = requirement.relation.is_none_or(|relation| {
            let place = |i: usize| scene.objects().iter().find(|o| fits(&requirement.phrases[i], o)).map(|o| o.place);
            let (Some(a), Some(b)) = (place(0), place(1)) else { return false };
            let down = b.row() as i32 - a.row() as i32;
            let right = b.column() as i32 - a.column() as i32;
            match relation {
                Relation::Above => down > right.abs(),
                Relation::Below => -down > right.abs(),
                Relation::LeftOf => right > down.abs(),
                Relation::RightOf => -right > down.abs(),
            }
        });
        let truth = counts && related && scene.objects().len() == requirement.count();
        let judgement = judge(&requirement, &render(&scene));
        prop_assert_eq!(judgement.correct, truth);
        prop_assert_eq!(judgement.fraction == 1.0, truth);
        prop_assert!((0.0..=1.0).contains(&judgement.fraction));
    }

    #[test]
    fn a_question_is_graded_right_by_its_own_solution(
        kind in select(&Kind::ALL[..]), form in select(&Form::ALL[..]), split in splits(), seed: u64,
    ) {
        let (scene, question) = question::draw(kind, form, split, &mut dice(seed));
        for solution in [question.solution(), question.smaller_solution()] {
            let graded = question.grade(&solution);
            prop_assert!(graded.format && graded.correct, "{question:?}");
        }
        prop_assert!(!question.grade("<think></think><answer>nothing</answer>").correct);
        // The look-up part says the answer, and says nothing that the scene or the options do not.
        let ending = format!(" {}", question.answer);
        prop_assert!(question.think.ends_with(&ending));
        let lists = 1 + usize::from(form == Form::Choice) + usize::from(kind == Kind::Relation);
        prop_assert_eq!(question.think.split("; ").count(), lists + 1);
        if form == Form::Choice {
            let line = format!("\n{}. ", question.answer);
            let value = question.text.split_once(&line).unwrap().1.lines().next().unwrap();
            let ending = format!(" {value} {}", question.answer);
            prop_assert!(question.think.ends_with(&ending));
        }
        prop_assert!(scene.objects().len() <= 4);
    }

    #[test]
    fn training_never_sees_what_is_held_out(category in select(&Category::ALL[..]), kind in select(&Kind::ALL[..]), form in select(&Form::ALL[..]), seed: u64) {
        let mut dice = dice(seed);
        let (drawn, caption) = Scene::draw(category, Split::Train, &mut dice);
        prop_assert!(!held_out::composition(&caption.requirement), "{}", caption.text);
        let (asked, question) = question::draw(kind, form, Split::Train, &mut dice);
        for scene in [drawn, asked, Scene::mixed(Split::Train, &mut dice)] {
            prop_assert!(!held_out::scene(&scene));
            prop_assert!(!held_out::shows_unseen_pair(&scene));
        }
        for (shape, colour) in UNSEEN_PAIRS {
            for text in [&caption.text, &question.text, &question.think] {
                let (forth, back) = (format!("{} {}", colour.word(), shape.word()), format!("{} {}", shape.word(), colour.word()));
                prop_assert!(!text.contains(&forth) && !text.contains(&back), "{text}");
            }
        }
    }

    #[test]
    fn other_splits_show_only_what_is_held_out(category in select(&Category::ALL[..]), seed: u64) {
        let mut dice = dice(seed);
        let (scene, caption) = Scene::draw(category, Split::HeldOut, &mut dice);
        prop_assert!(held_out::scene(&scene) && !held_out::shows_unseen_pair(&scene));
        prop_assert_eq!(held_out::composition(&caption.requirement), held_out::holds_out(category));
        let (scene, _) = Scene::draw(category, Split::UnseenPairs, &mut dice);
        prop_assert!(held_out::shows_unseen_pair(&scene));
    }

    #[test]
    fn a_seed_is_a_world(seed: u64, category in select(&Category::ALL[..]), kind in select(&Kind::ALL[..]), split in splits()) {
        let world = || {
            let mut dice = dice(seed);
            let drawn = Scene::draw(category, split, &mut dice);
            let asked = question::draw(kind, Form::Choice, split, &mut dice);
            (drawn, asked, Scene::mixed(split, &mut dice), language::Lookup::draw(&mut dice))
        };
        prop_assert_eq!(world(), world());
    }

    #[test]
    fn cells_show_the_objects(scene in scenes()) {
        let cells = scene.cells();
        prop_assert_eq!(cells.iter().flatten().count(), 4 * scene.objects().len());
        let picture = render(&scene);
        for (at, cell) in cells.into_iter().enumerate() {
            let pixels = (0..64).map(|i| picture.pixel(at % 8 * 8 + i % 8, at / 8 * 8 + i / 8).unwrap());
            let shown = pixels.filter(|&pixel| pixel != scene.background().rgb()).count();
            prop_assert_eq!(shown > 0, cell.is_some(), "cell {}", at);
            if let Some(Patch { object, quadrant }) = cell {
                prop_assert!(scene.objects().contains(&object) && quadrant < 4);
            }
        }
    }

    #[test]
    fn any_picture_is_read_without_complaint(width in 1_usize..150, height in 1_usize..150, seed: u64) {
        let mut dice = dice(seed);
        let picture = Picture::new(width, height, (0..3 * width * height).map(|_| dice.random()).collect()).unwrap();
        let _ = read(&picture);
    }
}

#[test]
fn every_single_object_reads_back_and_so_does_a_crowd() {
    for background in Background::ALL {
        for shape in Shape::ALL {
            for colour in Colour::ALL {
                for size in Size::ALL {
                    for place in Place::ALL {
                        let scene = Scene::new(background, vec![Object { place, shape, colour, size }]).unwrap();
                        assert_eq!(read(&render(&scene)).scene(), Some(scene));
                    }
                    let four = |place| Object { place, shape, colour, size };
                    let places = [Place::Top, Place::Left, Place::Center, Place::BottomRight];
                    let scene = Scene::new(background, places.map(four).to_vec()).unwrap();
                    assert_eq!(read(&render(&scene)).scene(), Some(scene));
                }
            }
        }
    }
}

#[test]
fn objects_are_read_wherever_they_are() {
    let object = Object { place: Place::Center, shape: Shape::Star, colour: Colour::Red, size: Size::Small };
    let picture = render(&Scene::new(Background::Black, vec![object]).unwrap());
    for (dx, dy) in [(5, 0), (-11, 8), (-20, -20), (20, 20), (0, -23)] {
        let mut moved = Picture::filled(SIDE, SIDE, [0; 3]);
        for at in 0..SIDE * SIDE {
            let (x, y) = ((at % SIDE).wrapping_add_signed(-dx), (at / SIDE).wrapping_add_signed(-dy));
            if let Some(pixel) = picture.pixel(x, y) {
                moved.rgb_mut()[3 * at..3 * at + 3].copy_from_slice(&pixel);
            }
        }
        let reading = read(&moved);
        assert_eq!(reading.objects.len(), 1);
        let seen = reading.objects[0];
        assert_eq!((seen.shape, seen.colour, seen.size), (Some(Shape::Star), Some(Colour::Red), Size::Small));
        assert_eq!(seen.centre, (32 + dx as i32, 32 + dy as i32));
        assert!(seen.overlap > 0.99);
    }
}

/// Pictures that show no object of the world.
fn garbage() -> Vec<(String, Picture)> {
    let mut dice = dice(11);
    let mut pictures: Vec<(String, Picture)> = Vec::new();
    let mut draw = |name: &str, ground: [u8; 3], of: &dyn Fn(i32, i32) -> Option<[u8; 3]>| {
        let rgb =
            (0..SIDE * SIDE).flat_map(|at| of((at % SIDE) as i32 - 32, (at / SIDE) as i32 - 32).unwrap_or(ground));
        pictures.push((name.to_owned(), Picture::new(SIDE, SIDE, rgb.collect()).unwrap()));
    };
    let red = Colour::Red.rgb();
    for ground in Background::ALL.map(Background::rgb) {
        let put = |inside: bool, colour: [u8; 3]| inside.then_some(colour);
        draw("nothing", ground, &|_, _| None);
        draw("half", ground, &|x, _| put(x < 0, red));
        draw("huge circle", ground, &|x, y| put(x * x + y * y < 24 * 24, red));
        draw("ring", ground, &|x, y| put((20..50).contains(&(x * x + y * y)), red));
        draw("bar", ground, &|x, y| put(x.abs() < 9 && y.abs() < 2, red));
        draw("long bar", ground, &|_, y| put(y.abs() < 4, red));
        draw("dot", ground, &|x, y| put(x.abs() < 2 && y.abs() < 3, red));
        draw("oblong", ground, &|x, y| put(x.abs() < 12 && y.abs() < 4, red));
        draw("diagonal", ground, &|x, y| put((x - y).abs() < 3 && x.abs() < 9, red));
        draw("L", ground, &|x, y| put(x.abs() < 8 && y.abs() < 8 && (x < -4 || y > 4), red));
        draw("two halves", ground, &|x, y| put(x.abs() < 8 && y.abs() < 8 && x.abs() > 2, red));
        draw("checks", ground, &|x, y| put(((x >> 3) + (y >> 3)) & 1 == 0, red));
        draw("fine checks", ground, &|x, y| put((x + y) & 1 == 0, red));
        draw("faint circle", ground, &|x, y| {
            put(
                x * x + y * y < 56,
                std::array::from_fn(|c| (u16::from(ground[c]) * 13 / 20 + u16::from(red[c]) * 7 / 20) as u8),
            )
        });
        for colour in [
            [0, 200, 200],
            [255, 0, 255],
            [255, 180, 200],
            [110, 60, 20],
            [70, 70, 70],
            [190, 190, 190],
            [255; 3],
            [0; 3],
        ] {
            draw(&format!("circle of {colour:?}"), ground, &|x, y| put(x * x + y * y < 56, colour));
        }
        draw("gradient", ground, &|x, y| Some([(128 + 3 * x) as u8, (128 + 3 * y) as u8, 90]));
    }
    for colour in Colour::ALL {
        draw("full", colour.rgb(), &|_, _| None);
        draw("circle on a coloured ground", colour.rgb(), &|x, y| {
            (x * x + y * y < 56).then_some(Colour::ALL[(colour.index() + 1) % 6].rgb())
        });
    }
    for _ in 0..50 {
        let rgb = (0..3 * SIDE * SIDE).map(|_| dice.random()).collect();
        pictures.push(("noise".to_owned(), Picture::new(SIDE, SIDE, rgb).unwrap()));
        // Noise of 8x8 tiles: what an untrained decoder draws.
        let tiles: Vec<[u8; 3]> = (0..64).map(|_| dice.random()).collect();
        let rgb = (0..SIDE * SIDE).flat_map(|at| tiles[at / SIDE / 8 * 8 + at % SIDE / 8]).collect();
        pictures.push(("tiles".to_owned(), Picture::new(SIDE, SIDE, rgb).unwrap()));
    }
    pictures
}

#[test]
fn garbage_meets_no_requirement() {
    let requirements = plain_requirements();
    for (name, picture) in garbage() {
        let reading = read(&picture);
        assert_eq!(reading.scene(), None, "{name} {reading:?}");
        for requirement in &requirements {
            let judgement = Judgement::of(requirement, reading.clone());
            assert!(!judgement.correct, "{name} is no {}: {reading:?}", requirement.text());
        }
    }
}

/// Scrambled pictures made of true cells: a decoder fed random tokens. They may show a shape by luck, hardly ever a whole scene.
#[test]
fn scrambled_cells_hardly_ever_read_as_a_scene() {
    let mut dice = dice(13);
    let mut read_as_scene = 0;
    for _ in 0..300 {
        let sources: Vec<Picture> = (0..4).map(|_| render(&Scene::mixed(Split::Train, &mut dice))).collect();
        let cells: Vec<(usize, usize)> = (0..64).map(|_| (dice.random_range(0..4), dice.random_range(0..64))).collect();
        let rgb = (0..SIDE * SIDE).flat_map(|at| {
            let (source, cell) = cells[at / SIDE / 8 * 8 + at % SIDE / 8];
            sources[source].pixel(cell % 8 * 8 + at % 8, cell / 8 * 8 + at / SIDE % 8).unwrap()
        });
        let picture = Picture::new(SIDE, SIDE, rgb.collect()).unwrap();
        read_as_scene += usize::from(read(&picture).scene().is_some());
    }
    assert!(read_as_scene <= 3, "{read_as_scene}");
}

/// Accuracy on pictures spoilt more than a trained decoder spoils them.
#[test]
fn the_verifier_withstands_noise_and_blur() {
    for (sigma, passes, least) in [(0.0, 0, 1000), (30.0, 0, 990), (0.0, 3, 990), (20.0, 2, 990)] {
        for category in Category::ALL {
            let mut dice = dice(17);
            let right = (0..100).filter(|_| {
                let (scene, caption) = Scene::draw(category, Split::Train, &mut dice);
                judge(&caption.requirement, &spoil(&render(&scene), sigma, passes, &mut dice)).correct
            });
            let right = 10 * right.count();
            assert!(right >= least, "{category:?}, noise {sigma}, blur {passes}: {right} in 1000");
        }
    }
}

#[test]
fn a_half_erased_object_is_unknown_and_an_extra_one_is_wrong() {
    let star = Object { place: Place::Center, shape: Shape::Star, colour: Colour::Red, size: Size::Large };
    let circle = Object { place: Place::Left, shape: Shape::Circle, colour: Colour::Blue, size: Size::Large };
    let one = Requirement::parse("a red star").unwrap();
    let two = Requirement::parse("a red star and a blue circle").unwrap();
    let alone = render(&Scene::new(Background::White, vec![star]).unwrap());
    let both = render(&Scene::new(Background::White, vec![star, circle]).unwrap());
    assert!(judge(&one, &alone).correct && judge(&two, &both).correct);
    assert!(!judge(&one, &both).correct && !judge(&two, &alone).correct);
    // Shape and colour of both, the number of objects, the background: 3 of 4 and 3 of 6 hold.
    assert_eq!(judge(&one, &both).fraction, 0.75);
    assert_eq!(judge(&two, &alone).fraction, 0.5);
    let mut half = alone;
    for y in 0..SIDE {
        half.rgb_mut()[3 * y * SIDE..3 * (y * SIDE + 32)].fill(255);
    }
    assert!(!judge(&one, &half).correct);
}

/// The rejection loops end because no split of a plain caption is empty, whatever sizes and backgrounds are named.
#[test]
fn every_split_of_every_small_category_has_scenes() {
    for shape in Shape::ALL {
        for colour in Colour::ALL.into_iter().filter(|&colour| !held_out::unseen_pair(shape, colour)) {
            let mut held = 0;
            for background in Background::ALL {
                for size in Size::ALL {
                    let scenes = Place::ALL
                        .map(|place| Scene::new(background, vec![Object { place, shape, colour, size }]).unwrap());
                    let here = scenes.iter().filter(|scene| held_out::scene(scene)).count();
                    assert!(here < scenes.len(), "nothing to train on");
                    held += here;
                }
            }
            assert!(held > 0, "{} {}", colour.word(), shape.word());
        }
    }
}

/// A tenth of scenes and of compositions, and nothing that hangs on the order of naming.
#[test]
fn a_tenth_is_held_out_whichever_object_is_named_first() {
    let requirements = plain_requirements();
    for requirement in &requirements {
        let mut turned = requirement.clone();
        turned.phrases.reverse();
        turned.relation = turned.relation.map(Relation::inverse);
        assert_eq!(held_out::composition(requirement), held_out::composition(&turned), "{}", requirement.text());
    }
    for category in [Category::Position, Category::Attribution] {
        let seen = |r: &&Requirement| {
            r.category() == category
                && r.phrases.windows(2).all(|pair| pair[0].colour.is_none() || pair[0].colour != pair[1].colour)
                && !r.phrases.iter().any(|p| p.colour.is_some_and(|colour| held_out::unseen_pair(p.shape, colour)))
        };
        let all: Vec<&Requirement> = requirements.iter().filter(seen).collect();
        let held = all.iter().filter(|requirement| held_out::composition(requirement)).count();
        assert!((0.08..0.13).contains(&(held as f64 / all.len() as f64)), "{category:?}: {held} of {}", all.len());
    }
    let mut dice = dice(19);
    let scenes = (0..2000).map(|_| {
        let requirement = Scene::mixed(if dice.random_bool(0.5) { Split::Train } else { Split::HeldOut }, &mut dice);
        requirement.describe(Order::ShapeColourPlace)
    });
    assert!(scenes.collect::<std::collections::BTreeSet<_>>().len() > 1500);
}

#[test]
fn answers_are_balanced() {
    let mut dice = dice(23);
    let mut shares = |kind: Kind, form: Form| {
        let mut counts = std::collections::BTreeMap::new();
        for _ in 0..1200 {
            *counts.entry(question::draw(kind, form, Split::Train, &mut dice).1.answer).or_insert(0) += 1;
        }
        counts
    };
    for kind in Kind::ALL {
        for (form, values) in [(Form::Open, None), (Form::Choice, Some(4))] {
            let counts = shares(kind, form);
            let values = match kind {
                Kind::Relation | Kind::Existence => 2,
                Kind::Count => 4,
                Kind::Place => values.unwrap_or(9),
                Kind::Colour | Kind::Shape => values.unwrap_or(6),
            };
            assert_eq!(counts.len(), values, "{counts:?}");
            let fair = 1200 / values;
            assert!(
                counts.values().all(|n| (7 * fair / 10..=13 * fair / 10).contains(n)),
                "{kind:?} {form:?} {counts:?}"
            );
        }
    }
}

/// Pinned, so that a change of the world is noticed: models are trained on it, and suites must stay what they were.
#[test]
fn the_world_stays_what_it_is() {
    let mut bytes = Vec::new();
    let mut dice = dice(0);
    for category in Category::ALL {
        for split in [Split::Train, Split::HeldOut, Split::UnseenPairs] {
            let (scene, caption) = Scene::draw(category, split, &mut dice);
            bytes.extend_from_slice(render(&scene).rgb());
            bytes.extend_from_slice(caption.text.as_bytes());
        }
    }
    for text in language::corpus(0, 50) {
        bytes.extend_from_slice(text.as_bytes());
    }
    assert_eq!(held_out::hash(&bytes), 3_298_775_993_840_117_501);
}
