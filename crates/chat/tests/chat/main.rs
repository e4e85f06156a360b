//! Prompts, tool calls and grammars from outside, each against what others make of the same.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
#![expect(clippy::panic, reason = "a test may stop at the first surprise")]

mod support;
mod golden;
mod conversations;
mod templates;
mod tool_calls;
mod cuts;
mod grammars;
