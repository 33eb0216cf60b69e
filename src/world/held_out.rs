//! What training never sees, decided once, by rule and not by file: four shape-colour pairs, whole compositions of captions,
//! and a tenth of all scenes.

use super::caption::{Category, Phrase, Relation, Requirement};
use super::scene::{Colour, Scene, Shape};

/// Which part of the world something is drawn from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Split {
    /// What training may see.
    Train,
    /// Unseen compositions and unseen scenes made of seen shape-colour pairs.
    HeldOut,
    /// Scenes with a shape-colour pair that training never shows or names.
    UnseenPairs,
}

/// The shape-colour pairs that training never shows or names; no shape and no colour twice.
pub const UNSEEN_PAIRS: [(Shape, Colour); 4] = [
    (Shape::Square, Colour::Yellow),
    (Shape::Triangle, Colour::Orange),
    (Shape::Heart, Colour::Green),
    (Shape::Cross, Colour::Purple),
];

/// Pairs of shapes that training never names in "a star and a circle", in either order; each shape once.
const HELD_OUT_TWO: [[Shape; 2]; 3] =
    [[Shape::Circle, Shape::Star], [Shape::Square, Shape::Heart], [Shape::Triangle, Shape::Cross]];

/// One composition (position, attribution) and one scene in this many is held out.
const ONE_IN: u64 = 10;

/// Chosen so that the compositions of position it holds out are well mixed: 7 of 60, every shape, rows and columns alike.
const SALT: u8 = 50;

/// Whether training never shows or names this pair.
#[must_use]
pub fn unseen_pair(shape: Shape, colour: Colour) -> bool {
    UNSEEN_PAIRS.contains(&(shape, colour))
}

/// Whether `category` has compositions enough to hold some out. There are 6 single objects, 18 counts and 32 coloured shapes.
#[must_use]
pub fn holds_out(category: Category) -> bool {
    matches!(category, Category::TwoObjects | Category::Position | Category::Attribution)
}

/// Whether training never names this composition. Sizes and backgrounds do not matter, nor does which object is named first:
/// "a star above a circle" and "a circle below a star" are one composition.
#[must_use]
pub fn composition(requirement: &Requirement) -> bool {
    if requirement.phrases.iter().any(|p| p.colour.is_some_and(|colour| unseen_pair(p.shape, colour))) {
        return true;
    }
    let [first, second] = requirement.phrases.as_slice() else { return false };
    let category = requirement.category();
    if category == Category::TwoObjects {
        return HELD_OUT_TWO.iter().any(|pair| pair.contains(&first.shape) && pair.contains(&second.shape));
    }
    let key = |phrase: &Phrase| [phrase.shape.index() as u8, phrase.colour.map_or(u8::MAX, |c| c.index() as u8)];
    let (mut first, mut second) = (key(first), key(second));
    let turned = match requirement.relation {
        Some(Relation::Below | Relation::RightOf) => true,
        Some(Relation::Above | Relation::LeftOf) => false,
        None => second < first,
    };
    if turned {
        std::mem::swap(&mut first, &mut second);
    }
    let vertical = requirement.relation.is_some_and(Relation::vertical);
    hash(&[SALT, category.index() as u8, u8::from(vertical), first[0], first[1], second[0], second[1]])
        .is_multiple_of(ONE_IN)
}

/// Whether training never shows this scene.
#[must_use]
pub fn scene(scene: &Scene) -> bool {
    let mut bytes = vec![b's', scene.background().index() as u8];
    for object in scene.objects() {
        let indices = [object.place.index(), object.shape.index(), object.colour.index(), object.size.index()];
        bytes.extend(indices.map(|index| index as u8));
    }
    shows_unseen_pair(scene) || hash(&bytes).is_multiple_of(ONE_IN)
}

/// Whether an object of the scene is one of the unseen pairs.
#[must_use]
pub fn shows_unseen_pair(scene: &Scene) -> bool {
    scene.objects().iter().any(|object| unseen_pair(object.shape, object.colour))
}

/// FNV-1a with a finishing mix: the same on every machine and in every release.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    let fnv = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let mixed = (fnv ^ (fnv >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
}
