//! Between stages 1 and 2: codes that are never chosen go, and near-equal codes become one, as long as pictures do not suffer.
//! Fewer codes, less for the language model to guess.

use candle_core::{Device, Tensor};

use super::super::TrainError;
use super::{data, vq};
use crate::domain::picture::Picture;
use crate::model::config::VqConfig;
use crate::model::params::{Params, Tensors};
use crate::model::vq::{Vq, unit};
use crate::world::{dice, render};

/// Codes whose cosine is above the threshold are one; the thresholds tried, the boldest first.
const NEAR: [f32; 6] = [0.92, 0.94, 0.96, 0.98, 0.99, 0.995];
/// A threshold is too bold when it costs more than this share of the scenes read back.
const COST: f64 = 0.01;
/// Pictures on which the codes are counted, and scenes on which a threshold is tried.
const PICTURES: usize = 768;
const SCENES: usize = 256;

/// The tokenizer with fewer codes.
pub struct Merged {
    pub tensors: Tensors,
    pub codes: usize,
}

impl Merged {
    fn of(tensors: &Tensors, codes: &[Vec<f32>], kept: &[usize], device: &Device) -> Result<Self, TrainError> {
        let dim = codes.first().map_or(0, Vec::len);
        let rows: Vec<f32> = kept.iter().flat_map(|&i| codes[i].clone()).collect();
        let mut tensors = tensors.clone();
        tensors.insert(vq::CODEBOOK.into(), Tensor::from_vec(rows, (kept.len(), dim), device)?);
        Ok(Self { tensors, codes: kept.len() })
    }

    fn network(&self, config: &VqConfig, device: &Device) -> Result<Vq, TrainError> {
        let config = VqConfig { codebook_size: self.codes, ..config.clone() };
        Ok(Vq::new(&Params::given(self.tensors.clone(), device).root().at(vq::SCOPE), &config)?)
    }
}

/// Counts which codes training pictures use, then keeps each code, the most used first, unless one near to it is kept already.
///
/// # Errors
/// When the tokenizer fails.
pub fn merge(tensors: &Tensors, config: &VqConfig, seed: u64, device: &Device) -> Result<Merged, TrainError> {
    let Some(codebook) = tensors.get(vq::CODEBOOK) else {
        return Err(TrainError::State(format!("no tensor `{}`", vq::CODEBOOK)));
    };
    let codes = unit(codebook)?.to_vec2::<f32>()?;
    let mut dice = dice(seed);
    let all: Vec<usize> = (0..codes.len()).collect();
    let network = Merged::of(tensors, &codes, &all, device)?.network(config, device)?;
    let mut counts = vec![0usize; codes.len()];
    for _ in 0..PICTURES / 32 {
        for id in network.encode(&data::pixels(&data::pictures(32, &mut dice), device)?)? {
            counts[id as usize] += 1;
        }
    }
    let mut used: Vec<usize> = all.into_iter().filter(|&i| counts[i] > 0).collect();
    used.sort_by_key(|&i| (std::cmp::Reverse(counts[i]), i));

    let scenes = vq::some_scenes(SCENES, &mut dice);
    let pictures: Vec<Picture> = scenes.iter().map(render).collect();
    let read = |merged: &Merged| {
        let again = vq::reconstruct(&merged.network(config, device)?, &pictures, device, true)?;
        Ok::<f64, TrainError>(vq::read_back(&again, &scenes))
    };
    let unmerged = Merged::of(tensors, &codes, &used, device)?;
    let before = read(&unmerged)?;
    for near in NEAR {
        let mut kept: Vec<usize> = vec![];
        for &i in &used {
            let cosine = |&j: &usize| codes[i].iter().zip(&codes[j]).map(|(a, b)| a * b).sum::<f32>();
            if kept.iter().all(|j| cosine(j) <= near) {
                kept.push(i);
            }
        }
        let merged = Merged::of(tensors, &codes, &kept, device)?;
        let after = read(&merged)?;
        tracing::info!(near, used = used.len(), kept = merged.codes, scenes_read = after, before, "codes merged");
        if after >= before - COST {
            return Ok(merged);
        }
    }
    Ok(unmerged)
}
