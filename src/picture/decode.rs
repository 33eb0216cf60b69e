//! Data URLs to RGB pictures, in bounded memory and time. Everything here is slow and runs on the blocking pool.
//!
//! Formats: PNG, JPEG (grey, RGB, CMYK), WebP and GIF, told apart by their content; a file that moves is refused. The size is read from the header and
//! refused there, before a pixel is decoded. EXIF orientation is applied. Transparent pixels are laid over white, as a browser's page shows them;
//! colour profiles are not applied.

use std::io::Cursor;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use image::codecs::gif::GifDecoder;
use image::codecs::jpeg::JpegDecoder;
use image::codecs::png::PngDecoder;
use image::codecs::webp::WebPDecoder;
use image::{AnimationDecoder, DynamicImage, ImageDecoder, ImageError, ImageFormat, Limits};

use crate::domain::picture::Picture;
use crate::model::preprocess::over_white;

/// Longest side of a picture sent to the server.
pub const MAX_SIDE: u32 = 16_384;
/// Most pixels of a picture, and of all pictures of one request together.
pub const MAX_PIXELS: u64 = 1 << 25;
/// Most memory a decoder may take for the pixels of one picture, and for what comes with them.
const MAX_ALLOC: u64 = 384 << 20;
const MAX_METADATA: u64 = 32 << 20;

/// Base64 with or without its padding: data URLs are written both ways.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why a picture was refused.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error(
        "pictures are taken as data URLs only (data:image/png;base64,…); this server fetches nothing from the network"
    )]
    Remote,
    #[error("is no data URL of an image (data:image/png;base64,…)")]
    NoDataUrl,
    #[error("is no valid base64: {0}")]
    Base64(String),
    #[error("is not a PNG, JPEG, WebP or GIF picture")]
    Format,
    #[error("moves; send a single frame")]
    Animated,
    #[error(
        "is {width}x{height}; at most {MAX_SIDE} a side and {MAX_PIXELS} pixels over all pictures of a request are taken"
    )]
    TooLarge { width: u32, height: u32 },
    #[error("is broken or cut short: {0}")]
    Broken(String),
}

/// The file in the data URL `url`, whatever it is.
///
/// # Errors
/// When it is no data URL of an image.
pub fn data_url(url: &str) -> Result<Vec<u8>, DecodeError> {
    let Some(rest) = url.get(..5).filter(|scheme| scheme.eq_ignore_ascii_case("data:")).and_then(|_| url.get(5..))
    else {
        let remote = ["http:", "https:", "file:", "ftp:"]
            .iter()
            .any(|s| url.get(..s.len()).is_some_and(|head| head.eq_ignore_ascii_case(s)));
        return Err(if remote { DecodeError::Remote } else { DecodeError::NoDataUrl });
    };
    let (kind, data) = rest.split_once(',').ok_or(DecodeError::NoDataUrl)?;
    let kind = kind.get(..kind.len().min(128)).unwrap_or_default().to_ascii_lowercase();
    if !kind.starts_with("image/") || !kind.ends_with(";base64") {
        return Err(DecodeError::NoDataUrl);
    }
    let broken = |error: base64::DecodeError| DecodeError::Base64(error.to_string().trim_end_matches('.').to_owned());
    BASE64.decode(data.trim_ascii()).map_err(broken)
}

