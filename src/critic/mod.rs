//! Floor 2: networks from outside that judge texts and pictures (BERTScore, LPIPS, BLIP's captions, CLIP), each read from a folder
//! of its own. Texts and pictures in, numbers and texts out, always in f32 on the CPU; knows no reward and learns nothing.

pub mod bert;
pub mod blip;
pub mod clip;
mod config;
mod files;
pub mod lpips;
mod text;
mod vit;

#[cfg(test)]
pub(crate) mod tests;

use std::path::PathBuf;

/// A network cannot be read, or fails at its work.
#[derive(Debug, thiserror::Error)]
pub enum CriticError {
    #[error("there is no folder `{}`", .0.display())]
    Absent(PathBuf),
    #[error("cannot read `{}`: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    /// A file is not what it should be.
    #[error("`{}`: {what}", path.display())]
    File { path: PathBuf, what: String },
    #[error("{network} failed: {what}")]
    Run { network: &'static str, what: String },
}

/// What went wrong while `network` was at work.
fn failed<E: std::fmt::Display>(network: &'static str) -> impl Fn(E) -> CriticError {
    move |error| CriticError::Run { network, what: error.to_string() }
}
