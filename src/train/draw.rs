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

/// Writes named curves of (step, value) as an SVG.
///
/// # Errors
/// When the file cannot be written.
pub fn curves(path: &Path, title: &str, curves: &BTreeMap<String, Vec<(u64, f64)>>) -> Result<(), TrainError> {
    let points = || curves.values().flatten().filter(|p| p.1.is_finite());
    let (mut low, mut high) = points().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), p| (a.min(p.1), b.max(p.1)));
    let last = points().map(|p| p.0).max().unwrap_or(1).max(1);
    if low > high {
        (low, high) = (0.0, 1.0);
    }
    let plot = || -> Result<(), Box<dyn std::error::Error>> {
        let root = SVGBackend::new(path, (800, 420)).into_drawing_area();
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .caption(title, ("sans-serif", 18))
            .margin(10)
            .x_label_area_size(30)
            .y_label_area_size(50)
            .build_cartesian_2d(0..last, low..high.max(low + 1e-9))?;
        chart.configure_mesh().x_desc("step").light_line_style(WHITE).draw()?;
        for (i, (name, points)) in curves.iter().enumerate() {
            let colour = Palette99::pick(i).to_rgba();
            let series = LineSeries::new(points.iter().copied().filter(|p| p.1.is_finite()), colour);
            let key = move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour);
            chart.draw_series(series)?.label(name.as_str()).legend(key);
        }
        chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(BLACK.mix(0.2)).draw()?;
        root.present()?;
        Ok(())
    };
    plot().map_err(|e| TrainError::Plot { path: path.display().to_string(), what: e.to_string() })
}
