//! Floor 2: pictures on their way in and out: files of bytes on one side, plain RGB on the other.
//! What comes in is hostile until it is decoded; what goes out says what made it.
//! Knows no HTTP.

pub mod decode;
pub mod encode;
