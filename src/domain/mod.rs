//! Floor 0: plain values that every floor speaks. No IO, no serde, no tensors.

pub mod id;
pub mod job;
pub mod picture;
pub mod record;
pub mod round;
pub mod sample;
pub mod task;
pub mod trial;
