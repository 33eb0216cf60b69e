//! Requests as token ids: Janus-Pro's templates byte for byte, token ids by name, the picture's place among the text, the
//! unconditional row of guidance, the limit of the context. Text of users never becomes a special token: it is tokenised with
//! those switched off, and refused where a tokenizer would still make one. Knows nothing of the network but its sizes.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tokenizers::Tokenizer;

use super::config::ModelConfig;
use super::preprocess::{Pixels, Preprocess, PreprocessError};
use super::tokens::{self, Ids, NAMES};
use crate::domain::task::{Answer, Draw, Part, Role, Turn};

/// What transformers puts before a conversation where `use_default_system_prompt` is set; the two line ends are the template's.
pub const DEFAULT_SYSTEM: &str = "You are a helpful language and vision assistant. You are able to understand the visual content \
    that the user provides, and assist the user with a variety of tasks using natural language.";

/// The class that DeepSeek's `processor_config.json` names.
pub const DEEPSEEK_PROCESSOR: &str = "VLChatProcessor";

/// The files of a checkpoint, beside the weights, that say how requests become ids.
#[derive(Clone, Copy, Debug, Default)]
pub struct PrompterFiles<'a> {
    /// `tokenizer.json`
    pub tokenizer: &'a [u8],
    /// `tokenizer_config.json`; absent, the special tokens have Janus-Pro's names.
    pub tokenizer_config: Option<&'a [u8]>,
    /// `processor_config.json`; absent, there is no default system text.
    pub processor_config: Option<&'a [u8]>,
    /// `preprocessor_config.json`; absent, the picture rules are those within `processor_config.json`, or Janus-Pro's.
    pub preprocessor_config: Option<&'a [u8]>,
}

/// The files beside the weights cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PrompterError {
    #[error("{file} cannot be read: {reason}")]
    File { file: &'static str, reason: String },
    #[error("tokenizer.json has no token `{name}`, which is the {role}")]
    MissingToken { role: &'static str, name: String },
    #[error(
        "token `{name}` of tokenizer.json strips the spaces beside it (`lstrip`, `rstrip`), which the templates do not allow"
    )]
    Strips { name: String },
    #[error("config.json: `{field}` is {found}, but tokenizer.json needs {wanted}")]
    Disagrees { field: &'static str, found: usize, wanted: String },
    #[error("processor_config.json: `sft_format` is {0}; supported: \"deepseek\"")]
    Template(String),
    #[error(transparent)]
    Preprocess(#[from] PreprocessError),
}

/// A request cannot become a prompt.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PromptError {
    #[error("the text is empty")]
    Empty,
    #[error("the last message must be the user's")]
    NotUser,
    /// `tokens` counts the room for the reply too; for a text far too long it is only a lower bound.
    #[error("the request needs at least {tokens} tokens of context, the model has {limit}")]
    TooLong { tokens: usize, limit: usize },
    #[error("the text contains the reserved token `{0}`")]
    Reserved(String),
    #[error("the text cannot be tokenised: {0}")]
    Tokenizer(String),
}

/// A drawing request: two rows of equal length, each ending with `<begin_of_image>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrawPrompt {
    pub conditional: Vec<u32>,
    /// The same with all but the first and the last id replaced by the pad id.
    pub unconditional: Vec<u32>,
}

/// A question: ids and pictures in the order of their positions.
#[derive(Clone, Debug, PartialEq)]
pub struct AnswerPrompt {
    pub pieces: Vec<Piece>,
    /// What [`Piece::Picture`] counts into.
    pub pictures: Vec<Pixels>,
    /// Positions that each picture fills.
    pub image_tokens: usize,
}

/// A run of positions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Ids, `<begin_of_image>` and `<end_of_image>` included.
    Text(Vec<u32>),
    /// The features of a picture, `ModelConfig::image_tokens` positions.
    Picture(usize),
}

impl AnswerPrompt {
    /// Positions that the prompt fills.
    #[must_use]
    pub fn len(&self) -> usize {
        let length = |piece: &Piece| match piece {
            Piece::Text(ids) => ids.len(),
            Piece::Picture(_) => self.image_tokens,
        };
        self.pieces.iter().map(length).sum()
    }

