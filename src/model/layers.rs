//! The small layers that every part of the network is made of. Each holds its weights and calls `ops`.

use candle_core::{Result, Tensor};

use super::ops::{self, Weight};
use super::params::{Built, Init, ParamError, Scope};

/// `x W^T (+ b)`.
pub struct Linear {
    weight: Weight,
    bias: Option<Tensor>,
}

impl Linear {
    pub fn new(at: &Scope<'_>, inputs: usize, outputs: usize, bias: bool) -> Built<Self> {
        Self::with(at, inputs, outputs, bias, Init::fan_in(inputs))
    }

    pub fn with(at: &Scope<'_>, inputs: usize, outputs: usize, bias: bool, init: Init) -> Built<Self> {
        let weight = at.matrix("weight", [outputs, inputs], init)?;
        let bias = bias.then(|| at.get("bias", &[outputs], Init::Const(0.0))).transpose()?;
        Ok(Self { weight, bias })
    }

    /// Several of the same inputs as one, their outputs side by side.
    pub fn joined(parts: &[Scope<'_>], inputs: usize, outputs: usize) -> Built<Self> {
        let join = |name: &str, shape: &[usize], init| {
            let tensors = parts.iter().map(|at| at.get(name, shape, init)).collect::<Built<Vec<_>>>()?;
            Tensor::cat(&tensors, 0).map_err(|source| ParamError::Tensor { name: "of joined layers".into(), source })
        };
        let weight = join("weight", &[outputs, inputs], Init::fan_in(inputs))?.into();
        Ok(Self { weight, bias: Some(join("bias", &[outputs], Init::Const(0.0))?) })
    }

    /// `[rows, in]` → `[rows, out]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::linear(x, &self.weight, self.bias.as_ref())
    }
}

/// LayerNorm over the last dimension of `[rows, n]`.
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    pub fn new(at: &Scope<'_>, size: usize, eps: f64) -> Built<Self> {
        let weight = at.get("weight", &[size], Init::Const(1.0))?;
        Ok(Self { weight, bias: at.get("bias", &[size], Init::Const(0.0))?, eps })
    }

    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::layer_norm(x, &self.weight, &self.bias, self.eps)
    }
}

/// RMSNorm over the last dimension of `[rows, n]`.
pub struct RmsNorm {
    weight: Tensor,
    eps: f64,
}

impl RmsNorm {
    pub fn new(at: &Scope<'_>, size: usize, eps: f64) -> Built<Self> {
        Ok(Self { weight: at.get("weight", &[size], Init::Const(1.0))?, eps })
    }

    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::rms_norm(x, &self.weight, self.eps)
    }
}

/// The projectors between modalities: Linear → GELU → Linear (Janus' `mlp_gelu` of depth 2; deeper repeats GELU → Linear).
pub struct Projector {
    first: Linear,
    rest: Vec<Linear>,
}

impl Projector {
    pub fn new(at: &Scope<'_>, inputs: usize, width: usize, depth: usize) -> Built<Self> {
        let first = Linear::new(&at.at("fc1"), inputs, width, true)?;
        let rest = (0..depth.saturating_sub(1)).map(|i| Linear::new(&at.at("hidden_layers").at(i), width, width, true));
        Ok(Self { first, rest: rest.collect::<Built<_>>()? })
    }

    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.rest.iter().try_fold(self.first.forward(x)?, |x, layer| layer.forward(&ops::gelu(&x)?))
    }
}
