//! What a person looks at: grids of pictures as PNG and curves as SVG. Knows nothing of what is trained.

use std::collections::BTreeMap;
use std::path::Path;

use plotters::prelude::*;

use super::TrainError;
use crate::domain::picture::Picture;

/// Writes pictures in rows of `columns`, enlarged `zoom` times without smoothing.
///
/// # Errors
/// When the file cannot be written.
pub fn grid(path: &Path, pictures: &[Picture], columns: usize, zoom: usize) -> Result<(), TrainError> {
    const GAP: usize = 4;
    let (Some(first), columns) = (pictures.first(), columns.max(1)) else { return Ok(()) };
    let (cell_w, cell_h) = (first.width() * zoom + GAP, first.height() * zoom + GAP);
    let rows = pictures.len().div_ceil(columns);
    let mut sheet = Picture::filled(columns.min(pictures.len()) * cell_w + GAP, rows * cell_h + GAP, [255; 3]);
    let width = sheet.width();
    for (i, picture) in pictures.iter().enumerate() {
        let (left, top) = (GAP + (i % columns) * cell_w, GAP + (i / columns) * cell_h);
        for y in 0..(cell_h - GAP).min(picture.height() * zoom) {
            for x in 0..(cell_w - GAP).min(picture.width() * zoom) {
                let at = 3 * ((top + y) * width + left + x);
                if let Some(pixel) = picture.pixel(x / zoom, y / zoom) {
                    sheet.rgb_mut()[at..at + 3].copy_from_slice(&pixel);
                }
            }
        }
    }
    let (w, h) = (sheet.width() as u32, sheet.height() as u32);
    image::save_buffer(path, sheet.rgb(), w, h, image::ExtendedColorType::Rgb8)
        .map_err(|e| TrainError::Plot { path: path.display().to_string(), what: e.to_string() })
}

/// Charts of a row.
const COLUMNS: usize = 3;
/// Size of a chart.
const CHART: (u32, u32) = (300, 170);

/// Writes named curves of (step, value) as an SVG, each a chart of its own: what they measure has no common scale.
///
/// # Errors
/// When the file cannot be written.
pub fn curves(path: &Path, title: &str, curves: &BTreeMap<String, Vec<(u64, f64)>>) -> Result<(), TrainError> {
    let last = curves.values().flatten().map(|point| point.0).max().unwrap_or(1).max(1);
    let rows = curves.len().div_ceil(COLUMNS).max(1);
    let plot = || -> Result<(), Box<dyn std::error::Error>> {
        let size = (CHART.0 * COLUMNS as u32, CHART.1 * rows as u32 + 30);
        let root = SVGBackend::new(path, size).into_drawing_area();
        root.fill(&WHITE)?;
        let below = root.titled(title, ("sans-serif", 18))?;
        for ((name, points), area) in curves.iter().zip(below.split_evenly((rows, COLUMNS))) {
            let points: Vec<(u64, f64)> = points.iter().copied().filter(|point| point.1.abs() < 1e300).collect();
            let least = points.iter().map(|point| point.1).fold(f64::INFINITY, f64::min);
            let most = points.iter().map(|point| point.1).fold(f64::NEG_INFINITY, f64::max);
            // plotters looks for the marks of an axis without end or extent for ever.
            let room = 1e-6 * least.abs().max(most.abs()).max(1e-6);
            let (low, high) = match (least, most) {
                _ if points.is_empty() => (0.0, 1.0),
                (least, most) if most - least > room => (least, most),
                (least, most) => (least - 1e3 * room, most + 1e3 * room),
            };
            let mut chart = ChartBuilder::on(&area)
                .caption(name, ("sans-serif", 14))
                .margin(8)
                .x_label_area_size(20)
                .y_label_area_size(45)
                .build_cartesian_2d(0..last, low..high)?;
            chart.configure_mesh().x_labels(4).y_labels(4).light_line_style(WHITE).draw()?;
            chart.draw_series(LineSeries::new(points, BLUE))?;
        }
        root.present()?;
        Ok(())
    };
    plot().map_err(|e| TrainError::Plot { path: path.display().to_string(), what: e.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_of_any_numbers_are_drawn() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("curves.svg");
        let some = [
            ("rising", vec![(0, 1.0), (5, 2.0)]),
            ("still", vec![(0, 3.0), (5, 3.0)]),
            ("below", vec![(2, -3.0)]),
            ("none", vec![]),
            ("lost", vec![(0, f64::NAN), (1, f64::INFINITY), (2, f64::MAX)]),
            ("large", vec![(0, 1e299), (1, 1e299)]),
            ("near", vec![(0, 1.0), (1, 1.0 + f64::EPSILON)]),
            ("small", vec![(0, -3e-9), (1, 4e-9)]),
        ];
        let some = some.map(|(name, points)| (name.to_owned(), points)).into();
        curves(&path, "all", &some).unwrap();
        let drawn = std::fs::read_to_string(&path).unwrap();
        for name in some.keys() {
            assert!(drawn.contains(name), "{name}");
        }
        curves(&path, "nothing", &BTreeMap::new()).unwrap();
    }
}
