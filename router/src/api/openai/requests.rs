//! What HTTP clients send: OpenAI's fields, and the extensions that vLLM's users know.

use std::collections::HashMap;

use async_openai::types::chat::{
    ChatCompletionRequestMessage, ChatCompletionStreamOptions, ChatCompletionToolChoiceOption,
    ChatCompletionTools, ResponseFormat, StopConfiguration,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::api::refusal::Refusal;

/// What completions and chat completions have in common.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
pub(super) struct Common {
    /// Name of the model; empty: the one that is served.
    #[serde(default)]
    pub(super) model: String,
    /// Answers to generate; default 1.
    pub(super) n: Option<u32>,
    /// Whether to send the answer as server-sent events while it is made.
    pub(super) stream: Option<bool>,
    pub(super) stream_options: Option<ChatCompletionStreamOptions>,
    /// Default 1; 0 is greedy.
    pub(super) temperature: Option<f32>,
    pub(super) top_p: Option<f32>,
    pub(super) seed: Option<i64>,
    /// Texts at which the answer ends.
    pub(super) stop: Option<StopConfiguration>,
    pub(super) presence_penalty: Option<f32>,
    pub(super) frequency_penalty: Option<f32>,
    /// Token id to what is added to its logit.
    pub(super) logit_bias: Option<HashMap<String, f32>>,
    /// Tokens to generate at most.
    pub(super) max_tokens: Option<u32>,
    pub(super) response_format: Option<ResponseFormat>,

    /// Only the k most probable tokens; 0 or -1: all.
    pub(super) top_k: Option<i64>,
    /// Only tokens at least this much as probable as the best.
    pub(super) min_p: Option<f32>,
    pub(super) repetition_penalty: Option<f32>,
    /// No stop and no end before so many tokens.
    pub(super) min_tokens: Option<u32>,
    pub(super) stop_token_ids: Option<Vec<u32>>,
    pub(super) ignore_eos: Option<bool>,
    pub(super) include_stop_str_in_output: Option<bool>,
    /// Default true.
    pub(super) skip_special_tokens: Option<bool>,
    /// Log-probabilities of the prompt's tokens, with so many of the most probable ones.
    pub(super) prompt_logprobs: Option<u32>,
    /// Return the token ids of prompt and answer.
    pub(super) return_token_ids: Option<bool>,
    /// Return the chosen experts: [tokens, layers, k].
    pub(super) return_routed_experts: Option<bool>,
    pub(super) structured_outputs: Option<StructuredOutputs>,
    /// As `structured_outputs.json`.
    pub(super) guided_json: Option<Value>,
    /// As `structured_outputs.regex`.
    pub(super) guided_regex: Option<String>,
    /// As `structured_outputs.choice`.
    pub(super) guided_choice: Option<Vec<String>>,
    /// As `structured_outputs.grammar`.
    pub(super) guided_grammar: Option<String>,
    /// Prefixes are shared with requests of the same salt only.
    pub(super) cache_salt: Option<String>,
    /// Made by the router, unless given here or in the header `x-request-id`.
    pub(super) request_id: Option<String>,
    /// Milliseconds until the request ends with status 504.
    pub(super) timeout_ms: Option<u64>,

    /// Not supported.
    pub(super) audio: Option<Value>,
    /// Not supported.
    pub(super) functions: Option<Value>,
    /// Not supported.
    pub(super) suffix: Option<String>,
    /// Only as many as `n`.
    pub(super) best_of: Option<u32>,
}

/// The form of an answer: one of these.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
pub(super) struct StructuredOutputs {
    /// A JSON schema, as an object or as text.
    pub(super) json: Option<Value>,
    pub(super) json_object: Option<bool>,
    /// For all of the answer.
    pub(super) regex: Option<String>,
    pub(super) choice: Option<Vec<String>>,
    /// Lark.
    pub(super) grammar: Option<String>,
}

/// The body of `/v1/completions`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct CompletionRequest {
    #[serde(flatten)]
    pub(super) common: Common,
    #[serde(flatten)]
    pub(super) own: CompletionFields,
}

