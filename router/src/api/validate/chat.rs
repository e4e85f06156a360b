//! From a conversation to the tokens of a prompt.

use guildhall_chat::{self as chat, Forced, ToolFormat, forced_grammar};
use guildhall_telemetry::{TraceContext, trace_ids};

use super::encode;
use crate::api::ask::{Conversation, ToolChoice};
use crate::api::refusal::{Refusal, RefusalKind};
use crate::api::served_model::ServedModel;
use crate::constraint::Form;
use crate::tokenizer::AddSpecial;

/// What a conversation becomes.
pub(super) struct Prompt {
    pub(super) tokens: Vec<u32>,
    /// How the answer calls tools, if the model was shown any.
    pub(super) tools: Option<ToolFormat>,
    /// The form of an answer that must call one.
    pub(super) forced: Option<Form>,
}

/// Most messages and tools of a conversation.
const MAX_MESSAGES: usize = 16_384;
const MAX_TOOLS: usize = 1024;

/// Renders a conversation with the model's template; `prefix` comes before the names of fields in refusals, and
/// logs name the trace.
pub(super) fn prompt(
    model: &ServedModel,
    conversation: Conversation,
    (prefix, trace): (&str, Option<TraceContext>),
) -> Result<Prompt, Refusal> {
    let invalid = |field: &str, what: String| Refusal::invalid(format!("{prefix}{field}"), what);
    let Some(template) = &model.chat_template else {
        return Err(invalid("messages", "this model has no chat template".into()));
    };
    if conversation.messages.len() > MAX_MESSAGES {
        return Err(invalid("messages", format!("over {MAX_MESSAGES}")));
    }
    if conversation.tools.len() > MAX_TOOLS {
        return Err(invalid("tools", format!("over {MAX_TOOLS}")));
    }
    let refused = |error: chat::Error| match error {
        chat::Error::Conversation { field, what } => invalid(&field, what),
        chat::Error::Refused(why) => invalid("messages", why),
        broken => {
            tracing::error!(error = %broken, trace_id = trace_ids(trace), "the chat template failed");
            Refusal::new(RefusalKind::Internal, broken.to_string())
        }
    };
    let shown = match conversation.tool_choice {
        ToolChoice::None => &[],
        _ => conversation.tools.as_slice(),
    };
    let continues = conversation.continue_final_message;
    let text = template.render(&chat::Conversation {
        messages: &conversation.messages,
        tools: shown,
        add_generation_prompt: !continues && !conversation.without_generation_prompt,
        continue_final_message: continues,
        template_kwargs: &conversation.template_variables,
    });
    let text = text.map_err(refused)?;
    let forced = match &conversation.tool_choice {
        ToolChoice::Auto | ToolChoice::None => None,
        ToolChoice::Required => Some(Forced::Any),
        ToolChoice::Named(name) => Some(Forced::Named(name)),
    };
    let forced = forced.map(|choice| forced_grammar(model.tool_format, shown, choice));
    Ok(Prompt {
        tokens: encode(model, &text, AddSpecial::No)?,
        tools: (!shown.is_empty()).then_some(model.tool_format),
        forced: forced.transpose().map_err(refused)?.map(Form::Lark),
    })
}
