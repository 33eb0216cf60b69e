//! Pictures as the vision encoder wants them: scaled so that the longer side fits, centred on a grey square, normalised.
//! Scaling is Pillow's antialiased resampling of 8-bit channels to the last bit (fixed-point weights, rounding to 8 bits between
//! the two passes), because the published models were trained behind it. Knows nothing of files, formats or tensors.

use rayon::prelude::*;
use serde_json::{Value, json};

use crate::domain::picture::Picture;

/// A preprocessed picture: `[3, side, side]`, channels first, normalised.
#[derive(Clone, Debug, PartialEq)]
pub struct Pixels {
    side: usize,
    chw: Vec<f32>,
}

impl Pixels {
    /// `chw` holds `3 * side * side` numbers, normalised as the checkpoint's [`Preprocess`] does.
    pub(crate) fn new(side: usize, chw: Vec<f32>) -> Self {
        debug_assert_eq!(chw.len(), 3 * side * side);
        Self { side, chw }
    }

    #[must_use]
    pub fn side(&self) -> usize {
        self.side
    }

    /// All numbers, `[3, side, side]` row-major.
    #[must_use]
    pub fn chw(&self) -> &[f32] {
        &self.chw
    }
}

/// The picture rules of a checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Preprocess {
    /// Side of the square that comes out.
    pub side: usize,
    /// Neither side is scaled below this, which bends pictures of extreme shape.
    pub min_size: usize,
    pub mean: [f64; 3],
    pub std: [f64; 3],
    /// Factor from bytes to the scale of `mean` and `std`.
    pub rescale: f64,
}

/// The picture rules of a checkpoint cannot be followed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("image processor settings: `{field}` is {found}; supported: {supported}")]
pub struct PreprocessError {
    field: &'static str,
    found: String,
    supported: &'static str,
}

impl Preprocess {
    /// The rules of Janus-Pro for pictures of `side` pixels: mean and deviation 0.5, so numbers from -1 to 1.
    #[must_use]
    pub fn new(side: usize) -> Self {
        Self { side, min_size: 14.min(side), mean: [0.5; 3], std: [0.5; 3], rescale: 1.0 / 255.0 }
    }

    /// Reads the object that transformers keeps in `preprocessor_config.json`, or under `image_processor` in `processor_config.json`.
    /// DeepSeek's own spelling (`image_size` for `size`) is read too. An absent mean or deviation is CLIP's, as in both published classes.
    ///
    /// # Errors
    /// When a field asks for something that is not done here, such as another resampling filter.
    pub fn from_json(settings: &Value, side: usize) -> Result<Self, PreprocessError> {
        let wrong = |field, found: &Value, supported| {
            let found: String = found.to_string().chars().take(80).collect();
            PreprocessError { field, found, supported }
        };
        for field in ["do_resize", "do_rescale", "do_normalize", "do_pad"] {
            match settings.get(field) {
                None | Some(Value::Null | Value::Bool(true)) => {}
                Some(other) => return Err(wrong(field, other, "true")),
            }
        }
        match settings.get("resample") {
            None | Some(Value::Null) => {}
            Some(filter) if filter.as_u64() == Some(3) => {}
            Some(other) => return Err(wrong("resample", other, "3 (bicubic)")),
        }
        let sizes = [
            ("size", settings.pointer("/size/height")),
            ("size", settings.pointer("/size/width")),
            ("image_size", settings.get("image_size")),
        ];
        for (field, size) in sizes {
            match size {
                Some(size) if size.as_u64() != Some(side as u64) => {
                    return Err(wrong(field, size, "the `image_size` of config.json"));
                }
                _ => {}
            }
        }
        let defaults = Self::new(side);
        let number = |field, default| match settings.get(field) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => value
                .as_f64()
                .filter(|n| n.is_finite() && *n > 0.0)
                .ok_or_else(|| wrong(field, value, "a positive number")),
        };
        let triple = |field, default: [f64; 3], least: f64| {
            let Some(value) = settings.get(field).filter(|v| !v.is_null()) else { return Ok(default) };
            let numbers: Option<Vec<f64>> = value.as_array().and_then(|list| list.iter().map(Value::as_f64).collect());
            let numbers = numbers.and_then(|list| <[f64; 3]>::try_from(list).ok());
            numbers
                .filter(|list| list.iter().all(|n| (least..=1.0).contains(n)))
                .ok_or_else(|| wrong(field, value, "three numbers in 0 to 1"))
        };
        let min_size = number("min_size", defaults.min_size as f64)?;
        Ok(Self {
            side,
            min_size: (min_size as usize).clamp(1, side),
            mean: triple("image_mean", [0.481_454_66, 0.457_827_5, 0.408_210_73], 0.0)?,
            std: triple("image_std", [0.268_629_54, 0.261_302_58, 0.275_777_11], 1e-6)?,
            rescale: number("rescale_factor", defaults.rescale)?,
        })
    }

    /// The object of `preprocessor_config.json` that says these rules to transformers.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "image_processor_type": "JanusImageProcessor",
            "do_convert_rgb": true,
            "do_resize": true,
            "do_pad": true,
            "do_rescale": true,
            "do_normalize": true,
            "resample": 3,
            "size": { "height": self.side, "width": self.side },
            "min_size": self.min_size,
            "rescale_factor": self.rescale,
            "image_mean": self.mean,
            "image_std": self.std,
        })
    }

    /// Scales, pads and normalises one picture. Where the two published rules differ (transformers rounds the shorter side, halves to even;
    /// DeepSeek's code cuts it) this rounds. Needs memory for `height * side` pixels beside the picture, never more than for the larger of it
    /// and the square.
    #[must_use]
    pub fn apply(&self, picture: &Picture) -> Pixels {
        let (width, height) = (picture.width(), picture.height());
        let scale = self.side as f64 / width.max(height) as f64;
        let scaled = |length: usize| ((length as f64 * scale).round_ties_even() as usize).max(self.min_size);
        let (new_width, new_height) = (scaled(width), scaled(height));
        let small = resize(picture, new_width, new_height, Filter::Bicubic);
        let (left, top) = ((self.side - new_width) / 2, (self.side - new_height) / 2);
        let area = self.side * self.side;
        let mut chw = vec![0.0; 3 * area];
        for (channel, plane) in chw.chunks_exact_mut(area).enumerate() {
            let (mean, std) = (self.mean[channel] as f32, self.std[channel] as f32);
            // Rescaled in double precision, then normalised in single, as the published code does.
            let levels: Vec<f32> =
                (0..=255u8).map(|level| ((f64::from(level) * self.rescale) as f32 - mean) / std).collect();
            plane.fill(levels[(self.mean[channel] * 255.0) as usize]);
            for (y, row) in small.rgb().chunks_exact(3 * new_width).enumerate() {
                let to = &mut plane[(top + y) * self.side + left..][..new_width];
                for (to, from) in to.iter_mut().zip(row.chunks_exact(3)) {
                    *to = levels[usize::from(from[channel])];
                }
            }
        }
        Pixels::new(self.side, chw)
    }
}

