//! Random scenes: by category with their caption, or a free mix. Which split a draw belongs to is kept by drawing again until
//! it does; every split holds at least a small share of every category, so this ends (a test enumerates the small ones).

use rand::RngExt;
use rand::seq::{IndexedRandom, SliceRandom};

use super::Dice;
use super::caption::{Caption, Category, Phrase, Relation, Requirement};
use super::held_out::{self, Split, UNSEEN_PAIRS};
use super::scene::{Background, Colour, MOST_OBJECTS, Object, Place, Scene, Shape, Size};

/// Training captions in a hundred that name the background.
const NAMES_BACKGROUND: u32 = 15;
/// Training captions in a hundred that name sizes.
const NAMES_SIZE: u32 = 8;

impl Category {
    /// A category, each as often as its weight says (in the order of `ALL`).
    #[must_use]
    pub fn pick(weights: &[u32; 6], dice: &mut Dice) -> Self {
        weighted(&Self::ALL, weights, dice)
    }
}

impl Scene {
    /// A scene of `category` and its caption. `Train` never yields what is held out and sometimes names backgrounds and sizes;
    /// `HeldOut` yields plain captions of held-out compositions where the category has such, and always held-out scenes;
    /// `UnseenPairs` yields plain captions and scenes with an unseen pair.
    #[must_use]
    pub fn draw(category: Category, split: Split, dice: &mut Dice) -> (Self, Caption) {
        let requirement = requirement(category, split, dice);
        let scene = Self::of(&requirement, split, dice);
        (scene, requirement.into())
    }

    /// A scene that meets `requirement`, everything unsaid at random.
    fn of(requirement: &Requirement, split: Split, dice: &mut Dice) -> Self {
        loop {
            let background = requirement.background.unwrap_or_else(|| pick(&Background::ALL, dice));
            let places = places(requirement.relation, dice);
            let mut objects = Vec::with_capacity(MOST_OBJECTS);
            for phrase in &requirement.phrases {
                let colour = phrase.colour.unwrap_or_else(|| colour_for(phrase.shape, split, dice));
                let size = phrase.size.unwrap_or_else(|| pick(&Size::ALL, dice));
                for _ in 0..phrase.count {
                    let place = places[objects.len() % places.len()];
                    objects.push(Object { place, shape: phrase.shape, colour, size });
                }
            }
            if let Some(scene) = accept(background, objects, split) {
                return scene;
            }
        }
    }

    /// A free mix of 1 to 4 objects.
    #[must_use]
    pub fn mixed(split: Split, dice: &mut Dice) -> Self {
        loop {
            let shapes: Vec<Shape> =
                (0..dice.random_range(1..=MOST_OBJECTS as u32)).map(|_| pick(&Shape::ALL, dice)).collect();
            if let Some(scene) = Self::of_shapes(&shapes, split, dice) {
                return scene;
            }
        }
    }

    /// A scene of these shapes, all else at random; `None` when the draw fell into another split.
    pub(super) fn of_shapes(shapes: &[Shape], split: Split, dice: &mut Dice) -> Option<Self> {
        let places = places(None, dice);
        let objects = shapes.iter().zip(places).map(|(&shape, place)| {
            let (colour, size) = (colour_for(shape, split, dice), pick(&Size::ALL, dice));
            Object { place, shape, colour, size }
        });
        let objects = objects.collect();
        accept(pick(&Background::ALL, dice), objects, split)
    }
}

/// The scene, if it can be one and belongs to the split.
fn accept(background: Background, objects: Vec<Object>, split: Split) -> Option<Scene> {
    let scene = Scene::new(background, objects).ok()?;
    let belongs = match split {
        Split::Train => !held_out::scene(&scene),
        Split::HeldOut => held_out::scene(&scene) && !held_out::shows_unseen_pair(&scene),
        Split::UnseenPairs => held_out::shows_unseen_pair(&scene),
    };
    belongs.then_some(scene)
}

