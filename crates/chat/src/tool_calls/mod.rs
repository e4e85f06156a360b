//! Tool calls in generated text, found while it streams.

mod head;
mod nesting;

use head::{Head, Verdict};
use nesting::Nesting;

use crate::ToolFormat;

/// What may be held back while it is not decided whether it is a call. What is longer is text.
const MAX_HELD_BYTES: usize = 1 << 20;

/// A piece of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Content.
    Text(String),
    /// A call begins.
    Call {
        /// Counts the calls of the answer from 0.
        index: usize,
        /// The tool that is called, which need not exist.
        name: String,
    },
    /// A fragment of a call's arguments.
    Arguments {
        /// The call.
        index: usize,
        /// JSON text. All fragments of a call are together what the model wrote, which may be cut or broken.
        json: String,
    },
}

/// Separates an answer into content and tool calls as it is generated.
///
/// What may still become a call is held back, and nothing else:
///
/// ```text
/// read    I look. <tool_ca  ll>{"name": "f", "argu  ments": {"a"  : 1}}</tool_call>
/// gives   I look.                                   Call f {"a"   : 1}
/// ```
///
/// What turns out not to be a call is text, whole. White space, tags, commas and brackets around calls are neither
/// text nor arguments. How the answer is cut into pieces changes nothing.
#[derive(Debug)]
pub struct ToolCallParser {
    format: ToolFormat,
    state: State,
    /// What may still become a call.
    held: String,
    /// Whether calls stand in a JSON array.
    in_array: bool,
    /// Calls that have begun.
    n_calls: usize,
    found: Vec<Part>,
}

#[derive(Debug)]
enum State {
    /// In content. Held is at most the beginning of a tag.
    Text,
    /// Around calls.
    Around(Around),
    /// In an object that may be a call. Held is it and what stood before it.
    Head(Head),
    /// In the arguments of a call.
    Arguments(Nesting),
    /// Behind the arguments, before whatever ends or continues the object.
    Behind,
    /// In what a call's object has behind its arguments.
    Rest(Nesting),
}

/// Where around calls the text is. Held is what was read since the last call.
#[derive(Debug, Clone, Copy)]
enum Around {
    /// At the beginning of the answer, or behind a closing tag.
    Between,
    /// Behind an opening tag, or a bracket or comma of an array. Only an object makes sense.
    Opened,
    /// Behind the object of a call.
    Object,
    /// Behind the only object, or the array.
    End,
}

impl ToolCallParser {
    /// A parser at the beginning of an answer.
    #[must_use]
    pub fn new(format: ToolFormat) -> Self {
        Self {
            format,
            state: State::Around(Around::Between),
            held: String::new(),
            in_array: false,
            n_calls: 0,
            found: Vec::new(),
        }
    }

    /// Reads the next piece of the answer and returns what is certain now.
    pub fn push(&mut self, text: &str) -> Vec<Part> {
        for character in text.chars() {
            self.read(character);
        }
        std::mem::take(&mut self.found)
    }

    /// Ends the answer and returns what was held back, unless it only separates or ends calls. The parser is as new.
    pub fn finish(&mut self) -> Vec<Part> {
        let held = self.held.trim_ascii();
        let meaningless = match self.state {
            State::Around(_) if self.n_calls == 0 => false,
            State::Around(_) if self.format == ToolFormat::Json => true,
            State::Around(Around::Object) => ToolFormat::CLOSING_TAG.starts_with(held),
            State::Around(_) => held.is_empty(),
            _ => false,
        };
        if !meaningless {
            self.emit_held();
        }
        std::mem::replace(self, Self::new(self.format)).found
    }

    fn read(&mut self, character: char) {
        match &mut self.state {
            State::Text => self.read_text(character),
            State::Around(around) => {
                let around = *around;
                self.held.push(character);
                let next = match self.format {
                    ToolFormat::Hermes => self.next_hermes(around, character),
                    ToolFormat::Json => self.next_json(around, character),
                };
                self.enter(next, character);
            }
            State::Head(head) => {
                self.held.push(character);
                let verdict = head.read(&self.held, character);
                self.obey(verdict, character);
            }
            State::Arguments(nesting) => {
                let ended = nesting.ends_with(character);
                self.emit_argument(character);
                if ended {
                    self.state = State::Behind;
                }
            }
            State::Behind => self.read_behind(character),
            State::Rest(nesting) => {
                if nesting.ends_with(character) {
                    self.end_object();
                }
            }
        }
    }

    fn read_text(&mut self, character: char) {
        let tag = ToolFormat::OPENING_TAG;
        if self.format == ToolFormat::Json || (self.held.is_empty() && character != '<') {
            self.emit_text(character.encode_utf8(&mut [0; 4]));
            return;
        }
        self.held.push(character);
        if self.held == tag {
            self.state = State::Around(Around::Opened);
        } else if !tag.starts_with(&self.held) {
            // A tag has its first character nowhere else, so only this one can begin another.
            self.held.pop();
            self.emit_held();
            self.read_text(character);
        }
    }

