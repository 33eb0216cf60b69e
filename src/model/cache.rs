//! Key-value rows of the sequences in flight: one slot a sequence row, no paging. Who holds which slot is the scheduler's to know.

use candle_core::{DType, Device, Result, Tensor};

use super::config::TextConfig;

/// Preallocated keys and values: per layer `[slots, kv heads, capacity, head dim]`.
pub struct Slots {
    layers: Vec<(Tensor, Tensor)>,
    capacity: usize,
}

impl Slots {
    /// # Errors
    /// When the memory cannot be allocated.
    pub fn new(config: &TextConfig, rows: usize, capacity: usize, dtype: DType, device: &Device) -> Result<Self> {
        let shape = (rows, config.num_kv_heads, capacity, config.head_dim);
        let zeros = || Tensor::zeros(shape, dtype, device);
        let layers = (0..config.num_layers).map(|_| Ok((zeros()?, zeros()?)));
        Ok(Self { layers: layers.collect::<Result<_>>()?, capacity })
    }

    /// Tokens that fit a slot.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Copies the first `len` positions of slot `from` to slot `to`: two sequences share a computed prefix.
    ///
    /// # Errors
    /// When a slot or `len` is out of range.
    pub fn copy(&mut self, from: usize, to: usize, len: usize) -> Result<()> {
        for cache in self.layers.iter().flat_map(|(keys, values)| [keys, values]) {
            let prefix = cache.narrow(0, from, 1)?.narrow(2, 0, len)?.force_contiguous()?;
            cache.narrow(0, to, 1)?.slice_set(&prefix, 2, 0)?;
        }
        Ok(())
    }

    pub(super) fn layer(&self, index: usize) -> Option<(&Tensor, &Tensor)> {
        self.layers.get(index).map(|(keys, values)| (keys, values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_of_any_length_is_copied_and_the_rest_stays() {
        let zeros = || Tensor::zeros((2, 2, 3, 1), DType::F32, &Device::Cpu).unwrap();
        for len in 1..=3 {
            let filled = Tensor::arange(0_f32, 12.0, &Device::Cpu).unwrap().reshape((2, 2, 3, 1)).unwrap();
            let mut slots = Slots { layers: vec![(filled, zeros())], capacity: 3 };
            slots.copy(1, 0, len).unwrap();
            let copied = slots.layers[0].0.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let wanted = |at: usize| if at < 6 && at % 3 < len { at + 6 } else { at };
            assert_eq!(copied, (0..12).map(|at| wanted(at) as f32).collect::<Vec<_>>());
        }
    }
}
