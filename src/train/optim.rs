//! AdamW, and Muon for matrices of layers where that is asked for, with global-norm clipping and savable state. f32 moments beside f32
//! weights. Knows nothing of losses.

use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, Var, bail};
use rayon::prelude::*;
use serde::Serialize;

use super::muon;
use crate::model::params::Tensors;

/// Hyperparameters that stay fixed over a run.
#[derive(Clone, Copy, Debug)]
pub struct AdamWOptions {
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    /// Decoupled decay of matrices; vectors (norms, biases) are not decayed.
    pub weight_decay: f64,
    /// Gradients are scaled down to this global norm.
    pub clip: f64,
    /// Matrices of layers take Muon's step, so many times as long as Adam's mostly are; without it, Adam's.
    pub muon: Option<f64>,
}

impl Default for AdamWOptions {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.01, clip: 1.0, muon: None }
    }
}

struct Slot {
    name: String,
    var: Var,
    first: Tensor,
    second: Tensor,
    /// Of the step under way.
    grad: Option<Tensor>,
}

impl Slot {
    /// One update, number `steps`, from the gradient.
    fn learn(&mut self, grad: &Tensor, lr: f64, o: AdamWOptions, steps: u64) -> Result<()> {
        let update = match o.muon {
            Some(times) if self.var.rank() == 2 && self.name.contains(".layers.") => {
                self.first = ((&self.first * muon::MOMENTUM)? + grad)?.detach();
                (muon::direction(grad, &self.first)? * times)?
            }
            _ => {
                let correct = |beta: f64| 1.0 - beta.powf(steps as f64);
                self.first = ((&self.first * o.beta1)? + (grad * (1.0 - o.beta1))?)?.detach();
                self.second = ((&self.second * o.beta2)? + (grad.sqr()? * (1.0 - o.beta2))?)?.detach();
                let denominator = ((&self.second / correct(o.beta2))?.sqrt()? + o.eps)?;
                ((&self.first / correct(o.beta1))? / denominator)?
            }
        };
        let decay = if self.var.rank() >= 2 { 1.0 - lr * o.weight_decay } else { 1.0 };
        self.var.set(&((self.var.as_tensor() * decay)? - (update * lr)?)?.detach())
    }
}

/// The gradients of one pass, by variable; of those that it reached.
pub struct Pass(Vec<Option<Tensor>>);

/// Decoupled weight decay Adam (Loshchilov and Hutter, 2019).
pub struct AdamW {
    slots: Vec<Slot>,
    steps: u64,
    options: AdamWOptions,
}

impl AdamW {
    /// # Errors
    /// When a moment cannot be allocated.
    pub fn new(vars: impl IntoIterator<Item = (String, Var)>, options: AdamWOptions) -> Result<Self> {
        let slot = |(name, var): (String, Var)| {
            Ok(Slot { first: var.zeros_like()?.detach(), second: var.zeros_like()?.detach(), grad: None, name, var })
        };
        Ok(Self { slots: vars.into_iter().map(slot).collect::<Result<_>>()?, steps: 0, options })
    }

    /// One update at learning rate `lr` from the gradients of one pass; returns the global gradient norm before clipping.
    ///
    /// # Errors
    /// When a variable has no gradient (candle loses them silently) or the norm is not finite; nothing is changed then.
    pub fn step(&mut self, grads: &GradStore, lr: f64) -> Result<f64> {
        let mut pass = self.begin();
        self.gather(grads, &mut pass)?;
        self.accumulate(pass, |_| true)?;
        self.apply(lr)
    }

    /// A pass that has reached nothing yet.
    #[must_use]
    pub fn begin(&self) -> Pass {
        Pass(self.slots.iter().map(|_| None).collect())
    }

    /// Adds what a pass, or a part of it, has brought.
    ///
    /// # Errors
    /// When a gradient has another shape, or memory runs out.
    pub fn gather(&self, grads: &GradStore, pass: &mut Pass) -> Result<()> {
        for (slot, sum) in self.slots.iter().zip(&mut pass.0) {
            let Some(grad) = grads.get(&slot.var) else { continue };
            *sum = Some(sum.take().map_or_else(|| Ok(grad.clone()), |sum| sum + grad)?.detach());
        }
        Ok(())
    }

