//! What a tensor is called and how it lies in its three homes: the network's memory (fused projections, channels last), the Hugging
//! Face layout and DeepSeek's. Names and shapes only; knows no file.

use crate::model::params::Asked;

/// How a checkpoint calls and lays out its tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `JanusForConditionalGeneration` of transformers.
    HuggingFace,
    /// `MultiModalityCausalLM` of the published code, in which Janus-Pro was released.
    DeepSeek,
}

/// The members of each fused tensor, in row order.
pub(in crate::model) const FUSED: [(&str, &[&str]); 2] = [
    ("self_attn.qkv.", &["self_attn.q_proj.", "self_attn.k_proj.", "self_attn.v_proj."]),
    ("mlp.gate_up.", &["mlp.gate_proj.", "mlp.up_proj."]),
];

/// Rows of the first member of a fused tensor of `rows` rows; the others share the rest equally. Only the language model's
/// queries may have more rows than their keys and values.
pub(in crate::model) fn first_rows(name: &str, members: &[&str], rows: usize, query_rows: usize) -> usize {
    if members.len() == 3 && name.contains("language_model") { query_rows } else { rows / members.len().max(1) }
}

/// How a weight of four dimensions lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::model) enum Kernel {
    /// `[out, c, 3, 3]` on disk, `[9 c, out]` in memory, rows in (ky, kx, c) order.
    Spatial,
    /// `[out, c, 1, 1]` on disk, `[out, c]` in memory.
    Pointwise,
    /// `[out, 3, p, p]` on disk, `[out, 3 p p]` in memory.
    Patch,
}

/// The kernel that the tensor `name` is, if it is one.
pub(in crate::model) fn kernel(name: &str) -> Option<Kernel> {
    let module = name.strip_suffix(".weight")?;
    if module == "model.vision_model.embeddings.patch_embedding" {
        return Some(Kernel::Patch);
    }
    let last = module.strip_prefix("model.vqmodel.")?.rsplit('.').next()?;
    match last {
        "conv" | "conv1" | "conv2" | "conv_in" | "conv_out" => Some(Kernel::Spatial),
        "q" | "k" | "v" | "proj_out" | "nin_shortcut" | "quant_conv" | "post_quant_conv" => Some(Kernel::Pointwise),
        _ => None,
    }
}

/// The shape on disk of what has `shape` in memory.
pub(in crate::model) fn kernel_shape(name: &str, shape: &[usize]) -> Vec<usize> {
    match (kernel(name), shape) {
        (Some(Kernel::Spatial), &[rows, out]) => vec![out, rows / 9, 3, 3],
        (Some(Kernel::Pointwise), &[out, c]) => vec![out, c, 1, 1],
        (Some(Kernel::Patch), &[out, inputs]) => {
            let side = (inputs / 3).isqrt();
            vec![out, 3, side, side]
        }
        _ => shape.to_vec(),
    }
}

/// A tensor as the Hugging Face layout has it, and the place in memory that it fills.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    pub name: String,
    pub shape: Vec<usize>,
    /// The tensor of the network that it is a part of.
    pub memory: String,
    /// Numbers of that tensor before this piece.
    pub start: usize,
}

impl Piece {
    /// How many numbers it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The pieces of a tensor of the network. `query_rows` are the rows of a language-model query projection.
#[must_use]
pub fn pieces(asked: &Asked, query_rows: usize) -> Vec<Piece> {
    let Asked { name, shape, .. } = asked;
    let memory = name.clone();
    let Some((fused, members)) = FUSED.iter().find(|(fused, _)| name.contains(fused)) else {
        return vec![Piece { name: name.clone(), shape: kernel_shape(name, shape), memory, start: 0 }];
    };
    let (rows, width) = (shape.first().copied().unwrap_or(0), shape.iter().skip(1).product::<usize>());
    let first = first_rows(name, members, rows, query_rows);
    let rest = rows.saturating_sub(first) / (members.len() - 1).max(1);
    let part = |(i, member): (usize, &&str)| {
        let (before, len) = if i == 0 { (0, first) } else { (first + (i - 1) * rest, rest) };
        let shape = std::iter::once(len).chain(shape.iter().skip(1).copied()).collect();
        Piece { name: name.replace(fused, member), shape, memory: memory.clone(), start: before * width }
    };
    members.iter().enumerate().map(part).collect()
}

/// Where a layout keeps a piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    pub name: String,
    /// Of the whole stored tensor.
    pub shape: Vec<usize>,
    /// Which of the equal parts of its rows the piece is, and of how many.
    pub part: (usize, usize),
}

