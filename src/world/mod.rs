//! Floor 1: the shapes world. Scenes of 1 to 4 objects, their pictures, captions and questions, and a verifier that reads
//! scenes back from pixels. Everything is a function of a seed. Knows no tensors, no model, no files and no clock.
//!
//! `scene` what there is · `render` scene → picture · `verify` picture → scene · `caption` what a caption demands ·
//! `judge` picture against caption · `draw` random scenes, split by split · `held_out` what training never sees ·
//! `question` questions with solutions · `language` text-only lessons and the vocabulary · `suite` the evaluation items.

pub mod caption;
pub mod draw;
pub mod held_out;
pub mod judge;
pub mod language;
pub mod question;
pub mod render;
pub mod scene;
pub mod suite;
pub mod verify;

pub use caption::{Caption, Category, Requirement};
pub use held_out::Split;
pub use judge::{Judgement, judge};
pub use question::{Form, Kind, Question};
pub use render::render;
pub use scene::{Background, Colour, Object, Place, Scene, Shape, Size};

/// The one source of chance in this wing: same seed, same world, on every machine.
pub type Dice = rand_chacha::ChaCha8Rng;

/// Dice of a seed.
#[must_use]
pub fn dice(seed: u64) -> Dice {
    <Dice as rand::SeedableRng>::seed_from_u64(seed)
}

/// What cannot be a scene.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WorldError {
    /// A scene holds 1 to 4 objects.
    #[error("a scene holds 1 to 4 objects, not {0}")]
    Objects(usize),
    /// Objects never share a place.
    #[error("two objects at the same place")]
    SharedPlace,
}

#[cfg(test)]
mod tests;
