//! Checkpoints of random weights in the exact shapes of published ones, to measure and to test with where the real ones cannot be had.
//! Each number is a function of the seed and of the tensor's name, so a seed is the same network in either layout and type.

use std::path::Path;

use candle_core::DType;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use super::convert::{Settings, targets, write};
use super::names::{CODES_SEEN, CODES_SEEN_LEN, Layout, POOL, POOLING, pooling_shape};
use super::plan::outline;
use super::write::{Entry, Sink};
use crate::model::config::{ModelConfig, TextConfig, VisionConfig, VqConfig};
use crate::model::params::Init;
use crate::model::tokens::NAMES;
use crate::model::weights::WeightsError;
use crate::model::{ModelError, ModelFiles};

/// Ids that Janus-Pro's tokenizer gives the names of [`NAMES`]. Those of `<end_of_image>` and of the two roles are inferred from the order
/// of an older tokenizer; nothing but [`tokenizer`] uses any of them.
const PUBLISHED: [u32; 8] = [100_000, 100_001, 100_002, 100_003, 100_580, 100_581, 100_588, 100_589];

/// Numbers that one generator makes.
const BLOCK: usize = 1 << 16;
/// Numbers made at once, side by side.
const AT_ONCE: usize = 1 << 20;

/// Janus-Pro's network with a decoder of `hidden` and `inner` numbers, `layers` and `heads`.
fn janus_pro(hidden: usize, inner: usize, layers: usize, heads: usize) -> ModelConfig {
    ModelConfig {
        text: TextConfig {
            vocab_size: 102_400,
            hidden_size: hidden,
            intermediate_size: inner,
            num_layers: layers,
            num_heads: heads,
            num_kv_heads: heads,
            head_dim: hidden / heads.max(1),
            max_positions: 16_384,
            rms_norm_eps: 1e-6,
            rope_theta: 10_000.0,
        },
        vision: VisionConfig {
            hidden_size: 1024,
            intermediate_size: 4096,
            num_layers: 24,
            num_heads: 16,
            image_size: 384,
            patch_size: 16,
            layer_norm_eps: 1e-6,
        },
        vq: VqConfig {
            codebook_size: 16_384,
            codebook_dim: 8,
            latent_channels: 256,
            base_channels: 128,
            channel_multiplier: vec![1, 1, 2, 2, 4],
            num_res_blocks: 2,
        },
        image_token_id: PUBLISHED[5],
        tied_head: false,
    }
}

/// The sizes of Janus-Pro-1B.
#[must_use]
pub fn janus_pro_1b() -> ModelConfig {
    janus_pro(2048, 5632, 24, 16)
}

/// The sizes of Janus-Pro-7B.
#[must_use]
pub fn janus_pro_7b() -> ModelConfig {
    janus_pro(4096, 11_008, 30, 32)
}

/// A `tokenizer.json` of single bytes and Janus-Pro's special tokens at their ids; the published words in between are left out.
#[must_use]
pub fn tokenizer() -> Vec<u8> {
    let mut bytes: Vec<char> = ByteLevel::alphabet().into_iter().collect();
    bytes.sort_unstable();
    let letters = bytes.iter().zip(0u32..).map(|(byte, id)| (byte.to_string(), json!(id)));
    let named = || NAMES.iter().zip(PUBLISHED).map(|((_, name), id)| ((*name).to_owned(), json!(id)));
    let vocabulary: serde_json::Map<_, _> = letters.chain(named()).collect();
    let added: Vec<_> = named()
        .map(|(name, id)| {
            json!({
                "id": id, "content": name, "special": true,
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            })
        })
        .collect();
    let level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false });
    let whole = json!({
        "version": "1.0",
        "added_tokens": added,
        "pre_tokenizer": level,
        "decoder": level,
        "model": { "type": "BPE", "vocab": vocabulary, "merges": [] },
    });
    whole.to_string().into_bytes()
}

/// How many numbers the network of `config` has.
///
/// # Errors
/// When the config describes none.
pub fn numbers(config: &ModelConfig) -> Result<u64, ModelError> {
    Ok(outline(config)?.iter().map(|(piece, _)| piece.len() as u64).sum())
}

