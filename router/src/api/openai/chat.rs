//! `/v1/chat/completions`.

use async_openai::types::chat::{
    ChatChoiceLogprobs, ChatCompletionMessageToolCall, ChatCompletionMessageToolCallChunk,
    ChatCompletionMessageToolCalls, CompletionUsage, FinishReason, FunctionCall,
    FunctionCallStream, FunctionType, Role,
};
use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};
use guildhall_proto::v1;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::events::{self, Wanted};
use super::requests::ChatCompletionRequest;
use super::{Body, begin_with, now, tokens, translate};
use crate::api::frontend::Frontend;
use crate::api::refusal::Refusal;
use crate::tokenizer::Tokenizer;

/// An answer to a conversation.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct ChatCompletion {
    id: String,
    /// `chat.completion`
    object: &'static str,
    created: u64,
    model: String,
    choices: Vec<ChatChoice>,
    usage: Option<CompletionUsage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<Vec<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_logprobs: Option<Value>,
}

/// One of the answers.
#[derive(Clone, Debug, Serialize, ToSchema)]
struct ChatChoice {
    index: u32,
    message: ChatMessage,
    logprobs: Option<ChatChoiceLogprobs>,
    finish_reason: Option<FinishReason>,
    #[serde(flatten)]
    more: ChoiceExtensions,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
struct ChatMessage {
    role: Role,
    content: Option<String>,
    refusal: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ChatCompletionMessageToolCalls>,
}

/// What a choice has beyond OpenAI's fields.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub(super) struct ChoiceExtensions {
    /// The stop text or stop token that ended it.
    #[schema(value_type = Option<Object>)]
    pub(super) stop_reason: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) token_ids: Option<Vec<u32>>,
    /// [tokens, layers, k]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) routed_experts: Option<Vec<Vec<Vec<u32>>>>,
}

/// A part of a streamed answer.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct ChatCompletionChunk {
    id: String,
    /// `chat.completion.chunk`
    object: &'static str,
    created: u64,
    model: String,
    choices: Vec<ChatChunkChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<CompletionUsage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<Vec<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_logprobs: Option<Value>,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
struct ChatChunkChoice {
    index: u32,
    delta: ChatDelta,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<ChatChoiceLogprobs>,
    finish_reason: Option<FinishReason>,
    #[serde(flatten)]
    more: ChoiceExtensions,
}

#[derive(Clone, Debug, Default, Serialize, ToSchema)]
struct ChatDelta {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<Role>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ChatCompletionMessageToolCallChunk>,
}

/// Answers a conversation.
#[utoipa::path(
    post, path = "/v1/chat/completions", request_body = ChatCompletionRequest,
    responses(
        (status = 200, body = ChatCompletion, description = "With `stream`, server-sent events \
         whose data are objects of the type ChatCompletionChunk, then `[DONE]`"),
        (status = "default", body = super::errors::ErrorBody),
    )
)]
pub(super) async fn chat_completions(
    State(frontend): State<Frontend>,
    headers: HeaderMap,
    Body(body): Body,
) -> Result<Response, Refusal> {
    let request = ChatCompletionRequest::read(&body)?;
    let wanted = Wanted::of(&request.common);
    let ask = translate::chat(request)?;
    let running = begin_with(&frontend, &headers, ask).await?;
    let tokenizer = frontend.serving()?.model.tokenizer.clone();
    let mut shape = Shape { tokenizer, wanted, created: now(), begun: Vec::new() };
    if wanted.stream {
        return events::stream(vec![running], move |_, part| shape.chunks(part)).await;
    }
    let whole = running.whole().await?;
    Ok(Json(shape.whole(whole)).into_response())
}

/// Makes responses of what the engine gives.
struct Shape {
    tokenizer: Option<Tokenizer>,
    wanted: Wanted,
    created: u64,
    /// Choices whose role has been told.
    begun: Vec<u32>,
}

impl Shape {
    fn whole(&self, answer: v1::GenerateResponse) -> ChatCompletion {
        let (prompt_token_ids, prompt_logprobs) = self.prompt(answer.prompt.as_ref());
        ChatCompletion {
            id: id(&answer.request_id),
            object: "chat.completion",
            created: self.created,
            model: answer.model,
            choices: answer.choices.into_iter().map(|choice| self.choice(choice)).collect(),
            usage: answer.usage.map(tokens::usage),
            prompt_token_ids,
            prompt_logprobs,
        }
    }

