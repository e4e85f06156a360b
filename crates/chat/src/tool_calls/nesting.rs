//! Where a JSON list or object ends, without a look at what is in it.

/// How deep inside a value the text is. What is not JSON ends where its brackets do.
#[derive(Debug)]
pub(super) struct Nesting {
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Nesting {
    /// Right behind the opening bracket.
    pub(super) fn opened() -> Self {
        Self { depth: 1, in_string: false, escaped: false }
    }

    /// Reads the next character; whether it is the closing bracket.
    pub(super) fn ends_with(&mut self, character: char) -> bool {
        match character {
            _ if self.escaped => self.escaped = false,
            '\\' if self.in_string => self.escaped = true,
            '"' => self.in_string = !self.in_string,
            _ if self.in_string => (),
            '{' | '[' => self.depth += 1,
            '}' | ']' => self.depth -= 1,
            _ => (),
        }
        self.depth == 0
    }
}
