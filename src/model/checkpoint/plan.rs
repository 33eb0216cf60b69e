//! Which stored tensor fills which place of the network, checked before a number is read; then the numbers on their way, one tensor
//! at a time: into memory, into a content hash, or to whoever asks.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::{Device, Tensor};

use super::files::Source;
use super::names::{Home, Layout, Piece, kernel, pieces};
use crate::domain::sample::Version;
use crate::model::config::ModelConfig;
use crate::model::network::Network;
use crate::model::ops::Quantised;
use crate::model::params::{Asked, Init, Matrices, Params, Role, Tensors};
use crate::model::precision::{Form, Precision};
use crate::model::weights::{Content, Misfit, WeightsError, failed, kernel_in};
use crate::model::{ModelError, Size};

/// The text head, and what a head that is tied to the embedding shares; names of the Hugging Face layout.
const HEAD: &str = "lm_head.weight";
const EMBEDDINGS: &str = "model.language_model.embed_tokens.weight";

/// All pieces of a network, each with where its file keeps it.
pub struct Plan {
    /// By the names of the Hugging Face layout, in order.
    pieces: Vec<(Piece, Home)>,
    /// Shapes of the network's tensors.
    memory: BTreeMap<String, (Vec<usize>, Role)>,
    /// Tensors of the files that are known to be of no use.
    skipped: Vec<String>,
    tied: bool,
}

/// The pieces of a network with how fresh ones begin, in the order of their names.
///
/// # Errors
/// When the config describes none.
pub fn outline(config: &ModelConfig) -> Result<Vec<(Piece, Init)>, ModelError> {
    Ok(sorted(&asked(config)?, config))
}

fn asked(config: &ModelConfig) -> Result<Vec<Asked>, ModelError> {
    Ok(Params::outline(|root| Network::new(root, config))?)
}

fn sorted(asked: &[Asked], config: &ModelConfig) -> Vec<(Piece, Init)> {
    let query_rows = config.text.query_rows();
    let of = |asked: &Asked| {
        let init = asked.init;
        pieces(asked, query_rows).into_iter().map(move |piece| (piece, init))
    };
    let mut all: Vec<_> = asked.iter().flat_map(of).collect();
    all.sort_by(|(one, _), (other, _)| one.name.cmp(&other.name));
    all
}

/// Bytes of a network's weights as `precision` keeps them.
///
/// # Errors
/// When the config describes none.
pub fn size(config: &ModelConfig, precision: Precision) -> Result<Size, ModelError> {
    let asked = asked(config)?;
    let bytes = |Asked { name, shape, role, .. }: &Asked| match (precision.form(name, *role, shape), shape.as_slice()) {
        (Form::Blocks(kind), &[rows, inputs]) => kind.bytes(rows, inputs),
        (Form::Dense(dtype), shape) => shape.iter().product::<usize>() * dtype.size_in_bytes(),
        (Form::Blocks(_), _) => 0, // only matrices are
    };
    Ok(asked.iter().map(|asked| (asked.name.as_str(), bytes(asked) as u64)).collect())
}

impl Plan {
    /// Holds the tensors of `source` against the network of `config`.
    ///
    /// # Errors
    /// Lists every tensor that is missing, misshapen or left over.
    pub fn new(config: &ModelConfig, layout: Layout, source: &Source<'_>) -> Result<Self, ModelError> {
        let stored = source.tensors();
        let mut misfit = Misfit::default();
        let asked = asked(config)?;
        let with_home = |(piece, _): (Piece, Init)| {
            let home = layout.home(&piece);
            (piece, home)
        };
        let mut pieces: Vec<(Piece, Home)> = sorted(&asked, config).into_iter().map(with_home).collect();
        let memory = asked.into_iter().map(|asked| (asked.name, (asked.shape, asked.role))).collect();
        let home = |name: &str| pieces.iter().find(|(piece, _)| piece.name == name).map(|(_, home)| home.clone());
        let embeddings = home(EMBEDDINGS).filter(|home| stored.contains_key(&home.name));
        let tied = config.tied_head && home(HEAD).is_some_and(|home| !stored.contains_key(&home.name));
        if let (true, Some(embeddings)) = (tied, embeddings)
            && let Some((_, head)) = pieces.iter_mut().find(|(piece, _)| piece.name == HEAD)
        {
            *head = embeddings;
        }
        for (_, home) in pieces.iter().filter(|(_, home)| home.part.0 == 0) {
            match stored.get(&home.name) {
                None => misfit.missing.push(home.name.clone()),
                Some(found) if found.shape != home.shape => {
                    misfit.misshapen.push((home.name.clone(), found.shape.clone(), home.shape.clone()));
                }
                Some(_) => {}
            }
        }
        let used: BTreeSet<&str> = pieces.iter().map(|(_, home)| home.name.as_str()).collect();
        let unused = stored.keys().filter(|name| !used.contains(name.as_str())).cloned();
        let (skipped, extra): (Vec<_>, Vec<_>) = unused.partition(|name| layout.skips(name));
        misfit.extra = extra;
        for (_, home) in &pieces {
            if let Some(found) = stored.get(&home.name) {
                found.numeric(&home.name)?;
            }
        }
        if !misfit.is_empty() {
            return Err(WeightsError::Misfit(misfit).into());
        }
        Ok(Self { pieces, memory, skipped, tied })
    }

