//! Floor 1: the Janus-Pro network. Tensors in, tensors out.
pub mod ops;
