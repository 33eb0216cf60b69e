//! Picture → scene: reads background, shapes, colours, sizes and places back from pixels. Made for pictures drawn by a network:
//! blur, noise and shifts of a few pixels do not matter, but what is no clear shape of the world is reported as unknown.
//!
//! The ground is the median colour; what differs from it falls into connected components; each component is explained as a
//! mixture of ground and one palette colour, and the mixing weights are overlapped with the rendered templates.

use std::sync::LazyLock;

use super::render::{FULL, Mask, mask};
use super::scene::{BOX, Background, Colour, Object, Place, SIDE, Scene, Shape, Size};
use crate::domain::picture::Picture;

/// A pixel, linear in bytes.
type Rgb = [f32; 3];

/// The ground is known when its median is this near to a background (RGB distance).
const NEAR_GROUND: f32 = 50.0;
/// A smoothed pixel this far from the ground belongs to an object.
const FAR_FROM_GROUND: f32 = 60.0;
/// Components smaller than this many pixels are specks.
const SPECK: usize = 12;
/// A component is of a palette colour when its pixels lie this near to the line from ground to colour (root mean square).
const NEAR_COLOUR: f32 = 55.0;
/// A component is of a shape when it overlaps a template by this much (intersection over union, in thousandths).
const OVERLAP: u32 = 660;
/// Passes of smoothing of the blurred templates.
const BLUR: usize = 2;
/// How far, in pixels, the best template is sought around the middle of the component.
const SHIFT: usize = 2;
/// Margin around a component within which faint pixels count as its own.
const MARGIN: usize = 2;

/// What a picture shows.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// The background, if it is one of the world's.
    pub background: Option<Background>,
    /// All objects, raster order of their places; unknown ones included.
    pub objects: Vec<Seen>,
}

/// One object in a picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seen {
    /// The shape; `None` when it is no clear shape of the world.
    pub shape: Option<Shape>,
    /// The colour; `None` when it is no clear colour of the world.
    pub colour: Option<Colour>,
    /// The nearest size.
    pub size: Size,
    /// The nearest place.
    pub place: Place,
    /// Its middle, (x, y) in pixels of a 64x64 picture.
    pub centre: (i32, i32),
    /// Overlap with the best template, 0 to 1.
    pub overlap: f32,
}

impl Reading {
    /// The scene, when everything is known and no two objects share a place.
    #[must_use]
    pub fn scene(&self) -> Option<Scene> {
        let object = |seen: &Seen| {
            let Seen { size, place, .. } = *seen;
            Some(Object { place, shape: seen.shape?, colour: seen.colour?, size })
        };
        let objects: Option<Vec<Object>> = self.objects.iter().map(object).collect();
        Scene::new(self.background?, objects?).ok()
    }
}

/// Reads a picture of any size; it is first brought to 64x64 by averaging.
#[must_use]
pub fn read(picture: &Picture) -> Reading {
    let pixels = shrink(picture);
    let ground = median(&pixels);
    let background = Background::ALL
        .into_iter()
        .find(|background| square(sub(ground, background.rgb().map(f32::from))) < NEAR_GROUND * NEAR_GROUND);
    let labels = components(&pixels, ground);
    let count = labels.iter().copied().max().unwrap_or(0);
    let mut objects: Vec<Seen> = (1..=count).filter_map(|label| see(&pixels, ground, &labels, label)).collect();
    objects.sort_by_key(|seen| (seen.place, seen.centre));
    Reading { background, objects }
}

/// Mean colour of each of 64x64 tiles.
fn shrink(picture: &Picture) -> Vec<Rgb> {
    let tile = |i: usize, length: usize| {
        let start = i * length / SIDE;
        start..((i + 1) * length / SIDE).max(start + 1).min(length)
    };
    let mut pixels = Vec::with_capacity(SIDE * SIDE);
    for y in 0..SIDE {
        for x in 0..SIDE {
            let (mut sum, mut n) = ([0_u64; 3], 0);
            for v in tile(y, picture.height()) {
                for u in tile(x, picture.width()) {
                    for (sum, byte) in sum.iter_mut().zip(picture.pixel(u, v).unwrap_or_default()) {
                        *sum += u64::from(byte);
                    }
                    n += 1;
                }
            }
            pixels.push(sum.map(|sum| sum as f32 / n.max(1) as f32));
        }
    }
    pixels
}

/// The median of each channel.
fn median(pixels: &[Rgb]) -> Rgb {
    std::array::from_fn(|c| {
        let mut histogram = [0; 256];
        for pixel in pixels {
            histogram[pixel[c] as usize] += 1;
        }
        let mut below = 0;
        let reached = |count: &usize| {
            below += count;
            2 * below >= pixels.len()
        };
        histogram.iter().position(reached).unwrap_or(0) as f32
    })
}

