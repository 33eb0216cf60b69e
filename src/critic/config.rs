//! The sizes of a network, by their names in `config.json`, and what is usual where it leaves one out. Sizes that do not fit together
//! are refused here, so that the networks need not ask.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::vit::Act;
use crate::model::ops::Heads;

/// Most numbers of a row, and most pixels of a side: past any model, and short of overflow.
const LARGEST: usize = 1 << 14;

/// Sizes of a stack of layers.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "Stack")]
pub struct Sizes {
    pub heads: Heads,
    /// Numbers of a row.
    pub width: usize,
    /// Numbers of a row between the two halves of a layer's perceptron.
    pub inner: usize,
    pub layers: usize,
    pub act: Act,
    /// Epsilon of the norms.
    pub eps: f64,
}

#[derive(Deserialize)]
struct Stack {
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    hidden_act: Act,
    layer_norm_eps: f64,
}

impl TryFrom<Stack> for Sizes {
    type Error = String;

    fn try_from(stack: Stack) -> Result<Self, String> {
        let (width, count) = (stack.hidden_size, stack.num_attention_heads);
        if width == 0 || width > LARGEST || count == 0 || width % count != 0 {
            return Err(format!("`hidden_size` {width} does not fall into {count} heads, or is above {LARGEST}"));
        }
        if stack.intermediate_size == 0 {
            return Err("`intermediate_size` is 0".into());
        }
        Ok(Self {
            heads: Heads { count, kv: count, dim: width / count },
            width,
            inner: stack.intermediate_size,
            layers: stack.num_hidden_layers,
            act: stack.hidden_act,
            eps: stack.layer_norm_eps,
        })
    }
}

/// Sizes of a network that reads texts.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct TextConfig {
    #[serde(flatten)]
    pub sizes: Sizes,
    #[serde(rename = "vocab_size")]
    pub vocabulary: usize,
    /// Longest text.
    #[serde(rename = "max_position_embeddings")]
    pub positions: usize,
}

/// Sizes of a network that sees pictures.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct VisionConfig {
    #[serde(flatten)]
    pub sizes: Sizes,
    #[serde(flatten)]
    pub sides: Sides,
}

/// How a picture falls into patches.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "Grid")]
pub struct Sides {
    /// Of the picture, in pixels.
    pub picture: usize,
    /// Of a patch, in pixels.
    pub patch: usize,
    /// Of the picture, in patches.
    pub grid: usize,
}

#[derive(Deserialize)]
struct Grid {
    image_size: usize,
    patch_size: usize,
}

impl TryFrom<Grid> for Sides {
    type Error = String;

    fn try_from(Grid { image_size: picture, patch_size: patch }: Grid) -> Result<Self, String> {
        if picture == 0 || picture > LARGEST || patch == 0 || picture % patch != 0 {
            return Err(format!("`image_size` {picture} does not fall into patches of {patch}, or is above {LARGEST}"));
        }
        Ok(Self { picture, patch, grid: picture / patch })
    }
}

/// `given`, and `usual` where it says nothing.
///
/// # Errors
/// In words, when that is no `T`.
pub fn over<T: DeserializeOwned>(mut usual: Value, given: Option<&Value>) -> Result<T, String> {
    if let (Some(all), Some(given)) = (usual.as_object_mut(), given.and_then(Value::as_object)) {
        let said = given.iter().filter(|(_, value)| !value.is_null());
        all.extend(said.map(|(name, value)| (name.clone(), value.clone())));
    }
    serde_path_to_error::deserialize(usual).map_err(|e| e.to_string())
}