    /// What follows around calls if the last character held is this one; nothing if it is no part of calls.
    fn next_hermes(&self, around: Around, character: char) -> Option<State> {
        let before = &self.held[..self.held.len() - character.len_utf8()];
        let blank = character.is_ascii_whitespace();
        if matches!(around, Around::Opened) {
            return match character {
                '{' => Some(State::Head(Head::default())),
                _ => blank.then_some(State::Around(around)),
            };
        }
        if blank && ends_blank(before) {
            return Some(State::Around(around));
        }
        let (blanks, tag) = self.held.split_at(self.held.rfind('<')?);
        if !ends_blank(blanks) {
            return None;
        }
        match around {
            _ if tag == ToolFormat::OPENING_TAG => Some(State::Around(Around::Opened)),
            _ if ToolFormat::OPENING_TAG.starts_with(tag) => Some(State::Around(around)),
            Around::Object if tag == ToolFormat::CLOSING_TAG => {
                Some(State::Around(Around::Between))
            }
            Around::Object if ToolFormat::CLOSING_TAG.starts_with(tag) => {
                Some(State::Around(around))
            }
            _ => None,
        }
    }

    /// The same, for calls that are the whole answer.
    fn next_json(&self, around: Around, character: char) -> Option<State> {
        match (around, character) {
            _ if character.is_ascii_whitespace() => Some(State::Around(around)),
            (Around::Between | Around::Opened, '{') => Some(State::Head(Head::default())),
            (Around::Between, '[') => Some(State::Around(Around::Opened)),
            (Around::Object, ',') if self.in_array => Some(State::Around(Around::Opened)),
            (Around::Object, ']') if self.in_array => Some(State::Around(Around::End)),
            _ => None,
        }
    }

    fn enter(&mut self, next: Option<State>, character: char) {
        let Some(next) = next else { return self.give_up(character) };
        if self.held.len() > MAX_HELD_BYTES {
            return self.give_up(character);
        }
        match (&self.state, &next) {
            // A closing tag or bracket: the call is complete.
            (State::Around(Around::Object), State::Around(Around::Between | Around::End)) => {
                self.held.clear();
            }
            (State::Around(Around::Between), State::Around(Around::Opened)) => self.in_array = true,
            _ => (),
        }
        self.state = next;
    }

    fn obey(&mut self, verdict: Verdict, character: char) {
        match verdict {
            Verdict::Undecided if self.held.len() > MAX_HELD_BYTES => self.give_up(character),
            Verdict::Undecided => (),
            Verdict::NoCall => self.give_up(character),
            Verdict::Begins(name) => {
                self.begin_call(name);
                self.emit_argument(character);
                self.state = State::Arguments(Nesting::opened());
            }
            Verdict::Whole { name, arguments } => {
                let json = self.held[arguments].to_owned();
                let index = self.begin_call(name);
                self.found.push(Part::Arguments { index, json });
                self.end_object();
            }
        }
    }

    fn read_behind(&mut self, character: char) {
        match character {
            ',' => self.state = State::Rest(Nesting::opened()),
            '}' => self.end_object(),
            _ if character.is_ascii_whitespace() => (),
            // A brace is missing. The call is there already, and this is behind it.
            _ => {
                self.end_object();
                self.read(character);
            }
        }
    }

    fn end_object(&mut self) {
        let ended = self.format == ToolFormat::Json && !self.in_array;
        self.state = State::Around(if ended { Around::End } else { Around::Object });
    }

    /// Makes text of what is held, and reads its last character again, which may begin something else.
    fn give_up(&mut self, character: char) {
        self.held.pop();
        self.emit_held();
        self.state = State::Text;
        self.read_text(character);
    }

    fn begin_call(&mut self, name: String) -> usize {
        let index = self.n_calls;
        self.held.clear();
        self.n_calls += 1;
        self.found.push(Part::Call { index, name });
        index
    }

    fn emit_held(&mut self) {
        let held = std::mem::take(&mut self.held);
        self.emit_text(&held);
    }

    fn emit_text(&mut self, text: &str) {
        match self.found.last_mut() {
            _ if text.is_empty() => (),
            Some(Part::Text(last)) => last.push_str(text),
            _ => self.found.push(Part::Text(text.to_owned())),
        }
    }

    fn emit_argument(&mut self, character: char) {
        match self.found.last_mut() {
            Some(Part::Arguments { json, .. }) => json.push(character),
            _ => {
                let index = self.n_calls.saturating_sub(1);
                self.found.push(Part::Arguments { index, json: character.into() });
            }
        }
    }
}

/// Whether a text that begins with white space has nothing else at its end either.
fn ends_blank(text: &str) -> bool {
    text.bytes().next_back().is_none_or(|byte| byte.is_ascii_whitespace())
}