    /// Never, for one made by a [`Prompter`].
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Turns requests into ids and ids into text.
#[derive(Debug)]
pub struct Prompter {
    tokenizer: Tokenizer,
    names: Ids,
    /// Ids that no text may become and no text shows.
    reserved: BTreeSet<u32>,
    text_tokens: usize,
    /// Bytes of the longest token: no text has fewer tokens than its length over this.
    longest: usize,
    default_system: &'static str,
    preprocess: Preprocess,
    image_tokens: usize,
    limit: usize,
}

impl Prompter {
    /// Reads the files of a checkpoint whose network is `config`.
    ///
    /// # Errors
    /// When a file is broken, a token that the templates need is missing, or the files and `config` disagree.
    pub fn from_files(files: &PrompterFiles<'_>, config: &ModelConfig) -> Result<Self, PrompterError> {
        let broken = |file, reason: String| PrompterError::File { file, reason };
        let spelled = tokens::object("tokenizer_config.json", files.tokenizer_config)?;
        let processor = tokens::object("processor_config.json", files.processor_config)?;
        let pictures = tokens::object("preprocessor_config.json", files.preprocessor_config)?;

        let mut tokenizer = tokens::open(files.tokenizer)?;
        tokenizer.with_truncation(None).map_err(|e| broken("tokenizer.json", e.to_string()))?;
        tokenizer.with_padding(None);
        tokenizer.set_encode_special_tokens(true);
        let names = Ids::resolve(&tokenizer, &spelled)?;
        let mut reserved: BTreeSet<u32> = names.all().into_iter().collect();
        for (id, token) in tokenizer.get_added_tokens_decoder() {
            if reserved.contains(&id) && (token.lstrip || token.rstrip) {
                return Err(PrompterError::Strips { name: token.content });
            }
            if token.special {
                reserved.insert(id);
            }
        }
        let vocabulary = tokenizer.get_vocab(true);
        let text_tokens = vocabulary.values().max().map_or(0, |id| *id as usize + 1);
        let longest = vocabulary.keys().map(String::len).max().unwrap_or(1);
        if text_tokens > config.text.vocab_size {
            return Err(PrompterError::Disagrees {
                field: "text_config.vocab_size",
                found: config.text.vocab_size,
                wanted: text_tokens.to_string(),
            });
        }
        if names.image != config.image_token_id {
            return Err(PrompterError::Disagrees {
                field: "image_token_id",
                found: config.image_token_id as usize,
                wanted: names.image.to_string(),
            });
        }
        let rules = if pictures.is_object() { Some(&pictures) } else { processor.get("image_processor") };
        let preprocess = match rules {
            Some(rules) => Preprocess::from_json(rules, config.image_size())?,
            None => Preprocess::new(config.image_size()),
        };
        let default_system = if speaks_first(&processor)? { DEFAULT_SYSTEM } else { "" };
        let (image_tokens, limit) = (config.image_tokens(), config.text.max_positions);
        Ok(Self { tokenizer, names, reserved, text_tokens, longest, default_system, preprocess, image_tokens, limit })
    }

    /// `<|User|>: {prompt}\n\n<|Assistant|>:<begin_of_image>`, no system text.
    ///
    /// # Errors
    /// When the prompt is empty, or leaves no room for a picture.
    pub fn draw(&self, draw: &Draw) -> Result<DrawPrompt, PromptError> {
        let prompt = draw.prompt.trim();
        if prompt.is_empty() {
            return Err(PromptError::Empty);
        }
        let mut page = Page::new(self, self.image_tokens);
        page.token(self.names.user)?;
        page.text(": ");
        page.text(prompt);
        page.text("\n\n");
        page.token(self.names.assistant)?;
        page.text(":");
        page.token(self.names.begin_of_image)?;
        let conditional = page.ids;
        let mut unconditional = conditional.clone();
        let last = unconditional.len() - 1;
        unconditional[1..last].fill(self.names.pad);
        Ok(DrawPrompt { conditional, unconditional })
    }

    /// `{system}\n\n<|User|>: {turn}\n\n<|Assistant|>: {turn}<end>…<|Assistant|>:`. A turn is its parts with line ends between, so a picture
    /// before a question is `<image_placeholder>\n{question}`, as in training.
    ///
    /// # Errors
    /// When a turn is empty, the last is not the user's, or no room is left for a reply.
    pub fn answer(&self, answer: &Answer) -> Result<AnswerPrompt, PromptError> {
        if answer.turns.last().is_none_or(|turn| turn.role != Role::User) {
            return Err(PromptError::NotUser);
        }
        let mut page = Page::new(self, 1);
        let mut pictures = Vec::new();
        let system = answer.system.as_deref().unwrap_or(self.default_system).trim();
        if !system.is_empty() {
            page.text(system);
            page.text("\n\n");
        }
        for turn in &answer.turns {
            page.token(match turn.role {
                Role::User => self.names.user,
                Role::Assistant => self.names.assistant,
            })?;
            page.text(": ");
            for (index, part) in said(turn)?.into_iter().enumerate() {
                if index > 0 {
                    page.text("\n");
                }
                match part {
                    Said::Text(text) => page.text(text),
                    Said::Picture(picture) => {
                        page.picture(pictures.len())?;
                        pictures.push(picture);
                    }
                }
            }
            match turn.role {
                Role::User => page.text("\n\n"),
                Role::Assistant => page.token(self.names.eos)?,
            }
        }
        page.token(self.names.assistant)?;
        page.text(":");
        let pieces = page.finish()?;
        // The costly part comes last: only requests that fit get here.
        let pictures = pictures.into_iter().map(|picture| self.preprocess.apply(picture)).collect();
        Ok(AnswerPrompt { pieces, pictures, image_tokens: self.image_tokens })
    }

