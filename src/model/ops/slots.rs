//! Fused attention on CPU over the slots of a cache, without a gradient. The cache holds `f32` or bf16; one row of input holds a token's
//! queries, keys and values of all heads side by side, before rotation, in `f32`.

use std::sync::Arc;

use ::half::bf16;
use candle_core::{CpuStorage, CustomOp3, InplaceOp2, Layout, Result, Shape, bail};
use multiversion::multiversion;
use rayon::prelude::*;

use super::attention::{gather, normalise};
use super::kernel::{LANES, Mat, matmul, slice, softmax};
use super::widen::Kept;
use super::{Heads, Rope, SlotSpan};

/// Numbers of a value that are summed together where rows of the cache are short of bytes, and keys that are scored together: whole lines
/// of the cache's memory.
const WIDE: usize = 8 * LANES;
/// Values that memory is asked for before they are read.
const AHEAD: usize = 16;
/// Numbers of a head of a slot from which on storing is worth sharing between threads: each of a key goes to a line of its own, from memory.
const LARGE: usize = 1 << 15;
/// Bytes that memory gives at a time.
const LINE: usize = 64;

/// Writes keys of fused rows, rotated, into a cache `[slots, kv, dim, capacity]` (`value: false`), or values into one
/// `[slots, kv, capacity, dim]`.
pub(super) struct StoreRows {
    pub heads: Heads,
    pub spans: Arc<Vec<SlotSpan>>,
    pub rope: Arc<Rope>,
    pub value: bool,
}

impl StoreRows {
    fn store<T: Kept>(&self, cache: &mut [T], (kv, capacity, dim): (usize, usize, usize), x: &[f32]) {
        let (size, spans) = (capacity * dim, self.spans.iter());
        let store = |key: &mut Vec<f32>, part: &mut [T], span: SlotSpan, head| {
            self.store_head((span, head), x, key, part, (capacity, dim));
        };
        if size < LARGE {
            let mut key = Vec::with_capacity(dim);
            for (span, head) in spans.flat_map(|span| (0..kv).map(move |head| (*span, head))) {
                store(&mut key, &mut cache[(span.slot * kv + head) * size..][..size], span, head);
            }
        } else {
            cache.par_chunks_exact_mut(size).enumerate().for_each_init(Vec::new, |key, (at, part)| {
                let here = spans.clone().filter(|span| span.slot == at / kv);
                here.for_each(|span| store(key, part, *span, at % kv));
            });
        }
    }

    /// One head of a span, into its part of the cache; `key` is to work in.
    fn store_head<T: Kept>(
        &self,
        (span, head): (SlotSpan, usize),
        x: &[f32],
        key: &mut Vec<f32>,
        part: &mut [T],
        (capacity, dim): (usize, usize),
    ) {
        let h = self.heads;
        for i in 0..span.len {
            let (row, position) = (&x[(span.row + i) * h.fused()..][..h.fused()], span.position + i);
            if self.value {
                let value = &row[h.values_at(head)..][..dim];
                let places = &mut part[position * dim..(position + 1) * dim];
                places.iter_mut().zip(value).for_each(|(place, &v)| *place = T::of(v));
            } else {
                key.clear();
                key.extend_from_slice(&row[h.keys_at(head)..][..dim]);
                self.rope.rotate(key, position, 1.0);
                let places = part[position..].iter_mut().step_by(capacity);
                places.zip(&*key).for_each(|(place, &k)| *place = T::of(k));
            }
        }
    }
}

impl InplaceOp2 for StoreRows {
    fn name(&self) -> &'static str {
        "store-rows"
    }

    fn cpu_fwd(&self, cache: &mut CpuStorage, lc: &Layout, x: &CpuStorage, lx: &Layout) -> Result<()> {
        let (slots, kv, third, fourth) = lc.shape().dims4()?;
        let (capacity, dim) = if self.value { (third, fourth) } else { (fourth, third) };
        let (x, h) = (slice(x, lx)?, self.heads);
        if (kv, dim) != (h.kv, h.dim) {
            bail!("a cache of {kv} heads of {dim} does not hold {h:?}");
        }
        check_spans(&self.spans, slots, capacity, x.len() / h.fused())?;
        match (cache, lc.start_offset(), lc.is_contiguous()) {
            (CpuStorage::F32(cache), 0, true) => self.store(cache, (kv, capacity, dim), x),
            (CpuStorage::BF16(cache), 0, true) => self.store(cache, (kv, capacity, dim), x),
            _ => bail!("the cache must be contiguous f32 or bf16"),
        }
        Ok(())
    }
}

fn check_spans(spans: &[SlotSpan], slots: usize, capacity: usize, rows: usize) -> Result<()> {
    match spans.iter().find(|s| s.slot >= slots || s.position + s.len > capacity || s.row + s.len > rows) {
        Some(bad) => bail!("{bad:?} lies outside a cache of {slots} slots of {capacity} tokens"),
        None => Ok(()),
    }
}

/// What is kept of numbers, with the decoding step over it.
trait Attend: Kept {
    fn attend(q: &[f32], keys: &[Self], values: &[Self], scale: f32, scores: &mut Vec<f32>, out: &mut [f32]);
}

