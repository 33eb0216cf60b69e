//! Pre-training on the world, from nothing.
pub mod data;
pub mod tokenizer;
pub mod vq;