    /// A reply as ids: `{text}<end>`, to follow what [`Prompter::answer`] makes as it is; those of published models begin with a space.
    ///
    /// # Errors
    /// When it is too long.
    pub fn reply(&self, text: &str) -> Result<Vec<u32>, PromptError> {
        let limit = self.limit;
        let fits = |tokens| if tokens > limit { Err(PromptError::TooLong { tokens, limit }) } else { Ok(()) };
        // First a cheap look, so that no endless text is ever tokenised.
        fits(text.len() / self.longest)?;
        let mut ids = self.encode(text)?;
        ids.push(self.names.eos);
        fits(ids.len())?;
        Ok(ids)
    }

    /// The text of generated ids; special tokens, and ids that the tokenizer lacks, show nothing.
    #[must_use]
    pub fn decode(&self, ids: &[u32]) -> String {
        let shown: Vec<u32> = ids.iter().copied().filter(|id| !self.reserved.contains(id)).collect();
        self.tokenizer.decode(&shown, true).unwrap_or_default()
    }

    /// The bytes that one token adds to a text, perhaps a part of a character; none for special and unknown ids.
    #[must_use]
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        let text = self.decode(&[id]);
        match self.tokenizer.id_to_token(id) {
            // No whole character: the vocabulary spells each byte as a character of its own.
            Some(token) if text.contains('\u{FFFD}') => token.chars().filter_map(byte_of).collect(),
            _ => text.into_bytes(),
        }
    }

    /// Ids of the tokens that the templates name.
    #[must_use]
    pub fn ids(&self) -> Ids {
        self.names
    }

    /// What conversations begin with where a request brings no system text; empty for nothing.
    #[must_use]
    pub fn default_system(&self) -> &'static str {
        self.default_system
    }

    /// The id that ends an answer.
    #[must_use]
    pub fn end_of_text(&self) -> u32 {
        self.names.eos
    }

    /// No token has an id as large as this. The network's head may be wider; those ids must not be sampled.
    #[must_use]
    pub fn text_tokens(&self) -> usize {
        self.text_tokens
    }

    /// Ids that no text may become and no text shows, in order. Of these an answer may hold only [`Prompter::end_of_text`].
    pub fn reserved(&self) -> impl Iterator<Item = u32> {
        self.reserved.iter().copied()
    }

    /// The picture rules.
    #[must_use]
    pub fn preprocess(&self) -> &Preprocess {
        &self.preprocess
    }

    /// The `generation_config.json` that transformers needs to draw with this checkpoint.
    #[must_use]
    pub fn generation_config(&self) -> Value {
        let Ids { bos, eos, pad, begin_of_image, .. } = self.names;
        json!({
            "bos_token_id": bos, "eos_token_id": eos, "pad_token_id": pad,
            "generation_kwargs": { "boi_token_id": begin_of_image },
        })
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, PromptError> {
        let encoding = self.tokenizer.encode_fast(text, false).map_err(|e| PromptError::Tokenizer(e.to_string()))?;
        match encoding.get_ids().iter().find(|id| self.reserved.contains(id)) {
            Some(id) => Err(PromptError::Reserved(self.tokenizer.id_to_token(*id).unwrap_or_default())),
            None => Ok(encoding.get_ids().to_vec()),
        }
    }
}

/// The byte that byte-level vocabularies spell as `character`: printable Latin-1 as itself, the others from U+0100 on in order.
fn byte_of(character: char) -> Option<u8> {
    let plain = |byte: &u8| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    match u32::from(character) {
        code @ 0..256 => u8::try_from(code).ok().filter(plain),
        code => (0..=u8::MAX).filter(|byte| !plain(byte)).nth(code as usize - 256),
    }
}

