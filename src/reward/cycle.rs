//! CoRL's bidirectional cycle: whether a caption of the picture says what the prompt says, and whether the picture looks like the
//! real one. Knows no network but by its face.

use super::{DrawReward, Label, Oracle, RewardError, Wanted, captions};
use crate::critic::bert::BertScore;
use crate::critic::blip::Blip;
use crate::critic::lpips::Lpips;
use crate::domain::picture::Picture;

/// BERTScore F1 of a caption against the prompt + 1 - LPIPS to the real picture, 0 to 2 (CoRL reference, 4.5). An LPIPS past 1, which
/// the formula leaves open, counts as 1.
pub struct Cycle {
    pub bert: BertScore,
    pub lpips: Lpips,
    /// Whose captions count; without it the model's own, which is another reward by another name.
    pub blip: Option<Blip>,
}

impl DrawReward for Cycle {
    fn label(&self) -> Label {
        let name = if self.blip.is_some() { "cycle" } else { "cycle_own_captions" };
        Label { name, version: 1, range: (0.0, 2.0) }
    }

    fn critics(&self) -> Vec<(&'static str, &str)> {
        let blip = self.blip.as_ref().map(|blip| ("blip", blip.digest()));
        [("bert", self.bert.digest()), ("lpips", self.lpips.digest())].into_iter().chain(blip).collect()
    }

    fn score(&self, wanted: &Wanted, group: &[&Picture], oracle: &dyn Oracle) -> Result<Option<Vec<f64>>, RewardError> {
        let Some(real) = &wanted.real else { return Ok(None) };
        let captions = match &self.blip {
            Some(blip) => blip.captions(group)?,
            None => captions(group, oracle)?,
        };
        let said = self.bert.f1(&captions, &wanted.prompt)?;
        let apart = self.lpips.distances(real, group)?;
        let alike = |apart: f64| if apart > 1.0 { 0.0 } else { 1.0 - apart };
        Ok(Some(said.into_iter().zip(apart).map(|(said, apart)| said + alike(apart)).collect()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::critic::tests::{path, picture};
    use crate::domain::task::{Answer, Sampling};
    use crate::reward::{Drawn, Mix, States};

    /// A model that says the same of every picture.
    struct Says(&'static str);

    impl Oracle for Says {
        fn answers(&self, questions: &[(Arc<Picture>, String)]) -> Result<Vec<String>, RewardError> {
            Ok(questions.iter().map(|_| self.0.to_owned()).collect())
        }

        fn replies(&self, asked: Vec<(Answer, Sampling)>) -> Result<Vec<String>, RewardError> {
            Ok(asked.iter().map(|_| self.0.to_owned()).collect())
        }

        fn states(&self, _: &str, _: &[&Picture]) -> Result<Vec<States>, RewardError> {
            Err(RewardError::Oracle("not asked".into()))
        }
    }

    fn cycle(blip: bool) -> Cycle {
        Cycle {
            bert: BertScore::load(&path("critic/bert")).unwrap(),
            lpips: Lpips::load(&path("critic/lpips")).unwrap(),
            blip: blip.then(|| Blip::load(&path("critic/blip")).unwrap()),
        }
    }

    fn wanted(real: Option<&str>) -> Wanted {
        let real = real.map(|name| Arc::new(picture(name)));
        Wanted { real, ..Wanted::of("a red donut".into()) }
    }

    #[test]
    fn a_caption_that_is_the_prompt_of_the_real_picture_earns_all() {
        let (cycle, real) = (cycle(false), picture("square"));
        let said = |caption| cycle.score(&wanted(Some("square")), &[&real], &Says(caption)).unwrap().unwrap()[0];
        assert!((said("a red donut") - 2.0).abs() < 1e-5);
        let half = said("");
        assert!((half - 1.0).abs() < 1e-5, "no caption, but the picture: {half}");
        // The tiny network's distances are above 1, and count as that.
        let scores = cycle.score(&wanted(Some("tall")), &[&real], &Says("a red donut")).unwrap().unwrap();
        assert!((scores[0] - 1.0).abs() < 1e-5, "{scores:?}");
    }

    #[test]
    fn without_the_real_picture_there_is_no_reward() {
        assert_eq!(cycle(true).score(&wanted(None), &[&picture("square")], &Says("")), Ok(None));
    }

    #[test]
    fn whose_captions_count_is_in_the_name() {
        let (own, blip) = (cycle(false), cycle(true));
        assert_eq!((own.label().name, blip.label().name), ("cycle_own_captions", "cycle"));
        let group = [picture("square"), picture("tall")];
        let group: Vec<&Picture> = group.iter().collect();
        let scores = blip.score(&wanted(Some("square")), &group, &Says("not asked")).unwrap().unwrap();
        let captions = blip.blip.as_ref().unwrap().captions(&group).unwrap();
        let f1 = blip.bert.f1(&captions, "a red donut").unwrap();
        assert!((scores[0] - 1.0 - f1[0]).abs() < 1e-6 && (scores[1] - f1[1]).abs() < 1e-6, "{scores:?} {f1:?}");
        let mix: Mix<dyn DrawReward> = Mix::new(vec![(Box::new(blip), 0.5)]);
        let label = mix.labels().next().unwrap();
        assert!(label.starts_with("cycle 1 bert:") && label.contains(" blip:") && label.ends_with(" × 0.5"), "{label}");
        let step = [Drawn { wanted: &wanted(Some("square")), pictures: group }];
        let totals = mix.score_step(&step, &Says("")).unwrap();
        assert!((totals[0][0].total - 0.25 * scores[0]).abs() < 1e-9, "{totals:?}");
    }
}
