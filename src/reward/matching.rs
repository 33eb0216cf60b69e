//! Token-level text–picture matching (CoRL's R_TIM): how close each token of the one comes to some token of the other. Numbers only.

use super::States;

/// ½ (mean over picture tokens of the largest cosine to a text token + the same the other way round), -1 to 1; 0 where either is
/// empty. Rows are compared whole: positions are given, not assumed.
#[must_use]
pub fn similarity(states: &States) -> f64 {
    let rows = |numbers: &[f32]| -> Vec<Vec<f64>> { numbers.chunks_exact(states.width.max(1)).map(unit).collect() };
    let (picture, text) = (rows(&states.picture), rows(&states.text));
    if picture.is_empty() || text.is_empty() {
        return 0.0;
    }
    let cosine = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let reach = |from: &[Vec<f64>], to: &[Vec<f64>]| -> f64 {
        let closest = from.iter().map(|a| to.iter().map(|b| cosine(a, b)).fold(f64::NEG_INFINITY, f64::max));
        closest.sum::<f64>() / from.len() as f64
    };
    // Rounding may carry a cosine past its range.
    (0.5 * (reach(&picture, &text) + reach(&text, &picture))).clamp(-1.0, 1.0)
}

fn unit(row: &[f32]) -> Vec<f64> {
    let norm = row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt().max(1e-12);
    row.iter().map(|&x| f64::from(x) / norm).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(picture: &[f32], text: &[f32]) -> f64 {
        similarity(&States { width: 2, picture: picture.to_vec(), text: text.to_vec() })
    }

    #[test]
    fn the_worked_example() {
        assert!((of(&[1.0, 0.0, 0.0, 1.0], &[1.0, 0.0]) - 0.75).abs() < 1e-12);
    }

    #[test]
    fn length_of_states_is_nothing_and_direction_all() {
        assert!((of(&[3.0, 0.0], &[0.5, 0.0]) - 1.0).abs() < 1e-12);
        assert!((of(&[3.0, 0.0], &[-0.5, 0.0]) + 1.0).abs() < 1e-12);
        assert_eq!(of(&[], &[1.0, 0.0]), 0.0);
    }
}
