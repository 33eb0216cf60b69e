//! BERTScore (Zhang et al., arXiv 1904.09675): how much of each of two texts the other says too, by the states that BERT has of their
//! tokens. As torchmetrics computes it: last layer, no idf, no rescaling. Knows no picture.

use std::path::Path;

use serde::Deserialize;
use serde_json::json;
use tokenizers::Tokenizer;

use super::config::{TextConfig, over};
use super::files::{Folder, between};
use super::text::Text;
use super::{CriticError, failed};

/// A BERT that compares texts.
pub struct BertScore {
    tokenizer: Tokenizer,
    /// `[CLS]` and `[SEP]`, which stand about every text.
    ends: (u32, u32),
    text: Text,
    longest: usize,
    digest: String,
}

#[derive(Deserialize)]
struct Config {
    #[serde(flatten)]
    text: TextConfig,
    type_vocab_size: usize,
}

impl BertScore {
    /// Reads a folder with `config.json`, `model.safetensors` and `tokenizer.json` or `vocab.txt`, such as that of bert-base-uncased.
    ///
    /// # Errors
    /// Names the file that is missing or wrong, and the tensor or field in it.
    pub fn load(folder: &Path) -> Result<Self, CriticError> {
        let mut folder = Folder::open(folder)?;
        let usual = json!({
            "vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
            "hidden_act": "gelu", "max_position_embeddings": 512, "type_vocab_size": 2, "layer_norm_eps": 1e-12,
        });
        let Config { text: config, type_vocab_size } = folder.config(|config| over(usual, Some(config)))?;
        let tokenizer = folder.wordpieces()?;
        let ends = (folder.token(&tokenizer, "[CLS]")?, folder.token(&tokenizer, "[SEP]")?);
        // Checkpoints with a head have the network under `bert`; heads are left in the file.
        let tensors = folder.tensors(|name| {
            let name = name.strip_prefix("bert.").unwrap_or(name);
            name.starts_with("embeddings.") || name.starts_with("encoder.")
        })?;
        let under = tensors.keys().any(|name| name.starts_with("bert."));
        let text = folder.network(tensors, |root| {
            let at = if under { root.at("bert") } else { root.clone() };
            Text::encoder(&at, &config, type_vocab_size)
        })?;
        Ok(Self { tokenizer, ends, text, longest: config.positions, digest: folder.digest() })
    }

    /// F1 of each candidate against the reference, 0 to 1; 0 where either text has no token.
    ///
    /// Precision is the mean over the candidate's tokens of the largest cosine to a token of the reference, recall the same the other
    /// way round. `[CLS]` and `[SEP]` do not count, but stay as zeros in the original, so no largest cosine is below 0. Texts are cut
    /// to the longest that the network reads.
    ///
    /// # Errors
    /// When the tokenizer or the network fails.
    pub fn f1(&self, candidates: &[impl AsRef<str>], reference: &str) -> Result<Vec<f64>, CriticError> {
        let texts = candidates.iter().map(AsRef::as_ref).chain([reference]);
        let ids = texts.map(|text| between(&self.tokenizer, text, self.ends, self.longest).map_err(failed(NAME)));
        let ids = ids.collect::<Result<Vec<_>, _>>()?;
        let sequences: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
        let rows = self.text.forward(&sequences, &[]).and_then(|rows| rows.to_vec2::<f32>());
        let rows: Vec<Vec<f32>> = rows.map_err(failed(NAME))?.iter().map(|row| unit(row)).collect();
        let mut rest = rows.as_slice();
        let mut states = Vec::with_capacity(ids.len());
        for ids in &ids {
            let (own, after) = rest.split_at_checked(ids.len()).unwrap_or_default();
            rest = after;
            states.push(own.get(1..own.len().saturating_sub(1)).unwrap_or_default());
        }
        let Some((reference, candidates)) = states.split_last() else { return Ok(Vec::new()) };
        Ok(candidates
            .iter()
            .map(|candidate| f1(covered(candidate, reference), covered(reference, candidate)))
            .collect())
    }

    /// What stands for all its files.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }
}

const NAME: &str = "BERTScore";

fn unit(row: &[f32]) -> Vec<f32> {
    let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
    row.iter().map(|x| x / norm).collect()
}

/// The mean over `rows` of the largest cosine to one of `others`, at least 0.
fn covered(rows: &[Vec<f32>], others: &[Vec<f32>]) -> f64 {
    let cosine = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let largest = rows.iter().map(|row| others.iter().map(|other| cosine(row, other)).fold(0.0, f32::max));
    largest.map(f64::from).sum::<f64>() / rows.len() as f64
}

fn f1(precision: f64, recall: f64) -> f64 {
    let f1 = 2.0 * precision * recall / (precision + recall);
    // Neither has a token, or nothing in common; and rounding may carry a cosine past its range.
    if f1.is_nan() { 0.0 } else { f1.min(1.0) }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{close, golden};
    use super::*;

    #[test]
    fn a_token_with_nothing_like_it_counts_as_zero() {
        for note in golden("bert_states") {
            let states = |of: &str| -> Vec<Vec<f32>> {
                let rows: Vec<Vec<f32>> = serde_json::from_value(note[of].clone()).unwrap();
                rows.iter().map(|row| unit(row)).collect()
            };
            let (candidate, reference) = (states("candidate"), states("reference"));
            close(&note, "f1", f1(covered(&candidate, &reference), covered(&reference, &candidate)), 1e-6);
        }
    }
}