/// The `tokenizer_config.json` of a checkpoint with Janus-Pro's token names and a context of `context` tokens.
#[must_use]
pub fn tokenizer_config(context: usize) -> String {
    let mut whole = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "processor_class": "JanusProcessor",
        "model_max_length": context,
        "padding_side": "left",
        "clean_up_tokenization_spaces": false,
    });
    // The role tokens have no field of their own in transformers.
    for (role, name) in &NAMES[..6] {
        whole[role] = json!(name);
    }
    format!("{whole:#}\n")
}

/// The `processor_config.json` of a checkpoint; its picture rules go to `preprocessor_config.json`, where every transformers finds them.
#[must_use]
pub fn processor_config(config: &ModelConfig, default_system: bool) -> String {
    let whole = json!({
        "processor_class": "JanusProcessor",
        "num_image_tokens": config.image_tokens(),
        "use_default_system_prompt": default_system,
    });
    format!("{whole:#}\n")
}

/// Whether a conversation begins with [`DEFAULT_SYSTEM`]: where `processor_config.json` says so, and in DeepSeek's processor, which has
/// no word for it.
fn speaks_first(processor: &Value) -> Result<bool, PrompterError> {
    match processor.get("sft_format") {
        None => {}
        Some(template) if template == "deepseek" => {}
        Some(other) => return Err(PrompterError::Template(other.to_string())),
    }
    let own = processor.get("processor_class").is_some_and(|class| class == DEEPSEEK_PROCESSOR);
    Ok(processor.get("use_default_system_prompt").and_then(Value::as_bool).unwrap_or(own))
}

/// A part of a turn that says something.
enum Said<'a> {
    Text(&'a str),
    Picture(&'a crate::domain::picture::Picture),
}

/// The parts of a turn without blank ones, stripped at its two ends.
fn said(turn: &Turn) -> Result<Vec<Said<'_>>, PromptError> {
    let spoken = |part: &'_ &Part| !matches!(part, Part::Text(text) if text.trim().is_empty());
    let mut parts: Vec<Said<'_>> = turn
        .parts
        .iter()
        .filter(spoken)
        .map(|part| match part {
            Part::Text(text) => Said::Text(text),
            Part::Picture(picture) => Said::Picture(picture),
        })
        .collect();
    if let Some(Said::Text(text)) = parts.first_mut() {
        *text = text.trim_start();
    }
    match parts.last_mut() {
        None => return Err(PromptError::Empty),
        Some(Said::Text(text)) => *text = text.trim_end(),
        Some(Said::Picture(_)) => {}
    }
    Ok(parts)
}

/// A prompt being written. Text gathers until the next token of the template, because neighbours tokenise together.
struct Page<'p> {
    prompter: &'p Prompter,
    pieces: Vec<Piece>,
    ids: Vec<u32>,
    text: String,
    /// Positions of `pieces`, plus the room that the reply needs.
    taken: usize,
}

impl<'p> Page<'p> {
    fn new(prompter: &'p Prompter, reply: usize) -> Self {
        Self { prompter, pieces: Vec::new(), ids: vec![prompter.names.bos], text: String::new(), taken: reply }
    }

    fn text(&mut self, text: &str) {
        self.text.push_str(text);
    }

    fn token(&mut self, id: u32) -> Result<(), PromptError> {
        self.flush()?;
        self.ids.push(id);
        self.fits(0)
    }

    fn picture(&mut self, index: usize) -> Result<(), PromptError> {
        let Ids { begin_of_image, end_of_image, .. } = self.prompter.names;
        self.token(begin_of_image)?;
        self.taken += self.ids.len() + self.prompter.image_tokens;
        self.pieces.push(Piece::Text(std::mem::take(&mut self.ids)));
        self.pieces.push(Piece::Picture(index));
        self.token(end_of_image)
    }

    fn finish(mut self) -> Result<Vec<Piece>, PromptError> {
        self.flush()?;
        self.fits(0)?;
        self.pieces.push(Piece::Text(self.ids));
        Ok(self.pieces)
    }

    /// Tokenises what has gathered; first a cheap look, so that no endless text is ever tokenised.
    fn flush(&mut self) -> Result<(), PromptError> {
        if !self.text.is_empty() {
            self.fits(self.text.len() / self.prompter.longest)?;
            let ids = self.prompter.encode(&self.text)?;
            self.ids.extend(ids);
            self.text.clear();
        }
        Ok(())
    }

    fn fits(&self, more: usize) -> Result<(), PromptError> {
        let (tokens, limit) = (self.taken + self.ids.len() + more, self.prompter.limit);
        if tokens > limit { Err(PromptError::TooLong { tokens, limit }) } else { Ok(()) }
    }
}
