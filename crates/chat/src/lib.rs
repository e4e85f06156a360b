//! Conversations as text: from messages and tools to a prompt, and from generated text to content and tool calls.

pub use conversation::Conversation;
pub use error::Error;
pub use forced_grammar::{Forced, forced_grammar};
pub use template::ChatTemplate;
pub use tool_calls::{Part, ToolCallParser};
pub use tool_format::ToolFormat;

mod conversation;
mod messages;
mod template;
mod template_files;
mod reads;
mod environment;
mod python;
mod tools;
mod tool_format;
mod forced_grammar;
mod tool_calls;
mod error;
