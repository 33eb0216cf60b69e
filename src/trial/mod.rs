//! Floor 2: what people say of two versions, held against each other while they say it. One rater has one word on each version, because it
//! is people who are drawn into a trial: what one of them says again is no new evidence, and nobody alone decides anything. Reads the
//! ledger and writes nothing; acting on it is for others.

pub mod evidence;
mod standing;

pub use standing::{Arm, Outcome, Standing, of_switch, of_trial};
