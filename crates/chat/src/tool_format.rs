//! How a model writes its tool calls.

use std::fmt;
use std::str::FromStr;

use crate::Error;

/// The text that stands for a tool call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolFormat {
    /// Any text, then calls as the Hermes and Qwen families write them: `<tool_call>`, a line end, the object
    /// `{"name": ..., "arguments": {...}}`, a line end, `</tool_call>`.
    Hermes,
    /// The whole answer is one object `{"name": ..., "arguments": {...}}`, or an array of such objects.
    Json,
}

impl ToolFormat {
    /// Every format.
    pub const ALL: [Self; 2] = [Self::Hermes, Self::Json];

    /// What stands before each call: what no other text may look like.
    pub(crate) const OPENING_TAG: &'static str = "<tool_call>";
    /// What stands behind each call.
    pub(crate) const CLOSING_TAG: &'static str = "</tool_call>";
}

impl fmt::Display for ToolFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hermes => "hermes",
            Self::Json => "json",
        })
    }
}

impl FromStr for ToolFormat {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let format = Self::ALL.into_iter().find(|format| format.to_string() == name);
        format.ok_or_else(|| Error::ToolFormat(name.to_owned()))
    }
}
