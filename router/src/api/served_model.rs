//! What requests are checked against, and what clients may know about it.

use std::path::PathBuf;
use std::sync::Arc;

use guildhall_chat::{ChatTemplate, ToolFormat};

use crate::constraint::Grammars;
use crate::tokenizer::Tokenizer;

/// The one model that a router serves.
#[derive(Clone)]
pub(crate) struct ServedModel {
    pub(crate) name: String,
    pub(crate) dir: PathBuf,
    /// As in config.json: `qwen3_moe`.
    pub(crate) family: String,
    pub(crate) tokenizer: Option<Tokenizer>,
    /// `None` without a tokenizer or an end-of-sequence token.
    pub(crate) grammars: Option<Grammars>,
    pub(crate) chat_template: Option<Arc<ChatTemplate>>,
    pub(crate) tool_format: ToolFormat,
    pub(crate) vocab_size: usize,
    pub(crate) eos_token_ids: Vec<u32>,
    pub(crate) max_model_len: usize,
    pub(crate) moe_layers: Vec<u32>,
    pub(crate) top_k: u32,
}
