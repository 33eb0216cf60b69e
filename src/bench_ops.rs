//! tmp
#[must_use]
pub fn bandwidth() -> f64 {
    1.0
}
