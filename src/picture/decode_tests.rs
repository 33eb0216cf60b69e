//! Pictures that are fine, hostile, or broken, made here in memory.

use image::codecs::gif::GifEncoder;
use image::{Frame, Rgb, RgbImage, Rgba, RgbaImage};

use super::*;

fn file(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn gradient(width: u32, height: u32) -> DynamicImage {
    RgbImage::from_fn(width, height, |x, y| Rgb([(x * 9) as u8, (y * 7) as u8, 99])).into()
}

#[test]
fn lossless_formats_come_back_exactly() {
    let image = gradient(20, 9);
    for format in [ImageFormat::Png, ImageFormat::WebP] {
        let picture = picture(&file(&image, format), MAX_PIXELS).unwrap();
        assert_eq!((picture.width(), picture.height()), (20, 9));
        assert_eq!(picture.rgb(), image.as_rgb8().unwrap().as_raw());
    }
    let gif = picture(&file(&gradient(5, 4), ImageFormat::Gif), MAX_PIXELS).unwrap();
    assert_eq!(gif.pixel(4, 3), Some([36, 21, 99]));
}

#[test]
fn one_pixel_is_a_picture() {
    assert_eq!(picture(&file(&gradient(1, 1), ImageFormat::Png), MAX_PIXELS).unwrap().pixel(0, 0), Some([0, 0, 99]));
}

#[test]
fn transparent_pixels_lie_over_white() {
    let image = RgbaImage::from_fn(3, 1, |x, _| Rgba([200, 0, 0, [0, 128, 255][x as usize]]));
    let picture = picture(&file(&image.into(), ImageFormat::Png), MAX_PIXELS).unwrap();
    assert_eq!(picture.rgb(), [255, 255, 255, 227, 127, 127, 200, 0, 0]);
}

#[test]
fn every_format_cut_short_is_refused() {
    for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP, ImageFormat::Gif] {
        let whole = file(&gradient(64, 64), format);
        assert!(picture(&whole, MAX_PIXELS).is_ok(), "{format:?}");
        for keep in [whole.len() / 4, whole.len() / 2, whole.len() * 9 / 10] {
            let error = picture(&whole[..keep], MAX_PIXELS).unwrap_err();
            assert!(matches!(error, DecodeError::Broken(_)), "{format:?} cut to {keep}: {error}");
        }
    }
}

#[test]
fn a_thumbnail_does_not_make_half_a_jpeg_whole() {
    let whole = file(&gradient(64, 64), ImageFormat::Jpeg);
    let mut with_thumbnail = whole[..2].to_vec();
    with_thumbnail.extend([0xFF, 0xE1, 0, 6, 0xFF, 0xDA, 0xFF, 0xD9]);
    with_thumbnail.extend(&whole[2..]);
    assert!(picture(&with_thumbnail, MAX_PIXELS).is_ok());
    assert!(picture(&with_thumbnail[..with_thumbnail.len() / 2], MAX_PIXELS).is_err());
}

#[test]
fn too_large_is_known_from_the_header() {
    let wide = file(&gradient(30_000, 1), ImageFormat::Png);
    assert!(matches!(picture(&wide, MAX_PIXELS), Err(DecodeError::TooLarge { width: 30_000, height: 1 })));
    assert!(matches!(picture(&file(&gradient(11, 10), ImageFormat::Png), 100), Err(DecodeError::TooLarge { .. })));
    // A bomb: the header alone claims 40,000 x 40,000 pixels; nothing else is ever read.
    let mut bomb = file(&gradient(1, 1), ImageFormat::Png);
    bomb[16..24].copy_from_slice(&[0, 0, 0x9C, 0x40, 0, 0, 0x9C, 0x40]);
    let crc = crc32(&bomb[12..29]);
    bomb[29..33].copy_from_slice(&crc.to_be_bytes());
    assert!(matches!(picture(&bomb, MAX_PIXELS), Err(DecodeError::TooLarge { width: 40_000, .. })));
}

#[test]
fn what_moves_is_refused() {
    let mut bytes = Vec::new();
    let frame = || Frame::new(gradient(4, 4).into_rgba8());
    GifEncoder::new(&mut bytes).encode_frames([frame(), frame()]).unwrap();
    assert!(matches!(picture(&bytes, MAX_PIXELS), Err(DecodeError::Animated)));
}

#[test]
fn exif_orientation_is_applied() {
    // Orientation 6: the camera was turned, the picture must be turned by 90 degrees clockwise.
    let exif = [b"II*\0\x08\0\0\0\x01\0".as_slice(), &[0x12, 1, 3, 0, 1, 0, 0, 0, 6, 0, 0, 0], &[0; 4]].concat();
    let mut bytes = Vec::new();
    let mut encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 100);
    image::ImageEncoder::set_exif_metadata(&mut encoder, exif).unwrap();
    encoder
        .encode_image(&RgbImage::from_fn(32, 16, |x, _| if x < 16 { Rgb([255, 0, 0]) } else { Rgb([0, 0, 255]) }))
        .unwrap();
    let picture = picture(&bytes, MAX_PIXELS).unwrap();
    assert_eq!((picture.width(), picture.height()), (16, 32));
    assert!(picture.pixel(8, 4).unwrap()[0] > 200, "red was left and is now on top");
}

#[test]
fn cmyk_is_seen_in_its_colours() {
    let picture = picture(include_bytes!("../../tests/fixtures/pictures/cmyk.jpg"), MAX_PIXELS).unwrap();
    let close = |x, wanted: [u8; 3]| picture.pixel(x, 8).unwrap().iter().zip(wanted).all(|(a, b)| a.abs_diff(b) < 6);
    assert!(close(4, [255, 0, 0]) && close(28, [0, 215, 215]), "{:?} {:?}", picture.pixel(4, 8), picture.pixel(28, 8));
}

#[test]
fn data_urls_are_read_strictly() {
    let png = file(&gradient(2, 2), ImageFormat::Png);
    let text = BASE64.encode(&png);
    for url in
        [format!("data:image/png;base64,{text}"), format!("DATA:Image/PNG;Base64,{}", text.trim_end_matches('='))]
    {
        assert_eq!(data_url(&url).unwrap(), png, "{url}");
    }
    assert!(matches!(data_url("https://example.com/a.png"), Err(DecodeError::Remote)));
    for url in
        ["", "data", "data:", "é…é", "data:image/png;base64", "data:text/plain;base64,AAAA", "data:image/png,AAAA"]
    {
        assert!(matches!(data_url(url), Err(DecodeError::NoDataUrl)), "{url}");
    }
    assert!(matches!(data_url("data:image/png;base64,%%%%"), Err(DecodeError::Base64(_))));
    for url in ["data:image/png;base64,", "data:image/png;base64,AAAA", "data:image/bmp;base64,Qk0="] {
        let read = data_url(url).and_then(|file| picture(&file, MAX_PIXELS));
        assert!(matches!(read, Err(DecodeError::Format)), "{url}");
    }
}

/// CRC-32 as PNG chunks carry it.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |c, _| if c & 1 == 1 { c >> 1 ^ 0xEDB8_8320 } else { c >> 1 })
    })
}
