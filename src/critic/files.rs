//! The folder of a network: settings, tokenizer and weights in the Hugging Face layout, each hashed as it is read and refused by its
//! name. Knows no network.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tokenizers::decoders::wordpiece::WordPiece as Decoder;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::bert::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{AddedToken, Tokenizer};

use super::CriticError;
use crate::model::params::{Built, ParamError, Params, Scope, Tensors};
use crate::model::weights;

const CONFIG: &str = "config.json";
const TOKENIZER: &str = "tokenizer.json";
const VOCABULARY: &str = "vocab.txt";
const WEIGHTS: &str = "model.safetensors";
/// What BERT's tokenizer knows that is no text.
const SPECIAL: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];

/// A folder that is being read.
pub struct Folder {
    path: PathBuf,
    hash: Sha256,
}

impl Folder {
    pub fn open(path: &Path) -> Result<Self, CriticError> {
        if !path.is_dir() {
            return Err(CriticError::Absent(path.to_owned()));
        }
        Ok(Self { path: path.to_owned(), hash: Sha256::new() })
    }

    fn bytes(&mut self, name: &str) -> Result<Vec<u8>, CriticError> {
        let path = self.path.join(name);
        let bytes = std::fs::read(&path).map_err(|source| CriticError::Read { path, source })?;
        self.hash.update(Sha256::digest(&bytes));
        Ok(bytes)
    }

    fn wrong(&self, name: &str) -> impl Fn(String) -> CriticError {
        let path = self.path.join(name);
        move |what| CriticError::File { path: path.clone(), what }
    }

    /// What `read` makes of `config.json`.
    pub fn config<T>(&mut self, read: impl FnOnce(&Value) -> Result<T, String>) -> Result<T, CriticError> {
        let bytes = self.bytes(CONFIG)?;
        let config = serde_json::from_slice(&bytes).map_err(|e| e.to_string());
        config.and_then(|config| read(&config)).map_err(self.wrong(CONFIG))
    }

    /// `tokenizer.json`.
    pub fn tokenizer(&mut self) -> Result<Tokenizer, CriticError> {
        let bytes = self.bytes(TOKENIZER)?;
        let mut tokenizer = Tokenizer::from_bytes(&bytes).map_err(|e| self.wrong(TOKENIZER)(e.to_string()))?;
        // Whoever encodes cuts and pads.
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|e| self.wrong(TOKENIZER)(e.to_string()))?;
        Ok(tokenizer)
    }

    /// `tokenizer.json`, or BERT's uncased tokenizer over the lines of `vocab.txt`.
    pub fn wordpieces(&mut self) -> Result<Tokenizer, CriticError> {
        if self.path.join(TOKENIZER).exists() {
            return self.tokenizer();
        }
        let bytes = self.bytes(VOCABULARY)?;
        let spelled = |vocabulary| -> tokenizers::Result<Tokenizer> {
            let mut tokenizer = Tokenizer::new(WordPiece::builder().vocab(WordPiece::read_bytes(vocabulary)?).build()?);
            tokenizer.with_normalizer(Some(BertNormalizer::default()))?;
            tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
            tokenizer.with_decoder(Some(Decoder::default()));
            let special = SPECIAL.into_iter().filter(|token| tokenizer.token_to_id(token).is_some());
            let special: Vec<AddedToken> = special.map(|token| AddedToken::from(token, true)).collect();
            tokenizer.add_special_tokens(special)?;
            Ok(tokenizer)
        };
        spelled(&bytes).map_err(|e| self.wrong(VOCABULARY)(e.to_string()))
    }

    /// The id of a token that `tokenizer` must have.
    pub fn token(&self, tokenizer: &Tokenizer, token: &str) -> Result<u32, CriticError> {
        let name = if self.path.join(TOKENIZER).exists() { TOKENIZER } else { VOCABULARY };
        tokenizer.token_to_id(token).ok_or_else(|| self.wrong(name)(format!("has no token `{token}`")))
    }

    /// Those tensors of `model.safetensors` whose names are `wanted`, and that are no tables of positions, which some files hold and
    /// no network needs. The norms of the oldest files call their weight and bias `gamma` and `beta`.
    pub fn tensors(&mut self, wanted: impl Fn(&str) -> bool) -> Result<Tensors, CriticError> {
        let bytes = self.bytes(WEIGHTS)?;
        let wanted = |name: &str| wanted(name) && !name.ends_with("position_ids");
        let tensors = weights::parse_some(&bytes, DType::F32, &Device::Cpu, wanted);
        let tensors = tensors.map_err(|e| self.wrong(WEIGHTS)(e.to_string()))?;
        let sum = |tensor: &Tensor| tensor.sum_all()?.to_scalar::<f32>();
        if let Some((name, _)) = tensors.iter().find(|(_, tensor)| !sum(tensor).is_ok_and(f32::is_finite)) {
            return Err(self.wrong(WEIGHTS)(format!("tensor `{name}` holds what is no finite number")));
        }
        let renamed = tensors.into_iter().map(|(name, tensor)| {
            let name = match name.rsplit_once('.') {
                Some((module, "gamma")) => format!("{module}.weight"),
                Some((module, "beta")) => format!("{module}.bias"),
                _ => name,
            };
            (name, tensor)
        });
        Ok(renamed.collect())
    }

    /// What `build` makes of `tensors`, all of which it must use.
    pub fn network<T>(&self, tensors: Tensors, build: impl FnOnce(&Scope<'_>) -> Built<T>) -> Result<T, CriticError> {
        let params = Params::given(tensors, &Device::Cpu);
        let network = build(&params.root()).map_err(|e| self.wrong_weights(&e))?;
        params.finish().map_err(|e| self.wrong_weights(&e))?;
        Ok(network)
    }

    /// `model.safetensors` is wrong.
    pub fn wrong_weights(&self, what: &ParamError) -> CriticError {
        self.wrong(WEIGHTS)(what.to_string())
    }

    /// What stands for all that was read.
    pub fn digest(self) -> String {
        self.hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The ids of a text between the two tokens that stand about every one, at most `longest` with them.
///
/// # Errors
/// When the tokenizer fails.
pub fn between(
    tokenizer: &Tokenizer,
    text: &str,
    (first, last): (u32, u32),
    longest: usize,
) -> tokenizers::Result<Vec<u32>> {
    let encoding = tokenizer.encode_fast(text, false)?;
    let inside = encoding.get_ids().iter().copied().take(longest.saturating_sub(2));
    Ok([first].into_iter().chain(inside).chain([last]).collect())
}
