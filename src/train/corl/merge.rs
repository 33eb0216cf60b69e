//! Two refined models into one, by what each changed of their common base (ULM-R1's merges, after arXiv 2501.10661). Weights only.

use candle_core::{Result, Tensor, bail};

use crate::model::params::Tensors;

/// How changes are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merge {
    /// Per tensor: what lies within two standard deviations of the mean change is averaged, what sticks out is kept whole.
    Gaussian,
    /// Per tensor: the mean of the changes, each weighed by the inverse of its Frobenius norm.
    Frobenius,
}

/// Standard deviations within which a change is ordinary.
const WIDTH: f64 = 2.0;

/// `base` with what `a` and `b` changed of it.
///
/// # Errors
/// When the three do not hold the same tensors.
pub fn merge(base: &Tensors, a: &Tensors, b: &Tensors, how: Merge) -> Result<Tensors> {
    let mut merged = Tensors::new();
    for (name, base) in base {
        let (Some(a), Some(b)) = (a.get(name), b.get(name)) else { bail!("`{name}` is not in all three models") };
        let (a, b) = ((a - base)?, (b - base)?);
        let change = match how {
            Merge::Gaussian => gaussian(&a, &b)?,
            Merge::Frobenius => frobenius(&a, &b)?,
        };
        merged.insert(name.clone(), (base + change)?);
    }
    Ok(merged)
}

fn number(tensor: &Tensor) -> Result<f64> {
    Ok(f64::from(tensor.to_dtype(candle_core::DType::F32)?.to_scalar::<f32>()?))
}

fn gaussian(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let mean = |change: &Tensor| number(&change.mean_all()?);
    // n - 1, as PyTorch has it; a single number has no spread.
    let deviation = |change: &Tensor| -> Result<f64> {
        let n = change.elem_count() as f64;
        let squares = number(&(change - mean(change)?)?.sqr()?.sum_all()?)?;
        Ok(if n > 1.0 { (squares / (n - 1.0)).sqrt() } else { 0.0 })
    };
    let (middle, spread) = (0.5 * (mean(a)? + mean(b)?), deviation(a)?.min(deviation(b)?));
    let (least, most) = (middle - WIDTH * spread, middle + WIDTH * spread);
    let weighed = |change: &Tensor| -> Result<Tensor> {
        let inside = (change.ge(least)? * change.le(most)?)?;
        inside.where_cond(&(change * 0.5)?, change)
    };
    weighed(a)? + weighed(b)?
}

fn frobenius(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let weight = |change: &Tensor| Ok::<_, candle_core::Error>(1.0 / number(&change.sqr()?.sum_all()?.sqrt()?)?);
    let (for_a, for_b) = (weight(a)?, weight(b)?);
    match (for_a.is_finite(), for_b.is_finite()) {
        (true, true) => ((a * for_a)? + (b * for_b)?)? / (for_a + for_b),
        // What changed nothing weighs nothing.
        (true, false) => Ok(a.clone()),
        (false, _) => Ok(b.clone()),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn tensors(values: &[f32]) -> Tensors {
        Tensors::from([("w".to_owned(), Tensor::new(values, &Device::Cpu).unwrap())])
    }

    fn merged(base: &[f32], a: &[f32], b: &[f32], how: Merge) -> Vec<f32> {
        merge(&tensors(base), &tensors(a), &tensors(b), how).unwrap()["w"].to_vec1().unwrap()
    }

    fn close(a: &[f32], b: &[f32]) {
        assert!(a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5), "{a:?} {b:?}");
    }

    #[test]
    fn what_sticks_out_is_kept_whole() {
        // Of b, whose deviation is the smaller, all lie within; of a the last sticks out of -2 … 2.
        let base = [1.0; 6];
        let a = [1.0, 1.0, 1.0, 1.0, 1.0, 7.0];
        let b = [1.1, 0.9, 1.1, 0.9, 1.1, 0.9];
        // Changes: mean 1 and 0, so the middle is 0.5; deviation of b 0.109545; inside is 0.28091 … 0.71909.
        close(&merged(&base, &a, &b, Merge::Gaussian), &[1.1, 0.9, 1.1, 0.9, 1.1, 6.9]);
        let a = [1.1, 0.9, 1.1, 0.9, 1.1, 0.9];
        close(&merged(&base, &a, &b, Merge::Gaussian), &a);
    }

    #[test]
    fn large_changes_weigh_less() {
        // Norms 1 and 3: weights 3/4 and 1/4.
        close(&merged(&[0.0, 0.0], &[1.0, 0.0], &[0.0, 3.0], Merge::Frobenius), &[0.75, 0.75]);
        close(&merged(&[2.0, 2.0], &[2.0, 2.0], &[3.0, 2.0], Merge::Frobenius), &[3.0, 2.0]);
        close(&merged(&[2.0, 2.0], &[2.0, 2.0], &[2.0, 2.0], Merge::Frobenius), &[2.0, 2.0]);
    }

    #[test]
    fn other_models_are_refused() {
        let other = Tensors::from([("v".to_owned(), Tensor::new(&[1f32], &Device::Cpu).unwrap())]);
        assert!(merge(&tensors(&[1.0]), &tensors(&[1.0]), &other, Merge::Gaussian).is_err());
    }
}
