//! What pictures are like that no reward looks at: how many colours, how much edge, how vivid, how unlike each other. A policy that has
//! found a way to please its rewards shows here first. Pixels in, numbers out.

use crate::domain::picture::Picture;

/// Entropy of the colours of a picture in bits, four bits a channel.
#[must_use]
pub fn colour_entropy(picture: &Picture) -> f64 {
    let mut counts = vec![0u32; 1 << 12];
    let pixels = picture.rgb().as_chunks::<3>().0;
    for [r, g, b] in pixels {
        let bin = usize::from(r >> 4) << 8 | usize::from(g >> 4) << 4 | usize::from(b >> 4);
        counts[bin] += 1;
    }
    let share = |count: u32| f64::from(count) / pixels.len() as f64;
    counts.into_iter().filter(|&count| count > 0).map(share).map(|share| -share * share.log2()).sum()
}

/// Luma of a pixel, 0 to 255 (ITU-R BT.601).
fn luma([r, g, b]: [u8; 3]) -> f64 {
    0.299 * f64::from(r) + 0.587 * f64::from(g) + 0.114 * f64::from(b)
}

/// Share of the pixels that differ from their right or lower neighbour by a tenth of the range of luma.
#[must_use]
pub fn edge_density(picture: &Picture) -> f64 {
    let (width, height) = (picture.width(), picture.height());
    let at = |x, y| picture.pixel(x, y).map(luma);
    let differs = |a: Option<f64>, b: Option<f64>| a.zip(b).is_some_and(|(a, b)| (a - b).abs() > 25.5);
    let edges = (0..height).flat_map(|y| (0..width).map(move |x| (x, y)));
    let edges = edges.filter(|&(x, y)| differs(at(x, y), at(x + 1, y)) || differs(at(x, y), at(x, y + 1)));
    edges.count() as f64 / (width * height) as f64
}

/// Mean saturation (HSV), 0 to 1.
#[must_use]
pub fn saturation(picture: &Picture) -> f64 {
    let pixels = picture.rgb().as_chunks::<3>().0;
    let one = |pixel: &[u8; 3]| {
        let (most, least) = (pixel.iter().max().copied().unwrap_or(0), pixel.iter().min().copied().unwrap_or(0));
        f64::from(most - least) / f64::from(most.max(1))
    };
    pixels.iter().map(one).sum::<f64>() / pixels.len() as f64
}

/// Mean distance of two pictures of one prompt: root mean square over channels, 0 to 1. 0 for fewer than two, or of unequal sizes.
#[must_use]
pub fn diversity(pictures: &[&Picture]) -> f64 {
    let pairs =
        pictures.iter().enumerate().flat_map(|(at, one)| pictures[at + 1..].iter().map(move |other| (one, other)));
    let (mut sum, mut n) = (0.0, 0usize);
    for (one, other) in pairs.filter(|(one, other)| one.rgb().len() == other.rgb().len()) {
        let squares = one.rgb().iter().zip(other.rgb()).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2));
        sum += (squares.sum::<f64>() / one.rgb().len() as f64).sqrt() / 255.0;
        n += 1;
    }
    if n == 0 { 0.0 } else { sum / n as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn halves(left: [u8; 3], right: [u8; 3]) -> Picture {
        Picture::new(4, 2, [left, left, right, right, left, left, right, right].concat()).unwrap()
    }

    #[test]
    fn colours_edges_and_saturation_by_hand() {
        let (plain, two) = (Picture::filled(4, 2, [255, 0, 0]), halves([255, 0, 0], [128, 128, 128]));
        assert_eq!((colour_entropy(&plain), colour_entropy(&two)), (0.0, 1.0));
        // Two of eight pixels have another luma to their right.
        assert_eq!((edge_density(&plain), edge_density(&two)), (0.0, 0.25));
        assert_eq!((saturation(&plain), saturation(&two)), (1.0, 0.5));
        assert_eq!(saturation(&Picture::filled(1, 1, [0, 0, 0])), 0.0);
    }

    #[test]
    fn diversity_is_a_mean_over_pairs() {
        let (black, white) = (Picture::filled(2, 2, [0; 3]), Picture::filled(2, 2, [255; 3]));
        assert_eq!(diversity(&[&black, &white]), 1.0);
        assert!((diversity(&[&black, &white, &white]) - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!((diversity(&[&black]), diversity(&[&black, &Picture::filled(1, 1, [9; 3])])), (0.0, 0.0));
    }
}
