//! Named tensors on their way into a network: taken from a checkpoint, or made fresh from a seed. Each is asked for by name
//! and shape, so a missing, misshapen or left-over tensor is told by name. Knows nothing of files.

use std::cell::RefCell;
use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::ops::Weight;

/// Tensors by internal name (Hugging Face names, with fused projections; see `weights.rs`).
pub type Tensors = BTreeMap<String, Tensor>;

/// Matrices that are kept in a form of their own, by internal name.
pub type Matrices = BTreeMap<String, Weight>;

/// A part of a network, made of its tensors.
pub type Built<T> = Result<T, ParamError>;

/// A tensor that a network needs is not what the checkpoint holds.
#[derive(Debug, thiserror::Error)]
pub enum ParamError {
    #[error("tensor `{0}` is missing")]
    Missing(String),
    #[error("tensor `{name}` has shape {found:?}, but the config asks for {wanted:?}")]
    Shape { name: String, found: Vec<usize>, wanted: Vec<usize> },
    #[error("{} tensors belong to no part of the network: {}", .0.len(), .0.join(", "))]
    Unknown(Vec<String>),
    #[error("tensor `{name}`: {source}")]
    Tensor { name: String, source: candle_core::Error },
}

/// How a fresh tensor begins.
#[derive(Clone, Copy, Debug)]
pub enum Init {
    Const(f32),
    /// Uniform in ± the bound.
    Uniform(f32),
    /// Sum of twelve uniforms: close to a normal distribution of this standard deviation, the same on every machine.
    Normal(f32),
}

impl Init {
    /// PyTorch's default for linear layers and convolutions.
    #[must_use]
    pub fn fan_in(inputs: usize) -> Self {
        Self::Uniform(1.0 / (inputs.max(1) as f32).sqrt())
    }

    fn draw(self, rng: &mut ChaCha8Rng) -> f32 {
        match self {
            Self::Const(value) => value,
            Self::Uniform(bound) => rng.random_range(-1.0..1.0f32) * bound,
            Self::Normal(std) => (0..12).map(|_| rng.random_range(-0.5..0.5f32)).sum::<f32>() * std,
        }
    }
}

/// What a tensor is to the network, which says what it may be kept as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The matrix of a linear layer.
    Matrix,
    /// Rows that are looked up.
    Table,
    /// All else.
    Other,
}

enum Source {
    Given(Tensors, Matrices),
    Fresh(Box<ChaCha8Rng>),
    Outline(Vec<Asked>),
}

/// A tensor that a network asks for.
#[derive(Clone, Debug)]
pub struct Asked {
    pub name: String,
    pub shape: Vec<usize>,
    /// How a fresh one begins.
    pub init: Init,
    pub role: Role,
}

/// Where a network's tensors come from.
pub struct Params {
    source: RefCell<Source>,
    taken: RefCell<Tensors>,
    device: Device,
}

impl Params {
    /// Tensors of a checkpoint.
    #[must_use]
    pub fn given(tensors: Tensors, device: &Device) -> Self {
        Self::kept(tensors, Matrices::new(), device)
    }

    /// Tensors of a checkpoint, and those of its matrices that are kept otherwise.
    #[must_use]
    pub fn kept(tensors: Tensors, matrices: Matrices, device: &Device) -> Self {
        Self {
            source: RefCell::new(Source::Given(tensors, matrices)),
            taken: RefCell::default(),
            device: device.clone(),
        }
    }

    /// Fresh `f32` tensors, a function of the seed and of the order in which they are asked for.
    #[must_use]
    pub fn fresh(seed: u64, device: &Device) -> Self {
        let source = Source::Fresh(Box::new(ChaCha8Rng::seed_from_u64(seed)));
        Self { source: RefCell::new(source), taken: RefCell::default(), device: device.clone() }
    }

    /// What `build` asks for, in the order asked; no memory is taken for it.
    ///
    /// # Errors
    /// When `build` fails.
    pub fn outline<T>(build: impl FnOnce(&Scope<'_>) -> Built<T>) -> Built<Vec<Asked>> {
        let source = RefCell::new(Source::Outline(Vec::new()));
        let params = Self { source, taken: RefCell::default(), device: Device::Cpu };
        build(&params.root())?;
        match params.source.into_inner() {
            Source::Outline(asked) => Ok(asked),
            Source::Given(..) | Source::Fresh(_) => Ok(Vec::new()),
        }
    }

    /// The root of the names.
    #[must_use]
    pub fn root(&self) -> Scope<'_> {
        Scope { params: self, prefix: String::new() }
    }

