//! Tokens to text, one token at a time and never half a character.

use super::Tokenizer;

/// Tokens of context that decide how the next one is spelled (a leading space, a joined character).
const CONTEXT: usize = 5;

/// Tokens that a character can take: one for each of its bytes.
const LONGEST_CHARACTER: usize = 4;

/// Turns tokens into text one at a time, and never emits a part of a character.
pub(crate) struct Detokenizer {
    tokenizer: Option<Tokenizer>,
    show_special: bool,
    /// The last tokens of the prompt, then what was generated since they were needed.
    ids: Vec<u32>,
    /// `ids[..emitted]` is text that has been emitted.
    emitted: usize,
}

impl Detokenizer {
    /// Continues after `prompt`; `show_special` makes special tokens part of the text.
    pub(crate) fn new(tokenizer: Option<Tokenizer>, show_special: bool, prompt: &[u32]) -> Self {
        let ids = prompt[prompt.len().saturating_sub(CONTEXT)..].to_vec();
        Self { tokenizer, show_special, emitted: ids.len(), ids }
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
        let before = tokenizer.decode(&self.ids[..self.emitted], self.show_special);
        let now = tokenizer.decode(&self.ids, self.show_special);
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
