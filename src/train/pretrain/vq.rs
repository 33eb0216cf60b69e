//! Stage 1: the picture tokenizer, from nothing: reconstruction, then quantisation, then merging of near-equal codes.
//! Knows pictures and the tokenizer; nothing of text.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor, Var};
use rand::seq::index;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::super::optim::{AdamW, AdamWOptions, cosine};
use super::super::run::{Metrics, Stage};
use super::super::{TrainError, draw};
use super::data;
use crate::domain::picture::Picture;
use crate::model::config::VqConfig;
use crate::model::params::{Params, Tensors, variables};
use crate::model::vq::Vq;
use crate::world::{Dice, Scene, Split, render, verify};

/// Where the tokenizer's tensors stand in a checkpoint.
pub const SCOPE: &str = "model.vqmodel";
pub const CODEBOOK: &str = "model.vqmodel.quantize.embedding.weight";

/// What is learned, and how long.
#[derive(Clone, Debug)]
pub struct VqOptions {
    pub seed: u64,
    pub steps: u64,
    pub batch: usize,
    pub rate: f64,
    /// Steps without quantisation; the codebook is then filled from features.
    pub continuous: u64,
}

/// The tokenizer under training.
pub struct VqStage {
    vq: Vq,
    vars: BTreeMap<String, Var>,
    optim: AdamW,
    /// Decayed count of how often each code was chosen.
    usage: Vec<f32>,
    options: VqOptions,
    image_size: usize,
    device: Device,
}

impl VqStage {
    /// # Errors
    /// When the config describes no network.
    pub fn new(config: &VqConfig, image_size: usize, options: VqOptions, device: &Device) -> Result<Self, TrainError> {
        let fresh = Params::fresh(options.seed, device);
        Vq::new(&fresh.root().at(SCOPE), config)?;
        let vars = variables(fresh.finish()?)?;
        let given = Params::given(vars.iter().map(|(name, v)| (name.clone(), v.as_tensor().clone())).collect(), device);
        let vq = Vq::new(&given.root().at(SCOPE), config)?;
        let adam = AdamWOptions { weight_decay: 0.0, ..AdamWOptions::default() };
        let optim = AdamW::new(vars.clone(), adam)?;
        let usage = vec![1.0; config.codebook_size];
        Ok(Self { vq, vars, optim, usage, options, image_size, device: device.clone() })
    }

    /// The tokenizer's tensors.
    #[must_use]
    pub fn finish(self) -> Tensors {
        self.vars.into_iter().map(|(name, var)| (name, var.as_tensor().detach())).collect()
    }

    fn rng(&self, step: u64) -> ChaCha8Rng {
        let mut rng = ChaCha8Rng::seed_from_u64(self.options.seed);
        rng.set_stream(step + 1);
        rng
    }

    /// Puts random features of this batch in the place of codes (all of them, or those no longer chosen).
    fn refill(&mut self, features: &Tensor, all: bool, rng: &mut ChaCha8Rng) -> Result<(), TrainError> {
        const DEAD: f32 = 0.02;
        let rows = features.flatten_to(2)?.to_vec2::<f32>()?;
        let Some(codebook) = self.vars.get(CODEBOOK) else { return Ok(()) };
        let mut codes = codebook.to_vec2::<f32>()?;
        let dead: Vec<usize> = (0..codes.len()).filter(|&i| all || self.usage[i] < DEAD).collect();
        // Most patches are background; of near-equal features only the first few may found a code.
        let order = index::sample(rng, rows.len(), rows.len()).into_vec();
        let mut picks: Vec<usize> = vec![];
        for pick in order {
            let near = |&&other: &&usize| rows[pick].iter().zip(&rows[other]).map(|(a, b)| a * b).sum::<f32>() > 0.995;
            if picks.len() < dead.len() && picks.iter().filter(near).count() < 2 {
                picks.push(pick);
            }
        }
        for (&code, pick) in dead.iter().zip(picks.iter().cycle()) {
            let jitter = if all { 0.05 } else { 0.01 };
            codes[code] = rows[*pick].iter().map(|v| v + rng.random_range(-jitter..jitter)).collect();
            self.usage[code] = 1.0;
        }
        let shape = codebook.dims2()?;
        codebook.set(&Tensor::from_vec(codes.concat(), shape, &self.device)?)?;
        Ok(())
    }