/// Decodes a file of at most `pixels` pixels.
///
/// # Errors
/// When it is no picture, too large, in motion, broken or cut short.
pub fn picture(bytes: &[u8], pixels: u64) -> Result<Picture, DecodeError> {
    let file = Cursor::new(bytes);
    match image::guess_format(bytes).map_err(|_| DecodeError::Format)? {
        ImageFormat::Png => {
            // Profiles and texts are compressed too, and unpacked before the size is known.
            let mut limits = Limits::no_limits();
            limits.max_alloc = Some(MAX_METADATA);
            let decoder = PngDecoder::with_limits(file, limits).map_err(broken)?;
            if decoder.is_apng().map_err(broken)? {
                return Err(DecodeError::Animated);
            }
            still(decoder, pixels)
        }
        ImageFormat::Jpeg => {
            let decoder = JpegDecoder::new(file).map_err(broken)?;
            if !jpeg_is_whole(bytes) {
                return Err(DecodeError::Broken("the end-of-image marker is missing".to_owned()));
            }
            still(decoder, pixels)
        }
        ImageFormat::WebP => {
            let decoder = WebPDecoder::new(file).map_err(broken)?;
            if decoder.has_animation() {
                return Err(DecodeError::Animated);
            }
            still(decoder, pixels)
        }
        ImageFormat::Gif => gif(file, pixels),
        _ => Err(DecodeError::Format),
    }
}

/// The checks and the decoding that all still formats share.
fn still(mut decoder: impl ImageDecoder, pixels: u64) -> Result<Picture, DecodeError> {
    bound(&mut decoder, pixels)?;
    let orientation = decoder.orientation().map_err(broken)?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(broken)?;
    image.apply_orientation(orientation);
    flatten(image)
}

/// A GIF of exactly one frame. Its first frame is drawn on the whole canvas, and a second one is refused.
fn gif(file: Cursor<&[u8]>, pixels: u64) -> Result<Picture, DecodeError> {
    let mut decoder = GifDecoder::new(file).map_err(broken)?;
    bound(&mut decoder, pixels)?;
    let mut frames = decoder.into_frames();
    let first = frames.next().ok_or_else(|| DecodeError::Broken("it has no frame".to_owned()))?.map_err(broken)?;
    match frames.next() {
        None => flatten(DynamicImage::ImageRgba8(first.into_buffer())),
        Some(Ok(_)) => Err(DecodeError::Animated),
        Some(Err(error)) => Err(broken(error)),
    }
}

/// Refuses by the header what is too large, and limits what decoding may allocate.
fn bound(decoder: &mut impl ImageDecoder, pixels: u64) -> Result<(), DecodeError> {
    let (width, height) = decoder.dimensions();
    if width > MAX_SIDE || height > MAX_SIDE || u64::from(width) * u64::from(height) > pixels.min(MAX_PIXELS) {
        return Err(DecodeError::TooLarge { width, height });
    }
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_ALLOC);
    decoder.set_limits(limits).map_err(broken)
}

/// To 8-bit RGB, transparent pixels over white.
fn flatten(image: DynamicImage) -> Result<Picture, DecodeError> {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let rgb = if image.color().has_alpha() {
        image.into_rgba8().pixels().flat_map(|pixel| over_white(pixel.0)).collect()
    } else {
        image.into_rgb8().into_raw()
    };
    Picture::new(width, height, rgb).map_err(|error| DecodeError::Broken(error.to_string()))
}

/// Whether a JPEG's scan data ends with an end-of-image marker. The decoder paints what is missing grey and says nothing; half a picture is no picture.
fn jpeg_is_whole(bytes: &[u8]) -> bool {
    // Skip the marker segments (an EXIF thumbnail in one has an end marker of its own) up to the first scan.
    let mut at = 2;
    while let Some(&[0xFF, marker, high, low]) = bytes.get(at..at + 4).and_then(|s| s.first_chunk()) {
        match marker {
            0xDA => return bytes.get(at..).is_some_and(|scan| scan.windows(2).any(|pair| pair == [0xFF, 0xD9])),
            0xFF => at += 1,
            0x01 | 0xD0..=0xD7 => at += 2,
            _ => at += 2 + usize::from(u16::from_be_bytes([high, low])),
        }
    }
    false
}

fn broken(error: ImageError) -> DecodeError {
    match error {
        ImageError::Limits(limit) => DecodeError::Broken(format!("decoding it would take too much memory ({limit})")),
        other => DecodeError::Broken(other.to_string().trim_end().trim_end_matches('.').to_owned()),
    }
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
