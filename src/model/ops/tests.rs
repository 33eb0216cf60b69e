//! Fused kernels against the composed operations: values and every gradient; and the composed ones against finite differences.

use super::*;
use candle_core::{Device, Var};
use rand::{RngExt, SeedableRng};

fn random(seed: u64, shape: &[usize]) -> Tensor {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let n: usize = shape.iter().product();
    let numbers: Vec<f32> = (0..n).map(|_| rng.random_range(-1.5..1.5)).collect();
    Tensor::from_vec(numbers, shape, &Device::Cpu).unwrap()
}

fn close(what: &str, a: &Tensor, b: &Tensor) {
    let (a, b) = (a.to_dtype(DType::F64).unwrap(), b.to_dtype(DType::F64).unwrap());
    let gap = (&a - &b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f64>().unwrap();
    let size = b.abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f64>().unwrap();
    assert!(gap <= 2e-5 * size.max(1.0), "{what}: off by {gap} at size {size}");
}

/// Runs `f` on f32 (fused) and on f64 (composed) inputs and compares the value and all gradients of a random projection.
fn agree(name: &str, shapes: &[&[usize]], f: impl Fn(&[Tensor]) -> Result<Tensor>) {
    let inputs: Vec<Tensor> = shapes.iter().enumerate().map(|(i, s)| random(7 + i as u64, s)).collect();
    let run = |dtype: DType| {
        let vars: Vec<Var> = inputs.iter().map(|x| Var::from_tensor(&x.to_dtype(dtype).unwrap()).unwrap()).collect();
        let y = f(&vars.iter().map(|v| v.as_tensor().clone()).collect::<Vec<_>>()).unwrap();
        let weights = random(99, y.dims()).to_dtype(dtype).unwrap();
        let grads = (&y * weights).unwrap().sum_all().unwrap().backward().unwrap();
        let grads: Vec<Tensor> = vars.iter().map(|v| grads.get(v).expect("a gradient").clone()).collect();
        (y, grads)
    };
    let ((fused, fused_grads), (plain, plain_grads)) = (run(DType::F32), run(DType::F64));
    close(name, &fused, &plain);
    for (i, (a, b)) in fused_grads.iter().zip(&plain_grads).enumerate() {
        close(&format!("{name}, gradient {i}"), a, b);
    }
}

#[test]
fn linear_agrees() {
    agree("linear", &[&[37, 24], &[19, 24]], |x| linear(&x[0], &x[1].clone().into(), None));
    agree("linear of few rows", &[&[5, 24], &[19, 24], &[19]], |x| linear(&x[0], &x[1].clone().into(), Some(&x[2])));
    agree("linear with bias", &[&[600, 24], &[19, 24], &[19]], |x| linear(&x[0], &x[1].clone().into(), Some(&x[2])));
}

#[test]
fn low_rank_changes_agree() {
    let base = random(3, &[19, 24]);
    let changed = |x: &[Tensor]| -> Result<Weight> {
        let (down, up) = (x[1].clone(), x[2].clone());
        let whole = (base.to_dtype(down.dtype())? + (up.matmul(&down)? * 0.7)?)?;
        Ok(Weight::Changed(Arc::new(Changed { whole, down, up, scale: 0.7 })))
    };
    agree("low rank", &[&[37, 24], &[3, 24], &[19, 3]], |x| linear(&x[0], &changed(x)?, None));
    agree("low rank with bias", &[&[5, 24], &[3, 24], &[19, 3], &[19]], |x| linear(&x[0], &changed(x)?, Some(&x[3])));
}

#[test]
fn what_does_not_learn_gets_no_gradient() {
    let (x, w) = (random(1, &[7, 5]), random(2, &[3, 5]));
    let (learns, other) = (Var::from_tensor(&x).unwrap(), Var::from_tensor(&w).unwrap());
    for (rows, weight) in [(learns.as_tensor(), &w), (&x, other.as_tensor())] {
        let y = linear(rows, &weight.clone().into(), None).unwrap();
        let grads = y.sum_all().unwrap().backward().unwrap();
        assert_eq!([rows, weight].map(|of| grads.get(of).is_some()), [rows, weight].map(Tensor::track_op));
    }
}

#[test]
fn norms_agree() {
    agree("rms norm", &[&[301, 40], &[40]], |x| rms_norm(&x[0], &x[1], 1e-6));
    agree("layer norm", &[&[301, 40], &[40], &[40]], |x| layer_norm(&x[0], &x[1], &x[2], 1e-6));
    for swish in [false, true] {
        agree("group norm", &[&[3, 4, 6, 64], &[64], &[64]], |x| group_norm(&x[0], &x[1], &x[2], 32, 1e-6, swish));
    }
}

#[test]
fn activations_agree() {
    agree("gelu", &[&[33, 21]], |x| gelu(&x[0]));
    agree("swiglu", &[&[33, 42]], |x| swiglu(&x[0]));
    let ids: Vec<u32> = (0..33).map(|i| i % 21).collect();
    agree("log prob", &[&[33, 21]], |x| log_prob(&x[0], &ids));
}

#[test]
fn convolutions_agree() {
    agree("conv", &[&[2, 6, 10, 3], &[27, 8], &[8]], |x| conv3x3(&x[0], &x[1], &x[2]));
    agree("conv in bands", &[&[1, 40, 64, 4], &[36, 3], &[3]], |x| conv3x3(&x[0], &x[1], &x[2]));
    agree("conv into whole vectors", &[&[2, 5, 19, 4], &[36, 32], &[32]], |x| conv3x3(&x[0], &x[1], &x[2]));
    agree("conv from whole vectors", &[&[2, 3, 8, 16], &[144, 5], &[5]], |x| conv3x3(&x[0], &x[1], &x[2]));
    agree("upsample", &[&[2, 3, 5, 4]], |x| upsample2x(&x[0]));
}

fn segments() -> Arc<Vec<Segment>> {
    Arc::new(vec![
        Segment { row: 0, len: 5, position: 0 },
        Segment { row: 5, len: 1, position: 3 },
        Segment { row: 6, len: 17, position: 2 },
    ])
}

#[test]
fn attention_agrees() {
    let rope = Arc::new(Rope::new(10_000.0, 8, 32));
    for (heads, causal, rope) in [
        (Heads { count: 4, kv: 4, dim: 8 }, true, Some(&rope)),
        (Heads { count: 4, kv: 2, dim: 8 }, true, Some(&rope)),
        (Heads { count: 3, kv: 3, dim: 8 }, false, None),
    ] {
        agree("attention", &[&[23, heads.fused()]], |x| attention(&x[0], heads, &segments(), causal, rope));
    }
}

#[test]
fn cached_attention_equals_attention_over_whole_sequences() {
    let (heads, rope) = (Heads { count: 4, kv: 2, dim: 8 }, Arc::new(Rope::new(10_000.0, 8, 16)));
    let qkv = random(3, &[18, heads.fused()]); // two sequences of 9
    let whole = |row| Segment { row, len: 9, position: 0 };
    let wanted = attention(&qkv, heads, &Arc::new(vec![whole(0), whole(9)]), true, Some(&rope)).unwrap();
    for dtype in [DType::F32, DType::F64] {
        let cache = |a, b| Tensor::zeros((3, heads.kv, a, b), dtype, &Device::Cpu).unwrap();
        let (keys, values) = (cache(heads.dim, 9), cache(9, heads.dim));
        let qkv = qkv.to_dtype(dtype).unwrap();
        // A prefill of 6 beside single steps, then a run of 3, then the other sequence's rest.
        for (parts, position) in [([(0, 0, 6), (9, 2, 1)], [0, 0]), ([(6, 0, 3), (10, 2, 8)], [6, 1])] {
            let rows: Vec<Tensor> = parts.iter().map(|&(row, _, len)| qkv.narrow(0, row, len).unwrap()).collect();
            let spans = parts.iter().zip(position).scan(0, |row, (&(_, slot, len), position)| {
                *row += len;
                Some(SlotSpan { slot, row: *row - len, len, position })
            });
            let spans = Arc::new(spans.collect::<Vec<_>>());
            let y = slot_attention(&Tensor::cat(&rows, 0).unwrap(), &keys, &values, heads, &spans, &rope).unwrap();
            for (&(row, _, len), span) in parts.iter().zip(spans.iter()) {
                close("cached", &y.narrow(0, span.row, len).unwrap(), &wanted.narrow(0, row, len).unwrap());
            }
        }
    }
}

/// A cache of bf16 keeps keys and values to one part in 256; a prompt that enters whole and one that enters token by token agree.
/// The longer one is stored by several threads and scored in several parts.
#[test]
fn a_cache_of_half_the_bytes_is_as_good_as_its_numbers() {
    for (heads, len) in [(Heads { count: 4, kv: 2, dim: 8 }, 9), (Heads { count: 2, kv: 2, dim: 128 }, 270)] {
        let rope = Arc::new(Rope::new(10_000.0, heads.dim, len + 3));
        let qkv = random(4, &[len, heads.fused()]);
        let run = |dtype, parts: &[usize]| {
            let cache = |a, b| Tensor::zeros((2, heads.kv, a, b), dtype, &Device::Cpu).unwrap();
            let (keys, values) = (cache(heads.dim, len + 3), cache(len + 3, heads.dim));
            let mut position = 0;
            let rows: Vec<Tensor> = parts
                .iter()
                .map(|&len| {
                    let spans = Arc::new(vec![SlotSpan { slot: 1, row: 0, len, position }]);
                    let rows = qkv.narrow(0, position, len).unwrap();
                    position += len;
                    slot_attention(&rows, &keys, &values, heads, &spans, &rope).unwrap()
                })
                .collect();
            Tensor::cat(&rows, 0).unwrap()
        };
        let off =
            |a: &Tensor, b: &Tensor| (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        let (whole, steps) = ([len - 1, 1], vec![1; len]);
        let wanted = run(DType::F32, &whole);
        let (prompt, alone) = (run(DType::BF16, &whole), run(DType::BF16, &steps));
        assert!(off(&prompt, &wanted) < 0.02 && off(&prompt, &wanted) > 0.0);
        assert!(off(&alone, &prompt) < 1e-5, "off by {}", off(&alone, &prompt));
    }
}

#[test]
fn spans_outside_the_cache_are_refused() {
    let (heads, rope) = (Heads { count: 1, kv: 1, dim: 4 }, Arc::new(Rope::new(10_000.0, 4, 64)));
    let cache = |a, b| Tensor::zeros((2, 1, a, b), DType::F32, &Device::Cpu).unwrap();
    let (keys, values) = (cache(4, 8), cache(8, 4));
    let qkv = random(1, &[2, heads.fused()]);
    for (slot, position) in [(2, 0), (0, 7), (0, 63)] {
        let spans = Arc::new(vec![SlotSpan { slot, row: 0, len: 2, position }]);
        assert!(slot_attention(&qkv, &keys, &values, heads, &spans, &rope).is_err());
    }
}

/// The composed operations in f64 against central differences, so that the oracle of the fused ones has an oracle itself.
#[test]
fn composed_gradients_match_finite_differences() {
    type Op = Box<dyn Fn(&Tensor) -> Result<Tensor>>;
    let f64s = |seed, shape: &[usize]| random(seed, shape).to_dtype(DType::F64).unwrap();
    let rope = Arc::new(Rope::new(10_000.0, 4, 8));
    let heads = Heads { count: 2, kv: 1, dim: 4 };
    let (w, b, kernel, out) = (f64s(1, &[64]), f64s(2, &[64]), f64s(3, &[36, 2]), f64s(4, &[2]));
    let whole = Arc::new(vec![Segment { row: 0, len: 5, position: 1 }]);
    let ops: Vec<(&str, Vec<usize>, Op)> = vec![
        (
            "rms",
            vec![2, 64],
            Box::new({
                let w = w.clone();
                move |x| rms_norm(x, &w, 1e-6)
            }),
        ),
        (
            "layer",
            vec![2, 64],
            Box::new({
                let (w, b) = (w.clone(), b.clone());
                move |x| layer_norm(x, &w, &b, 1e-6)
            }),
        ),
        ("group", vec![1, 2, 2, 64], Box::new(move |x| group_norm(x, &w, &b, 32, 1e-6, true))),
        ("swiglu", vec![3, 8], Box::new(swiglu)),
        ("gelu", vec![3, 8], Box::new(gelu)),
        ("log prob", vec![3, 8], Box::new(|x| log_prob(x, &[1, 7, 3]))),
        ("conv", vec![1, 3, 3, 4], Box::new(move |x| conv3x3(x, &kernel, &out))),
        ("upsample", vec![1, 2, 2, 3], Box::new(upsample2x)),
        ("attention", vec![5, heads.fused()], Box::new(move |x| attention(x, heads, &whole, true, Some(&rope)))),
    ];
    for (name, shape, op) in ops {
        let x = f64s(5, &shape);
        let objective = |x: &Tensor| {
            let y = op(x).unwrap();
            (&y * f64s(6, y.dims())).unwrap().sum_all().unwrap()
        };
        let var = Var::from_tensor(&x).unwrap();
        let grads = objective(var.as_tensor()).backward().unwrap();
        let grad = grads.get(&var).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
        let numbers = x.flatten_all().unwrap().to_vec1::<f64>().unwrap();
        for at in (0..numbers.len()).step_by(7) {
            let moved = |by: f64| {
                let mut numbers = numbers.clone();
                numbers[at] += by;
                objective(&Tensor::from_vec(numbers, shape.as_slice(), &Device::Cpu).unwrap())
                    .to_scalar::<f64>()
                    .unwrap()
            };
            let slope = (moved(1e-5) - moved(-1e-5)) / 2e-5;
            assert!(
                (slope - grad[at]).abs() < 1e-6 * slope.abs().max(1.0),
                "{name} at {at}: {slope} against {}",
                grad[at]
            );
        }
    }
}