    /// Equal patches of pixels ought to have equal features, whatever stands around them: the mean squared distance of each
    /// patch's features to the mean of its kind. The fewer codes a patch may become, the less a language model has to guess.
    fn consistency(&self, pictures: &[Picture], features: &Tensor) -> Result<Tensor, TrainError> {
        let (_, grid, _, dim) = features.dims4()?;
        let patch = self.image_size / grid;
        let mut kinds: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
        let mut ids = Vec::new();
        for picture in pictures {
            for cell in 0..grid * grid {
                let (left, top) = (cell % grid * patch, cell / grid * patch);
                let line = |y: usize| {
                    let at = 3 * ((top + y) * picture.width() + left);
                    picture.rgb()[at..at + 3 * patch].iter().copied()
                };
                let next = kinds.len() as u32;
                ids.push(*kinds.entry((0..patch).flat_map(line).collect()).or_insert(next));
            }
        }
        let mut counts = vec![0f32; kinds.len()];
        ids.iter().for_each(|&id| counts[id as usize] += 1.0);
        let counts = Tensor::from_vec(counts, (kinds.len(), 1), &self.device)?;
        let ids = Tensor::new(ids, &self.device)?;
        let rows = features.reshape(((), dim))?;
        let sums = Tensor::zeros((kinds.len(), dim), rows.dtype(), &self.device)?.index_add(&ids, &rows.detach(), 0)?;
        let means = sums.broadcast_div(&counts)?.index_select(&ids, 0)?;
        Ok((rows - means)?.sqr()?.sum(1)?.mean_all()?)
    }
}

/// How much more a pixel far from its picture's mean colour weighs than one near it: objects are small, backgrounds are not.
const EMPHASIS: f64 = 3.0;

/// Mean absolute and squared error, and the absolute error of neighbouring differences, which keeps edges sharp.
fn reconstruction(y: &Tensor, x: &Tensor) -> Result<Tensor, TrainError> {
    let contrast = x.broadcast_sub(&x.mean_keepdim((1, 2))?)?.abs()?.mean_keepdim(3)?;
    let d = (y - x)?.broadcast_mul(&((contrast * EMPHASIS)? + 1.0)?)?;
    let side = d.dim(1)?;
    let across = (d.narrow(2, 1, side - 1)? - d.narrow(2, 0, side - 1)?)?;
    let down = (d.narrow(1, 1, side - 1)? - d.narrow(1, 0, side - 1)?)?;
    let edges = (across.abs()?.mean_all()? + down.abs()?.mean_all()?)?;
    Ok(((d.abs()?.mean_all()? + d.sqr()?.mean_all()?)? + (edges * 0.5)?)?)
}

