//! The bytes that each token stands for, read off the vocabulary.

use std::collections::BTreeMap;

use tokenizers::{DecoderWrapper, Tokenizer};

/// What one token stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Maybe a part of a character; the name of a special token; empty for an id without a token.
    pub(crate) bytes: Vec<u8>,
    pub(crate) special: bool,
}

/// Every token of a vocabulary.
#[derive(Debug)]
pub(crate) struct Pieces(Vec<Piece>);

/// How tokens are spelled in a vocabulary.
#[derive(Clone, Copy)]
enum Spelling {
    /// Each character stands for a byte (GPT-2).
    ByteLevel,
    /// U+2581 is a space, `<0x41>` a byte (SentencePiece).
    Metaspace,
    /// As it is read.
    Plain,
}

impl Pieces {
    pub(super) fn of(tokenizer: &Tokenizer) -> Self {
        let spelling = tokenizer.get_decoder().map_or(Spelling::Plain, Spelling::of);
        let byte_of = bytes_by_character();
        let added = tokenizer.get_added_tokens_decoder();
        let piece = |id: u32| {
            if let Some(token) = added.get(&id) {
                let bytes = token.content.clone().into_bytes();
                return Piece { bytes, special: token.special };
            }
            let Some(token) = tokenizer.id_to_token(id) else { return Piece::default() };
            Piece { bytes: spelling.bytes(&token, &byte_of), special: false }
        };
        let highest = tokenizer.get_vocab(true).into_values().max();
        Self((0..highest.map_or(0, |id| id + 1)).map(piece).collect())
    }

    /// What a token stands for; nothing for an id without a token.
    pub(crate) fn get(&self, id: u32) -> &Piece {
        static NONE: Piece = Piece { bytes: Vec::new(), special: false };
        self.0.get(id as usize).unwrap_or(&NONE)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Piece> {
        self.0.iter()
    }
}

impl Spelling {
    fn of(decoder: &DecoderWrapper) -> Self {
        match decoder {
            DecoderWrapper::ByteLevel(_) => Self::ByteLevel,
            DecoderWrapper::Metaspace(_)
            | DecoderWrapper::ByteFallback(_)
            | DecoderWrapper::Replace(_) => Self::Metaspace,
            DecoderWrapper::Sequence(all) => {
                let known = |d: &DecoderWrapper| match Self::of(d) {
                    Self::Plain => None,
                    spelling => Some(spelling),
                };
                all.get_decoders().iter().find_map(known).unwrap_or(Self::Plain)
            }
            _ => Self::Plain,
        }
    }

    fn bytes(self, token: &str, byte_of: &BTreeMap<char, u8>) -> Vec<u8> {
        match self {
            Self::Plain => token.as_bytes().to_vec(),
            Self::ByteLevel => {
                let bytes: Option<Vec<u8>> =
                    token.chars().map(|c| byte_of.get(&c).copied()).collect();
                // A character that stands for no byte: the vocabulary was not made as its decoder says.
                bytes.unwrap_or_else(|| token.as_bytes().to_vec())
            }
            Self::Metaspace => match hexadecimal_byte(token) {
                Some(byte) => vec![byte],
                None => token.replace('\u{2581}', " ").into_bytes(),
            },
        }
    }
}

fn hexadecimal_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

/// The byte that each character of a byte-level vocabulary stands for: printable Latin-1 characters for themselves,
/// the others, in order, for U+0100 and so on (Radford et al. 2019).
fn bytes_by_character() -> BTreeMap<char, u8> {
    let itself = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut shifted = (0x100..).filter_map(char::from_u32);
    let character = |byte: u8| if itself(byte) { Some(char::from(byte)) } else { shifted.next() };
    (0..=255).map(character).zip(0..=255).filter_map(|(c, byte)| Some((c?, byte))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_gives_its_bytes() {
        let byte_of = bytes_by_character();
        assert_eq!(byte_of.len(), 256);
        let check = |spelling: Spelling, token: &str, bytes: &[u8]| {
            assert_eq!(spelling.bytes(token, &byte_of), bytes, "{token:?}");
        };
        check(Spelling::ByteLevel, "Ġa", b" a");
        check(Spelling::ByteLevel, "âĤ¬", "€".as_bytes());
        check(Spelling::Metaspace, "\u{2581}the", b" the");
        check(Spelling::Metaspace, "<0xE2>", b"\xe2");
        check(Spelling::Metaspace, "<0x>", b"<0x>");
        check(Spelling::Plain, "a b", b"a b");
    }
}
