//! What an answer must look like: JSON, a regular expression, a grammar or one of some texts.

use std::fmt;
use std::sync::Arc;

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{SimpleVob, TokEnv, TokRxInfo, TokTrie, TokenizerEnv};
use llguidance::{Matcher, ParserFactory};

use crate::tokenizer::Tokenizer;

/// The form that a request asks for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Form {
    /// A JSON schema.
    JsonSchema(serde_json::Value),
    /// For all of the answer.
    Regex(String),
    /// In the dialect of llguidance.
    Lark(String),
    /// One of these texts.
    Choice(Vec<String>),
}

/// Compiles forms for the vocabulary of the model.
#[derive(Clone)]
pub(crate) struct Grammars(Arc<ParserFactory>);

/// A form and how much of it an answer has gone through.
#[derive(Clone)]
pub(crate) struct Constraint(Matcher);

/// The tokens that may come next: bit `id % 32` of word `id / 32`.
pub(crate) struct AllowedTokens(SimpleVob);

/// What llguidance may spend on one request. A mask is computed between two steps of everybody, so its limits are half
/// of the defaults of llguidance or less: some ten milliseconds in the worst case.
fn limits() -> ParserLimits {
    ParserLimits {
        step_lexer_fuel: 100_000,
        step_max_items: 20_000,
        verbose_errors: false,
        ..ParserLimits::default()
    }
}

impl Grammars {
    /// Reads the vocabulary; `eos_token_ids` may follow a complete answer.
    ///
    /// # Errors
    /// A sentence when the vocabulary cannot be used.
    pub(crate) fn new(tokenizer: &Tokenizer, eos_token_ids: &[u32]) -> Result<Self, String> {
        let pieces = tokenizer.pieces();
        let words: Vec<Vec<u8>> = pieces
            .iter()
            .map(|piece| match piece.special {
                true => [&[TokTrie::SPECIAL_TOKEN_MARKER], piece.bytes.as_slice()].concat(),
                false => piece.bytes.clone(),
            })
            .collect();
        let known = |id: &&u32| (**id as usize) < words.len();
        let eos: Vec<u32> = eos_token_ids.iter().filter(known).copied().collect();
        let Some(&first) = eos.first() else { return Err("no end-of-sequence token".into()) };
        let size = u32::try_from(words.len()).map_err(|e| e.to_string())?;
        let trie = TokTrie::from(&TokRxInfo::new(size, first), &words).with_eos_tokens(&eos);
        let vocabulary: TokEnv = Arc::new(Vocabulary(trie));
        let mut factory = ParserFactory::new_simple(&vocabulary).map_err(|e| e.to_string())?;
        *factory.limits_mut() = limits();
        factory.quiet();
        Ok(Self(Arc::new(factory)))
    }

    /// Compiles a form.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub(crate) fn compile(&self, form: &Form) -> Result<Constraint, String> {
        let grammar = match form {
            Form::JsonSchema(schema) => TopLevelGrammar::from_json_schema(terse(schema.clone())),
            Form::Regex(regex) => TopLevelGrammar::from_regex(regex),
            Form::Lark(grammar) => TopLevelGrammar::from_lark(grammar.clone()),
            Form::Choice(texts) => TopLevelGrammar::from_lark(choice_grammar(texts)),
        };
        let matcher = Matcher::new(self.0.create_parser(grammar));
        match matcher.get_error() {
            Some(error) => Err(error),
            None => Ok(Constraint(matcher)),
        }
    }
}

/// Allows no white space but one space after a comma or a colon, unless the schema has settings of its own: models are
/// known to write white space without end when nothing else fits.
fn terse(mut schema: serde_json::Value) -> serde_json::Value {
    let style = serde_json::json!({
        "item_separator": ", ?", "key_separator": ": ?", "whitespace_flexible": false
    });
    if let Some(schema) = schema.as_object_mut() {
        schema.entry("x-guidance").or_insert(style);
    }
    schema
}

/// A Lark grammar of alternatives; its string literals are written as in JSON.
fn choice_grammar(texts: &[String]) -> String {
    let literals: Vec<String> =
        texts.iter().map(|text| serde_json::Value::from(text.as_str()).to_string()).collect();
    format!("start: {}", literals.join(" | "))
}

impl Constraint {
    /// The tokens that may come next; of a complete answer, the end-of-sequence tokens.
    ///
    /// # Errors
    /// A sentence when the form is too much to follow.
    pub(crate) fn allowed(&mut self) -> Result<AllowedTokens, String> {
        self.0.compute_mask_or_eos().map(AllowedTokens).map_err(|e| e.to_string())
    }