    /// Adds the gradients of one pass to those of the step under way.
    ///
    /// # Errors
    /// When one of the `expected` variables has no gradient; candle loses them silently.
    pub fn accumulate(&mut self, pass: Pass, expected: impl Fn(&str) -> bool) -> Result<()> {
        for (slot, grad) in self.slots.iter_mut().zip(pass.0) {
            match (grad, slot.grad.take()) {
                (Some(grad), None) => slot.grad = Some(grad),
                (Some(grad), Some(sum)) => slot.grad = Some((sum + grad)?.detach()),
                (None, _) if expected(&slot.name) => bail!("no gradient reached `{}`", slot.name),
                (None, sum) => slot.grad = sum,
            }
        }
        Ok(())
    }

    /// One update at learning rate `lr` from the gradients since the last; returns their global norm before clipping. Variables
    /// that none reached stay as they are.
    ///
    /// # Errors
    /// When the norm is not finite; nothing is changed then, and the gradients are dropped.
    pub fn apply(&mut self, lr: f64) -> Result<f64> {
        let grads: Vec<Option<Tensor>> = self.slots.iter_mut().map(|slot| slot.grad.take()).collect();
        let mut squares = 0.0;
        for grad in grads.iter().flatten() {
            squares += f64::from(grad.sqr()?.sum_all()?.to_scalar::<f32>()?);
        }
        let norm = squares.sqrt();
        if !norm.is_finite() {
            bail!("the gradient norm is {norm}");
        }
        self.steps += 1;
        let scale = (self.options.clip / norm.max(1e-12)).min(1.0);
        let (options, steps) = (self.options, self.steps);
        let learning = self.slots.par_iter_mut().zip(grads).filter_map(|(slot, grad)| Some((slot, grad?)));
        learning.try_for_each(|(slot, grad)| slot.learn(&(grad * scale)?, lr, options, steps))?;
        Ok(norm)
    }

    /// Variables, moments and the step count, by name.
    ///
    /// # Errors
    /// When the step count cannot be made a tensor.
    pub fn state(&self) -> Result<Tensors> {
        let mut state = Tensors::new();
        for slot in &self.slots {
            state.insert(format!("w.{}", slot.name), slot.var.as_tensor().clone());
            state.insert(format!("m.{}", slot.name), slot.first.clone());
            state.insert(format!("v.{}", slot.name), slot.second.clone());
        }
        if let Some(slot) = self.slots.first() {
            state.insert("steps".into(), Tensor::new(&[self.steps as f32], slot.var.device())?);
        }
        Ok(state)
    }

    /// Continues from a state of the same variables.
    ///
    /// # Errors
    /// When a name or shape differs.
    pub fn restore(&mut self, state: &Tensors) -> Result<()> {
        let get = |name: &str| match state.get(name) {
            Some(tensor) => Ok(tensor.clone()),
            None => bail!("the checkpoint has no `{name}`"),
        };
        for slot in &mut self.slots {
            slot.var.set(&get(&format!("w.{}", slot.name))?)?;
            slot.first = get(&format!("m.{}", slot.name))?;
            slot.second = get(&format!("v.{}", slot.name))?;
        }
        self.steps = get("steps")?.to_vec1::<f32>()?.first().copied().unwrap_or(0.0) as u64;
        Ok(())
    }
}

/// Linear warm-up over `warmup` steps, then cosine decay to `floor` times the peak at `steps`.
#[must_use]
pub fn cosine(step: u64, steps: u64, warmup: u64, peak: f64, floor: f64) -> f64 {
    if step < warmup {
        return peak * (step + 1) as f64 / warmup as f64;
    }
    let done = (step - warmup) as f64 / (steps.saturating_sub(warmup)).max(1) as f64;
    peak * (floor + (1.0 - floor) * 0.5 * (1.0 + (std::f64::consts::PI * done.min(1.0)).cos()))
}

/// Learning rate by step: up to its peak, then the same, then down to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Schedule {
    pub peak: f64,
    /// Steps of the way up, which keep the first estimates of Adam's moments from deciding much.
    pub warmup: u64,
    /// Share of all steps of the way down, over which the noise of single steps averages out; 0 for none.
    pub decay: f64,
}

