//! Text to tokens, and tokens to text one at a time.

use std::path::Path;
use std::sync::Arc;

use crate::Error;

/// The tokenizer of the model, shared by all requests.
#[derive(Clone)]
pub(crate) struct Tokenizer(Arc<tokenizers::Tokenizer>);

impl Tokenizer {
    /// Reads tokenizer.json; `None` if the model has none, in which case prompts must be token ids.
    pub(crate) fn open(dir: &Path) -> Result<Option<Self>, Error> {
        let path = dir.join("tokenizer.json");
        if !path.exists() {
            return Ok(None);
        }
        let read = tokenizers::Tokenizer::from_file(&path);
        let failed = |e: tokenizers::Error| Error::Tokenizer {
            path: path.display().to_string(),
            what: e.to_string(),
        };
        Ok(Some(Self(Arc::new(read.map_err(failed)?))))
    }

    /// The tokens of a text, with the special tokens that the tokenizer adds by itself.
    pub(crate) fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        let encoded = self.0.encode_fast(text, true).map_err(|e| e.to_string())?;
        Ok(encoded.get_ids().to_vec())
    }

    fn decode(&self, ids: &[u32]) -> String {
        // Ids that the tokenizer does not know are left out; there is nothing to show for them.
        self.0.decode(ids, true).unwrap_or_default()
    }
}

/// Tokens of context that decide how the next one is spelled (a leading space, a joined character).
const CONTEXT: usize = 5;

/// Tokens that a character can take: one for each of its bytes.
const LONGEST_CHARACTER: usize = 4;

/// Turns tokens into text one at a time, and never emits a part of a character.
pub(crate) struct Detokenizer {
    tokenizer: Option<Tokenizer>,
    /// The last tokens of the prompt, then what was generated since they were needed.
    ids: Vec<u32>,
    /// `ids[..emitted]` is text that has been emitted.
    emitted: usize,
}

impl Detokenizer {
    /// Continues after `prompt`.
    pub(crate) fn new(tokenizer: Option<Tokenizer>, prompt: &[u32]) -> Self {
        let ids = prompt[prompt.len().saturating_sub(CONTEXT)..].to_vec();
        Self { tokenizer, emitted: ids.len(), ids }
    }

    /// The text that `token` completes; empty while a character is unfinished.
    pub(crate) fn push(&mut self, token: u32) -> String {
        self.ids.push(token);
        self.advance(false)
    }

    /// What is left at the end of the sequence, a broken character included.
    pub(crate) fn finish(&mut self) -> String {
        self.advance(true)
    }

    fn advance(&mut self, at_end: bool) -> String {
        let Some(tokenizer) = &self.tokenizer else { return String::new() };
        let before = tokenizer.decode(&self.ids[..self.emitted]);
        let now = tokenizer.decode(&self.ids);
        let pending = self.ids.len() - self.emitted;
        let unfinished = now.ends_with(char::REPLACEMENT_CHARACTER);
        if unfinished && !at_end && pending < LONGEST_CHARACTER {
            return String::new();
        }
        // A prompt that ends within a character is spelled differently once the character is whole.
        let same = before.chars().zip(now.chars()).take_while(|(a, b)| a == b);
        let text = now[same.map(|(a, _)| a.len_utf8()).sum()..].to_owned();
        self.ids.drain(..self.ids.len().saturating_sub(CONTEXT));
        self.emitted = self.ids.len();
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A byte-level tokenizer without merges: every byte is a token.
    fn byte_tokenizer() -> Tokenizer {
        let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
        let mut shifted = 0x100;
        let mut vocab = serde_json::Map::new();
        for byte in 0..=255u8 {
            let spelled = if printable(byte) {
                char::from(byte)
            } else {
                shifted += 1;
                char::from_u32(shifted - 1).unwrap()
            };
            vocab.insert(spelled.to_string(), byte.into());
        }
        let byte_level = serde_json::json!({
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false
        });
        let json = serde_json::json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
            "normalizer": null, "post_processor": null,
            "pre_tokenizer": byte_level, "decoder": byte_level,
            "model": {"type": "BPE", "dropout": null, "unk_token": null,
                      "continuing_subword_prefix": null, "end_of_word_suffix": null,
                      "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": []},
        });
        Tokenizer(Arc::new(serde_json::from_value(json).unwrap()))
    }

    #[derive(serde::Deserialize)]
    struct Golden {
        texts: Vec<GoldenText>,
    }

    #[derive(serde::Deserialize)]
    struct GoldenText {
        text: String,
        token_ids: Vec<u32>,
        decoded: String,
    }

    #[test]
    fn the_demonstration_tokenizer_agrees_with_the_reference() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let tokenizer = Tokenizer::open(&root.join("../models/demo")).unwrap().unwrap();
        let golden = std::fs::read(root.join("tests/golden/demo.json")).unwrap();
        let golden: Golden = serde_json::from_slice(&golden).unwrap();
        for expected in golden.texts {
            let ids = tokenizer.encode(&expected.text).unwrap();
            assert_eq!(ids, expected.token_ids, "{:?}", expected.text);
            let mut detokenizer = Detokenizer::new(Some(tokenizer.clone()), &[]);
            let mut text: String = ids.iter().map(|&id| detokenizer.push(id)).collect();
            text.push_str(&detokenizer.finish());
            assert_eq!(text, expected.decoded, "{:?}", expected.text);
        }
    }

    fn check(prompt: &str, bytes: &[u8], expected: &[&str], rest: &str) {
        let tokenizer = byte_tokenizer();
        let prompt = tokenizer.encode(prompt).unwrap();
        let mut detokenizer = Detokenizer::new(Some(tokenizer), &prompt);
        let texts: Vec<String> =
            bytes.iter().map(|&byte| detokenizer.push(u32::from(byte))).collect();
        assert_eq!(texts, expected);
        assert_eq!(detokenizer.finish(), rest);
    }

    #[test]
    fn a_character_of_several_tokens_is_emitted_whole() {
        check("", "aé€".as_bytes(), &["a", "", "é", "", "", "€"], "");
        check("A long prompt: ", "🦀!".as_bytes(), &["", "", "", "🦀", "!"], "");
    }

    #[test]
    fn a_broken_character_shows_when_the_text_goes_on_or_ends() {
        check("x", &[0xe2, 0x82], &["", ""], "\u{fffd}");
        check("x", &[0xe2, b'a'], &["", "\u{fffd}a"], "");
    }

    #[test]
    fn without_a_tokenizer_there_is_no_text() {
        let mut detokenizer = Detokenizer::new(None, &[1, 2]);
        assert_eq!((detokenizer.push(3), detokenizer.finish()), (String::new(), String::new()));
    }
}