    /// All tensors taken.
    ///
    /// # Errors
    /// When tensors of the checkpoint were not asked for.
    pub fn finish(self) -> Result<Tensors, ParamError> {
        if let Source::Given(tensors, matrices) = self.source.into_inner() {
            let rest: Vec<String> = tensors.into_keys().chain(matrices.into_keys()).collect();
            if !rest.is_empty() {
                return Err(ParamError::Unknown(rest));
            }
        }
        Ok(self.taken.into_inner())
    }
}

/// A dotted prefix of names.
#[derive(Clone)]
pub struct Scope<'a> {
    params: &'a Params,
    prefix: String,
}

impl Scope<'_> {
    /// The scope `name` below this one.
    #[must_use]
    pub fn at(&self, name: impl std::fmt::Display) -> Self {
        Self { params: self.params, prefix: format!("{}{name}.", self.prefix) }
    }

    /// Takes the tensor `name` of `shape`.
    ///
    /// # Errors
    /// When a checkpoint lacks it or holds another shape.
    pub fn get(&self, name: &str, shape: &[usize], init: Init) -> Result<Tensor, ParamError> {
        self.take(name, shape, init, Role::Other)
    }

    /// Takes a table of rows that are looked up, which may be kept in another type than `f32`.
    ///
    /// # Errors
    /// As [`Scope::get`].
    pub fn table(&self, name: &str, shape: &[usize], init: Init) -> Result<Tensor, ParamError> {
        self.take(name, shape, init, Role::Table)
    }

    /// Takes the matrix `name` `[out, in]` of a linear layer, in whatever form it is kept.
    ///
    /// # Errors
    /// As [`Scope::get`].
    pub fn matrix(&self, name: &str, shape: [usize; 2], init: Init) -> Result<Weight, ParamError> {
        let full = format!("{}{name}", self.prefix);
        let kept = match &mut *self.params.source.borrow_mut() {
            Source::Given(_, matrices) => matrices.remove(&full),
            Source::Fresh(_) | Source::Outline(_) => None,
        };
        match kept {
            Some(kept) if kept.shape() == shape => Ok(kept),
            Some(kept) => Err(ParamError::Shape { name: full, found: kept.shape(), wanted: shape.to_vec() }),
            None => self.take(name, &shape, init, Role::Matrix).map(Weight::from),
        }
    }

    fn take(&self, name: &str, shape: &[usize], init: Init, role: Role) -> Result<Tensor, ParamError> {
        let name = format!("{}{name}", self.prefix);
        let tensor = match &mut *self.params.source.borrow_mut() {
            Source::Given(tensors, _) => tensors.remove(&name).ok_or_else(|| ParamError::Missing(name.clone()))?,
            Source::Fresh(rng) => {
                let numbers: Vec<f32> = (0..shape.iter().product()).map(|_| init.draw(rng)).collect();
                Tensor::from_vec(numbers, shape, &self.params.device)
                    .map_err(|source| ParamError::Tensor { name: name.clone(), source })?
            }
            Source::Outline(asked) => {
                asked.push(Asked { name: name.clone(), shape: shape.to_vec(), init, role });
                // One number seen everywhere: a tensor of that shape without its memory.
                Tensor::zeros((), DType::F32, &Device::Cpu)
                    .and_then(|zero| zero.broadcast_as(shape))
                    .map_err(|source| ParamError::Tensor { name: name.clone(), source })?
            }
        };
        if tensor.dims() != shape {
            return Err(ParamError::Shape { name, found: tensor.dims().to_vec(), wanted: shape.to_vec() });
        }
        self.params.taken.borrow_mut().insert(name, tensor.clone());
        Ok(tensor)
    }
}

/// Trainable copies of tensors.
///
/// # Errors
/// When a copy cannot be allocated.
pub fn variables(tensors: Tensors) -> candle_core::Result<BTreeMap<String, Var>> {
    tensors.into_iter().map(|(name, tensor)| Ok((name, Var::from_tensor(&tensor)?))).collect()
}