    /// Pieces with where they lie, in the order of their names.
    #[must_use]
    pub fn pieces(&self) -> &[(Piece, Home)] {
        &self.pieces
    }

    /// Tensors of the files that are known to be of no use.
    #[must_use]
    pub fn skipped(&self) -> &[String] {
        &self.skipped
    }

    /// Numbers of the network.
    #[must_use]
    pub fn numbers(&self) -> u64 {
        self.memory.values().map(|(shape, _)| shape.iter().product::<usize>() as u64).sum()
    }

    /// The content hash of the weights, without keeping them. `tick` hears how many numbers have passed.
    ///
    /// # Errors
    /// When a file cannot be read or holds a number that is not finite.
    pub fn version(&self, source: &Source<'_>, tick: &dyn Fn(u64)) -> Result<Version, WeightsError> {
        self.pass(source, |_, _, values| {
            tick(values.len() as u64);
            Ok(())
        })
    }

    /// The tensors of the network as `precision` keeps them, on `device`, and their content hash, which is that of the numbers as they are
    /// stored.
    ///
    /// # Errors
    /// As [`Plan::version`], and when a tensor cannot be placed on the device.
    pub fn load(&self, source: &Source<'_>, precision: Precision, device: &Device) -> Result<Loaded, WeightsError> {
        let mut hall = Hall {
            plan: self,
            precision,
            device,
            open: BTreeMap::new(),
            kernel: vec![],
            tensors: Tensors::new(),
            matrices: Matrices::new(),
        };
        let version = self.pass(source, |piece, at, values| hall.take(piece, at, values))?;
        let Hall { mut tensors, matrices, .. } = hall;
        // A head that is the embedding is one tensor, not two.
        if self.tied
            && let Some(head) = tensors.get(HEAD).cloned()
        {
            tensors.insert(EMBEDDINGS.into(), head);
        }
        Ok(Loaded { tensors, matrices, version })
    }

    /// Hands all numbers to `each`, piece after piece and with how many of the piece came before, and hashes them.
    fn pass(
        &self,
        source: &Source<'_>,
        mut each: impl FnMut(&Piece, usize, &[f32]) -> Result<(), WeightsError>,
    ) -> Result<Version, WeightsError> {
        let mut content = Content::default();
        for (piece, home) in &self.pieces {
            content.begin(&piece.name, &piece.shape);
            let mut at = 0;
            source.numbers(&home.name, home.part, |values| {
                content.add(&home.name, values)?;
                each(piece, at, values)?;
                at += values.len();
                Ok(())
            })?;
        }
        Ok(content.finish())
    }
}

/// A network's tensors.
pub struct Loaded {
    pub tensors: Tensors,
    /// Matrices that are kept as blocks.
    pub matrices: Matrices,
    pub version: Version,
}

/// Tensors of the network while their pieces arrive.
struct Hall<'p> {
    plan: &'p Plan,
    precision: Precision,
    device: &'p Device,
    /// Those begun: their numbers, and how many have come.
    open: BTreeMap<String, (Vec<f32>, usize)>,
    /// Numbers of a kernel, which lies otherwise in memory and is turned when it is whole.
    kernel: Vec<f32>,
    tensors: Tensors,
    matrices: Matrices,
}

impl Hall<'_> {
    fn take(&mut self, piece: &Piece, at: usize, values: &[f32]) -> Result<(), WeightsError> {
        let plan = self.plan;
        let Some((shape, _)) = plan.memory.get(&piece.memory) else { return Ok(()) };
        let (name, len) = (&piece.memory, shape.iter().product());
        if kernel(&piece.name).is_some() {
            self.kernel.extend_from_slice(values);
            if self.kernel.len() == piece.len() {
                let whole = Tensor::from_vec(std::mem::take(&mut self.kernel), piece.shape.as_slice(), &Device::Cpu);
                let turned = kernel_in(&piece.name, &whole.map_err(failed(name))?)?;
                self.place(name, &turned)?;
            }
            return Ok(());
        }
        let (numbers, come) = self.open.entry(name.clone()).or_insert_with(|| (vec![0.0; len], 0));
        let first = piece.start + at;
        if let Some(place) = numbers.get_mut(first..first + values.len()) {
            place.copy_from_slice(values);
        }
        *come += values.len();
        if *come == len
            && let Some((numbers, _)) = self.open.remove(name)
        {
            let whole = Tensor::from_vec(numbers, shape.as_slice(), &Device::Cpu).map_err(failed(name))?;
            self.place(name, &whole)?;
        }
        Ok(())
    }

    /// Keeps a whole tensor as it is to be kept.
    fn place(&mut self, name: &str, whole: &Tensor) -> Result<(), WeightsError> {
        let role = self.plan.memory.get(name).map_or(Role::Other, |(_, role)| *role);
        let kept = match self.precision.form(name, role, whole.dims()) {
            Form::Dense(dtype) => {
                let placed = whole.to_dtype(dtype).and_then(|whole| whole.to_device(self.device));
                placed.map(|placed| drop(self.tensors.insert(name.to_owned(), placed)))
            }
            Form::Blocks(kind) => {
                Quantised::of_tensor(whole, kind).map(|kept| drop(self.matrices.insert(name.to_owned(), kept.into())))
            }
        };
        kept.map_err(failed(name))
    }
}
