//! A network of which some tensors learn and the others stay as they are: whole, or by low-rank changes (LoRA, arXiv 2106.09685).
//! Knows nothing of what is learned.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};
use serde::Serialize;

use super::TrainError;
use crate::model::config::ModelConfig;
use crate::model::network::Network;
use crate::model::ops::{Changed, Weight};
use crate::model::params::{Init, Matrices, Params, Tensors, variables};

/// Low-rank changes of the matrices that would learn.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Lora {
    pub rank: usize,
    /// Changes are scaled by this over the rank.
    pub alpha: f64,
    /// Of the factors that do not begin at zero.
    pub seed: u64,
}

impl Lora {
    fn scale(self) -> f64 {
        self.alpha / self.rank as f64
    }

    /// Scaled by two, as is usual.
    #[must_use]
    pub fn of(rank: usize, seed: u64) -> Self {
        Self { rank, alpha: 2.0 * rank as f64, seed }
    }
}

/// See the module text.
pub struct Trainable {
    pub network: Network,
    parts: Parts,
}

/// What a network that learns is made of.
struct Parts {
    config: ModelConfig,
    device: Device,
    fixed: Tensors,
    vars: BTreeMap<String, Var>,
    lora: Option<Lora>,
    /// See [`Trainable::sharpening`].
    sharpen: Option<f64>,
}

/// The logarithm of what image logits are scaled by, over how fast it learns; no tensor of a network, but folded into its head.
pub const SHARPNESS: &str = "image_sharpness";
/// What makes image logits, linearly.
const HEAD: [&str; 2] = ["model.generation_head.vision_head.weight", "model.generation_head.vision_head.bias"];

/// Name endings of the factors of a low-rank change, `down [rank, inputs]` and `up [outputs, rank]`.
const DOWN: &str = ".lora_down";
const UP: &str = ".lora_up";

impl Trainable {
    /// The tensors learn, as copies, whose names begin with one of `prefixes`; with `lora` only the matrices among them do, by changes.
    ///
    /// # Errors
    /// When the tensors do not fit the config.
    pub fn new(
        config: &ModelConfig,
        tensors: Tensors,
        prefixes: &[&str],
        lora: Option<Lora>,
        device: &Device,
    ) -> Result<Self, TrainError> {
        let learns = |name: &str| prefixes.iter().any(|prefix| name.starts_with(prefix));
        let (vars, fixed) = match lora {
            None => {
                let (learning, fixed): (Tensors, Tensors) = tensors.into_iter().partition(|(name, _)| learns(name));
                (variables(learning)?, fixed)
            }
            Some(lora) => {
                // Embeddings and heads stay: their rows are looked up one by one.
                let layered = |name: &str| learns(name) && name.contains(".layers.");
                let matrices = tensors.iter().filter(|(name, tensor)| layered(name) && tensor.rank() == 2);
                let fresh = Params::fresh(lora.seed, device);
                for (name, tensor) in matrices {
                    let (outputs, inputs) = tensor.dims2()?;
                    let root = fresh.root();
                    root.get(&format!("{name}{DOWN}"), &[lora.rank, inputs], Init::fan_in(inputs))?;
                    root.get(&format!("{name}{UP}"), &[outputs, lora.rank], Init::Const(0.0))?;
                }
                (variables(fresh.finish()?)?, tensors)
            }
        };
        let parts = Parts { config: config.clone(), device: device.clone(), fixed, vars, lora, sharpen: None };
        Ok(Self { network: parts.learning()?, parts })
    }

    /// What learns, by internal name.
    #[must_use]
    pub fn vars(&self) -> &BTreeMap<String, Var> {
        &self.parts.vars
    }

    /// What image logits are scaled by (one over a temperature) learns too, its logarithm `speed` times as fast as a weight: one number that
    /// every token tells of is known long before the weights are, and few steps of theirs would take it far.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn sharpening(mut self, speed: f64) -> Result<Self, TrainError> {
        self.parts.sharpen = Some(speed);
        self.parts.vars.insert(SHARPNESS.to_owned(), Var::zeros(1, DType::F32, &self.parts.device)?);
        self.refresh()?;
        Ok(self)
    }

    /// Brings the network up to date with what the variables have learned; a network that learns whole always is.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn refresh(&mut self) -> Result<(), TrainError> {
        if self.parts.lora.is_some() || self.parts.sharpen.is_some() {
            self.network = self.parts.learning()?;
        }
        Ok(())
    }

    /// The network as it is now, of which nothing learns.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn still(&self) -> Result<Network, TrainError> {
        self.parts.network(self.tensors()?, Matrices::new())
    }

    /// Every tensor as it is now; those that learn whole share their memory.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn tensors(&self) -> Result<Tensors, TrainError> {
        Ok(self.parts.whole()?.into_iter().map(|(name, tensor)| (name, tensor.detach())).collect())
    }

    /// Every tensor as it is now and will stay.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn snapshot(&self) -> Result<Tensors, TrainError> {
        let mut all = self.tensors()?;
        for (name, var) in &self.parts.vars {
            // Changes are sums already, and in memory of their own.
            if let Some(tensor) = all.get_mut(name) {
                *tensor = var.as_tensor().copy()?.detach();
            }
        }
        Ok(all)
    }
}

impl Parts {
    fn network(&self, tensors: Tensors, matrices: Matrices) -> Result<Network, TrainError> {
        let params = Params::kept(tensors, matrices, &self.device);
        let network = Network::new(&params.root(), &self.config)?;
        params.finish()?;
        Ok(network)
    }

    /// The network as it is now, in which changes of low rank learn as such.
    fn learning(&self) -> Result<Network, TrainError> {
        let mut tensors = self.whole()?;
        let mut matrices = Matrices::new();
        for (name, down, up, scale) in self.changes() {
            let Some(whole) = tensors.remove(name) else { continue };
            let changed = Changed { whole, down: down.as_tensor().clone(), up: up.as_tensor().clone(), scale };
            matrices.insert(name.to_owned(), Weight::Changed(Arc::new(changed)));
        }
        self.network(tensors, matrices)
    }

    /// Names of the matrices that change, the factors of their changes, down and up, and what these are scaled by.
    fn changes(&self) -> impl Iterator<Item = (&str, &Var, &Var, f64)> {
        let scale = self.lora.map(Lora::scale);
        self.vars.iter().filter_map(move |(name, down)| {
            let name = name.strip_suffix(DOWN)?;
            Some((name, down, self.vars.get(&format!("{name}{UP}"))?, scale?))
        })
    }

    /// All tensors of the network, differentiable in what learns.
    fn whole(&self) -> Result<Tensors, TrainError> {
        let mut all = self.fixed.clone();
        if self.lora.is_none() {
            all.extend(self.vars.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())));
            all.remove(SHARPNESS);
        }
        for (name, down, up, scale) in self.changes() {
            let Some(base) = self.fixed.get(name) else { continue };
            let change: Tensor = (up.as_tensor().matmul(down.as_tensor())? * scale)?;
            all.insert(name.to_owned(), (base + change)?);
        }
        if let (Some(speed), Some(sharpness)) = (self.sharpen, self.vars.get(SHARPNESS)) {
            let scale = (sharpness.as_tensor() * speed)?.exp()?;
            for name in HEAD {
                if let Some(part) = all.get_mut(name) {
                    *part = part.broadcast_mul(&scale)?;
                }
            }
        }
        Ok(all)
    }
}
