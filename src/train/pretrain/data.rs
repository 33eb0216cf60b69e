//! World pictures as tensors and back. Knows nothing of what is learned from them.

use candle_core::{Device, Tensor};

use super::super::TrainError;
use crate::domain::picture::Picture;
use crate::model::preprocess::Pixels;
use crate::model::prompt::Prompter;
use crate::model::to_bytes;
use crate::world::scene::{BOX, SIDE};
use crate::world::{Category, Dice, Scene, Split, render};

/// Random training pictures for counting codes: half of caption categories, half free mixes.
pub fn pictures(n: usize, dice: &mut Dice) -> Vec<Picture> {
    let scene = |i: usize| match i % 2 {
        0 => Scene::draw(Category::ALL[i / 2 % Category::ALL.len()], Split::Train, dice).0,
        _ => Scene::mixed(Split::Train, dice),
    };
    (0..n).map(scene).map(|scene| render(&scene)).collect()
}

/// Crowded pictures: three training pictures of one background laid over each other, so that a step shows many objects and
/// little background. No single scene is as full.
pub fn crowds(n: usize, dice: &mut Dice) -> Vec<Picture> {
    let crowd = |_| {
        let first = Scene::mixed(Split::Train, dice);
        let (mut picture, ground) = (render(&first), first.background().rgb());
        for _ in 0..2 {
            let over = loop {
                let scene = Scene::mixed(Split::Train, dice);
                if scene.background() == first.background() {
                    break scene;
                }
            };
            let layer = render(&over);
            for object in over.objects() {
                let (left, top) = object.place.corner();
                for y in top..top + BOX {
                    let line = 3 * (y * SIDE + left)..3 * (y * SIDE + left + BOX);
                    picture.rgb_mut()[line.clone()].copy_from_slice(&layer.rgb()[line]);
                }
            }
        }
        debug_assert_eq!(picture.pixel(BOX + 1, BOX + 1), Some(ground));
        picture
    };
    (0..n).map(crowd).collect()
}

/// Pictures of one size → `[n, h, w, 3]` in [-1, 1].
///
/// # Errors
/// When the sizes differ.
pub fn pixels(pictures: &[Picture], device: &Device) -> Result<Tensor, TrainError> {
    let (w, h) = pictures.first().map_or((1, 1), |p| (p.width(), p.height()));
    let numbers: Vec<f32> = pictures.iter().flat_map(|p| p.rgb()).map(|&v| f32::from(v) / 127.5 - 1.0).collect();
    Ok(Tensor::from_vec(numbers, (pictures.len(), h, w, 3), device)?)
}

/// The inverse: [-1, 1] → bytes, clipped and truncated as the reference does.
///
/// # Errors
/// When the tensor is not `[n, h, w, 3]`.
pub fn unpixels(x: &Tensor) -> Result<Vec<Picture>, TrainError> {
    let (n, h, w, _) = x.dims4()?;
    let bytes = to_bytes(x)?;
    let picture = |i: usize| Picture::new(w, h, bytes[i * h * w * 3..(i + 1) * h * w * 3].to_vec());
    (0..n).map(|i| picture(i).map_err(|e| TrainError::State(e.to_string()))).collect()
}

/// Pictures → `[n, 3, s, s]` as the understanding encoder wants them.
///
/// # Errors
/// When the sizes differ.
pub fn preprocessed(pictures: &[Picture], prompter: &Prompter, device: &Device) -> Result<Tensor, TrainError> {
    let pixels: Vec<Pixels> = pictures.iter().map(|picture| prompter.preprocess().apply(picture)).collect();
    stack(&pixels, device)
}

/// Preprocessed pictures → `[n, 3, s, s]`.
///
/// # Errors
/// When the sizes differ.
pub fn stack<'a>(pixels: impl IntoIterator<Item = &'a Pixels>, device: &Device) -> Result<Tensor, TrainError> {
    let (mut numbers, mut n, mut side) = (Vec::new(), 0, 0);
    for picture in pixels {
        numbers.extend_from_slice(picture.chw());
        (n, side) = (n + 1, picture.side());
    }
    Ok(Tensor::from_vec(numbers, (n, 3, side, side), device)?)
}
