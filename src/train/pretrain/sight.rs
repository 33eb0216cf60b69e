//! Stage 3: the vision tower and its aligner learn what stands in every patch (shape, colour, size, quarter, background). From
//! the answers' loss alone the tower would learn next to nothing in the time there is.

use candle_core::{Tensor, Var};
use rand::SeedableRng;

use super::super::TrainError;
use super::super::optim::{AdamW, AdamWOptions, cosine};
use super::super::run::{Metrics, Stage};
use super::learner::Learner;
use super::words::hits;
use super::{data, learner};
use crate::model::layers::Linear;
use crate::model::params::{Params, Tensors};
use crate::model::policy;
use crate::world::{Dice, Scene, Split, render};

/// Tensors that this stage trains.
pub const TRAINS: [&str; 2] = ["model.vision_model.", "model.aligner."];

/// Sizes of the questions asked of each patch: shape, colour, size and quarter (each with "none"), background.
const CLASSES: [usize; 5] = [7, 7, 3, 5, 3];
const NAMES: [&str; 5] = ["shape", "colour", "size", "quarter", "background"];

/// What is learned, and how long.
#[derive(Clone, Debug)]
pub struct SightOptions {
    pub seed: u64,
    pub steps: u64,
    pub batch: usize,
    pub rate: f64,
}

/// Dense patch classification.
pub struct SightStage {
    learner: Learner,
    /// Reads the aligner's output; thrown away afterwards.
    probe: Linear,
    optim: AdamW,
    options: SightOptions,
}

impl SightStage {
    /// # Errors
    /// When the probe cannot be made.
    pub fn new(learner: Learner, options: SightOptions) -> Result<Self, TrainError> {
        let (hidden, outputs) = (learner.config.text.hidden_size, CLASSES.iter().sum());
        let fresh = Params::fresh(options.seed, &learner.device);
        Linear::new(&fresh.root().at("probe"), hidden, outputs, true)?;
        let probe_vars = crate::model::params::variables(fresh.finish()?)?;
        let given = probe_vars.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect();
        let probe = Linear::new(&Params::given(given, &learner.device).root().at("probe"), hidden, outputs, true)?;
        let vars: Vec<(String, Var)> = learner.weights.vars().clone().into_iter().chain(probe_vars).collect();
        let optim = AdamW::new(vars, AdamWOptions::default())?;
        Ok(Self { learner, probe, optim, options })
    }

    /// # Errors
    /// When memory runs out.
    pub fn finish(self) -> Result<Tensors, TrainError> {
        self.learner.weights.tensors()
    }
}

/// One class for each question of each patch of a scene.
fn labels(scene: &Scene) -> Vec<[u32; 5]> {
    let background = scene.background().index() as u32;
    let label = |patch: &Option<crate::world::scene::Patch>| match patch {
        None => [0, 0, 0, 0, background],
        Some(patch) => {
            let object = patch.object;
            let class = |index: usize| index as u32 + 1;
            [
                class(object.shape.index()),
                class(object.colour.index()),
                class(object.size.index()),
                class(patch.quadrant),
                background,
            ]
        }
    };
    scene.cells().iter().map(label).collect()
}

impl Stage for SightStage {
    fn name(&self) -> &'static str {
        "sight"
    }

    fn steps(&self) -> u64 {
        self.options.steps
    }

    fn step(&mut self, step: u64) -> Result<Metrics, TrainError> {
        let mut dice = Dice::seed_from_u64(self.options.seed);
        dice.set_stream(step + 1);
        let scenes: Vec<Scene> = (0..self.options.batch).map(|_| Scene::mixed(Split::Train, &mut dice)).collect();
        let pictures: Vec<_> = scenes.iter().map(render).collect();
        let pixels = data::preprocessed(&pictures, &self.learner.prompter, &self.learner.device)?;
        let answers = self.probe.forward(&self.learner.weights.network.see(&pixels)?)?;
        let labels: Vec<[u32; 5]> = scenes.iter().flat_map(labels).collect();
        let (mut loss, mut metrics, mut at) = (Tensor::zeros((), answers.dtype(), &self.learner.device)?, vec![], 0);
        for (question, &classes) in CLASSES.iter().enumerate() {
            let logits = answers.narrow(1, at, classes)?.contiguous()?;
            let ids: Vec<u32> = labels.iter().map(|label| label[question]).collect();
            loss = (loss - policy::log_prob_of(&logits, &ids, 1.0)?.mean_all()?)?;
            // Accuracy where there is something to see.
            let seen: Vec<u32> = (0..ids.len() as u32).filter(|&i| question == 4 || ids[i as usize] > 0).collect();
            let wanted: Vec<u32> = seen.iter().map(|&i| ids[i as usize]).collect();
            metrics.push((NAMES[question], hits(&learner::rows(&logits, seen)?, &wanted)?));
            at += classes;
        }
        let rate = cosine(step, self.options.steps, 50, self.options.rate, 0.1);
        let norm = self.optim.step(&loss.backward()?, rate)?;
        metrics.extend([("loss", f64::from(loss.to_scalar::<f32>()?)), ("norm", norm)]);
        Ok(metrics)
    }

    fn state(&self) -> Result<Tensors, TrainError> {
        Ok(self.optim.state()?)
    }

    fn restore(&mut self, state: &Tensors) -> Result<(), TrainError> {
        Ok(self.optim.restore(state)?)
    }
}