/// What only completions have.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub(super) struct CompletionFields {
    pub(super) prompt: Prompts,
    /// Return the prompt before the answer.
    pub(super) echo: Option<bool>,
    /// How many of the most probable tokens to return.
    pub(super) logprobs: Option<u32>,
}

/// One prompt or several, as text or as token ids.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum Prompts {
    Text(String),
    Texts(Vec<String>),
    TokenIds(Vec<u32>),
    ManyTokenIds(Vec<Vec<u32>>),
}

/// The body of `/v1/chat/completions`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct ChatCompletionRequest {
    #[serde(flatten)]
    pub(super) common: Common,
    #[serde(flatten)]
    pub(super) own: ChatFields,
}

/// What only chat completions have.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub(super) struct ChatFields {
    #[schema(value_type = Vec<ChatCompletionRequestMessage>)]
    pub(super) messages: Vec<Value>,
    /// In place of `max_tokens`.
    pub(super) max_completion_tokens: Option<u32>,
    /// Whether to return log-probabilities.
    pub(super) logprobs: Option<bool>,
    /// How many of the most probable tokens to return with each token.
    pub(super) top_logprobs: Option<u32>,
    #[schema(value_type = Option<Vec<ChatCompletionTools>>)]
    pub(super) tools: Option<Vec<Value>>,
    #[schema(value_type = Option<Object>)]
    pub(super) tool_choice: Option<ChatCompletionToolChoiceOption>,
    /// Default true.
    pub(super) add_generation_prompt: Option<bool>,
    /// Go on with the last message.
    pub(super) continue_final_message: Option<bool>,
    /// More variables for the chat template.
    #[schema(value_type = Option<Object>)]
    pub(super) chat_template_kwargs: Option<Map<String, Value>>,
}

/// Reads a body that is a JSON object; a wrong field is named by its path.
pub(super) fn object(body: &[u8]) -> Result<Value, Refusal> {
    let value: Value = serde_json::from_slice(body)
        .map_err(|e| Refusal::invalid("body", format!("this is not JSON: {e}")))?;
    if value.is_object() { Ok(value) } else { Err(Refusal::invalid("body", "no JSON object")) }
}

/// The fields of a type; those that it does not know are ignored.
pub(super) fn fields<T: DeserializeOwned>(body: &Value) -> Result<T, Refusal> {
    serde_path_to_error::deserialize(body).map_err(|e| {
        let path = e.path().to_string();
        let field = if path == "." { "body".to_owned() } else { path };
        Refusal::invalid(field, e.into_inner())
    })
}

impl CompletionRequest {
    pub(super) fn read(body: &[u8]) -> Result<Self, Refusal> {
        let body = object(body)?;
        Ok(Self { common: fields(&body)?, own: fields(&body)? })
    }
}

impl ChatCompletionRequest {
    pub(super) fn read(body: &[u8]) -> Result<Self, Refusal> {
        let body = object(body)?;
        Ok(Self { common: fields(&body)?, own: fields(&body)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(body: &str) -> (Option<String>, String) {
        let refusal = ChatCompletionRequest::read(body.as_bytes()).unwrap_err();
        (refusal.field, refusal.message)
    }

    #[test]
    fn a_wrong_field_is_named_and_an_unknown_one_ignored() {
        let read = ChatCompletionRequest::read(
            br#"{"messages": [], "model": "m", "top_k": -1, "new_field": 3, "stop": null}"#,
        );
        assert_eq!(read.unwrap().common.top_k, Some(-1));
        let field = |body| refused(body).0.unwrap();
        assert_eq!(field(r#"{"messages": [], "temperature": "hot"}"#), "temperature");
        assert_eq!(field(r#"{"messages": 3}"#), "messages");
        assert_eq!(
            field(r#"{"messages": [], "stream_options": {"include_usage": 1}}"#),
            "stream_options.include_usage"
        );
        assert_eq!(field("[]"), "body");
        assert_eq!(field("{"), "body");
        assert!(refused("{}").1.contains("messages"));
    }
}