impl Layout {
    /// What people call it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::HuggingFace => "Hugging Face",
            Self::DeepSeek => "DeepSeek",
        }
    }

    /// Where this layout keeps a piece.
    #[must_use]
    pub fn home(self, piece: &Piece) -> Home {
        match self {
            Self::HuggingFace => Home { name: piece.name.clone(), shape: piece.shape.clone(), part: (0, 1) },
            Self::DeepSeek => deepseek(piece),
        }
    }

    /// Whether a tensor of a file is known to be of no use: buffers, and the pooling head that Janus never runs.
    #[must_use]
    pub fn skips(self, name: &str) -> bool {
        match self {
            Self::HuggingFace => false,
            Self::DeepSeek => {
                let frequencies = || {
                    let layer = name.strip_prefix("language_model.model.layers.")?;
                    let (number, buffer) = layer.split_once('.')?;
                    Some(number.parse::<u16>().is_ok() && buffer == "self_attn.rotary_emb.inv_freq")
                };
                name == CODES_SEEN
                    || name.strip_prefix(POOL).is_some_and(|tail| POOLING.contains(&tail))
                    || frequencies().unwrap_or(false)
            }
        }
    }
}

impl Layout {
    /// Whether a tensor that is skipped was learned, and counts as parameters; a buffer was not.
    #[must_use]
    pub fn learned(self, name: &str) -> bool {
        self == Self::DeepSeek && name.starts_with(POOL)
    }
}

/// Which codes were drawn lately in training the tokenizer; a buffer.
pub const CODES_SEEN: &str = "gen_vision_model.quantize.codebook_used";
/// How many numbers [`CODES_SEEN`] has in the release.
pub const CODES_SEEN_LEN: usize = 65_536;

/// The vision tower's pooling head, which the release holds and never runs.
pub const POOL: &str = "vision_model.vision_tower.attn_pool.";
/// Its tensors.
pub const POOLING: [&str; 13] = [
    "latent",
    "q.weight",
    "q.bias",
    "kv.weight",
    "kv.bias",
    "proj.weight",
    "proj.bias",
    "norm.weight",
    "norm.bias",
    "mlp.fc1.weight",
    "mlp.fc1.bias",
    "mlp.fc2.weight",
    "mlp.fc2.bias",
];

/// Shape of a tensor of [`POOLING`] in a tower of `width` with `inner` hidden numbers in its MLPs.
#[must_use]
pub fn pooling_shape(name: &str, width: usize, inner: usize) -> Vec<usize> {
    match name {
        "latent" => vec![1, 1, width],
        "kv.weight" => vec![2 * width, width],
        "kv.bias" => vec![2 * width],
        "q.weight" | "proj.weight" => vec![width, width],
        "mlp.fc1.weight" => vec![inner, width],
        "mlp.fc1.bias" => vec![inner],
        "mlp.fc2.weight" => vec![width, inner],
        _ => vec![width],
    }
}

/// The map of names, and the two tensors that lie otherwise: the vision tower's fused attention, and its positions with a dimension
/// of one in front.
fn deepseek(piece: &Piece) -> Home {
    let Piece { name, shape, .. } = piece;
    let whole = |name: String| Home { name, shape: shape.clone(), part: (0, 1) };
    if name == "lm_head.weight" {
        return whole("language_model.lm_head.weight".into());
    }
    let Some((module, tail)) = name.strip_prefix("model.").and_then(|name| name.split_once('.')) else {
        return whole(name.clone());
    };
    match module {
        "language_model" => whole(format!("language_model.model.{tail}")),
        "vision_model" => vision(tail, shape),
        "aligner" => whole(format!("aligner.{}", projector(tail))),
        "generation_aligner" => whole(format!("gen_aligner.{}", projector(tail))),
        "generation_embeddings" => whole(format!("gen_embed.{tail}")),
        "generation_head" => whole(format!("gen_head.{}", tail.replace("proj_out.", "output_mlp_projector."))),
        "vqmodel" => whole(format!("gen_vision_model.{}", tokenizer(tail))),
        _ => whole(name.clone()),
    }
}