    /// Goes on by a token that was allowed.
    ///
    /// # Errors
    /// A sentence when it was not.
    pub(crate) fn accept(&mut self, token: u32) -> Result<(), String> {
        self.0.consume_token(token).map_err(|e| e.to_string())
    }

    /// Whether nothing but the end can follow.
    pub(crate) fn is_complete(&self) -> bool {
        self.0.is_stopped()
    }
}

impl AllowedTokens {
    pub(crate) fn words(&self) -> &[u32] {
        self.0.as_slice()
    }
}

impl fmt::Debug for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Constraint")
    }
}

/// The vocabulary as llguidance sees it.
struct Vocabulary(TokTrie);

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.0
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<u32> {
        self.0.greedy_tokenize(bytes)
    }

    /// Nothing is forced, so that the model spells its answer in its own tokens.
    fn tokenize_is_canonical(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::tokenizer::AddSpecial;

    fn demo() -> (Tokenizer, Grammars) {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/demo");
        let tokenizer = Tokenizer::open(&dir).unwrap().unwrap();
        let grammars = Grammars::new(&tokenizer, &[0, 2]).unwrap();
        (tokenizer, grammars)
    }

    fn allows(allowed: &AllowedTokens, token: u32) -> bool {
        allowed.words()[token as usize / 32] >> (token % 32) & 1 == 1
    }

    /// Whether the whole text is an answer, each of its tokens being allowed and the end after it.
    fn accepts(form: &Form, text: &str) -> bool {
        let (tokenizer, grammars) = demo();
        let mut constraint = grammars.compile(form).unwrap();
        for token in tokenizer.encode(text, AddSpecial::No).unwrap() {
            if !allows(&constraint.allowed().unwrap(), token) {
                return false;
            }
            constraint.accept(token).unwrap();
        }
        let end = constraint.allowed().unwrap();
        assert_eq!(allows(&end, 0), allows(&end, 2), "every end-of-sequence token ends it");
        allows(&end, 0)
    }

    #[test]
    fn each_form_accepts_what_it_says() {
        let schema = serde_json::json!({
            "type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"],
            "additionalProperties": false
        });
        let schema = Form::JsonSchema(schema);
        assert!(accepts(&schema, r#"{"n": 12}"#) && accepts(&schema, r#"{"n":-3}"#));
        assert!(!accepts(&schema, r#"{"m": 12}"#) && !accepts(&schema, r#"{"n": "x"}"#));
        assert!(!accepts(&schema, r#"{"n":   12}"#), "white space has an end");
        let regex = Form::Regex("[a-c]+ (one|two)".into());
        assert!(accepts(&regex, "abc two") && !accepts(&regex, "abd two"));
        let lark = Form::Lark("start: \"yes\" | \"no\" \" sir\"?".into());
        assert!(accepts(&lark, "no sir") && accepts(&lark, "yes") && !accepts(&lark, "maybe"));
        let choice = Form::Choice(vec!["a \"b\"\n".into(), "é".into()]);
        assert!(accepts(&choice, "a \"b\"\n") && accepts(&choice, "é") && !accepts(&choice, "e"));
    }

    #[test]
    fn a_complete_answer_can_only_end() {
        let (tokenizer, grammars) = demo();
        let mut constraint = grammars.compile(&Form::Choice(vec!["one".into()])).unwrap();
        for token in tokenizer.encode("one", AddSpecial::No).unwrap() {
            assert!(!constraint.is_complete());
            constraint.accept(token).unwrap();
        }
        assert!(constraint.is_complete());
        assert!(allows(&constraint.allowed().unwrap(), 2));
    }

    #[test]
    fn special_tokens_are_not_text() {
        let (_, grammars) = demo();
        let mut constraint = grammars.compile(&Form::Regex(".*".into())).unwrap();
        let allowed = constraint.allowed().unwrap();
        assert!(!allows(&allowed, 1), "<|im_start|> is no text");
        assert!(allows(&allowed, 2), "the answer may end");
    }

    #[test]
    fn what_cannot_be_compiled_is_refused_with_a_reason() {
        let (_, grammars) = demo();
        for form in [
            Form::Regex("(".into()),
            Form::Lark("begin: \"a\"".into()),
            Form::JsonSchema(serde_json::json!({"type": "nothing"})),
            Form::JsonSchema(serde_json::json!(false)),
        ] {
            let error = grammars.compile(&form).unwrap_err();
            assert!(error.len() > 5 && error.len() < 500, "{form:?}: {error}");
        }
    }
}
