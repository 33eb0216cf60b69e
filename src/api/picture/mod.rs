//! Pictures on their way in and out: files of bytes on one side, plain RGB on the other. Knows no HTTP and no model.

pub mod decode;
pub mod encode;
