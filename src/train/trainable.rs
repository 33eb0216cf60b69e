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
    /// What learns, by internal name.
    pub vars: BTreeMap<String, Var>,
    fixed: Tensors,
    lora: Option<Lora>,
    /// See [`Trainable::sharpening`].
    sharpen: Option<f64>,
    config: ModelConfig,
    device: Device,
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
        let network = learning(config, whole(&fixed, &vars, lora, None)?, &vars, lora, device)?;
        Ok(Self { network, vars, fixed, lora, sharpen: None, config: config.clone(), device: device.clone() })
    }

    /// What image logits are scaled by (one over a temperature) learns too, its logarithm `speed` times as fast as a weight: one number that
    /// every token tells of is known long before the weights are, and few steps of theirs would take it far.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn sharpening(mut self, speed: f64) -> Result<Self, TrainError> {
        self.sharpen = Some(speed);
        self.vars.insert(SHARPNESS.to_owned(), Var::zeros(1, DType::F32, &self.device)?);
        self.refresh()?;
        Ok(self)
    }

    /// Brings the network up to date with what the variables have learned; a network that learns whole always is.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn refresh(&mut self) -> Result<(), TrainError> {
        if self.lora.is_some() || self.sharpen.is_some() {
            let whole = whole(&self.fixed, &self.vars, self.lora, self.sharpen)?;
            self.network = learning(&self.config, whole, &self.vars, self.lora, &self.device)?;
        }
        Ok(())
    }

    /// The network as it is now, of which nothing learns.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn still(&self) -> Result<Network, TrainError> {
        network(&self.config, self.tensors()?, Matrices::new(), &self.device)
    }

    /// Every tensor as it is now; those that learn whole share their memory.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn tensors(&self) -> Result<Tensors, TrainError> {
        let all = whole(&self.fixed, &self.vars, self.lora, self.sharpen)?;
        Ok(all.into_iter().map(|(name, tensor)| (name, tensor.detach())).collect())
    }

    /// Every tensor as it is now and will stay.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn snapshot(&self) -> Result<Tensors, TrainError> {
        let mut all = self.tensors()?;
        for (name, var) in &self.vars {
            // Changes are sums already, and in memory of their own.
            if let Some(tensor) = all.get_mut(name) {
                *tensor = var.as_tensor().copy()?.detach();
            }
        }
        Ok(all)
    }
}

fn network(config: &ModelConfig, tensors: Tensors, matrices: Matrices, device: &Device) -> Result<Network, TrainError> {
    let params = Params::kept(tensors, matrices, device);
    let network = Network::new(&params.root(), config)?;
    params.finish()?;
    Ok(network)
}

/// The network of all tensors, `whole`, in which changes of low rank learn as such.
fn learning(
    config: &ModelConfig,
    mut whole: Tensors,
    vars: &BTreeMap<String, Var>,
    lora: Option<Lora>,
    device: &Device,
) -> Result<Network, TrainError> {
    let mut matrices = Matrices::new();
    if let Some(scale) = lora.map(Lora::scale) {
        for (name, down, up) in changes(vars) {
            let Some(whole) = whole.remove(name) else { continue };
            let changed = Changed { whole, down: down.as_tensor().clone(), up: up.as_tensor().clone(), scale };
            matrices.insert(name.to_owned(), Weight::Changed(Arc::new(changed)));
        }
    }
    network(config, whole, matrices, device)
}

/// Names of the matrices that change, and the factors of their changes, down and up.
fn changes(vars: &BTreeMap<String, Var>) -> impl Iterator<Item = (&str, &Var, &Var)> {
    vars.iter().filter_map(|(name, down)| {
        let name = name.strip_suffix(DOWN)?;
        Some((name, down, vars.get(&format!("{name}{UP}"))?))
    })
}

/// All tensors of the network, differentiable in `vars`.
fn whole(
    fixed: &Tensors,
    vars: &BTreeMap<String, Var>,
    lora: Option<Lora>,
    sharpen: Option<f64>,
) -> Result<Tensors, TrainError> {
    let mut all = fixed.clone();
    match lora {
        None => all.extend(vars.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone()))),
        Some(lora) => {
            for (name, down, up) in changes(vars) {
                let Some(base) = fixed.get(name) else { continue };
                let change: Tensor = (up.as_tensor().matmul(down.as_tensor())? * lora.scale())?;
                all.insert(name.to_owned(), (base + change)?);
            }
        }
    }
    all.remove(SHARPNESS);
    if let (Some(speed), Some(sharpness)) = (sharpen, vars.get(SHARPNESS)) {
        let scale = (sharpness.as_tensor() * speed)?.exp()?;
        for name in HEAD {
            if let Some(part) = all.get_mut(name) {
                *part = part.broadcast_mul(&scale)?;
            }
        }
    }
    Ok(all)
}