impl Attend for f32 {
    fn attend(q: &[f32], keys: &[f32], values: &[f32], scale: f32, scores: &mut Vec<f32>, out: &mut [f32]) {
        attend_f32(q, keys, values, scale, scores, out);
    }
}

impl Attend for bf16 {
    fn attend(q: &[f32], keys: &[bf16], values: &[bf16], scale: f32, scores: &mut Vec<f32>, out: &mut [f32]) {
        attend_bf16(q, keys, values, scale, scores, out);
    }
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn attend_f32(q: &[f32], keys: &[f32], values: &[f32], scale: f32, scores: &mut Vec<f32>, out: &mut [f32]) {
    score(q, keys, values.len() / q.len(), scores);
    softmax(scores, scale);
    weigh::<f32, LANES>(scores, values, 0, out);
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512dq+avx512vl+avx2+fma", "x86_64+avx2+fma"))]
fn attend_bf16(q: &[f32], keys: &[bf16], values: &[bf16], scale: f32, scores: &mut Vec<f32>, out: &mut [f32]) {
    score(q, keys, values.len() / q.len(), scores);
    softmax(scores, scale);
    let wide = out.len() - out.len() % WIDE;
    let (whole, rest) = out.split_at_mut(wide);
    weigh::<bf16, WIDE>(scores, values, 0, whole);
    weigh::<bf16, LANES>(scores, values, wide, rest);
}

/// `scores = q K` with the first `n` of `keys` `[dim, capacity]`. In a decoding step every span is one query, and a general matrix
/// product costs more to call than this to compute. Keys lie side by side, so that a wide vector holds a number each of many and
/// no product ends in a sum across its lanes.
#[inline(always)]
fn score<T: Kept>(q: &[f32], keys: &[T], n: usize, scores: &mut Vec<f32>) {
    let capacity = keys.len() / q.len();
    scores.clear();
    scores.resize(n, 0.0);
    // Four numbers of each key at a time: what is read again and written again are the sums.
    for (at, (q, four)) in q.chunks(4).zip(keys.chunks(4 * capacity)).enumerate() {
        let mut rows = four.chunks_exact(capacity).map(|row| &row[..n]);
        if let (&[q0, q1, q2, q3], Some(a), Some(b), Some(c), Some(d)) =
            (q, rows.next(), rows.next(), rows.next(), rows.next())
        {
            let some = if foreseen::<T>() { n.max(1) } else { WIDE };
            for start in (0..n).step_by(some) {
                let some = start..n.min(start + some);
                (4..8).for_each(|row| ask(keys, (4 * at + row) * capacity + start, some.len()));
                let [a, b, c, d] = [a, b, c, d].map(|row| &row[some.clone()]);
                let keys = a.iter().zip(b).zip(c.iter().zip(d));
                for (score, ((a, b), (c, d))) in scores[some].iter_mut().zip(keys) {
                    *score += (q0 * a.wide() + q1 * b.wide()) + (q2 * c.wide() + q3 * d.wide());
                }
            }
        } else {
            for (q, row) in q.iter().zip(four.chunks_exact(capacity)) {
                scores.iter_mut().zip(row).for_each(|(score, k)| *score += q * k.wide());
            }
        }
    }
}

/// `out = weights V` with the numbers from `at` on of `values` `[weights, dim]`, `N` at a time.
#[inline(always)]
fn weigh<T: Kept, const N: usize>(weights: &[f32], values: &[T], mut at: usize, out: &mut [f32]) {
    let dim = values.len() / weights.len().max(1);
    let weighted = || weights.iter().zip(values.chunks_exact(dim));
    let mut parts = out.chunks_exact_mut(N);
    for out in parts.by_ref() {
        let mut sums = [0.0; N];
        for (row, (&weight, value)) in weighted().enumerate() {
            ask(values, (row + AHEAD) * dim + at, N);
            sums.iter_mut().zip(&value[at..at + N]).for_each(|(sum, v)| *sum += weight * v.wide());
        }
        out.copy_from_slice(&sums);
        at += N;
    }
    for out in parts.into_remainder() {
        *out = weighted().map(|(&weight, value)| weight * value[at].wide()).sum();
        at += 1;
    }
}

/// Whether rows of the cache are long enough for the processor to foresee what is read of them: those of `f32` are read a tenth slower
/// where memory is asked for them.
const fn foreseen<T>() -> bool {
    size_of::<T>() >= size_of::<f32>()
}

/// Asks memory for `len` numbers from `at` on, as far as there are any, where the processor does not.
#[inline(always)]
fn ask<T>(of: &[T], at: usize, len: usize) {
    if foreseen::<T>() {
        return;
    }
    for number in of.get(at..).unwrap_or_default().iter().take(len).step_by(LINE / size_of::<T>()) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: every such processor has it, and a hint reads nothing.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(number).cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = number;
    }
}

/// Queries of fused rows attend to their slot's keys and values up to their own position → `[rows, heads dim]`.
pub(super) struct SlotAttention {
    pub heads: Heads,
    pub spans: Arc<Vec<SlotSpan>>,
    pub rope: Arc<Rope>,
}

/// What one head of one span works in: scores, and keys and values of the slot in `f32` where they are kept otherwise.
#[derive(Default)]
struct Desk {
    scores: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl SlotAttention {
    /// One head of a span: `x` are its fused rows, `out` its outputs row by row.
    fn head<T: Attend>(
        &self,
        (span, head): (SlotSpan, usize),
        x: &[f32],
        (keys, values, capacity): (&[T], &[T], usize),
        desk: &mut Desk,
        mut out: Vec<&mut [f32]>,
    ) -> Result<()> {
        if span.len == 0 {
            return Ok(());
        }
        let (h, dim, seen) = (self.heads, self.heads.dim, span.position + span.len);
        let scale = 1.0 / (dim as f32).sqrt();
        let q = gather(x, h.fused(), h.query_at(head), dim, Some((&*self.rope, span.position)));
        let at = (span.slot * h.kv + head / (h.count / h.kv)) * capacity * dim;
        let (k, v) = (&keys[at..at + capacity * dim], &values[at..at + seen * dim]);
        if let [out] = out.as_mut_slice() {
            T::attend(&q, k, v, scale, &mut desk.scores, out);
            return Ok(());
        }
        let Desk { scores, keys, values } = desk;
        scores.resize(span.len * seen, 0.0);
        let k = match T::as_f32(k) {
            Some(k) => Mat::rows(k, dim, seen, capacity),
            None => {
                keys.resize(dim * seen, 0.0);
                keys.chunks_exact_mut(seen).zip(k.chunks_exact(capacity)).for_each(|(to, k)| T::widen(k, to));
                Mat::rows(keys, dim, seen, seen)
            }
        };
        let v = match T::as_f32(v) {
            Some(v) => v,
            None => {
                values.resize(seen * dim, 0.0);
                T::widen(v, values);
                values
            }
        };
        matmul(scores, seen, Mat::rows(&q, span.len, dim, dim), k, false, 1)?;
        normalise(scores, seen, span.position, true, scale);
        let mut seen_by_all = vec![0.0; span.len * dim];
        let weights = Mat::rows(scores, span.len, seen, seen);
        matmul(&mut seen_by_all, dim, weights, Mat::rows(v, seen, dim, dim), false, 1)?;
        out.iter_mut().zip(seen_by_all.chunks_exact(dim)).for_each(|(out, row)| out.copy_from_slice(row));
        Ok(())
    }

    /// Heads of spans are shared between threads, because a step has few spans and a prompt is one.
    fn attend<T: Attend>(&self, x: &[f32], cache: (&[T], &[T], usize)) -> Result<Vec<f32>> {
        let h = self.heads;
        let mut y = vec![0.0; x.len() / h.fused() * h.width()];
        let mut rest = y.chunks_exact_mut(h.dim);
        let mut jobs = Vec::with_capacity(self.spans.len() * h.count);
        for span in self.spans.iter() {
            let mut heads: Vec<Vec<&mut [f32]>> = (0..h.count).map(|_| Vec::with_capacity(span.len)).collect();
            for _ in 0..span.len {
                for out in &mut heads {
                    let Some(place) = rest.next() else { bail!("spans are longer than their rows") };
                    out.push(place);
                }
            }
            jobs.extend(heads.into_iter().enumerate().map(|(head, out)| ((*span, head), out)));
        }
        jobs.into_par_iter().try_for_each_init(Desk::default, |desk, ((span, head), out)| {
            let x = &x[span.row * h.fused()..(span.row + span.len) * h.fused()];
            self.head((span, head), x, cache, desk, out)
        })?;
        Ok(y)
    }
}

impl CustomOp3 for SlotAttention {
    fn name(&self) -> &'static str {
        "slot-attention"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        keys: &CpuStorage,
        lk: &Layout,
        values: &CpuStorage,
        lv: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let ((slots, kv, dim, capacity), h) = (lk.shape().dims4()?, self.heads);
        if (kv, dim) != (h.kv, h.dim) || lv.shape().dims4()? != (slots, kv, capacity, dim) {
            bail!("keys {:?} and values {:?} are no cache of {h:?}", lk.shape(), lv.shape());
        }
        let x = slice(x, lx)?;
        let rows = x.len() / h.fused();
        check_spans(&self.spans, slots, capacity, rows)?;
        let y = match (keys, values, lk.contiguous_offsets(), lv.contiguous_offsets()) {
            (CpuStorage::F32(k), CpuStorage::F32(v), Some((a, b)), Some((c, d))) => {
                self.attend(x, (&k[a..b], &v[c..d], capacity))?
            }
            (CpuStorage::BF16(k), CpuStorage::BF16(v), Some((a, b)), Some((c, d))) => {
                self.attend(x, (&k[a..b], &v[c..d], capacity))?
            }
            _ => bail!("the cache must be contiguous f32 or bf16"),
        };
        Ok((CpuStorage::F32(y), Shape::from((rows, h.width()))))
    }
}
