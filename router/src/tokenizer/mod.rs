//! Text to tokens, and tokens to text.

use std::path::Path;
use std::sync::Arc;

use crate::Error;
pub(crate) use detokenizer::Detokenizer;
pub(crate) use pieces::Pieces;

mod detokenizer;
mod pieces;

/// The tokenizer of the model, shared by all requests.
#[derive(Clone)]
pub(crate) struct Tokenizer {
    text: Arc<tokenizers::Tokenizer>,
    pieces: Arc<Pieces>,
}

/// Whether a text gets the special tokens that the tokenizer adds by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AddSpecial {
    /// A plain text does.
    Yes,
    /// What a chat template wrote has them already.
    No,
}

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
        Ok(Some(Self::new(read.map_err(failed)?)))
    }

    fn new(text: tokenizers::Tokenizer) -> Self {
        let pieces = Arc::new(Pieces::of(&text));
        Self { text: Arc::new(text), pieces }
    }

    /// The tokens of a text.
    pub(crate) fn encode(&self, text: &str, special: AddSpecial) -> Result<Vec<u32>, String> {
        let add = special == AddSpecial::Yes;
        let encoded = self.text.encode_fast(text, add).map_err(|e| e.to_string())?;
        Ok(encoded.get_ids().to_vec())
    }

    /// The text of tokens, with or without special ones.
    pub(crate) fn decode(&self, ids: &[u32], show_special: bool) -> String {
        // Ids that the tokenizer does not know are left out; there is nothing to show for them.
        self.text.decode(ids, !show_special).unwrap_or_default()
    }

    /// What each token stands for.
    pub(crate) fn pieces(&self) -> &Pieces {
        &self.pieces
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
        Tokenizer::new(serde_json::from_value(json).unwrap())
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
            let ids = tokenizer.encode(&expected.text, AddSpecial::Yes).unwrap();
            assert_eq!(ids, expected.token_ids, "{:?}", expected.text);
            let mut detokenizer = Detokenizer::new(Some(tokenizer.clone()), false, &[]);
            let mut text: String = ids.iter().map(|&id| detokenizer.push(id)).collect();
            text.push_str(&detokenizer.finish());
            assert_eq!(text, expected.decoded, "{:?}", expected.text);
        }
    }

    fn check(prompt: &str, bytes: &[u8], expected: &[&str], rest: &str) {
        let tokenizer = byte_tokenizer();
        let prompt = tokenizer.encode(prompt, AddSpecial::Yes).unwrap();
        let mut detokenizer = Detokenizer::new(Some(tokenizer), false, &prompt);
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
        let mut detokenizer = Detokenizer::new(None, false, &[1, 2]);
        assert_eq!((detokenizer.push(3), detokenizer.finish()), (String::new(), String::new()));
    }

    #[test]
    fn pieces_of_a_text_joined_are_its_bytes() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let demo = Tokenizer::open(&root.join("../models/demo")).unwrap().unwrap();
        for tokenizer in [demo, byte_tokenizer()] {
            for text in ["The price is 3 €.", " a\n\tb  c", "🦀é"] {
                let ids = tokenizer.encode(text, AddSpecial::Yes).unwrap();
                let bytes: Vec<u8> =
                    ids.iter().flat_map(|&id| tokenizer.pieces().get(id).bytes.clone()).collect();
                assert_eq!(bytes, text.as_bytes());
            }
        }
    }

    #[test]
    fn special_tokens_are_known_as_such() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let tokenizer = Tokenizer::open(&root.join("../models/demo")).unwrap().unwrap();
        let ids = tokenizer.encode("<|im_start|>user", AddSpecial::No).unwrap();
        let piece = tokenizer.pieces().get(ids[0]);
        assert!(piece.special && piece.bytes == b"<|im_start|>");
        assert!(!tokenizer.pieces().get(ids[1]).special);
        assert_eq!(tokenizer.decode(&ids, true), "<|im_start|>user");
        assert_eq!(tokenizer.decode(&ids, false), "user");
    }
}
