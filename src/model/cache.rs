//! Key-value rows of the sequences in flight: one slot a sequence row, no paging. Who holds which slot is the scheduler's to know.

use candle_core::{DType, Device, Result, Tensor};

use super::config::TextConfig;

/// Preallocated keys `[slots, kv heads, head dim, capacity]` and values `[slots, kv heads, capacity, head dim]`, by layer.
pub struct Slots {
    layers: Vec<(Tensor, Tensor)>,
    capacity: usize,
}

impl Slots {
    /// # Errors
    /// When the memory cannot be allocated.
    pub fn new(config: &TextConfig, rows: usize, capacity: usize, dtype: DType, device: &Device) -> Result<Self> {
        let zeros = |a, b| Tensor::zeros((rows, config.num_kv_heads, a, b), dtype, device);
        let layer = |_| Ok((zeros(config.head_dim, capacity)?, zeros(capacity, config.head_dim)?));
        let layers = (0..config.num_layers).map(layer);
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
        for (cache, positions) in self.layers.iter().flat_map(|(keys, values)| [(keys, 3), (values, 2)]) {
            let prefix = cache.narrow(0, from, 1)?.narrow(positions, 0, len)?.force_contiguous()?;
            cache.narrow(0, to, 1)?.slice_set(&prefix, positions, 0)?;
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
        let filled =
            |shape: [usize; 4]| Tensor::arange(0_f32, 24.0, &Device::Cpu).unwrap().reshape(shape.as_slice()).unwrap();
        // Two slots of two heads of two numbers, three positions: where a number's position is in the order of the memory.
        let places: [fn(usize) -> usize; 2] = [|at| at % 3, |at| at / 2 % 3];
        for len in 1..=3 {
            let mut slots = Slots { layers: vec![(filled([2, 2, 2, 3]), filled([2, 2, 3, 2]))], capacity: 3 };
            slots.copy(1, 0, len).unwrap();
            let (keys, values) = &slots.layers[0];
            for (cache, position) in [keys, values].into_iter().zip(places) {
                let wanted = |at: usize| if at < 12 && position(at) < len { at + 12 } else { at };
                let copied = cache.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                assert_eq!(copied, (0..24).map(|at| wanted(at) as f32).collect::<Vec<_>>());
            }
        }
    }
}
