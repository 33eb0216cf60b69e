//! One loss through every part of the network reaches every tensor, and its gradients are its slopes.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor, Var};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use ulm::model::network::{Chunk, Network, Span};
use ulm::model::params::{Params, variables};
use ulm::model::policy;

use crate::golden;
use crate::paths;

/// Text and guided image log-probabilities, and the image tokenizer there and back.
fn loss(network: &Network, pixels: &Tensor, prompt: &[u32], codes: &[u32]) -> candle_core::Result<Tensor> {
    let (text, features) = (Chunk::Text(prompt), Chunk::Features(network.see(pixels)?));
    let sequence = |chunks| Span { slot: 0, start: 0, chunks };
    let blank = vec![prompt[0]; prompt.len()];
    let hidden = network.forward(&[
        sequence(vec![features, text]),
        sequence(vec![Chunk::Text(prompt), Chunk::Codes(codes)]),
        sequence(vec![Chunk::Text(&blank), Chunk::Codes(codes)]),
    ])?;
    let (patches, tail) = (hidden.dim(0)? - 3 * prompt.len() - 2 * codes.len(), codes.len());
    let answered = network.text_logits(&hidden.narrow(0, patches, prompt.len())?)?;
    let drawn = |row: usize| {
        let end = patches + prompt.len() + (row + 1) * (prompt.len() + tail);
        network.image_logits(&hidden.narrow(0, end - tail, tail)?)
    };
    let guided = policy::guide(&drawn(0)?, &drawn(1)?, 3.0)?;
    let said = policy::log_prob_of(&answered, prompt, 1.0)?.mean_all()?;
    let painted = policy::log_prob_of(&guided, codes, 0.7)?.mean_all()?;

    let picture = pixels.permute((0, 2, 3, 1))?.contiguous()?;
    let vq = network.vq();
    let found = vq.features(&picture)?;
    let ids: Vec<u32> = (0..found.elem_count() / found.dim(3)?).map(|i| (i % codes.len()) as u32).collect();
    let coded = vq.decode_ids(&ids, found.dim(0)?, found.dim(1)?)?;
    let tokenized = ((vq.decode(&found)? - &picture)?.sqr()?.mean_all()? + (coded - &picture)?.sqr()?.mean_all()?)?;
    tokenized - (said + painted)?
}

#[test]
fn every_tensor_receives_a_gradient_that_is_the_slope() {
    for variant in golden::VARIANTS {
        let model = paths::load(variant);
        let vars = variables(model.tensors().clone()).unwrap();
        let build = |vars: &BTreeMap<String, Var>| {
            let tensors = vars.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect();
            let params = Params::given(tensors, &Device::Cpu);
            let network = Network::new(&params.root(), model.config()).unwrap();
            params.finish().unwrap();
            network
        };
        let (shape, numbers) = golden::floats(&format!("{variant}.pixels.0"));
        let pixels = Tensor::from_vec(numbers, shape, &Device::Cpu).unwrap();
        // Every token and every code, so that no row of a table is left out.
        let codes: Vec<u32> = (0..model.config().vq.codebook_size as u32).collect();
        let prompt: Vec<u32> = (0..60).collect();
        let network = build(&vars);
        let gradients = loss(&network, &pixels, &prompt, &codes).unwrap().backward().unwrap();

        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut directions = BTreeMap::new();
        for (name, var) in &vars {
            let gradient =
                paths::values(gradients.get(var).unwrap_or_else(|| panic!("{variant}: no gradient for {name}")));
            assert!(gradient.iter().all(|g| g.is_finite()), "{variant}: {name}");
            // A bias that the next norm takes away again, or that adds the same to all scores of a query, has slope 0.
            assert!(
                name.ends_with("bias") || gradient.iter().any(|g| *g != 0.0),
                "{variant}: {name} has no slope at all"
            );
            directions.insert(name.clone(), (gradient, Vec::new()));
        }
        // The slope along a random direction in each group of tensors is the difference quotient.
        for part in ["language_model", "lm_head", "vision_model", "aligner", "generation", "vqmodel"] {
            let mut slope = 0.0;
            for (name, (gradient, direction)) in &mut directions {
                // Along the signs of the gradient, half of them drawn anew, the slope is well above rounding.
                let sign =
                    |g: &f32| if name.contains(part) { g.signum() * f32::from(rng.random_range(0..2u8)) } else { 0.0 };
                *direction = gradient.iter().map(sign).collect();
                slope += gradient.iter().zip(&*direction).map(|(g, d)| f64::from(g * d)).sum::<f64>();
            }
            let step = (0.01 / slope).min(1e-3);
            let at = |sign: f64| {
                let moved = vars.iter().map(|(name, var)| {
                    let direction = Tensor::from_slice(&directions[name].1, var.shape(), &Device::Cpu).unwrap();
                    (name.clone(), (var.as_tensor().detach() + (direction * (sign * step)).unwrap()).unwrap())
                });
                let network = build(&variables(moved.collect()).unwrap());
                f64::from(loss(&network, &pixels, &prompt, &codes).unwrap().to_scalar::<f32>().unwrap())
            };
            let quotient = (at(1.0) - at(-1.0)) / (2.0 * step);
            eprintln!("{variant} {part}: slope {slope:.5}, quotient {quotient:.5}, step {step:.1e}");
            assert!((quotient / slope - 1.0).abs() < 0.02, "{variant} {part}: slope {slope}, quotient {quotient}");
        }
    }
}

/// What is left out in the last layer is left out of nothing else.
#[test]
fn rows_alone_are_what_they_are_among_all() {
    for variant in golden::VARIANTS {
        let model = paths::load(variant);
        let vars = variables(model.tensors().clone()).unwrap();
        let params = Params::given(
            vars.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect(),
            &Device::Cpu,
        );
        let network = Network::new(&params.root(), model.config()).unwrap();
        let codes: Vec<u32> = (0..9).collect();
        let sequence = |chunks| Span { slot: 0, start: 0, chunks };
        let spans = [
            sequence(vec![Chunk::Text(&[5, 1, 7, 2][..]), Chunk::Codes(&codes)]),
            sequence(vec![Chunk::Text(&[3, 8, 2][..])]),
        ];
        let rows = [12u32, 3, 15];
        let some = network.forward_some(&spans, &rows).unwrap();
        let all = network.forward(&spans).unwrap();
        let picked = all.index_select(&Tensor::new(&rows[..], &Device::Cpu).unwrap(), 0).unwrap();
        let weights = Tensor::rand(-1f32, 1f32, some.shape(), &Device::Cpu).unwrap();
        let slopes = |of: &Tensor| (of * &weights).unwrap().sum_all().unwrap().backward().unwrap();
        let near = |a: &Tensor, b: &Tensor| {
            let gap = (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            gap <= 1e-5 * (1.0 + b.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap())
        };
        assert!(near(&some, &picked), "{variant}");
        let (of_some, of_all) = (slopes(&some), slopes(&picked));
        let reached = vars.iter().filter_map(|(name, var)| Some((name, of_some.get(var)?, of_all.get(var)?)));
        let reached: Vec<_> = reached.collect();
        assert!(reached.len() > 10, "{variant}: {}", reached.len());
        for (name, a, b) in reached {
            assert!(near(a, b), "{variant}: {name}");
        }
        assert!(network.forward_some(&spans, &[16]).is_err(), "no such row");
    }
}
