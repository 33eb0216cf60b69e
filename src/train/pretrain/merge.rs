//! Between stages 1 and 2: codes that are never chosen go, and near-equal codes become one. Fewer codes, less to guess.

use candle_core::{Device, Tensor};

use super::super::TrainError;
use super::{data, vq};
use crate::model::config::VqConfig;
use crate::model::params::{Params, Tensors};
use crate::model::vq::{Vq, unit};
use crate::world::dice;

/// Codes whose cosine is above this are one.
const NEAR: f32 = 0.96;
/// Pictures on which the codes are counted.
const PICTURES: usize = 768;

/// The tokenizer with fewer codes.
pub struct Merged {
    pub tensors: Tensors,
    pub codes: usize,
}

/// Counts which codes training pictures use, then keeps each code, the most used first, unless one near to it is kept already.
///
/// # Errors
/// When the tokenizer fails.
pub fn merge(mut tensors: Tensors, config: &VqConfig, seed: u64, device: &Device) -> Result<Merged, TrainError> {
    let params = Params::given(tensors.clone(), device);
    let network = Vq::new(&params.root().at(vq::SCOPE), config)?;
    let mut counts = vec![0usize; config.codebook_size];
    let mut dice = dice(seed);
    for _ in 0..PICTURES / 32 {
        let pictures = data::pictures(32, &mut dice);
        for id in network.encode(&data::pixels(&pictures, device)?)? {
            counts[id as usize] += 1;
        }
    }
    let Some(codebook) = tensors.get(vq::CODEBOOK) else {
        return Err(TrainError::State(format!("no tensor `{}`", vq::CODEBOOK)));
    };
    let codes = unit(codebook)?.to_vec2::<f32>()?;
    let mut order: Vec<usize> = (0..codes.len()).filter(|&i| counts[i] > 0).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(counts[i]), i));
    let mut kept: Vec<usize> = vec![];
    for i in order {
        let near = |&j: &usize| codes[i].iter().zip(&codes[j]).map(|(a, b)| a * b).sum::<f32>() > NEAR;
        if !kept.iter().any(near) {
            kept.push(i);
        }
    }
    let rows: Vec<f32> = kept.iter().flat_map(|&i| codes[i].clone()).collect();
    tensors.insert(vq::CODEBOOK.into(), Tensor::from_vec(rows, (kept.len(), config.codebook_dim), device)?);
    let chosen: usize = counts.iter().filter(|&&n| n > 0).count();
    tracing::info!(codes = config.codebook_size, chosen, kept = kept.len(), "codes merged");
    Ok(Merged { tensors, codes: kept.len() })
}