/// `fc1.weight` → `layers.0.weight`, `hidden_layers.0.weight` → `layers.2.weight`: activations are counted too.
fn projector(tail: &str) -> String {
    if let Some(rest) = tail.strip_prefix("fc1.") {
        return format!("layers.0.{rest}");
    }
    let deeper = tail.strip_prefix("hidden_layers.").and_then(|tail| tail.split_once('.'));
    match deeper.and_then(|(number, rest)| Some((number.parse::<u16>().ok()?, rest))) {
        Some((number, rest)) => format!("layers.{}.{rest}", 2 * (usize::from(number) + 1)),
        None => tail.to_owned(),
    }
}

fn vision(tail: &str, shape: &[usize]) -> Home {
    const TOWER: &str = "vision_model.vision_tower.";
    let whole = |name: String| Home { name: format!("{TOWER}{name}"), shape: shape.to_vec(), part: (0, 1) };
    if tail == "embeddings.position_embedding.weight" {
        let shape = std::iter::once(1).chain(shape.iter().copied()).collect();
        return Home { shape, ..whole("pos_embed".into()) };
    }
    if let Some(kind) = tail.strip_prefix("embeddings.patch_embedding.") {
        return whole(format!("patch_embed.proj.{kind}"));
    }
    if let Some(kind) = tail.strip_prefix("post_layernorm.") {
        return whole(format!("norm.{kind}"));
    }
    let Some((number, inner)) = tail.strip_prefix("encoder.layers.").and_then(|tail| tail.split_once('.')) else {
        return whole(tail.to_owned());
    };
    for (part, member) in ["self_attn.q_proj.", "self_attn.k_proj.", "self_attn.v_proj."].into_iter().enumerate() {
        if let Some(kind) = inner.strip_prefix(member) {
            let mut home = Home { part: (part, 3), ..whole(format!("blocks.{number}.attn.qkv.{kind}")) };
            if let Some(rows) = home.shape.first_mut() {
                *rows *= 3;
            }
            return home;
        }
    }
    let inner = inner
        .replace("layer_norm1.", "norm1.")
        .replace("layer_norm2.", "norm2.")
        .replace("self_attn.projection_layer.", "attn.proj.");
    whole(format!("blocks.{number}.{inner}"))
}

