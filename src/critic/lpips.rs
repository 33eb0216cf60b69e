//! LPIPS (Zhang et al., arXiv 1801.03924): how far apart two pictures look, by the features that VGG-16 has of them. Widths are
//! those of the tensors; knows no text.

use std::path::Path;

use candle_core::{Result, Tensor};

use super::files::Folder;
use super::vit::numbers;
use super::{CriticError, failed};
use crate::domain::picture::Picture;
use crate::model::ops;
use crate::model::params::{ParamError, Tensors};
use crate::model::preprocess::{Filter, resize};

/// Side at which pictures are compared.
const SIDE: usize = 224;
/// Colours c from 0 to 1 go in as (2 c - 1 - shift) / scale, with the shift and scale of the published network.
const COLOURS: ([f32; 3], [f32; 3]) =
    ([(1.0 - 0.030) / 2.0, (1.0 - 0.088) / 2.0, (1.0 - 0.188) / 2.0], [0.458 / 2.0, 0.448 / 2.0, 0.450 / 2.0]);
/// What keeps features of nothing from being divided by it.
const EPS: f64 = 1e-10;
/// The convolutions of each stage, by their place in torchvision's `features`; the features are those behind the last of each.
const STAGES: [&[usize]; 5] = [&[0, 2], &[5, 7], &[10, 12, 14], &[17, 19, 21], &[24, 26, 28]];

/// Convolutions of one size of picture, and how much a difference in each of their last features weighs.
struct Stage {
    /// `[9 c, out]` and `[out]`.
    convolutions: Vec<(Tensor, Tensor)>,
    /// `[out, 1]`.
    weights: Tensor,
}

/// A VGG-16 that compares pictures.
pub struct Lpips {
    stages: Vec<Stage>,
    digest: String,
}

impl Lpips {
    /// Reads a folder with `model.safetensors`: the convolutions under torchvision's names (`features.N.weight`, `features.N.bias`)
    /// and the weights of the features as `lin0.weight` to `lin4.weight`. `examples/lpips.py` writes it.
    ///
    /// # Errors
    /// Names the file that is missing or wrong, and the tensor in it.
    pub fn load(folder: &Path) -> std::result::Result<Self, CriticError> {
        let mut folder = Folder::open(folder)?;
        let mut tensors = folder.tensors(|_| true)?;
        let stages = stages(&mut tensors);
        let stages = stages.and_then(|stages| match tensors.into_keys().collect::<Vec<_>>() {
            left if left.is_empty() => Ok(stages),
            left => Err(ParamError::Unknown(left)),
        });
        let stages = stages.map_err(|e| folder.wrong_weights(&e))?;
        Ok(Self { stages, digest: folder.digest() })
    }

    /// How far each picture is from the real one: 0 for the same, rarely past 1. All are stretched to 224×224 first, as Pillow's
    /// bilinear filter does.
    ///
    /// # Errors
    /// When the network fails.
    pub fn distances(&self, real: &Picture, pictures: &[&Picture]) -> std::result::Result<Vec<f64>, CriticError> {
        let run = || {
            let real = self.features(real)?;
            pictures.iter().map(|picture| self.distance(&self.features(picture)?, &real)).collect()
        };
        Result::<Vec<f64>>::map_err(run(), failed("LPIPS"))
    }

    /// What stands for all its files.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Of each stage `[pixels, channels]`, each pixel's of length 1.
    fn features(&self, picture: &Picture) -> Result<Vec<Tensor>> {
        let mut x = numbers(&resize(picture, SIDE, SIDE, Filter::Bilinear), COLOURS)?.unsqueeze(0)?;
        let mut features = Vec::with_capacity(self.stages.len());
        for (i, stage) in self.stages.iter().enumerate() {
            if i > 0 {
                x = halved(&x)?;
            }
            for (weight, bias) in &stage.convolutions {
                x = ops::conv3x3(&x, weight, bias)?.relu()?;
            }
            let flat = x.flatten_to(2)?;
            let length = (flat.sqr()?.sum_keepdim(1)?.sqrt()? + EPS)?;
            features.push(flat.broadcast_div(&length)?);
        }
        Ok(features)
    }

    fn distance(&self, a: &[Tensor], b: &[Tensor]) -> Result<f64> {
        let mut sum = 0.0;
        for ((a, b), stage) in a.iter().zip(b).zip(&self.stages) {
            let weighed = (a - b)?.sqr()?.matmul(&stage.weights)?;
            sum += f64::from(weighed.mean_all()?.to_scalar::<f32>()?);
        }
        Ok(sum)
    }
}

/// The largest of each 2×2 pixels of `[1, h, w, c]`, with both sides even.
fn halved(x: &Tensor) -> Result<Tensor> {
    let (n, h, w, c) = x.dims4()?;
    let larger = |x: &Tensor| x.narrow(2, 0, 1)?.maximum(&x.narrow(2, 1, 1)?);
    let rows = larger(&x.reshape((n, h / 2, 2, w * c))?)?;
    larger(&rows.reshape((n * h / 2, w / 2, 2, c))?)?.reshape((n, h / 2, w / 2, c))
}

fn stages(tensors: &mut Tensors) -> std::result::Result<Vec<Stage>, ParamError> {
    let mut inputs = 3;
    let mut stages = Vec::with_capacity(STAGES.len());
    for (i, places) in STAGES.iter().enumerate() {
        let mut convolutions = Vec::with_capacity(places.len());
        for place in *places {
            let name = format!("features.{place}.weight");
            // A layer of no width is of the wrong shape.
            let outputs =
                tensors.get(&name).and_then(|kernel| kernel.dims().first().copied()).unwrap_or_default().max(1);
            let kernel = take(tensors, name, &[outputs, inputs, 3, 3], |x| {
                x.permute((2, 3, 1, 0))?.flatten_to(2)?.contiguous()
            })?;
            let bias = take(tensors, format!("features.{place}.bias"), &[outputs], |x| Ok(x.clone()))?;
            convolutions.push((kernel, bias));
            inputs = outputs;
        }
        let weights = take(tensors, format!("lin{i}.weight"), &[1, inputs, 1, 1], |x| x.reshape((inputs, 1)))?;
        stages.push(Stage { convolutions, weights });
    }
    Ok(stages)
}

/// Takes the tensor `name` of `shape`, laid out anew.
fn take(
    tensors: &mut Tensors,
    name: String,
    shape: &[usize],
    layout: impl Fn(&Tensor) -> Result<Tensor>,
) -> std::result::Result<Tensor, ParamError> {
    let Some(tensor) = tensors.remove(&name) else { return Err(ParamError::Missing(name)) };
    if tensor.dims() != shape {
        return Err(ParamError::Shape { name, found: tensor.dims().to_vec(), wanted: shape.to_vec() });
    }
    layout(&tensor).map_err(|source| ParamError::Tensor { name, source })
}