/// One of Pillow's filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    Bilinear,
    Bicubic,
}

impl Filter {
    /// How far it reaches, in pixels.
    fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
        }
    }

    fn kernel(self, x: f64) -> f64 {
        match self {
            Self::Bilinear => (1.0 - x.abs()).max(0.0),
            Self::Bicubic => keys(x),
        }
    }
}

/// Pillow's antialiased resampling: across first, rounded to bytes, then down. A side of zero counts as one.
/// (Pillow 13 scales tall pictures down first, which moves bytes beside hard edges by a few levels; the published models were trained before.)
#[must_use]
pub fn resize(picture: &Picture, width: usize, height: usize, filter: Filter) -> Picture {
    let (width, height) = (width.max(1), height.max(1));
    let across = (width != picture.width()).then(|| {
        let taps = Taps::new(picture.width(), width, filter);
        let mut out = Picture::filled(width, picture.height(), [0; 3]);
        let rows = picture.rgb().par_chunks_exact(3 * picture.width());
        out.rgb_mut().par_chunks_exact_mut(3 * width).zip(rows).for_each(|(to, from)| taps.across(from, to));
        out
    });
    let narrow = across.as_ref().unwrap_or(picture);
    if height == picture.height() {
        return narrow.clone();
    }
    let taps = Taps::new(picture.height(), height, filter);
    let mut out = Picture::filled(width, height, [0; 3]);
    out.rgb_mut().par_chunks_exact_mut(3 * width).enumerate().for_each(|(y, to)| taps.down(narrow.rgb(), y, to));
    out
}

/// Lays pixels with transparency over white, as transformers does when it converts to RGB; exact in Pillow's arithmetic.
#[must_use]
pub fn over_white([r, g, b, alpha]: [u8; 4]) -> [u8; 3] {
    let alpha = u32::from(alpha);
    [r, g, b].map(|channel| {
        // Seven fractional bits, and the division by 255 as two shifts.
        let mixed = (u32::from(channel) * alpha + 255 * (255 - alpha)) * 128 + (0x80 << 7);
        ((((mixed >> 8) + mixed) >> 8) >> 7) as u8
    })
}

/// Fractional bits of the weights: 32 less 8 of the pixel and 2 of headroom for weights beyond one.
const PRECISION: u32 = 32 - 8 - 2;

/// For every output position, where its inputs begin and how they weigh (fixed point, [`PRECISION`] fractional bits).
struct Taps {
    starts: Vec<usize>,
    weights: Vec<Vec<i32>>,
}