    fn choice(&self, choice: v1::Choice) -> ChatChoice {
        let logprobs = tokens::chat_logprobs(self.tokenizer.as_ref(), &choice);
        let more = self.wanted.extensions(&choice);
        let finish_reason = finish_reason(choice.finish_reason());
        let calls: Vec<_> = choice.tool_calls.into_iter().map(call).collect();
        let content = (calls.is_empty() || !choice.text.is_empty()).then_some(choice.text);
        let role = Role::Assistant;
        let message = ChatMessage { role, content, refusal: None, tool_calls: calls };
        ChatChoice { index: choice.index, message, logprobs, finish_reason, more }
    }

    /// The events of a part: the role first, the usage last.
    fn chunks(&mut self, part: v1::GenerateResponse) -> Vec<ChatCompletionChunk> {
        let (prompt_token_ids, prompt_logprobs) = self.prompt(part.prompt.as_ref());
        let mut chunk = ChatCompletionChunk {
            id: id(&part.request_id),
            object: "chat.completion.chunk",
            created: self.created,
            model: part.model,
            choices: Vec::new(),
            usage: None,
            prompt_token_ids,
            prompt_logprobs,
        };
        let mut usage = chunk.clone();
        for choice in part.choices {
            chunk.choices.extend(self.delta(choice));
        }
        let mut chunks = vec![chunk];
        if let Some(total) = part.usage.filter(|_| self.wanted.usage) {
            (usage.prompt_token_ids, usage.prompt_logprobs) = (None, None);
            usage.usage = Some(tokens::usage(total));
            chunks.push(usage);
        }
        // Text that is held back makes parts without anything in them.
        chunks.retain(|chunk| !chunk.choices.is_empty() || chunk.usage.is_some());
        chunks
    }

    fn delta(&mut self, choice: v1::Choice) -> Option<ChatChunkChoice> {
        let begins = !self.begun.contains(&choice.index);
        if begins {
            self.begun.push(choice.index);
        }
        let logprobs = tokens::chat_logprobs(self.tokenizer.as_ref(), &choice);
        let more = self.wanted.extensions(&choice);
        let finish_reason = finish_reason(choice.finish_reason());
        let tool_calls: Vec<_> = choice.tool_calls.into_iter().map(call_chunk).collect();
        let says_more =
            logprobs.is_some() || more.token_ids.is_some() || more.routed_experts.is_some();
        let empty = choice.text.is_empty() && tool_calls.is_empty() && finish_reason.is_none();
        if empty && !begins && !says_more {
            return None;
        }
        let content = (!choice.text.is_empty() || begins).then_some(choice.text);
        let role = begins.then_some(Role::Assistant);
        let delta = ChatDelta { role, content, tool_calls };
        Some(ChatChunkChoice { index: choice.index, delta, logprobs, finish_reason, more })
    }

    fn prompt(&self, prompt: Option<&v1::Prompt>) -> (Option<Vec<u32>>, Option<Value>) {
        let Some(prompt) = prompt else { return (None, None) };
        let ids = self.wanted.token_ids.then(|| prompt.token_ids.clone());
        (ids, tokens::prompt_logprobs(self.tokenizer.as_ref(), prompt))
    }
}

fn id(request_id: &str) -> String {
    format!("chatcmpl-{request_id}")
}

fn finish_reason(reason: v1::FinishReason) -> Option<FinishReason> {
    match reason {
        v1::FinishReason::Unspecified => None,
        v1::FinishReason::Stop | v1::FinishReason::Abort => Some(FinishReason::Stop),
        v1::FinishReason::Length => Some(FinishReason::Length),
        v1::FinishReason::ToolCalls => Some(FinishReason::ToolCalls),
    }
}

fn call(part: v1::ToolCallPart) -> ChatCompletionMessageToolCalls {
    let function = FunctionCall { name: part.name, arguments: part.arguments_json };
    ChatCompletionMessageToolCalls::Function(ChatCompletionMessageToolCall {
        id: part.id,
        function,
    })
}

fn call_chunk(part: v1::ToolCallPart) -> ChatCompletionMessageToolCallChunk {
    let begins = !part.id.is_empty();
    ChatCompletionMessageToolCallChunk {
        index: part.index,
        id: begins.then_some(part.id),
        r#type: begins.then_some(FunctionType::Function),
        function: Some(FunctionCallStream {
            name: begins.then_some(part.name),
            arguments: Some(part.arguments_json),
        }),
    }
}