impl Schedule {
    /// The rate of step number `step` of `steps`.
    #[must_use]
    pub fn rate(&self, step: u64, steps: u64) -> f64 {
        let up = (step + 1) as f64 / self.warmup.max(1) as f64;
        let down = steps.saturating_sub(step) as f64 / (self.decay * steps as f64).max(1.0);
        let down = if self.decay == 0.0 { 1.0 } else { down };
        self.peak * up.min(down).min(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn the_rate_goes_up_stays_and_comes_down() {
        let schedule = Schedule { peak: 0.8, warmup: 4, decay: 0.25 };
        let rates: Vec<f64> = [0, 1, 3, 10, 15, 16, 18, 19].map(|step| schedule.rate(step, 20)).into();
        let wanted = [0.2, 0.4, 0.8, 0.8, 0.8, 0.64, 0.32, 0.16];
        assert!(rates.iter().zip(wanted).all(|(rate, wanted)| (rate - wanted).abs() < 1e-12), "{rates:?}");
        let plain = Schedule { warmup: 0, decay: 0.0, ..schedule };
        assert!([0, 1, 19].iter().all(|&step| plain.rate(step, 20) == 0.8));
    }

    /// Against the formula worked by hand for two steps of one weight.
    #[test]
    fn two_steps_by_hand() {
        let var = Var::new(&[[1.0f32]], &Device::Cpu).unwrap();
        let options = AdamWOptions { beta1: 0.9, beta2: 0.99, eps: 0.0, weight_decay: 0.5, clip: 10.0, muon: None };
        let mut adam = AdamW::new([("w".into(), var.clone())], options).unwrap();
        // Loss 3w, then w^2 / 2 (gradient w). First update is lr * sign(g).
        adam.step(&(var.as_tensor() * 3.0).unwrap().sum_all().unwrap().backward().unwrap(), 0.1).unwrap();
        let w1 = 1.0 * (1.0 - 0.05) - 0.1;
        let value = || f64::from(var.flatten_all().unwrap().to_vec1::<f32>().unwrap()[0]);
        assert!((value() - w1).abs() < 1e-6);
        adam.step(&(var.sqr().unwrap() * 0.5).unwrap().sum_all().unwrap().backward().unwrap(), 0.1).unwrap();
        let m = (0.9 * 0.3 + 0.1 * w1) / (1.0 - 0.81);
        let v = (0.99 * 0.09 + 0.01 * w1 * w1) / (1.0 - 0.9801);
        assert!((value() - (w1 * 0.95 - 0.1 * m / v.sqrt())).abs() < 1e-6);
    }

    /// A matrix with one entry: what it does to a singular value is known, whatever the gradient.
    #[test]
    fn muon_takes_matrices_of_layers() {
        let [matrix, head] = [(); 2].map(|()| Var::new(&[[1.0f32]], &Device::Cpu).unwrap());
        let options = AdamWOptions { weight_decay: 0.0, muon: Some(2.0), ..AdamWOptions::default() };
        let vars = [("a.layers.0.w".into(), matrix.clone()), ("head.w".into(), head.clone())];
        let mut optim = AdamW::new(vars, options).unwrap();
        let loss = ((matrix.as_tensor() * 3.0).unwrap() + head.as_tensor()).unwrap().sum_all().unwrap();
        optim.step(&loss.backward().unwrap(), 0.1).unwrap();
        let value = |var: &Var| f64::from(var.flatten_all().unwrap().to_vec1::<f32>().unwrap()[0]);
        let singular = (0..5).fold(1.0, |x: f64, _| 3.4445 * x - 4.7750 * x.powi(3) + 2.0315 * x.powi(5));
        assert!((value(&matrix) - (1.0 - 0.1 * 2.0 * 0.2 * singular)).abs() < 1e-5, "{}", value(&matrix));
        assert!((value(&head) - 0.9).abs() < 1e-5, "{}", value(&head));
    }

    #[test]
    fn a_lost_gradient_is_told() {
        let (a, b) = (Var::new(1f32, &Device::Cpu).unwrap(), Var::new(1f32, &Device::Cpu).unwrap());
        let mut adam = AdamW::new([("b".into(), b)], AdamWOptions::default()).unwrap();
        let grads = a.sqr().unwrap().backward().unwrap();
        assert!(adam.step(&grads, 0.1).unwrap_err().to_string().contains("`b`"));
    }

    #[test]
    fn the_schedule_rises_and_falls() {
        assert!((cosine(0, 100, 10, 1.0, 0.1) - 0.1).abs() < 1e-12);
        assert!((cosine(10, 110, 10, 1.0, 0.1) - 1.0).abs() < 1e-12);
        assert!((cosine(110, 110, 10, 1.0, 0.1) - 0.1).abs() < 1e-12);
    }
}
