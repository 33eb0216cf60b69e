//! From answer tokens to text, piece by piece: every piece is whole UTF-8, and nothing that may turn out to be a stop string gets out.
//!
//! Ids become text through a function given by the caller; nothing here knows the tokenizer, the model or who listens.

/// Most ids decoded again at each token; a character or a joined word never spans nearly as many.
const WINDOW: usize = 24;
/// Ids kept as the left context of the next ones when the window is cut, because tokenizers join words by what stands before.
const CONTEXT: usize = 8;
/// A character lacks at most three bytes, each of which may be shown as one replacement character.
const LACKING: usize = 3;

/// The text of one answer while it grows.
#[derive(Debug, Default)]
pub struct TextStream {
    stops: Vec<String>,
    /// The last ids, and how many bytes of their text are settled.
    window: Vec<u32>,
    settled: usize,
    /// Settled text that may be the beginning of a stop string.
    held: String,
    /// What got out, all pieces joined.
    text: String,
}

/// What a token added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    pub text: String,
    /// A stop string came; it and what follows is left out and nothing more is to be pushed.
    pub stopped: bool,
}

impl TextStream {
    /// An empty text that ends before the first of `stops`; empty strings stop nothing.
    #[must_use]
    pub fn new(stops: &[String]) -> Self {
        Self { stops: stops.iter().filter(|stop| !stop.is_empty()).cloned().collect(), ..Self::default() }
    }

    /// Adds a token.
    pub fn push(&mut self, token: u32, decode: impl Fn(&[u32]) -> String) -> Piece {
        self.window.push(token);
        let text = decode(&self.window);
        let whole = without_replacements(&text);
        self.settle(whole);
        if self.window.len() >= WINDOW && whole.len() == text.len() {
            self.window.drain(..self.window.len() - CONTEXT);
            self.settled = decode(&self.window).len();
        }
        self.let_out(false)
    }

    /// Lets out all that was held back: the answer ended without a stop string, or the last held part completes one.
    pub fn finish(&mut self, decode: impl Fn(&[u32]) -> String) -> Piece {
        let text = decode(&self.window);
        self.settle(&text);
        self.let_out(true)
    }

    /// All pieces joined: the answer.
    #[must_use]
    pub fn into_text(self) -> String {
        self.text
    }

    fn settle(&mut self, text: &str) {
        self.held.push_str(text.get(self.settled..).unwrap_or(""));
        self.settled = self.settled.max(text.len());
    }

    fn let_out(&mut self, all: bool) -> Piece {
        let found = self.stops.iter().filter_map(|stop| self.held.find(stop)).min();
        let end = match found {
            Some(at) => at,
            None if all => self.held.len(),
            None => self.held.len() - self.stops.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0),
        };
        let text: String = self.held.drain(..end).collect();
        if found.is_some() {
            self.held.clear();
        }
        self.text.push_str(&text);
        Piece { text, stopped: found.is_some() }
    }
}

/// `text` less the replacement characters at its end that may stand for an unfinished character.
fn without_replacements(text: &str) -> &str {
    (0..LACKING)
        .try_fold(text, |rest, _| rest.strip_suffix(char::REPLACEMENT_CHARACTER).ok_or(rest))
        .unwrap_or_else(|rest| rest)
}

/// Bytes at the end of `text` that are a proper beginning of `stop`.
fn overlap(text: &str, stop: &str) -> usize {
    stop.char_indices().map(|(at, _)| at).rev().find(|&at| text.ends_with(&stop[..at])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A byte-level tokenizer: an id is a byte.
    fn bytes(ids: &[u32]) -> String {
        String::from_utf8_lossy(&ids.iter().map(|&id| id as u8).collect::<Vec<_>>()).into_owned()
    }

    /// A word-level tokenizer that joins by spaces.
    fn words(ids: &[u32]) -> String {
        ids.iter().map(|id| ["red", "circle", "on", "white"][*id as usize % 4]).collect::<Vec<_>>().join(" ")
    }

    /// Pieces of `ids`, and the final text.
    fn run(ids: &[u32], stops: &[&str], decode: fn(&[u32]) -> String) -> (Vec<String>, String, bool) {
        let stops: Vec<String> = stops.iter().map(|stop| (*stop).to_owned()).collect();
        let mut stream = TextStream::new(&stops);
        let mut pieces = Vec::new();
        let mut stopped = false;
        for &id in ids {
            let piece = stream.push(id, decode);
            pieces.push(piece.text);
            stopped = piece.stopped;
            if stopped {
                break;
            }
        }
        if !stopped {
            let piece = stream.finish(decode);
            stopped = piece.stopped;
            pieces.push(piece.text);
        }
        (pieces, stream.into_text(), stopped)
    }

    fn ids(text: &str) -> Vec<u32> {
        text.bytes().map(u32::from).collect()
    }

    #[test]
    fn a_character_waits_for_its_last_byte() {
        let (pieces, text, _) = run(&ids("a€😀b"), &[], bytes);
        assert_eq!(pieces, ["a", "", "", "€", "", "", "", "😀", "b", ""]);
        assert_eq!(text, "a€😀b");
    }

    #[test]
    fn broken_bytes_come_out_in_the_end() {
        let (pieces, text, _) = run(&[0x61, 0xE2, 0x82], &[], bytes);
        assert_eq!(pieces, ["a", "", "", "\u{FFFD}"]);
        assert_eq!(text, "a\u{FFFD}");
    }

    #[test]
    fn a_stop_string_is_held_back_and_left_out() {
        let (pieces, text, stopped) = run(&ids("x</a</ans>y"), &["</ans>"], bytes);
        assert_eq!(pieces, ["x", "", "", "", "</a", "", "", "", "", ""]);
        assert_eq!((text.as_str(), stopped), ("x</a", true));
    }

    #[test]
    fn an_unfinished_stop_string_is_text() {
        let (_, text, stopped) = run(&ids("a STO"), &["STOP", ""], bytes);
        assert_eq!((text.as_str(), stopped), ("a STO", false));
    }

    #[test]
    fn the_first_stop_string_wins() {
        let (_, text, stopped) = run(&ids("one two three"), &["three", "two"], bytes);
        assert_eq!((text.as_str(), stopped), ("one ", true));
    }

    #[test]
    fn words_keep_their_spaces_across_the_window() {
        let ids: Vec<u32> = (0..100).collect();
        let (pieces, text, _) = run(&ids, &[], words);
        assert_eq!(pieces[1], " circle");
        assert_eq!(text, words(&ids));
    }

    proptest! {
        #[test]
        fn pieces_join_to_the_text_before_the_stop(
            raw in prop::collection::vec(prop_oneof![any::<u8>(), Just(b'a'), Just(b'b'), Just(0xE2), Just(0x82), Just(0xAC)], 0..120),
            stop in "[ab€]{1,3}",
        ) {
            let ids: Vec<u32> = raw.iter().copied().map(u32::from).collect();
            let whole = bytes(&ids);
            let (pieces, text, stopped) = run(&ids, &[&stop], bytes);
            prop_assert_eq!(pieces.concat(), &text[..]);
            match whole.find(&stop) {
                Some(at) => prop_assert_eq!((&text[..], stopped), (&whole[..at], true)),
                None => prop_assert_eq!((&text[..], stopped), (&whole[..], false)),
            }
        }
    }
}
