//! What the weights of a network are kept as in memory. Activations are f32 on a CPU whatever it is. Knows no file and no arithmetic.

use candle_core::DType;

use super::ops::Kind;
use super::params::Role;

/// What makes pixels of codes: a few matrices among convolutions, so that the same codes are always the same picture.
const PAINTS: &str = "model.vqmodel.";

/// What is kept as what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Precision {
    /// Matrices of linear layers, and tables of embeddings. All else is f32: norms, biases and convolutions are small, and the sums of
    /// many things.
    pub matrices: DType,
    /// The matrices that every decoding step reads, those of the language model and of its heads, as blocks of small numbers instead.
    pub blocks: Option<Kind>,
}

/// What one tensor is kept as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Dense(DType),
    Blocks(Kind),
}

impl Precision {
    /// Everything as it is computed with; only so can it learn.
    pub const FULL: Self = Self { matrices: DType::F32, blocks: None };

    /// What the tensor `name` is kept as.
    #[must_use]
    pub fn form(self, name: &str, role: Role, shape: &[usize]) -> Form {
        let blocks = match (role, self.blocks, shape) {
            (Role::Matrix, Some(kind), [_, inputs]) if is_read_each_step(name) => kind.that_divides(*inputs),
            _ => None,
        };
        match (blocks, role) {
            (Some(kind), _) => Form::Blocks(kind),
            (None, Role::Matrix | Role::Table) if !name.starts_with(PAINTS) => Form::Dense(self.matrices),
            _ => Form::Dense(DType::F32),
        }
    }

    /// What keys and values are kept as.
    #[must_use]
    pub fn cache(self) -> DType {
        match (self.matrices, self.blocks) {
            (DType::F32, None) => DType::F32,
            _ => DType::BF16,
        }
    }
}

impl Default for Precision {
    fn default() -> Self {
        Self::FULL
    }
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.blocks {
            Some(kind) => write!(f, "{} (all else {})", kind.word(), self.matrices.as_str()),
            None => write!(f, "{}", self.matrices.as_str()),
        }
    }
}

/// Whether every step of decoding reads it: what the memory's bandwidth is spent on.
#[must_use]
pub fn is_read_each_step(name: &str) -> bool {
    ["model.language_model.layers.", "lm_head.", "model.generation_head."].iter().any(|part| name.starts_with(part))
}

/// Whether a step that draws reads it, with no word chosen.
#[must_use]
pub fn is_read_to_draw(name: &str) -> bool {
    is_read_each_step(name) && !name.starts_with("lm_head.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_large_is_kept_small() {
        let half = Precision { matrices: DType::BF16, blocks: None };
        let blocks = Precision { blocks: Some(Kind::Q8_0), ..half };
        let matrix = "model.language_model.layers.3.mlp.down_proj.weight";
        let form = |precision: Precision, name, role, shape: &[usize]| precision.form(name, role, shape);
        assert_eq!(form(Precision::FULL, matrix, Role::Matrix, &[64, 64]), Form::Dense(DType::F32));
        assert_eq!(form(half, matrix, Role::Matrix, &[64, 64]), Form::Dense(DType::BF16));
        assert_eq!(form(blocks, matrix, Role::Matrix, &[64, 64]), Form::Blocks(Kind::Q8_0));
        assert_eq!(form(blocks, matrix, Role::Matrix, &[64, 65]), Form::Dense(DType::BF16), "no whole blocks");
        let nibbles = Precision { blocks: Some(Kind::Q4K), ..half };
        assert_eq!(form(nibbles, matrix, Role::Matrix, &[64, 512]), Form::Blocks(Kind::Q4K));
        assert_eq!(form(nibbles, matrix, Role::Matrix, &[64, 96]), Form::Blocks(Kind::Q8_0), "no whole blocks of 256");
        let vision = "model.vision_model.encoder.layers.0.mlp.fc1.weight";
        assert_eq!(form(blocks, vision, Role::Matrix, &[64, 64]), Form::Dense(DType::BF16));
        assert_eq!(form(half, "model.vqmodel.post_quant_conv.weight", Role::Matrix, &[8, 8]), Form::Dense(DType::F32));
        assert_eq!(form(blocks, "model.language_model.norm.weight", Role::Other, &[64]), Form::Dense(DType::F32));
        assert_eq!([Precision::FULL, half, blocks].map(Precision::cache), [DType::F32, DType::BF16, DType::BF16]);
        assert_eq!([half, blocks].map(|p| p.to_string()), ["bf16", "q8_0 (all else bf16)"]);
    }
}
