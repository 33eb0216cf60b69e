//! A pass forward and back that keeps few activations: gradient checkpointing by segments of layers (Chen et al., arXiv 1604.06174).
//! Knows no loss and no optimizer.

use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, Var, bail};

use crate::model::network::{Network, Span};

/// One pass forward and back over `spans`, with `layers` of the decoder's layers a segment; none, or 0, is all of them in one.
///
/// Forward, only what leaves each segment is kept, `[positions, hidden]`; back, a segment is computed again from what entered it, and its
/// activations go when its gradients are there. The last is computed once: its way back begins where its way forward ends. One
/// segment is the plain pass.
///
/// `loss` makes a scalar of the hidden states of `rows` of the positions, `[rows, hidden]`. `sink` takes the gradients of one segment at a
/// time, those of the last, the final norm and whatever `loss` reads first, those of the embeddings with the first segment's. They
/// are those of the plain pass to the last bit on a CPU.
///
/// # Errors
/// When a border receives no gradient, or what the network, `loss` and `sink` fail with.
pub fn backward(
    network: &Network,
    (spans, rows): (&[Span<'_>], &[u32]),
    layers: Option<usize>,
    loss: impl FnOnce(&Tensor) -> Result<Tensor>,
    mut sink: impl FnMut(&GradStore) -> Result<()>,
) -> Result<()> {
    let depth = network.depth();
    let size = layers.filter(|&layers| layers > 0).unwrap_or(depth).max(1);
    // From the border below, or from the ids, up to layer `to`.
    let climb = |border: Option<&(usize, Var)>, to: usize| match border {
        Some((from, x)) => network.layers(*from..to, x, spans, rows),
        None => network.layers(0..to, &network.embed(spans)?, spans, rows),
    };
    // A variable is a copy without history: the graph of the segment below goes with the tensor it is made of.
    let mut borders: Vec<(usize, Var)> = Vec::new();
    for to in (size..depth).step_by(size) {
        borders.push((to, Var::from_tensor(&climb(borders.last(), to)?)?));
    }
    let mut grads = loss(&network.norm(&climb(borders.last(), depth)?)?)?.backward()?;
    sink(&grads)?;
    while let Some((to, x)) = borders.pop() {
        let Some(above) = grads.remove(&x) else { bail!("no gradient reached the border below layer {to}") };
        // They hold one for every tensor that the segment read, weights that do not learn included.
        drop((grads, x));
        // The gradient of Σ x g in x is g. Detached, because candle's gradients may lead back into the graph they come from.
        grads = (climb(borders.last(), to)? * above.detach())?.sum_all()?.backward()?;
        sink(&grads)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use candle_core::Device;

    use super::*;
    use crate::model::config::{ModelConfig, TextConfig};
    use crate::model::params::{Init, Params};
    use crate::model::prompt::{AnswerPrompt, DrawPrompt, Piece};
    use crate::train::corl::score::{Drawn, Plan, Prompt, log_probs};
    use crate::train::optim::{AdamW, AdamWOptions};
    use crate::train::trainable::{Lora, Trainable};

    const LAYERS: usize = 5;
    const WIDTH: usize = 16;

    /// A tiny decoder with random weights; changes of low rank that are not zero.
    fn learner(lora: Option<Lora>) -> Trainable {
        let demo = ModelConfig::from_json(include_bytes!("../../models/demo/config.json")).unwrap();
        let text = TextConfig {
            vocab_size: 40,
            hidden_size: WIDTH,
            intermediate_size: 24,
            num_layers: LAYERS,
            num_heads: 2,
            num_kv_heads: 1,
            head_dim: 8,
            ..demo.text
        };
        let config = ModelConfig { text, ..demo };
        let fresh = Params::fresh(3, &Device::Cpu);
        Network::new(&fresh.root(), &config).unwrap();
        let trains = ["model.language_model.", "lm_head."];
        let mut weights = Trainable::new(&config, fresh.finish().unwrap(), &trains, lora, &Device::Cpu).unwrap();
        for var in weights.vars().values().filter(|_| lora.is_some()) {
            var.set(&numbers(var.dims(), 0.3)).unwrap();
        }
        weights.refresh().unwrap();
        weights
    }

    fn numbers(shape: &[usize], size: f32) -> Tensor {
        Params::fresh(7, &Device::Cpu).root().get("numbers", shape, Init::Uniform(size)).unwrap()
    }

    type Gradients = BTreeMap<String, Vec<f32>>;

    /// Of every variable that one reached.
    fn found(weights: &Trainable, grads: &GradStore) -> Gradients {
        let list = |grad: &Tensor| grad.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let grads = weights.vars().iter().map(|(name, var)| (name.clone(), grads.get(var).map(list)));
        grads.filter_map(|(name, grad)| Some((name, grad?))).collect()
    }

    fn weighed(log_probs: &Tensor) -> Result<Tensor> {
        (log_probs * numbers(log_probs.dims(), 1.0))?.sum_all()
    }

    /// Segments of any size find what the plain pass finds, every variable in one piece; tells the names.
    fn same_gradients(weights: &Trainable, samples: &[Drawn<'_>]) -> Vec<String> {
        let loss = weighed(&log_probs(&weights.network, samples).unwrap()).unwrap();
        let wanted = found(weights, &loss.backward().unwrap());
        let plan = Plan::new(samples, None).unwrap();
        for (layers, parts) in
            [(None, 1), (Some(0), 1), (Some(1), 5), (Some(2), 3), (Some(3), 2), (Some(5), 1), (Some(9), 1)]
        {
            let (mut got, mut pieces) = (Gradients::new(), 0);
            let sink = |grads: &GradStore| {
                pieces += 1;
                for (name, grad) in found(weights, grads) {
                    assert!(got.insert(name.clone(), grad).is_none(), "{name} came twice");
                }
                Ok(())
            };
            let loss = |hidden: &Tensor| weighed(&plan.log_probs(&weights.network, hidden)?);
            backward(&weights.network, plan.run(), layers, loss, sink).unwrap();
            assert_eq!(pieces, parts);
            assert!(got.keys().eq(wanted.keys()), "{layers:?}: {:?}", got.keys());
            for (name, grad) in &got {
                assert!(grad.iter().any(|g| *g != 0.0), "{name} has no slope at all");
                assert_eq!(grad, &wanted[name], "{layers:?}: {name}");
            }
        }
        wanted.into_keys().collect()
    }

    const LORA: Lora = Lora { rank: 2, alpha: 4.0, seed: 1 };

    /// Guided and not, of two lengths.
    fn draws() -> [DrawPrompt; 2] {
        let prompt = |conditional: &[u32]| {
            let (last, begun) = conditional.split_last().unwrap();
            let unconditional = [&begun[..1], &vec![0; begun.len() - 1], &[*last]].concat();
            DrawPrompt { conditional: conditional.to_vec(), unconditional }
        };
        [prompt(&[1, 5, 9, 12, 2]), prompt(&[1, 7, 2])]
    }

    #[test]
    fn pictures_under_guidance_have_the_same_gradients() {
        let (first, second) = (&draws()[0], &draws()[1]);
        let drawn =
            |prompt, tokens, guidance| Drawn { prompt: Prompt::Picture { prompt, guidance }, tokens, temperature: 0.9 };
        let samples =
            [drawn(first, &[3, 1, 4, 1, 5][..], 2.0), drawn(second, &[9, 2, 6], 2.0), drawn(first, &[5, 3], 1.0)];
        let names = same_gradients(&learner(None), &samples);
        assert!(names.iter().any(|name| name.contains("embed_tokens")), "{names:?}");
        assert!(!names.iter().any(|name| name.starts_with("lm_head.")), "pictures reach no words: {names:?}");
        assert_eq!(same_gradients(&learner(Some(LORA)), &samples).len(), 2 * 4 * LAYERS);
    }

    #[test]
    fn answers_have_the_same_gradients() {
        let pieces = vec![Piece::Text(vec![1, 8]), Piece::Picture(0), Piece::Text(vec![4, 6, 3])];
        let prompt = AnswerPrompt { pieces, pictures: vec![], image_tokens: 3 };
        let features = Some(numbers(&[3, WIDTH], 1.0));
        let said = |tokens| {
            let prompt = Prompt::Answer { prompt: &prompt, features: features.clone() };
            Drawn { prompt, tokens, temperature: 1.0 }
        };
        let samples = [said(&[11, 30, 2, 5][..]), said(&[17])];
        let weights = learner(None);
        assert!(same_gradients(&weights, &samples).iter().eq(weights.vars().keys()), "every variable learns");
        assert_eq!(same_gradients(&learner(Some(LORA)), &samples).len(), 2 * 4 * LAYERS);
    }

    #[test]
    fn a_lost_gradient_is_told() {
        let (prompt, weights) = (&draws()[0], learner(None));
        let drawn = [Drawn { prompt: Prompt::Picture { prompt, guidance: 1.0 }, tokens: &[3, 1], temperature: 1.0 }];
        let plan = Plan::new(&drawn, None).unwrap();
        let mut optim = AdamW::new(weights.vars().clone(), AdamWOptions::default()).unwrap();
        let lost = |hidden: &Tensor| hidden.detach().sum_all();
        let mut pass = optim.begin();
        let error = backward(&weights.network, plan.run(), Some(2), lost, |grads| optim.gather(grads, &mut pass));
        let error = error.unwrap_err();
        assert!(error.to_string().contains("below layer 4"), "{error}");
        let loss = |hidden: &Tensor| weighed(&plan.log_probs(&weights.network, hidden)?);
        let mut pass = optim.begin();
        backward(&weights.network, plan.run(), Some(2), loss, |grads| optim.gather(grads, &mut pass)).unwrap();
        assert!(optim.accumulate(pass, |_| true).unwrap_err().to_string().contains("`lm_head.weight`"));
    }
}
