//! Muon (Jordan, 2024): the step of a matrix is its momentum made orthogonal, so that every direction it points to is taken as far as any
//! other. Knows nothing of where gradients come from.

use candle_core::{Result, Tensor};

/// How much of the momentum each step keeps.
pub const MOMENTUM: f64 = 0.95;
/// Of the odd polynomial that takes singular values towards 1, however small they are; it leaves them between 0.7 and 1.2.
const POLYNOMIAL: [f64; 3] = [3.4445, -4.7750, 2.0315];
/// How often it is applied.
const TIMES: usize = 5;

/// The direction of a matrix's step `[rows, columns]` from its gradient and the momentum, this gradient included (Nesterov's); as long as
/// Adam's steps mostly are (root mean square 0.2, arXiv 2502.16982).
///
/// # Errors
/// When these are no matrices of one shape.
pub fn direction(gradient: &Tensor, momentum: &Tensor) -> Result<Tensor> {
    let (rows, columns) = gradient.dims2()?;
    let length = 0.2 * (rows.max(columns) as f64).sqrt();
    orthogonal(&(gradient + (momentum * MOMENTUM)?)?)? * length
}

/// The orthogonal matrix that is nearest, roughly: all singular values near 1.
fn orthogonal(matrix: &Tensor) -> Result<Tensor> {
    let (rows, columns) = matrix.dims2()?;
    // The smaller side is the one that products are made of.
    let flat = |x: Tensor| if rows > columns { x.t()?.contiguous() } else { Ok(x) };
    let norm = f64::from(matrix.sqr()?.sum_all()?.to_scalar::<f32>()?).sqrt();
    let mut x = (flat(matrix.clone())? / (norm + 1e-7))?;
    let [a, b, c] = POLYNOMIAL;
    for _ in 0..TIMES {
        let square = x.matmul(&x.t()?)?;
        let higher = ((&square * b)? + (square.matmul(&square)? * c)?)?;
        x = ((&x * a)? + higher.matmul(&x)?)?;
    }
    flat(x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn rows<const N: usize, const M: usize>(values: [[f32; M]; N]) -> Tensor {
        Tensor::new(&values, &Device::Cpu).unwrap()
    }

    fn close(a: &Tensor, b: &Tensor) {
        let most = (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(most < 1e-4, "{a} {b}");
    }

    #[test]
    fn every_direction_is_taken_as_far() {
        let done = orthogonal(&rows([[30.0, 0.0, 0.0], [0.0, -2.0, 0.0], [0.0, 0.0, 0.5]])).unwrap();
        let done: Vec<Vec<f32>> = done.to_vec2().unwrap();
        for (at, sign) in [1.0, -1.0, 1.0].into_iter().enumerate() {
            assert!((0.65..1.25).contains(&(sign * done[at][at])), "{done:?}");
        }
        assert!(done[0][1].abs() + done[1][2].abs() < 1e-6, "{done:?}");
    }

    /// What it does to singular values knows no axes.
    #[test]
    fn turned_before_is_turned_after() {
        let (sin, cos) = 0.7f32.sin_cos();
        let turn = rows([[cos, -sin], [sin, cos]]);
        let matrix = rows([[1.0, 2.0, -0.5], [0.3, -1.0, 4.0]]);
        let turned = orthogonal(&turn.matmul(&matrix).unwrap()).unwrap();
        close(&turned, &turn.matmul(&orthogonal(&matrix).unwrap()).unwrap());
        let tall = orthogonal(&matrix.t().unwrap()).unwrap();
        close(&tall, &orthogonal(&matrix).unwrap().t().unwrap());
    }

    #[test]
    fn a_step_is_as_long_as_adams() {
        let gradient = rows([[1.0, 2.0, -0.5], [0.3, -1.0, 4.0]]);
        let step = direction(&gradient, &gradient.zeros_like().unwrap()).unwrap();
        let size = step.sqr().unwrap().mean_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
        assert!((0.1..0.3).contains(&size), "{size}");
    }
}
