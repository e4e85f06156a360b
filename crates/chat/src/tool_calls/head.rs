//! The beginning of an object, up to where it is certain to be a call or certain not to be one.

use std::ops::Range;

use super::nesting::Nesting;

/// The keys that a call has before it is certain to be one. Models write the arguments under either name.
const KEYS: [(&str, Key); 3] =
    [("name", Key::Name), ("arguments", Key::Arguments), ("parameters", Key::Arguments)];

/// Reads an object from behind its opening brace.
#[derive(Debug, Default)]
pub(super) struct Head {
    at: At,
    /// Where in the held text the current string, with its quote, or the arguments begin.
    from: usize,
    name: Option<String>,
    /// Where in the held text the arguments are, if they came before the name.
    arguments: Option<Range<usize>>,
}

/// What an object turns out to be.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Either is possible.
    Undecided,
    /// No call.
    NoCall,
    /// A call of this name, whose arguments began with the last character.
    Begins(String),
    /// A call that is complete, with its arguments at this place of the held text.
    Whole { name: String, arguments: Range<usize> },
}

#[derive(Debug, Default)]
enum At {
    /// Before a key.
    #[default]
    Key,
    /// In a key.
    KeyText,
    /// Behind a key.
    Colon(Key),
    /// Before a key's value.
    Value(Key),
    /// In the name, and whether the next character is escaped.
    NameText { escaped: bool },
    /// In arguments whose name is not known yet.
    Arguments(Nesting),
    /// Behind a value.
    Comma,
}

#[derive(Debug, Clone, Copy)]
enum Key {
    Name,
    Arguments,
}

impl Head {
    /// Reads the last character of what is held.
    pub(super) fn read(&mut self, held: &str, character: char) -> Verdict {
        let next = match &mut self.at {
            At::KeyText => return self.read_key(&held[self.from + 1..]),
            At::NameText { escaped } => {
                match character {
                    _ if *escaped => *escaped = false,
                    '\\' => *escaped = true,
                    '"' => return self.end_name(&held[self.from..]),
                    '\0'..='\x1f' => return Verdict::NoCall,
                    _ => (),
                }
                return Verdict::Undecided;
            }
            At::Arguments(nesting) => {
                if nesting.ends_with(character) {
                    self.arguments = Some(self.from..held.len());
                    self.at = At::Comma;
                }
                return Verdict::Undecided;
            }
            _ if character.is_ascii_whitespace() => return Verdict::Undecided,
            At::Key if character == '"' => At::KeyText,
            At::Colon(key) if character == ':' => At::Value(*key),
            At::Value(Key::Name) if character == '"' => At::NameText { escaped: false },
            At::Value(Key::Arguments) if character == '{' => match self.name.take() {
                Some(name) => return Verdict::Begins(name),
                None => At::Arguments(Nesting::opened()),
            },
            At::Comma if character == ',' => At::Key,
            At::Comma if character == '}' => return self.end(),
            _ => return Verdict::NoCall,
        };
        self.at = next;
        self.from = held.len() - 1;
        Verdict::Undecided
    }

    /// Looks at what there is of a key, which ends with its quote.
    fn read_key(&mut self, text: &str) -> Verdict {
        for (name, key) in KEYS {
            let is_open = match key {
                Key::Name => self.name.is_none(),
                Key::Arguments => self.arguments.is_none(),
            };
            if is_open && name.starts_with(text) {
                return Verdict::Undecided;
            }
            if is_open && text.strip_suffix('"') == Some(name) {
                self.at = At::Colon(key);
                return Verdict::Undecided;
            }
        }
        Verdict::NoCall
    }

    /// Looks at the whole name, which is written with its quotes.
    fn end_name(&mut self, written: &str) -> Verdict {
        match serde_json::from_str::<String>(written) {
            Ok(name) if !name.is_empty() => {
                self.name = Some(name);
                self.at = At::Comma;
                Verdict::Undecided
            }
            _ => Verdict::NoCall,
        }
    }

    fn end(&mut self) -> Verdict {
        match (self.name.take(), self.arguments.take()) {
            (Some(name), Some(arguments)) => Verdict::Whole { name, arguments },
            _ => Verdict::NoCall,
        }
    }
}