impl Taps {
    fn new(from: usize, to: usize, filter: Filter) -> Self {
        let scale = from as f64 / to as f64;
        // Shrinking widens the kernel over all the pixels that fall together.
        let spread = scale.max(1.0);
        let support = filter.support() * spread;
        let inverse = 1.0 / spread;
        let (mut starts, mut weights) = (Vec::with_capacity(to), Vec::with_capacity(to));
        for position in 0..to {
            let centre = (position as f64 + 0.5) * scale;
            let start = (centre - support + 0.5).max(0.0) as usize;
            let end = ((centre + support + 0.5) as usize).min(from);
            let kernel: Vec<f64> =
                (0..end - start).map(|i| filter.kernel(((i + start) as f64 - centre + 0.5) * inverse)).collect();
            let total: f64 = kernel.iter().sum();
            let total = if total == 0.0 { 1.0 } else { total };
            let fixed = |weight: &f64| {
                let scaled = weight / total * f64::from(1u32 << PRECISION);
                (if scaled < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i32
            };
            starts.push(start);
            weights.push(kernel.iter().map(fixed).collect());
        }
        Self { starts, weights }
    }

    fn across(&self, from: &[u8], to: &mut [u8]) {
        for ((to, &start), weights) in to.chunks_exact_mut(3).zip(&self.starts).zip(&self.weights) {
            let mut sums = [1i32 << (PRECISION - 1); 3];
            for (pixel, &weight) in from[3 * start..].chunks_exact(3).zip(weights) {
                for (sum, &value) in sums.iter_mut().zip(pixel) {
                    *sum += i32::from(value) * weight;
                }
            }
            for (to, sum) in to.iter_mut().zip(sums) {
                *to = byte(sum);
            }
        }
    }

    fn down(&self, from: &[u8], y: usize, to: &mut [u8]) {
        let mut sums = vec![1i32 << (PRECISION - 1); to.len()];
        for (row, &weight) in from[self.starts[y] * to.len()..].chunks_exact(to.len()).zip(&self.weights[y]) {
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum += i32::from(value) * weight;
            }
        }
        for (to, sum) in to.iter_mut().zip(sums) {
            *to = byte(sum);
        }
    }
}

fn byte(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// The cubic convolution kernel of Keys (1981) with a = -1/2, in the order of operations that rounds as Pillow does.
fn keys(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_colour_stays_one_colour() {
        for colour in [[0, 128, 255], [255; 3]] {
            for (width, height) in [(1, 1), (7, 300), (300, 7), (64, 64)] {
                for filter in [Filter::Bilinear, Filter::Bicubic] {
                    let out = resize(&Picture::filled(width, height, colour), 33, 20, filter);
                    assert_eq!(out, Picture::filled(33, 20, colour));
                }
            }
        }
    }

    #[test]
    fn shapes_are_scaled_padded_and_bounded_below() {
        let rules = Preprocess::new(64);
        let grey = (127.0f32 / 255.0 - 0.5) / 0.5;
        for (width, height, inside) in
            [(64, 64, 64 * 64), (640, 320, 64 * 32), (10, 300, 14 * 64), (30_000, 1, 64 * 14), (1, 1, 64 * 64)]
        {
            let pixels = rules.apply(&Picture::filled(width, height, [255; 3]));
            assert_eq!((pixels.side(), pixels.chw().len()), (64, 3 * 64 * 64));
            assert_eq!(pixels.chw().iter().filter(|p| **p == 1.0).count(), 3 * inside, "{width}x{height}");
            assert!(pixels.chw().iter().all(|p| *p == 1.0 || (p - grey).abs() < 1e-6));
        }
    }

    #[test]
    fn a_wide_picture_costs_its_own_size() {
        let started = std::time::Instant::now();
        let pixels = Preprocess::new(384).apply(&Picture::filled(30_000, 300, [9; 3]));
        assert_eq!(pixels.side(), 384);
        assert!(started.elapsed() < std::time::Duration::from_secs(2));
    }

    #[test]
    fn rules_are_read_back_and_others_refused() {
        let rules = Preprocess { min_size: 4, mean: [0.1, 0.2, 0.3], ..Preprocess::new(16) };
        assert_eq!(Preprocess::from_json(&rules.to_json(), 16), Ok(rules.clone()));
        let spelled = json!({ "image_size": 16, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5] });
        assert_eq!(Preprocess::from_json(&spelled, 16), Ok(Preprocess::new(16)));
        for (settings, field) in [
            (json!({ "resample": 2 }), "resample"),
            (json!({ "do_pad": false }), "do_pad"),
            (json!({ "image_std": [0.5, 0.5, 0] }), "image_std"),
            (json!({ "image_mean": 0.5 }), "image_mean"),
            (json!({ "min_size": -1 }), "min_size"),
            (json!({ "size": { "height": 32, "width": 32 } }), "size"),
        ] {
            let error = Preprocess::from_json(&settings, 16).unwrap_err();
            assert_eq!(error.field, field, "{error}");
        }
    }

    #[test]
    fn transparency_shows_white() {
        assert_eq!(over_white([10, 20, 30, 255]), [10, 20, 30]);
        assert_eq!(over_white([10, 20, 30, 0]), [255; 3]);
        assert_eq!(over_white([0, 100, 255, 128]), [127, 177, 255]);
    }
}