/// The component of each pixel, numbered from 1; 0 is ground, or a speck.
fn components(pixels: &[Rgb], ground: Rgb) -> Vec<usize> {
    let mut distance = vec![0.0; pixels.len()];
    for (c, ground) in ground.into_iter().enumerate() {
        let channel: Vec<f32> = pixels.iter().map(|pixel| pixel[c] - ground).collect();
        for (sum, value) in distance.iter_mut().zip(smooth(&channel, SIDE)) {
            *sum += value * value;
        }
    }
    let object: Vec<bool> = distance.into_iter().map(|square| square > FAR_FROM_GROUND * FAR_FROM_GROUND).collect();
    let mut labels = vec![0; pixels.len()];
    let (mut count, mut stack, mut members) = (0, Vec::new(), Vec::new());
    for start in 0..pixels.len() {
        if !object[start] || labels[start] != 0 {
            continue;
        }
        members.clear();
        labels[start] = count + 1;
        stack.push(start);
        while let Some(at) = stack.pop() {
            members.push(at);
            let (x, y) = (at % SIDE, at / SIDE);
            let beside = [
                (x > 0, at.wrapping_sub(1)),
                (x + 1 < SIDE, at + 1),
                (y > 0, at.wrapping_sub(SIDE)),
                (y + 1 < SIDE, at + SIDE),
            ];
            for (there, next) in beside {
                if there && object[next] && labels[next] == 0 {
                    labels[next] = count + 1;
                    stack.push(next);
                }
            }
        }
        if members.len() < SPECK {
            // A label no later component takes; specks are ground from here on.
            members.iter().for_each(|&at| labels[at] = usize::MAX);
        } else {
            count += 1;
        }
    }
    labels.into_iter().map(|label| if label == usize::MAX { 0 } else { label }).collect()
}

/// Weighted mean over 3x3 values of one channel, weights 1 2 1 each way, borders repeated.
fn smooth(values: &[f32], side: usize) -> Vec<f32> {
    let pass = |values: &[f32], step: usize, line: fn(usize, usize) -> usize| -> Vec<f32> {
        let smoothed = |at: usize| {
            let before = if line(at, side) > 0 { at - step } else { at };
            let after = if line(at, side) + 1 < side { at + step } else { at };
            0.25 * (values[before] + 2.0 * values[at] + values[after])
        };
        (0..values.len()).map(smoothed).collect()
    };
    pass(&pass(values, 1, |at, side| at % side), side, |at, side| at / side)
}

/// The smallest rectangle around a component, borders included.
struct Bounds {
    left: usize,
    right: usize,
    top: usize,
    bottom: usize,
}

impl Bounds {
    fn of(members: &[usize]) -> Option<Self> {
        let (xs, ys) = (members.iter().map(|at| at % SIDE), members.iter().map(|at| at / SIDE));
        Some(Self { left: xs.clone().min()?, right: xs.max()?, top: ys.clone().min()?, bottom: ys.max()? })
    }
}

/// What component `label` shows; `None` when nothing has that label.
fn see(pixels: &[Rgb], ground: Rgb, labels: &[usize], label: usize) -> Option<Seen> {
    let members: Vec<usize> = (0..labels.len()).filter(|&at| labels[at] == label).collect();
    let bounds = Bounds::of(&members)?;
    let line = |colour: Colour| sub(colour.rgb().map(f32::from), ground);
    let cost = |colour| members.iter().map(|&at| residual(sub(pixels[at], ground), line(colour))).sum::<f32>();
    let (colour, cost) =
        Colour::ALL.into_iter().map(|colour| (colour, cost(colour))).min_by(|a, b| a.1.total_cmp(&b.1))?;
    let known = cost < NEAR_COLOUR * NEAR_COLOUR * members.len() as f32;

    // How much the component covers each pixel around it, with room for every shift of a template on all sides.
    let mut cover = vec![0; WIDE * WIDE];
    for y in bounds.top.saturating_sub(MARGIN)..(bounds.bottom + MARGIN + 1).min(SIDE) {
        for x in bounds.left.saturating_sub(MARGIN)..(bounds.right + MARGIN + 1).min(SIDE) {
            let at = y * SIDE + x;
            if labels[at] == label || labels[at] == 0 {
                cover[(y + ROOM) * WIDE + x + ROOM] = sharpen(weight(sub(pixels[at], ground), line(colour)));
            }
        }
    }
    let fit = fit(&cover, &bounds);
    // Places lie 24 pixels apart, the first in the middle of its box.
    let step = |centre: i32| ((centre - BOX as i32 / 2 + 12) / 24).clamp(0, 2) as usize;
    Some(Seen {
        shape: (known && fit.thousandths >= OVERLAP).then_some(fit.shape),
        colour: known.then_some(colour),
        size: fit.size,
        place: Place::at(step(fit.centre.1), step(fit.centre.0)),
        centre: fit.centre,
        overlap: fit.thousandths as f32 / 1000.0,
    })
}

