//! A drawn picture to a file, with a label inside that says what made it. Slow; runs on the blocking pool.
//!
//! PNG carries the label as text chunks; JPEG and WebP (lossless) carry it in EXIF (`ImageDescription`, `Software`), the place their readers look.

use std::io::Cursor;

use image::codecs::jpeg::JpegEncoder;
use image::codecs::webp::WebPEncoder;
use image::imageops::FilterType;
use image::{ExtendedColorType, ImageEncoder, RgbImage};

use crate::domain::picture::Picture;

/// What made the files, for their `Software` field.
const SOFTWARE: &str = concat!("ULM Server ", env!("CARGO_PKG_VERSION"));

/// File formats of drawn pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Png,
    /// Quality from 1 to 100.
    Jpeg(u8),
    /// Lossless.
    WebP,
}

/// What the file says about its making.
#[derive(Clone, Debug, PartialEq)]
pub struct Label {
    /// Content hash of the weights.
    pub version: String,
    pub seed: u64,
    pub guidance: f32,
    pub temperature: f32,
}

/// A picture that could not be written.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    #[error("picture of {0} bytes does not match its size")]
    Shape(usize),
    #[error(transparent)]
    Image(#[from] image::ImageError),
    #[error(transparent)]
    Png(#[from] png::EncodingError),
}

impl Label {
    /// The label as keys and values.
    fn entries(&self) -> [(&'static str, String); 6] {
        [
            ("Software", SOFTWARE.to_owned()),
            ("Source", "AI-generated".to_owned()),
            ("Model version", self.version.clone()),
            ("Seed", self.seed.to_string()),
            ("Guidance", self.guidance.to_string()),
            ("Temperature", self.temperature.to_string()),
        ]
    }

    /// A little-endian EXIF block of two ASCII tags, `ImageDescription` and `Software`.
    fn exif(&self) -> Vec<u8> {
        let description =
            self.entries()[1..].iter().map(|(key, value)| format!("{key}: {value}")).collect::<Vec<_>>().join("; ");
        let tags = [(0x010E_u16, format!("{description}\0")), (0x0131, format!("{SOFTWARE}\0"))];
        // Header (8), entry count (2), 12 bytes an entry, end of the directory (4): then the texts.
        let mut offset = 8 + 2 + 12 * tags.len() + 4;
        let mut block = b"II*\0\x08\0\0\0".to_vec();
        block.extend((tags.len() as u16).to_le_bytes());
        for (tag, text) in &tags {
            block.extend(tag.to_le_bytes());
            block.extend(2_u16.to_le_bytes());
            block.extend((text.len() as u32).to_le_bytes());
            block.extend((offset as u32).to_le_bytes());
            offset += text.len();
        }
        block.extend([0; 4]);
        for (_, text) in &tags {
            block.extend(text.as_bytes());
        }
        block
    }
}

/// Writes `picture` at `side` × `side` pixels (Lanczos where that is not its own size).
///
/// # Errors
/// When the encoder refuses; never for a picture that the model drew.
pub fn encode(picture: &Picture, side: usize, format: Format, label: &Label) -> Result<Vec<u8>, EncodeError> {
    let (width, height, bytes) = (picture.width() as u32, picture.height() as u32, picture.rgb().len());
    let mut image = RgbImage::from_raw(width, height, picture.rgb().to_vec()).ok_or(EncodeError::Shape(bytes))?;
    let side = side as u32;
    if (width, height) != (side, side) {
        image = image::imageops::resize(&image, side, side, FilterType::Lanczos3);
    }
    let (width, height) = image.dimensions();
    let mut file = Vec::new();
    match format {
        Format::Png => {
            let mut encoder = png::Encoder::new(Cursor::new(&mut file), width, height);
            encoder.set_color(png::ColorType::Rgb);
            encoder.set_depth(png::BitDepth::Eight);
            for (key, value) in label.entries() {
                encoder.add_text_chunk(key.to_owned(), value)?;
            }
            let mut writer = encoder.write_header()?;
            writer.write_image_data(image.as_raw())?;
            writer.finish()?;
        }
        Format::Jpeg(quality) => {
            let mut encoder = JpegEncoder::new_with_quality(&mut file, quality.clamp(1, 100));
            encoder
                .set_exif_metadata(label.exif())
                .map_err(|error| EncodeError::Image(image::ImageError::Unsupported(error)))?;
            encoder.write_image(image.as_raw(), width, height, ExtendedColorType::Rgb8)?;
        }
        Format::WebP => {
            let mut encoder = WebPEncoder::new_lossless(&mut file);
            encoder
                .set_exif_metadata(label.exif())
                .map_err(|error| EncodeError::Image(image::ImageError::Unsupported(error)))?;
            encoder.write_image(image.as_raw(), width, height, ExtendedColorType::Rgb8)?;
        }
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use image::ImageDecoder;

    use super::super::decode;
    use super::*;

    fn label() -> Label {
        Label { version: "abc123".to_owned(), seed: 7, guidance: 1.5, temperature: 1.0 }
    }

    fn drawing() -> Picture {
        Picture::filled(8, 8, [10, 200, 30])
    }

    #[test]
    fn files_come_back_at_the_size_asked_for() {
        for format in [Format::Png, Format::Jpeg(100), Format::WebP] {
            for side in [8, 4, 48] {
                let file = encode(&drawing(), side, format, &label()).unwrap();
                let back = decode::picture(&file, decode::MAX_PIXELS).unwrap();
                assert_eq!((back.width(), back.height()), (side, side));
                let [r, g, b] = back.pixel(side / 2, side / 2).unwrap();
                assert!(r.abs_diff(10) < 4 && g.abs_diff(200) < 4 && b.abs_diff(30) < 4, "{format:?}");
            }
        }
    }

    #[test]
    fn a_png_says_what_made_it() {
        let file = encode(&drawing(), 8, Format::Png, &label()).unwrap();
        let reader = png::Decoder::new(Cursor::new(file)).read_info().unwrap();
        let text: Vec<_> =
            reader.info().uncompressed_latin1_text.iter().map(|t| format!("{}={}", t.keyword, t.text)).collect();
        assert_eq!(
            text[1..],
            ["Source=AI-generated", "Model version=abc123", "Seed=7", "Guidance=1.5", "Temperature=1"]
        );
    }

    #[test]
    fn jpeg_and_webp_say_it_in_exif() {
        let jpeg = encode(&drawing(), 8, Format::Jpeg(90), &label()).unwrap();
        let webp = encode(&drawing(), 8, Format::WebP, &label()).unwrap();
        let mut jpeg = image::codecs::jpeg::JpegDecoder::new(Cursor::new(jpeg)).unwrap();
        let mut webp = image::codecs::webp::WebPDecoder::new(Cursor::new(webp)).unwrap();
        for exif in [jpeg.exif_metadata().unwrap(), webp.exif_metadata().unwrap()] {
            let text = String::from_utf8_lossy(&exif.unwrap()).into_owned();
            assert!(
                text.contains("Source: AI-generated; Model version: abc123; Seed: 7; Guidance: 1.5; Temperature: 1\0"),
                "{text}"
            );
        }
    }
}