fn requirement(category: Category, split: Split, dice: &mut Dice) -> Requirement {
    let mut requirement = loop {
        let requirement = any_requirement(category, split, dice);
        let held_out = held_out::composition(&requirement);
        let belongs = match split {
            Split::Train => !held_out,
            Split::HeldOut => held_out == held_out::holds_out(category),
            Split::UnseenPairs => true,
        };
        if belongs {
            break requirement;
        }
    };
    if split == Split::Train {
        if dice.random_ratio(NAMES_SIZE, 100) {
            for phrase in &mut requirement.phrases {
                phrase.size = Some(pick(&Size::ALL, dice));
            }
        }
        if dice.random_ratio(NAMES_BACKGROUND, 100) {
            requirement.background = Some(pick(&Background::ALL, dice));
        }
    }
    requirement
}

/// What a plain caption of the category may say. In `UnseenPairs` one of its shapes has an unseen colour, and so has its pair
/// where colours are named.
fn any_requirement(category: Category, split: Split, dice: &mut Dice) -> Requirement {
    let mut shapes = Shape::ALL;
    shapes.shuffle(dice);
    let [mut first, mut second, ..] = shapes;
    let mut colours = [colour_for(first, Split::Train, dice), colour_for(second, Split::Train, dice)];
    if split == Split::UnseenPairs {
        let (shape, colour) = pick(&UNSEEN_PAIRS, dice);
        if second == shape {
            second = first;
        }
        (first, colours[0]) = (shape, colour);
        colours[1] = colour_for(second, Split::Train, dice);
    }
    while colours[1] == colours[0] {
        colours[1] = colour_for(second, Split::Train, dice);
    }
    let mut phrases = [Phrase::one(first), Phrase::one(second)];
    match category {
        Category::SingleObject => Requirement::of(&phrases[..1]),
        Category::Counting => {
            phrases[0].count = dice.random_range(2..=MOST_OBJECTS as u32) as usize;
            Requirement::of(&phrases[..1])
        }
        Category::Colors => Requirement::of(&[Phrase::coloured(first, colours[0])]),
        Category::TwoObjects => {
            phrases.shuffle(dice);
            Requirement::of(&phrases)
        }
        Category::Position => {
            phrases.shuffle(dice);
            Requirement { relation: Some(pick(&Relation::ALL, dice)), ..Requirement::of(&phrases) }
        }
        Category::Attribution => {
            let mut phrases = [Phrase::coloured(first, colours[0]), Phrase::coloured(second, colours[1])];
            phrases.shuffle(dice);
            Requirement::of(&phrases)
        }
    }
}

/// Distinct places, in the order in which the objects take them; the first two stand in `relation`, in one row or column.
fn places(relation: Option<Relation>, dice: &mut Dice) -> Vec<Place> {
    let Some(relation) = relation else {
        let mut places = Place::ALL.to_vec();
        places.shuffle(dice);
        places.truncate(MOST_OBJECTS);
        return places;
    };
    let lane = pick(&[0, 1, 2], dice);
    let (mut first, mut second) = pick(&[(0, 1), (0, 2), (1, 2)], dice);
    if matches!(relation, Relation::Below | Relation::RightOf) {
        std::mem::swap(&mut first, &mut second);
    }
    let place = |step| if relation.vertical() { Place::at(step, lane) } else { Place::at(lane, step) };
    vec![place(first), place(second)]
}

/// A colour that `split` allows for the shape: the unseen one in `UnseenPairs` where there is one, a seen one otherwise.
fn colour_for(shape: Shape, split: Split, dice: &mut Dice) -> Colour {
    if split == Split::UnseenPairs
        && let Some(&(_, colour)) = UNSEEN_PAIRS.iter().find(|pair| pair.0 == shape)
    {
        return colour;
    }
    loop {
        let colour = pick(&Colour::ALL, dice);
        if !held_out::unseen_pair(shape, colour) {
            return colour;
        }
    }
}

/// One of `values`, each as often as its weight says; the first when all weights are 0.
pub(super) fn weighted<T: Copy, const N: usize>(values: &[T; N], weights: &[u32; N], dice: &mut Dice) -> T {
    let places: [usize; N] = std::array::from_fn(|at| at);
    values[places.choose_weighted(dice, |&at| weights[at]).copied().unwrap_or(0)]
}

/// One of `values`, all equally likely.
pub(super) fn pick<T: Copy, const N: usize>(values: &[T; N], dice: &mut Dice) -> T {
    values[dice.random_range(0..N as u32) as usize]
}
