//! A decoded RGB picture. Knows nothing of file formats.

/// Width × height pixels of 8-bit RGB, row-major, three bytes a pixel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

/// The bytes do not make a picture of the stated size.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{bytes} bytes are no {width}x{height} RGB picture")]
pub struct PictureError {
    width: usize,
    height: usize,
    bytes: usize,
}

impl Picture {
    /// Takes `rgb` as a picture.
    ///
    /// # Errors
    /// When a side is zero or `rgb.len() != 3 * width * height`.
    pub fn new(width: usize, height: usize, rgb: Vec<u8>) -> Result<Self, PictureError> {
        let wanted = width.checked_mul(height).and_then(|n| n.checked_mul(3));
        if width == 0 || height == 0 || wanted != Some(rgb.len()) {
            return Err(PictureError { width, height, bytes: rgb.len() });
        }
        Ok(Self { width, height, rgb })
    }

    /// A picture of one colour. A zero side becomes 1.
    #[must_use]
    pub fn filled(width: usize, height: usize, colour: [u8; 3]) -> Self {
        let (width, height) = (width.max(1), height.max(1));
        Self { width, height, rgb: colour.repeat(width * height) }
    }

    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    #[must_use]
    pub fn height(&self) -> usize {
        self.height
    }

    /// All bytes, row-major.
    #[must_use]
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    /// The bytes, to write pixels in place; the length cannot change.
    pub fn rgb_mut(&mut self) -> &mut [u8] {
        &mut self.rgb
    }

    /// The pixel at column `x`, row `y`, or `None` outside.
    #[must_use]
    pub fn pixel(&self, x: usize, y: usize) -> Option<[u8; 3]> {
        if x >= self.width || y >= self.height {
            return None;
        }
        let at = 3 * (y * self.width + x);
        self.rgb.get(at..at + 3).and_then(|p| p.try_into().ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_must_match_the_sides() {
        assert!(Picture::new(2, 1, vec![0; 6]).is_ok());
        assert!(Picture::new(2, 1, vec![0; 5]).is_err());
        assert!(Picture::new(0, 1, vec![]).is_err());
        assert!(Picture::new(usize::MAX, 2, vec![]).is_err());
    }

    #[test]
    fn pixels_are_row_major() {
        let picture = Picture::new(2, 2, (0..12).collect());
        let picture = picture.ok();
        assert_eq!(picture.as_ref().and_then(|p| p.pixel(1, 1)), Some([9, 10, 11]));
        assert_eq!(picture.and_then(|p| p.pixel(2, 0)), None);
    }
}
