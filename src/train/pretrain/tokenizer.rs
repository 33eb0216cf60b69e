//! The demo model's tokenizer: byte-level BPE over the world's texts, so that its words are single tokens and any other text
//! still has ids. CoRL's two instruction paragraphs are one token each: a small context is too dear to spell them out.

use std::collections::BTreeSet;

use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, TokenizerBuilder};

use super::super::TrainError;
use crate::model::tokens::NAMES;
use crate::world::{Form, Kind, Split, dice, language, question};

/// Ids of the whole vocabulary.
const SIZE: usize = 640;
const TEXTS: usize = 20_000;

/// What CoRL's templates put behind every question of a form.
fn instructions() -> BTreeSet<String> {
    let mut dice = dice(0);
    let texts =
        [Form::Open, Form::Choice].map(|form| question::draw(Kind::Colour, form, Split::Train, &mut dice).1.text);
    texts.iter().filter_map(|text| text.find("\n\nAnswer the question").map(|at| text[at..].to_owned())).collect()
}

/// `tokenizer.json`, a function of the seed.
///
/// # Errors
/// When the tokenizer cannot be trained.
pub fn build(seed: u64) -> Result<Vec<u8>, TrainError> {
    let failed = |e: tokenizers::Error| TrainError::State(format!("the tokenizer cannot be built: {e}"));
    let bytes = ByteLevel::new(false, true, true);
    let mut tokenizer = TokenizerBuilder::new()
        .with_model(BPE::default())
        .with_normalizer(None::<tokenizers::NormalizerWrapper>)
        .with_pre_tokenizer(Some(bytes))
        .with_post_processor(None::<tokenizers::PostProcessorWrapper>)
        .with_decoder(Some(bytes))
        .build()
        .map_err(failed)?;
    let special = NAMES.map(|(_, name)| AddedToken::from(name, true).normalized(false));
    let plain: Vec<AddedToken> =
        instructions().into_iter().map(|text| AddedToken::from(text, false).normalized(false)).collect();
    let mut trainer = BpeTrainer::builder()
        .vocab_size(SIZE - NAMES.len() - plain.len())
        .min_frequency(2)
        .show_progress(false)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    tokenizer.train(&mut trainer, language::corpus(seed, TEXTS).into_iter()).map_err(failed)?;
    let text = tokenizer.to_string(false).map_err(failed)?;
    let mut tokenizer: tokenizers::Tokenizer = text.parse().map_err(failed)?;
    tokenizer.add_special_tokens(special).map_err(failed)?;
    tokenizer.add_tokens(plain).map_err(failed)?;
    let (_, begin) = NAMES[0];
    let begin_id = tokenizer.token_to_id(begin).unwrap_or_default();
    let template = TemplateProcessing::builder()
        .try_single(format!("{begin}:0 $A:0"))
        .and_then(|b| b.try_pair(format!("{begin}:0 $A:0 {begin}:1 $B:1")))
        .map_err(|e| TrainError::State(e.to_string()))?
        .special_tokens(vec![(begin, begin_id)])
        .build()
        .map_err(|e| TrainError::State(e.to_string()))?;
    tokenizer.with_post_processor(Some(template));
    tokenizer.to_string(true).map(String::into_bytes).map_err(failed)
}

/// (ids, id of the picture placeholder) of a tokenizer.
///
/// # Errors
/// When the file is no tokenizer with Janus' tokens.
pub fn sizes(json: &[u8]) -> Result<(usize, u32), TrainError> {
    let tokenizer = tokenizers::Tokenizer::from_bytes(json).map_err(|e| TrainError::State(e.to_string()))?;
    match tokenizer.token_to_id("<image_placeholder>") {
        Some(id) => Ok((tokenizer.get_vocab_size(true), id)),
        None => Err(TrainError::State("the tokenizer has no `<image_placeholder>`".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_world_are_single_tokens_and_any_text_survives() {
        let tokenizer = tokenizers::Tokenizer::from_bytes(build(1).unwrap()).unwrap();
        assert!(tokenizer.get_vocab_size(true) <= SIZE);
        for word in ["star", "circle", "squares", "purple", "background", "left", "A", "4"] {
            let ids = tokenizer.encode(format!(" {word}"), false).unwrap();
            assert_eq!(ids.get_ids().len(), 1, "{word}");
        }
        for text in ["zebra λ 🦓\n", "a red star", "<think>star red</think><answer>red</answer>"] {
            let ids = tokenizer.encode(text, false).unwrap();
            assert_eq!(tokenizer.decode(ids.get_ids(), false).unwrap(), text);
        }
        let (_, asked) = question::draw(Kind::Shape, Form::Choice, Split::Train, &mut dice(3));
        assert!(tokenizer.encode(asked.text, false).unwrap().get_ids().len() < 40);
    }

    #[test]
    fn the_same_seed_gives_the_same_file() {
        assert_eq!(build(5).unwrap(), build(5).unwrap());
    }
}