/// Empty pixels on every side of a coverage map, and its side.
const ROOM: usize = BOX + SHIFT;
const WIDE: usize = SIDE + 2 * ROOM;

/// The template that overlaps a coverage map best.
struct Fit {
    /// Intersection over union.
    thousandths: u32,
    shape: Shape,
    size: Size,
    centre: (i32, i32),
}

fn fit(cover: &[u8], bounds: &Bounds) -> Fit {
    let covered: u32 = cover.iter().map(|&c| u32::from(c)).sum();
    // Corner of the template box at the first of the shifts; the middle shift puts it in the middle of the component.
    let corner = |low: usize, high: usize| (low + high).div_ceil(2) + ROOM - BOX / 2 - SHIFT;
    let (x0, y0) = (corner(bounds.left, bounds.right), corner(bounds.top, bounds.bottom));
    // Middle of the box, ROOM taken off again.
    let centre = |corner: usize| (corner + BOX / 2) as i32 - ROOM as i32;
    let mut best = Fit {
        thousandths: 0,
        shape: Shape::Circle,
        size: Size::Small,
        centre: (centre(x0 + SHIFT), centre(y0 + SHIFT)),
    };
    const SHIFTS: usize = 2 * SHIFT + 1;
    for template in TEMPLATES.iter() {
        for shift in 0..SHIFTS * SHIFTS {
            let (x, y) = (x0 + shift % SHIFTS, y0 + shift / SHIFTS);
            let rows = cover[y * WIDE..].chunks(WIDE).map(|row| &row[x..x + BOX]);
            let both: u32 = rows.zip(template.cover.chunks_exact(BOX)).map(|(row, mask)| shared(row, mask)).sum();
            let thousandths = 1000 * both / (covered + template.area - both).max(1);
            if thousandths > best.thousandths {
                best = Fit { thousandths, shape: template.shape, size: template.size, centre: (centre(x), centre(y)) };
            }
        }
    }
    best
}

/// A shape as the coverage of a picture is measured.
struct Template {
    shape: Shape,
    size: Size,
    cover: Mask,
    /// Sum of `cover`.
    area: u32,
}

/// Every shape and size, sharp and blurred.
static TEMPLATES: LazyLock<Vec<Template>> = LazyLock::new(|| {
    let mut templates = Vec::new();
    for shape in Shape::ALL {
        for size in Size::ALL {
            let sharp: Vec<f32> = mask(shape, size).iter().map(|&c| f32::from(c) / f32::from(FULL)).collect();
            let blurred = (0..BLUR).fold(sharp.clone(), |cover, _| smooth(&cover, BOX));
            for cover in [sharp, blurred] {
                let cover: Mask = std::array::from_fn(|at| sharpen(cover[at]));
                let area = cover.iter().map(|&c| u32::from(c)).sum();
                templates.push(Template { shape, size, cover, area });
            }
        }
    }
    templates
});

/// Coverage 0 to 1 → 0 to 100, steeper in the middle: noise of the ground counts as nothing, blur of an edge as less.
fn sharpen(weight: f32) -> u8 {
    (125.0 * (weight - 0.1)).clamp(0.0, 100.0) as u8
}

/// What two rows have in common. 16 values of at most 100 fit sixteen bits, which the compiler turns into a few instructions.
fn shared(row: &[u8], mask: &[u8]) -> u32 {
    u32::from(row.iter().zip(mask).map(|(&a, &b)| u16::from(a.min(b))).sum::<u16>())
}

/// How much of `line` is in `pixel`, both as seen from the ground.
fn weight(pixel: Rgb, line: Rgb) -> f32 {
    let along: f32 = pixel.iter().zip(line).map(|(p, l)| p * l).sum();
    (along / square(line).max(1.0)).clamp(0.0, 1.2)
}

/// Squared distance of `pixel` from `line`.
fn residual(pixel: Rgb, line: Rgb) -> f32 {
    let weight = weight(pixel, line);
    square(sub(pixel, line.map(|l| weight * l)))
}

fn sub(a: Rgb, b: Rgb) -> Rgb {
    std::array::from_fn(|c| a[c] - b[c])
}

fn square(a: Rgb) -> f32 {
    a.iter().map(|v| v * v).sum()
}