impl Stage for VqStage {
    fn name(&self) -> &'static str {
        "vq"
    }

    fn steps(&self) -> u64 {
        self.options.steps
    }

    fn step(&mut self, step: u64) -> Result<Metrics, TrainError> {
        let mut rng = self.rng(step);
        // Plain pictures are nearly flat, and the tokenizer's norms learn little from those until it sees objects at all.
        let crowds = if step < self.options.continuous / 4 { self.options.batch } else { self.options.batch / 2 };
        let mut pictures = data::crowds(crowds, &mut rng);
        pictures.extend(data::pictures(self.options.batch - crowds, &mut rng));
        let x = data::pixels(&pictures, &self.device)?;
        let features = self.vq.features(&x)?;
        let consistency = self.consistency(&pictures, &features)?;
        let quantised = step >= self.options.continuous;
        if step == self.options.continuous {
            self.refill(&features, true, &mut rng)?;
        }
        let (decoded, commitment, codebook, active) = if quantised {
            let ids = self.vq.nearest(&features)?;
            let mut chosen = vec![0f32; self.usage.len()];
            ids.iter().for_each(|&id| chosen[id as usize] += 1.0);
            self.usage.iter_mut().zip(&chosen).for_each(|(u, c)| *u = 0.99 * *u + 0.01 * c.min(1.0));
            if step % 50 == 49 && step < self.options.steps / 2 {
                self.refill(&features, false, &mut rng)?;
            }
            let ids = Tensor::new(ids, &self.device)?;
            let codes = self.vq.codes()?.index_select(&ids, 0)?.reshape(features.shape())?;
            // The decoder sees the code; the encoder gets the decoder's gradient unchanged.
            let through = (&features + (&codes - &features)?.detach())?;
            let commitment = (&features - codes.detach())?.sqr()?.sum(3)?.mean_all()?;
            let codebook = (&codes - features.detach())?.sqr()?.sum(3)?.mean_all()?;
            (self.vq.decode(&through)?, commitment, codebook, self.usage.iter().filter(|&&u| u > 0.01).count() as f64)
        } else {
            let zero = Tensor::zeros((), features.dtype(), &self.device)?;
            // Zero, but of the codebook: every variable has a gradient from the first step.
            let codes = self.vq.codes()?;
            (self.vq.decode(&features)?, zero, (&codes - codes.detach())?.sqr()?.sum_all()?, 0.0)
        };
        let picture = reconstruction(&decoded, &x)?;
        // Before the features mean anything, all-equal features would please the consistency best.
        let pull = if quantised { 0.1 } else { 0.0 };
        let loss = ((&picture + (commitment * 0.25)?)? + (&codebook + (&consistency * pull)?)?)?;
        let rate = cosine(step, self.options.steps, 50, self.options.rate, 0.05);
        let norm = self.optim.step(&loss.backward()?, rate)?;
        let scalar = |t: &Tensor| Ok::<_, TrainError>(f64::from(t.to_scalar::<f32>()?));
        Ok(vec![
            ("picture", scalar(&picture)?),
            ("codebook", scalar(&codebook)?),
            ("consistency", scalar(&consistency)?),
            ("codes", active),
            ("norm", norm),
        ])
    }

    fn state(&self) -> Result<Tensors, TrainError> {
        let mut state = self.optim.state()?;
        state.insert("usage".into(), Tensor::new(self.usage.as_slice(), &self.device)?);
        Ok(state)
    }

    fn restore(&mut self, state: &Tensors) -> Result<(), TrainError> {
        self.optim.restore(state)?;
        let usage = state.get("usage").ok_or_else(|| TrainError::State("the checkpoint has no `usage`".into()))?;
        self.usage = usage.to_vec1()?;
        Ok(())
    }

    /// Pictures above their reconstructions.
    fn look(&self, dir: &Path, step: u64) -> Result<Metrics, TrainError> {
        let scenes = some_scenes(64, &mut self.rng(u64::MAX - 1));
        let pictures: Vec<Picture> = scenes.iter().map(render).collect();
        let again = reconstruct(&self.vq, &pictures, &self.device, step >= self.options.continuous)?;
        let rows: Vec<Picture> = pictures[..16]
            .chunks(8)
            .zip(again[..16].chunks(8))
            .flat_map(|(above, below)| above.iter().chain(below).cloned())
            .collect();
        draw::grid(&dir.join("reconstructions.png"), &rows, 8, 2)?;
        Ok(vec![("scenes_read", read_back(&again, &scenes))])
    }
}

/// Training scenes to look at.
pub fn some_scenes(n: usize, dice: &mut Dice) -> Vec<Scene> {
    (0..n).map(|_| Scene::mixed(Split::Train, dice)).collect()
}

/// Share of pictures in which the verifier finds just their scene.
pub fn read_back(pictures: &[Picture], scenes: &[Scene]) -> f64 {
    let same = |(picture, scene): &(&Picture, &Scene)| verify::read(picture).scene().as_ref() == Some(*scene);
    pictures.iter().zip(scenes).filter(same).count() as f64 / scenes.len().max(1) as f64
}

/// Encodes and decodes pictures; without quantisation while there is no codebook yet.
///
/// # Errors
/// When the tokenizer fails.
pub fn reconstruct(
    vq: &Vq,
    pictures: &[Picture],
    device: &Device,
    quantised: bool,
) -> Result<Vec<Picture>, TrainError> {
    let mut again = Vec::with_capacity(pictures.len());
    for pictures in pictures.chunks(32) {
        let features = vq.features(&data::pixels(pictures, device)?)?;
        let y = match quantised {
            true => vq.decode_ids(&vq.nearest(&features)?, pictures.len(), features.dim(1)?)?,
            false => vq.decode(&features)?,
        };
        again.extend(data::unpixels(&y)?);
    }
    Ok(again)
}
