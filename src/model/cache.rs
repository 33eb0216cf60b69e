//! Key-value rows of the sequences in flight: one slot a sequence row, no paging. Who holds which slot is the scheduler's to know.

use candle_core::{DType, Device, Result, Tensor};

use super::config::TextConfig;

/// Numbers in a line of the processor's caches, of `f32`.
const LINE: usize = 16;

/// Preallocated rows in banks, slot after slot in the next of them: what lies in different banks is computed side by side.
pub struct Slots {
    banks: Vec<Bank>,
    capacity: usize,
}

/// Keys `[slots, kv heads, head dim, positions]` and values `[slots, kv heads, positions, head dim]`, by layer.
pub struct Bank(Vec<(Tensor, Tensor)>);

/// An odd number of lines: whole powers of two apart, all numbers of a key would want the same few places of the processor's caches.
fn positions(capacity: usize) -> usize {
    (capacity.div_ceil(LINE) | 1) * LINE
}

impl Slots {
    /// `rows` slots of at least `capacity` tokens in so many banks.
    ///
    /// # Errors
    /// When the memory cannot be allocated.
    pub fn new(
        config: &TextConfig,
        rows: usize,
        capacity: usize,
        banks: usize,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let banks = banks.clamp(1, rows.max(1));
        let rows = rows.div_ceil(banks);
        let zeros = |a, b| Tensor::zeros((rows, config.num_kv_heads, a, b), dtype, device);
        let positions = positions(capacity);
        let layer = |_| Ok((zeros(config.head_dim, positions)?, zeros(positions, config.head_dim)?));
        let bank = |_| (0..config.num_layers).map(layer).collect::<Result<_>>().map(Bank);
        Ok(Self { banks: (0..banks).map(bank).collect::<Result<_>>()?, capacity })
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
        let banks = self.banks.len();
        let of = |slot: usize| self.banks[slot % banks].0.iter().flat_map(|(keys, values)| [(keys, 3), (values, 2)]);
        for ((source, positions), (target, _)) in of(from).zip(of(to)) {
            let prefix = source.narrow(0, from / banks, 1)?.narrow(positions, 0, len)?.force_contiguous()?;
            target.narrow(0, to / banks, 1)?.slice_set(&prefix, positions, 0)?;
        }
        Ok(())
    }

    /// In order: of `n` banks, slot `s` is number `s / n` in bank `s % n`.
    pub(super) fn banks(&self) -> &[Bank] {
        &self.banks
    }
}

impl Bank {
    pub(super) fn layer(&self, index: usize) -> Option<(&Tensor, &Tensor)> {
        self.0.get(index).map(|(keys, values)| (keys, values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_an_odd_number_of_lines() {
        assert_eq!([1, 16, 17, 512, 2048].map(positions), [16, 16, 48, 528, 2064]);
    }

    #[test]
    fn a_prefix_of_any_length_is_copied_and_the_rest_stays() {
        let filled =
            |shape: [usize; 4]| Tensor::arange(0_f32, 24.0, &Device::Cpu).unwrap().reshape(shape.as_slice()).unwrap();
        // Two slots of two heads of two numbers, three positions: where a number's position is in the order of the memory.
        let places: [fn(usize) -> usize; 2] = [|at| at % 3, |at| at / 2 % 3];
        let bank = || Bank(vec![(filled([2, 2, 2, 3]), filled([2, 2, 3, 2]))]);
        // The second slot of the first bank either way.
        for (banks, from, len) in (1..=3).flat_map(|len| [(1, 1, len), (2, 2, len)]) {
            let mut slots = Slots { banks: (0..banks).map(|_| bank()).collect(), capacity: 3 };
            slots.copy(from, 0, len).unwrap();
            let (keys, values) = &slots.banks[0].0[0];
            for (cache, position) in [keys, values].into_iter().zip(places) {
                let wanted = |at: usize| if at < 12 && position(at) < len { at + 12 } else { at };
                let copied = cache.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                assert_eq!(copied, (0..24).map(|at| wanted(at) as f32).collect::<Vec<_>>());
            }
        }
    }
}
