//! BLIP's captions (Li et al., arXiv 2201.12086): what a picture shows, in the likeliest words one after another. Knows no prompt and
//! judges nothing.

use std::path::Path;

use candle_core::{D, Device, Result, Tensor};
use serde::Deserialize;
use serde_json::json;
use tokenizers::Tokenizer;

use super::config::{TextConfig, VisionConfig, over};
use super::files::Folder;
use super::text::{Seen, Text};
use super::vit::{Act, CLIP_COLOURS, Names, Vit, numbers};
use super::{CriticError, failed};
use crate::domain::picture::Picture;
use crate::model::layers::{LayerNorm, Linear};
use crate::model::params::{Built, Scope};
use crate::model::preprocess::{Filter, resize};

/// Most tokens of a caption.
const LONGEST: usize = 50;
/// Of the tensors, the prefix of the head's.
const HEAD: &str = "text_decoder.cls.predictions.";

/// A captioner.
pub struct Blip {
    tokenizer: Tokenizer,
    network: Network,
    start: u32,
    stop: u32,
    digest: String,
}

struct Network {
    vision: Vit,
    text: Text,
    transform: Linear,
    act: Act,
    norm: LayerNorm,
    head: Linear,
}

struct Config {
    vision: VisionConfig,
    text: TextConfig,
    marks: Marks,
}

/// The tokens that a caption begins behind and ends before.
#[derive(Deserialize)]
struct Marks {
    bos_token_id: u32,
    sep_token_id: u32,
}

impl Blip {
    /// Reads a folder with `config.json`, `model.safetensors` and `tokenizer.json` or `vocab.txt`, such as that of
    /// blip-image-captioning-base.
    ///
    /// # Errors
    /// Names the file that is missing or wrong, and the tensor or field in it.
    pub fn load(folder: &Path) -> std::result::Result<Self, CriticError> {
        let mut folder = Folder::open(folder)?;
        let config = folder.config(|config| {
            let vision = json!({
                "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12, "image_size": 384,
                "patch_size": 16, "hidden_act": "gelu", "layer_norm_eps": 1e-5,
            });
            let text = json!({
                "vocab_size": 30524, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
                "num_attention_heads": 8, "max_position_embeddings": 512, "hidden_act": "gelu", "layer_norm_eps": 1e-12,
                "bos_token_id": 30522, "sep_token_id": 102,
            });
            let said = config.get("text_config");
            let (sizes, marks) = (over(text.clone(), said)?, over(text, said)?);
            Ok(Config { vision: over(vision, config.get("vision_config"))?, text: sizes, marks })
        })?;
        let tokenizer = folder.wordpieces()?;
        let mut tensors =
            folder.tensors(|name| name.starts_with("vision_model.") || name.starts_with("text_decoder."))?;
        // The head shares its weights with the embeddings, and has its bias under two names; a file may leave out what it said before.
        let bias = tensors.remove(&format!("{HEAD}bias"));
        let shared = [
            ("decoder.weight", tensors.get("text_decoder.bert.embeddings.word_embeddings.weight").cloned()),
            ("decoder.bias", bias),
        ];
        for (name, tensor) in shared {
            if let Some(tensor) = tensor {
                tensors.entry(format!("{HEAD}{name}")).or_insert(tensor);
            }
        }
        let network = folder.network(tensors, |root| Network::new(root, &config))?;
        let Marks { bos_token_id: start, sep_token_id: stop } = config.marks;
        Ok(Self { tokenizer, network, start, stop, digest: folder.digest() })
    }

    /// A caption of each picture: always the likeliest token, at most 50 of them. Pictures are stretched to the network's square, as
    /// Pillow's bicubic filter does.
    ///
    /// # Errors
    /// When the network fails, or a caption cannot be spelled.
    pub fn captions(&self, pictures: &[&Picture]) -> std::result::Result<Vec<String>, CriticError> {
        let ids = self.network.captions(pictures, self.start, self.stop).map_err(failed(NAME))?;
        ids.iter().map(|ids| self.tokenizer.decode(ids, true).map_err(failed(NAME))).collect()
    }

    /// What stands for all its files.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }
}

const NAME: &str = "BLIP";

impl Network {
    fn new(root: &Scope<'_>, config: &Config) -> Built<Self> {
        let sizes = config.text.sizes;
        let decoder = root.at("text_decoder");
        let head = decoder.at("cls").at("predictions");
        Ok(Self {
            vision: Vit::new(&root.at("vision_model"), &config.vision, Names::Blip)?,
            text: Text::decoder(&decoder.at("bert"), &config.text, config.vision.sizes.width)?,
            transform: Linear::new(&head.at("transform").at("dense"), sizes.width, sizes.width, true)?,
            act: sizes.act,
            norm: LayerNorm::new(&head.at("transform").at("LayerNorm"), sizes.width, sizes.eps)?,
            head: Linear::new(&head.at("decoder"), sizes.width, config.text.vocabulary, true)?,
        })
    }

    fn see(&self, picture: &Picture) -> Result<Seen> {
        let side = self.vision.side();
        let picture = resize(picture, side, side, Filter::Bicubic);
        self.text.see(&self.vision.forward(&numbers(&picture, CLIP_COLOURS)?)?)
    }

    /// The ids of a caption for each picture. A token's states are computed again for each that follows: captions are short, and the
    /// captions of a group share each pass.
    fn captions(&self, pictures: &[&Picture], start: u32, stop: u32) -> Result<Vec<Vec<u32>>> {
        let seen = pictures.iter().map(|picture| self.see(picture)).collect::<Result<Vec<_>>>()?;
        let mut texts: Vec<(Vec<u32>, &Seen)> = seen.iter().map(|seen| (vec![start], seen)).collect();
        let mut open: Vec<&mut (Vec<u32>, &Seen)> = texts.iter_mut().collect();
        for _ in 0..LONGEST {
            if open.is_empty() {
                break;
            }
            let sequences: Vec<&[u32]> = open.iter().map(|(ids, _)| ids.as_slice()).collect();
            let seen: Vec<&Seen> = open.iter().map(|(_, seen)| *seen).collect();
            let next = self.next(&sequences, &seen)?;
            open.iter_mut().zip(&next).for_each(|((ids, _), id)| ids.push(*id));
            let mut ends = next.iter().map(|id| *id == stop);
            open.retain(|_| ends.next() == Some(false));
        }
        let inside = |(ids, _): (Vec<u32>, _)| ids.into_iter().skip(1).filter(|id| *id != stop).collect();
        Ok(texts.into_iter().map(inside).collect())
    }

    /// The likeliest token behind each sequence.
    fn next(&self, sequences: &[&[u32]], seen: &[&Seen]) -> Result<Vec<u32>> {
        let rows = self.text.forward(sequences, seen)?;
        let mut behind = 0;
        let last = sequences.iter().filter_map(|ids| {
            behind += ids.len();
            u32::try_from(behind).ok()?.checked_sub(1)
        });
        let last = rows.index_select(&Tensor::new(last.collect::<Vec<_>>(), &Device::Cpu)?, 0)?;
        let states = self.norm.forward(&self.act.apply(&self.transform.forward(&last)?)?)?;
        self.head.forward(&states)?.argmax(D::Minus1)?.to_vec1()
    }
}