/// `encoder.down.0.block.1.conv1.weight` → `encoder.conv_blocks.0.res.1.conv1.weight`, and the middle by numbers.
fn tokenizer(tail: &str) -> String {
    tail.replace("encoder.down.", "encoder.conv_blocks.")
        .replace("decoder.up.", "decoder.conv_blocks.")
        .replace(".block.", ".res.")
        .replace(".mid.block_1.", ".mid.0.")
        .replace(".mid.attn_1.", ".mid.1.")
        .replace(".mid.block_2.", ".mid.2.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::checkpoint::plan::outline;
    use crate::model::checkpoint::random::janus_pro_1b;

    /// Rows of the published table, by hand: a name of transformers', that of the release, and the shape there.
    #[test]
    fn names_are_those_of_the_release() {
        let pieces = outline(&janus_pro_1b()).unwrap();
        type Row = (&'static str, &'static str, &'static [usize], (usize, usize));
        let table: [Row; 24] = [
            ("lm_head.weight", "language_model.lm_head.weight", &[102_400, 2048], (0, 1)),
            ("model.language_model.norm.weight", "language_model.model.norm.weight", &[2048], (0, 1)),
            (
                "model.language_model.layers.23.mlp.gate_proj.weight",
                "language_model.model.layers.23.mlp.gate_proj.weight",
                &[5632, 2048],
                (0, 1),
            ),
            (
                "model.vision_model.embeddings.position_embedding.weight",
                "vision_model.vision_tower.pos_embed",
                &[1, 576, 1024],
                (0, 1),
            ),
            (
                "model.vision_model.embeddings.patch_embedding.weight",
                "vision_model.vision_tower.patch_embed.proj.weight",
                &[1024, 3, 16, 16],
                (0, 1),
            ),
            (
                "model.vision_model.encoder.layers.7.layer_norm2.bias",
                "vision_model.vision_tower.blocks.7.norm2.bias",
                &[1024],
                (0, 1),
            ),
            (
                "model.vision_model.encoder.layers.7.self_attn.q_proj.weight",
                "vision_model.vision_tower.blocks.7.attn.qkv.weight",
                &[3072, 1024],
                (0, 3),
            ),
            (
                "model.vision_model.encoder.layers.7.self_attn.v_proj.bias",
                "vision_model.vision_tower.blocks.7.attn.qkv.bias",
                &[3072],
                (2, 3),
            ),
            (
                "model.vision_model.encoder.layers.7.self_attn.projection_layer.weight",
                "vision_model.vision_tower.blocks.7.attn.proj.weight",
                &[1024, 1024],
                (0, 1),
            ),
            (
                "model.vision_model.encoder.layers.0.mlp.fc2.weight",
                "vision_model.vision_tower.blocks.0.mlp.fc2.weight",
                &[1024, 4096],
                (0, 1),
            ),
            ("model.vision_model.post_layernorm.weight", "vision_model.vision_tower.norm.weight", &[1024], (0, 1)),
            ("model.aligner.fc1.weight", "aligner.layers.0.weight", &[2048, 1024], (0, 1)),
            ("model.aligner.hidden_layers.0.bias", "aligner.layers.2.bias", &[2048], (0, 1)),
            ("model.generation_aligner.fc1.weight", "gen_aligner.layers.0.weight", &[2048, 8], (0, 1)),
            ("model.generation_embeddings.weight", "gen_embed.weight", &[16_384, 8], (0, 1)),
            ("model.generation_head.proj_out.bias", "gen_head.output_mlp_projector.bias", &[2048], (0, 1)),
            ("model.generation_head.vision_head.weight", "gen_head.vision_head.weight", &[16_384, 2048], (0, 1)),
            (
                "model.vqmodel.encoder.down.2.block.0.nin_shortcut.weight",
                "gen_vision_model.encoder.conv_blocks.2.res.0.nin_shortcut.weight",
                &[256, 128, 1, 1],
                (0, 1),
            ),
            (
                "model.vqmodel.encoder.down.4.attn.1.proj_out.weight",
                "gen_vision_model.encoder.conv_blocks.4.attn.1.proj_out.weight",
                &[512, 512, 1, 1],
                (0, 1),
            ),
            (
                "model.vqmodel.encoder.down.3.downsample.conv.weight",
                "gen_vision_model.encoder.conv_blocks.3.downsample.conv.weight",
                &[256, 256, 3, 3],
                (0, 1),
            ),
            (
                "model.vqmodel.decoder.up.1.block.0.conv1.weight",
                "gen_vision_model.decoder.conv_blocks.1.res.0.conv1.weight",
                &[256, 512, 3, 3],
                (0, 1),
            ),
            ("model.vqmodel.decoder.mid.attn_1.k.bias", "gen_vision_model.decoder.mid.1.k.bias", &[512], (0, 1)),
            (
                "model.vqmodel.decoder.mid.block_2.norm1.weight",
                "gen_vision_model.decoder.mid.2.norm1.weight",
                &[512],
                (0, 1),
            ),
            (
                "model.vqmodel.quantize.embedding.weight",
                "gen_vision_model.quantize.embedding.weight",
                &[16_384, 8],
                (0, 1),
            ),
        ];
        for (theirs, released, shape, part) in table {
            let (piece, _) =
                pieces.iter().find(|(piece, _)| piece.name == theirs).unwrap_or_else(|| panic!("{theirs}"));
            let home = Layout::DeepSeek.home(piece);
            assert_eq!((home.name.as_str(), home.shape.as_slice(), home.part), (released, shape, part));
        }
    }

    #[test]
    fn only_what_is_known_to_be_of_no_use_is_skipped() {
        for (name, skipped) in [
            ("vision_model.vision_tower.attn_pool.latent", true),
            ("vision_model.vision_tower.attn_pool.kv.bias", true),
            ("vision_model.vision_tower.attn_pool.more", false),
            ("gen_vision_model.quantize.codebook_used", true),
            ("language_model.model.layers.11.self_attn.rotary_emb.inv_freq", true),
            ("language_model.model.layers.x.self_attn.rotary_emb.inv_freq", false),
            ("language_model.model.layers.11.self_attn.q_proj.bias", false),
        ] {
            assert_eq!(Layout::DeepSeek.skips(name), skipped, "{name}");
            assert!(!Layout::HuggingFace.skips(name));
        }
    }
}
