//! How far two pictures are apart, pixel by pixel. Knows nothing of what they show.

use image::imageops::{FilterType, resize};
use image::{ImageBuffer, Rgb, Rgb32FImage};

use crate::domain::picture::Picture;

/// Side at which pictures are compared.
const SIDE: u32 = 384;
/// Side of the window.
const WINDOW: usize = 8;

/// Sliding-window root mean squared error of values in [0, 1] (torchmetrics; ULM-R1's fork): both pictures are stretched to 384×384,
/// the squared error is averaged in 8×8 windows, and the mean of the roots is taken but for 4 pixels at each edge. 0 to 1; `None` for
/// an empty picture.
#[must_use]
pub fn windowed_rmse(a: &Picture, b: &Picture) -> Option<f64> {
    let (a, b) = (stretched(a)?, stretched(b)?);
    let side = SIDE as usize;
    let squares: Vec<f64> =
        a.as_raw().iter().zip(b.as_raw()).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).collect();
    // Away from the edges a window never leaves the picture, so the padding does not matter: sums over rows, then over columns.
    let ahead = WINDOW / 2;
    let window = |at: usize| at - ahead..at + WINDOW - ahead;
    let inner = ahead..side - ahead;
    let mut across = vec![0.0; side * side * 3];
    for y in 0..side {
        for x in inner.clone() {
            for c in 0..3 {
                across[(y * side + x) * 3 + c] = window(x).map(|x| squares[(y * side + x) * 3 + c]).sum();
            }
        }
    }
    let mut sum = 0.0;
    for y in inner.clone() {
        for x in inner.clone() {
            for c in 0..3 {
                let total: f64 = window(y).map(|y| across[(y * side + x) * 3 + c]).sum();
                sum += (total / (WINDOW * WINDOW) as f64).sqrt();
            }
        }
    }
    Some((sum / (inner.len() * inner.len() * 3) as f64).clamp(0.0, 1.0))
}

/// The colour that most of a picture has, in steps of 64 of each channel.
#[must_use]
pub fn dominant(picture: &Picture) -> u16 {
    let mut counts = std::collections::BTreeMap::new();
    for pixel in picture.rgb().chunks_exact(3) {
        // Steps are centred on 0, 64, 128 …, so that a flat black, grey or white keeps clear of their edges.
        let colour = pixel.iter().fold(0, |colour: u16, &v| colour << 3 | (u16::from(v) + 32) >> 6);
        *counts.entry(colour).or_insert(0) += 1;
    }
    counts.into_iter().max_by_key(|&(colour, count)| (count, colour)).map_or(0, |(colour, _)| colour)
}

fn stretched(picture: &Picture) -> Option<Rgb32FImage> {
    let (width, height) = (u32::try_from(picture.width()).ok()?, u32::try_from(picture.height()).ok()?);
    let numbers = picture.rgb().iter().map(|&v| f32::from(v) / 255.0).collect();
    let whole: ImageBuffer<Rgb<f32>, Vec<f32>> = ImageBuffer::from_raw(width, height, numbers)?;
    (width > 0 && height > 0).then(|| resize(&whole, SIDE, SIDE, FilterType::Triangle))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::critic::tests::{close, golden, picture, text};
    use crate::model::preprocess::{self, Filter};

    /// Each pixel as 8 × 8 of them.
    fn eightfold(picture: &Picture) -> Picture {
        let mut large = Picture::filled(8 * picture.width(), 8 * picture.height(), [0; 3]);
        let width = large.width();
        for (at, pixel) in large.rgb_mut().chunks_exact_mut(3).enumerate() {
            pixel.copy_from_slice(&picture.pixel(at % width / 8, at / width / 8).unwrap());
        }
        large
    }

    #[test]
    fn windows_are_those_of_torchmetrics() {
        for note in golden("windows") {
            let large = |of: &str| eightfold(&preprocess::resize(&picture(text(&note, of)), 48, 48, Filter::Bicubic));
            close(&note, "rmse", windowed_rmse(&large("a"), &large("b")).unwrap(), 1e-6);
        }
        // Stretched by Pillow, which rounds to bytes, where we do not.
        for note in golden("stretched_windows") {
            let rmse = windowed_rmse(&picture(text(&note, "a")), &picture(text(&note, "b"))).unwrap();
            close(&note, "rmse", rmse, 2e-4);
        }
    }

    #[test]
    fn flat_pictures_differ_by_their_colours() {
        let flat = |value| Picture::filled(20, 30, [value; 3]);
        assert_eq!(windowed_rmse(&flat(9), &flat(9)), Some(0.0));
        let apart = windowed_rmse(&flat(0), &flat(51)).unwrap();
        assert!((apart - 0.2).abs() < 1e-6, "{apart}");
        assert!((windowed_rmse(&flat(0), &flat(255)).unwrap() - 1.0).abs() < 1e-6);
    }

    #[test]
    fn most_of_a_picture_has_its_colour() {
        let colour = |value: u8| dominant(&Picture::filled(4, 4, [value; 3]));
        assert_eq!([colour(0), colour(31), colour(120), colour(140), colour(255)], [0, 0, 0o222, 0o222, 0o444]);
        let mut dotted = Picture::filled(4, 4, [255; 3]);
        dotted.rgb_mut()[..12].fill(0);
        assert_eq!(dominant(&dotted), 0o444);
    }

    #[test]
    fn a_window_with_one_pixel_off_counts_its_root() {
        // One of 384 × 384 pixels differs by 1: 64 windows see it, each with the root of 1/64.
        let black = Picture::filled(384, 384, [0; 3]);
        let mut dotted = black.clone();
        let at = (200 * 384 + 100) * 3;
        dotted.rgb_mut()[at..at + 3].fill(255);
        let wanted = 64.0 / 8.0 / (376.0 * 376.0);
        assert!((windowed_rmse(&black, &dotted).unwrap() - wanted).abs() < 1e-9);
    }
}
