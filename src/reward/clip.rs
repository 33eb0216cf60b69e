//! How well picture and prompt go together by CLIP. Knows no network but by its face.

use super::{DrawReward, Label, Oracle, RewardError, Wanted};
use crate::critic::clip::Clip;
use crate::domain::picture::Picture;

/// The cosine of what CLIP makes of picture and prompt, -1 to 1; CoRL's is twice that (CoRL reference, 4.8).
pub struct ClipScore {
    pub clip: Clip,
}

impl DrawReward for ClipScore {
    fn label(&self) -> Label {
        Label { name: "clip", version: 1, range: (-1.0, 1.0) }
    }

    fn critics(&self) -> Vec<(&'static str, &str)> {
        vec![("clip", self.clip.digest())]
    }

    fn score(&self, wanted: &Wanted, group: &[&Picture], _: &dyn Oracle) -> Result<Option<Vec<f64>>, RewardError> {
        Ok(Some(self.clip.cosines(&wanted.prompt, group)?))
    }
}
