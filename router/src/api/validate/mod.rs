//! From what a client asks for to a domain request: every field is checked and named.

use std::sync::Arc;
use std::time::Duration;

use guildhall_chat::ToolFormat;
use guildhall_proto::v1;
use tokio_util::sync::CancellationToken;

use super::ask::{Ask, Conversation};
use super::refusal::{Refusal, RefusalKind};
use super::served_model::ServedModel;
use crate::constraint::Form;
use crate::request::Request;
use crate::tokenizer::AddSpecial;

mod chat;
mod fields;
#[cfg(test)]
mod tests;

/// Longest request id and salt in bytes.
const MAX_NAME: usize = 256;
/// Most sequences of one request.
const MAX_N: u32 = 128;
/// Longest time that a client may ask for.
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// A request that can be computed.
pub(crate) struct Checked {
    pub(crate) request: Request,
    pub(crate) timeout: Option<Duration>,
    /// How tools are called in the answer, if the model was shown any.
    pub(crate) tools: Option<ToolFormat>,
}

/// How many sequences a request asks for.
pub(crate) fn n(wire: &v1::GenerateRequest) -> Result<usize, Refusal> {
    match wire.n {
        0 => Ok(1),
        n if n <= MAX_N => Ok(n as usize),
        n => Err(Refusal::invalid("n", format!("{n} is over {MAX_N}"))),
    }
}

/// Checks a request against the model. Takes milliseconds for a long text or a large schema.
pub(crate) fn request(model: &ServedModel, ask: Ask) -> Result<Checked, Refusal> {
    let Ask { mut wire, conversation, timeout, trace, .. } = ask;
    if !wire.model.is_empty() && wire.model != model.name {
        let what = format!("the model {:?} is not {:?}", wire.model, model.name);
        return Err(Refusal::new(RefusalKind::UnknownModel, what));
    }
    for (field, name) in [("request_id", &wire.request_id), ("cache_salt", &wire.cache_salt)] {
        if name.len() > MAX_NAME {
            return Err(Refusal::invalid(field, format!("over {MAX_NAME} bytes")));
        }
    }
    let n = n(&wire)?;
    let mut form = fields::form(wire.constraint.take().unwrap_or_default())?;
    let mut tools = None;
    let prompt = match (conversation, wire.prompt.take()) {
        (Some(conversation), _) => {
            let prompt = chat::prompt(model, conversation, ("", trace.context))?;
            tools = prompt.tools;
            form = merge(form, prompt.forced)?;
            prompt.tokens
        }
        (None, Some(v1::generate_request::Prompt::Chat(chat))) => {
            let conversation = Conversation::try_from(chat)
                .map_err(|(field, what)| Refusal::invalid(format!("chat.{field}"), what))?;
            let prompt = chat::prompt(model, conversation, ("chat.", trace.context))?;
            tools = prompt.tools;
            form = merge(form, prompt.forced)?;
            prompt.tokens
        }
        (None, Some(v1::generate_request::Prompt::Text(text))) => {
            encode(model, &text, AddSpecial::Yes)?
        }
        (None, Some(v1::generate_request::Prompt::TokenIds(ids))) => ids.ids,
        (None, None) => {
            return Err(Refusal::invalid("prompt", "no text, token_ids or chat is given"));
        }
    };
    check_prompt(model, &prompt)?;
    let outputs = fields::outputs(wire.outputs.unwrap_or_default())?;
    let room = model.max_model_len - prompt.len();
    let stopping = fields::stopping(model, wire.stopping.unwrap_or_default(), room)?;
    if stopping.max_tokens == 0 && outputs.prompt_logprobs.is_none() {
        return Err(Refusal::invalid("stopping.max_tokens", "0 leaves nothing to do"));
    }
    let id = match wire.request_id.as_str() {
        "" => format!("gen-{:016x}", rand::random::<u64>()),
        id => id.to_owned(),
    };
    let constraint = form.map(|form| fields::compile(model, &form)).transpose()?;
    let request = Request {
        id,
        prompt: Arc::from(prompt),
        n,
        sampling: fields::sampling(wire.sampling.unwrap_or_default(), model.vocab_size)?,
        stopping,
        outputs,
        constraint,
        cache_salt: wire.cache_salt,
        deadline: None,
        cancel: CancellationToken::new(),
        trace,
    };
    Ok(Checked { request, timeout: shortest(timeout, wire.timeout_ms)?, tools })
}

/// The tokens of a text.
pub(crate) fn encode(
    model: &ServedModel,
    text: &str,
    special: AddSpecial,
) -> Result<Vec<u32>, Refusal> {
    let missing = || Refusal::invalid("text", "this model has no tokenizer; send token_ids");
    let tokenizer = model.tokenizer.as_ref().ok_or_else(missing)?;
    tokenizer.encode(text, special).map_err(|e| Refusal::invalid("text", e))
}

/// The tokens of a conversation.
pub(crate) fn chat_tokens(
    model: &ServedModel,
    conversation: Conversation,
) -> Result<Vec<u32>, Refusal> {
    Ok(chat::prompt(model, conversation, ("", None))?.tokens)
}

fn check_prompt(model: &ServedModel, ids: &[u32]) -> Result<(), Refusal> {
    if ids.is_empty() {
        return Err(Refusal::invalid("prompt", "no tokens"));
    }
    if let Some(at) = ids.iter().position(|&id| id as usize >= model.vocab_size) {
        let what = format!("token {} at {at} is not below {}", ids[at], model.vocab_size);
        return Err(Refusal::invalid("prompt", what));
    }
    let (given, limit) = (ids.len(), model.max_model_len);
    if given >= limit {
        let what = format!("{given} tokens leave no room within {limit}");
        return Err(Refusal::invalid("prompt", what));
    }
    Ok(())
}

/// A forced tool call is a form of its own.
fn merge(asked: Option<Form>, forced: Option<Form>) -> Result<Option<Form>, Refusal> {
    match (asked, forced) {
        (Some(_), Some(_)) => {
            Err(Refusal::invalid("constraint", "an answer that calls a tool has its form already"))
        }
        (asked, forced) => Ok(asked.or(forced)),
    }
}

fn shortest(header: Option<Duration>, timeout_ms: u64) -> Result<Option<Duration>, Refusal> {
    let field = (timeout_ms > 0).then(|| Duration::from_millis(timeout_ms));
    if field.is_some_and(|time| time > MAX_TIMEOUT) {
        return Err(Refusal::invalid("timeout_ms", "over a day"));
    }
    Ok(header.into_iter().chain(field).min())
}
