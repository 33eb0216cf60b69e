//! Scene → picture: shapes as integer geometry, covered 8x8 samples a pixel, blended over the background. Exact integers
//! throughout, so a scene has the same bytes on every machine.

use std::sync::LazyLock;

use super::scene::{BOX, Background, Colour, SIDE, Scene, Shape, Size};
use crate::domain::picture::Picture;

/// Samples along a pixel's side.
const SAMPLES: usize = 8;
/// Geometry units of a pixel: two a sample, so that sample centres are odd and the centre of the box is 0.
const UNITS: i64 = 2 * SAMPLES as i64;
/// Coverage of a full pixel.
pub(super) const FULL: u8 = (SAMPLES * SAMPLES) as u8;

/// How much of each pixel of its box a shape covers, 0 to [`FULL`], row-major.
pub(super) type Mask = [u8; BOX * BOX];

static MASKS: LazyLock<[[Mask; 2]; 6]> =
    LazyLock::new(|| Shape::ALL.map(|shape| Size::ALL.map(|size| draw_mask(shape, size))));

/// The coverage mask of a shape.
pub(super) fn mask(shape: Shape, size: Size) -> &'static Mask {
    &MASKS[shape.index()][size.index()]
}

impl Colour {
    /// Its RGB value.
    #[must_use]
    pub fn rgb(self) -> [u8; 3] {
        match self {
            Self::Red => [225, 20, 30],
            Self::Orange => [255, 130, 0],
            Self::Yellow => [255, 235, 0],
            Self::Green => [0, 160, 60],
            Self::Blue => [20, 70, 230],
            Self::Purple => [150, 30, 210],
        }
    }
}

impl Background {
    /// Its RGB value.
    #[must_use]
    pub fn rgb(self) -> [u8; 3] {
        match self {
            Self::White => [255; 3],
            Self::Black => [0; 3],
            Self::Gray => [128; 3],
        }
    }
}

/// The picture of a scene, 64x64.
#[must_use]
pub fn render(scene: &Scene) -> Picture {
    let ground = scene.background().rgb();
    let mut picture = Picture::filled(SIDE, SIDE, ground);
    let rgb = picture.rgb_mut();
    for object in scene.objects() {
        let colour = object.colour.rgb();
        let blend: [[u8; 3]; FULL as usize + 1] =
            std::array::from_fn(|coverage| std::array::from_fn(|c| mix(ground[c], colour[c], coverage)));
        let (left, top) = object.place.corner();
        for (y, row) in mask(object.shape, object.size).chunks_exact(BOX).enumerate() {
            let start = 3 * ((top + y) * SIDE + left);
            for (pixel, &coverage) in rgb[start..start + 3 * BOX].chunks_exact_mut(3).zip(row) {
                pixel.copy_from_slice(&blend[usize::from(coverage)]);
            }
        }
    }
    picture
}

fn mix(ground: u8, colour: u8, coverage: usize) -> u8 {
    let full = usize::from(FULL);
    let sum = usize::from(ground) * (full - coverage) + usize::from(colour) * coverage;
    // At most 255: a weighted mean of two bytes.
    ((sum + full / 2) / full) as u8
}

fn draw_mask(shape: Shape, size: Size) -> Mask {
    // Half the extent: 7.5 or 5 pixels.
    let half = match size {
        Size::Small => 5 * UNITS,
        Size::Large => 15 * UNITS / 2,
    };
    let mut mask = [0; BOX * BOX];
    for (at, coverage) in mask.iter_mut().enumerate() {
        let (x0, y0) = (at % BOX * SAMPLES, at / BOX * SAMPLES);
        for sample in 0..SAMPLES * SAMPLES {
            let centre = |i: usize| 2 * i as i64 + 1 - BOX as i64 * UNITS / 2;
            let (x, y) = (centre(x0 + sample % SAMPLES), centre(y0 + sample / SAMPLES));
            *coverage += u8::from(inside(shape, x, y, half));
        }
    }
    mask
}

/// Corners of the star in thousandths of half the extent: outer radius 1080, inner 500, lowered by 90 to centre it.
const STAR: [(i64, i64); 10] = [
    (0, -990),
    (294, -315),
    (1027, -244),
    (476, 245),
    (635, 964),
    (0, 590),
    (-635, 964),
    (-476, 245),
    (-1027, -244),
    (-294, -315),
];
const TRIANGLE: [(i64, i64); 3] = [(0, -960), (1000, 840), (-1000, 840)];

/// Whether (x, y), from the centre of the box, y downwards, lies in the shape of half extent `half`.
fn inside(shape: Shape, x: i64, y: i64, half: i64) -> bool {
    match shape {
        Shape::Circle => x * x + y * y <= half * half,
        Shape::Square => 100 * x.abs().max(y.abs()) <= 88 * half,
        Shape::Triangle => in_polygon(&TRIANGLE, x, y, half),
        Shape::Star => in_polygon(&STAR, x, y, half),
        Shape::Heart => in_heart(x, y, half),
        Shape::Cross => {
            let (long, short) = (x.abs().max(y.abs()), x.abs().min(y.abs()));
            long <= half && 100 * short <= 34 * half
        }
    }
}

/// Even-odd rule; `corners` in thousandths of `half`.
fn in_polygon(corners: &[(i64, i64)], x: i64, y: i64, half: i64) -> bool {
    let (x, y) = (1000 * x, 1000 * y);
    let mut inside = false;
    for (i, &(ax, ay)) in corners.iter().enumerate() {
        let (bx, by) = corners[(i + 1) % corners.len()];
        let (ax, ay, bx, by) = (ax * half, ay * half, bx * half, by * half);
        if (ay > y) != (by > y) {
            // x left of the edge at height y, without dividing: the sign of by - ay turns the inequality.
            let (left, right) = ((x - ax) * (by - ay), (bx - ax) * (y - ay));
            inside ^= if by > ay { left < right } else { left > right };
        }
    }
    inside
}

/// The curve (u² + v² - 1)³ = u² v³ (v upwards), scaled to the extent and centred.
fn in_heart(x: i64, y: i64, half: i64) -> bool {
    // The curve spans u in ±1.14 and v in -1 to 1.24; `one` is the length 1 after bringing 1.14 to `half`.
    const ONE: i64 = 400;
    let u = 1140 * ONE * x / (1000 * half);
    let v = -1140 * ONE * y / (1000 * half) + 12 * ONE / 100;
    let ring = u * u + v * v - ONE * ONE;
    ring * ring * ring <= u * u * v * v * v * ONE
}
