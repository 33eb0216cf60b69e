//! One integration binary.
mod golden;
mod parity;