/// Writes a checkpoint of `config`'s shapes to the folder `to`, its numbers a function of `seed`, stored as `dtype`. In DeepSeek's layout
/// it has the unused tensors of the release too. `files` give the tokenizer; `tick` hears how many numbers have been made.
///
/// # Errors
/// When the tokenizer does not fit, the layout has no words for the network, `to` holds something already, or the disk fails.
pub fn checkpoint(
    to: &Path,
    (config, files): (&ModelConfig, &ModelFiles),
    layout: Layout,
    (seed, dtype): (u64, DType),
    tick: &dyn Fn(u64),
) -> Result<(), ModelError> {
    let pieces = outline(config)?;
    let inits: std::collections::BTreeMap<&str, Init> =
        pieces.iter().map(|(piece, init)| (piece.name.as_str(), *init)).collect();
    let targets = targets(layout, pieces.iter().map(|(piece, _)| piece));
    let mut entries: Vec<Entry> =
        targets.values().map(|t| Entry { name: t.name.clone(), shape: t.shape.clone(), dtype }).collect();
    if layout == Layout::DeepSeek {
        let (width, inner) = (config.vision.hidden_size, config.vision.intermediate_size);
        let pool =
            |name: &&str| Entry { name: format!("{POOL}{name}"), shape: pooling_shape(name, width, inner), dtype };
        entries.extend(POOLING.iter().map(pool));
        entries.push(Entry { name: CODES_SEEN.into(), shape: vec![CODES_SEEN_LEN], dtype });
    }
    write(to, &Settings { layout, config, files, dtype }, entries, |entry, sink| match targets.get(&entry.name) {
        Some(target) => target.pieces.iter().try_for_each(|piece| {
            let init = inits.get(piece.name.as_str()).copied().unwrap_or(Init::Const(0.0));
            draw((seed, &piece.name), init, piece.len(), tick, sink)
        }),
        None => {
            let init = match entry.name.as_str() {
                name if name.ends_with("norm.weight") => Init::Const(1.0),
                name if name.ends_with("bias") || name == CODES_SEEN => Init::Const(0.0),
                _ => Init::Normal(0.02),
            };
            draw((seed, &entry.name), init, entry.shape.iter().product(), tick, sink)
        }
    })
}

/// Numbers of a tensor in order. Where training would begin with a normal distribution, these are uniform with its deviation: one draw
/// a number instead of twelve.
fn draw(
    (seed, name): (u64, &str),
    init: Init,
    len: usize,
    tick: &dyn Fn(u64),
    sink: &mut Sink<'_>,
) -> Result<(), WeightsError> {
    let bound = match init {
        Init::Const(_) => 0.0,
        Init::Uniform(bound) => bound,
        Init::Normal(deviation) => deviation * 3f32.sqrt(),
    };
    let mut values = Vec::new();
    for at in (0..len).step_by(AT_ONCE) {
        values.resize(AT_ONCE.min(len - at), 0.0);
        values.par_chunks_mut(BLOCK).enumerate().for_each(|(block, values)| {
            if let Init::Const(value) = init {
                values.fill(value);
                return;
            }
            let mut hash = Sha256::new_with_prefix(seed.to_le_bytes());
            hash.update(((at / BLOCK + block) as u64).to_le_bytes());
            hash.update(name);
            let mut rng = ChaCha8Rng::from_seed(hash.finalize().into());
            values.iter_mut().for_each(|value| *value = rng.random_range(-1.0..1.0f32) * bound);
        });
        tick(values.len() as u64);
        sink(&values)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::checkpoint::convert::targets;

    /// The published counts, by the reference of the release: tensors of both layouts and parameters.
    #[test]
    fn the_shapes_are_those_of_the_release() {
        for (config, deepseek, hugging_face, parameters) in
            [(janus_pro_1b(), 882, 964, 2_089_232_011), (janus_pro_7b(), 936, 1018, 7_420_368_523)]
        {
            let pieces = outline(&config).unwrap();
            let count = |layout| targets(layout, pieces.iter().map(|(piece, _)| piece)).len();
            assert_eq!(count(Layout::HuggingFace), hugging_face);
            assert_eq!(count(Layout::DeepSeek) + POOLING.len() + 1, deepseek);
            let pool = |name: &&str| pooling_shape(name, 1024, 4096).iter().product::<usize>() as u64;
            assert_eq!(numbers(&config).unwrap() + POOLING.iter().map(pool).sum::<u64>(), parameters);
        }
    }

    #[test]
    fn a_seed_is_one_sequence_and_another_seed_another() {
        let drawn = |seed, name, len| {
            let mut all = Vec::new();
            draw((seed, name), Init::Uniform(0.5), len, &|_| (), &mut |values| {
                all.extend_from_slice(values);
                Ok(())
            })
            .unwrap();
            all
        };
        let long = drawn(1, "a", AT_ONCE + 3);
        assert_eq!(long.len(), AT_ONCE + 3);
        assert_eq!(drawn(1, "a", BLOCK + 1), long[..BLOCK + 1]);
        assert!(long.iter().all(|value| value.abs() <= 0.5));
        assert_ne!(drawn(2, "a", 9), long[..9]);
        assert_ne!(drawn(1, "b", 9), long[..9]);
        assert_ne!(long[..9], long[BLOCK..BLOCK + 9]);
    }
}
