//! `/v1/completions`.

use async_openai::types::chat::{CompletionFinishReason, CompletionUsage, Logprobs};
use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};
use futures_util::future::try_join_all;
use guildhall_proto::v1;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::chat::ChoiceExtensions;
use super::events::{self, Wanted};
use super::requests::CompletionRequest;
use super::{Body, begin_with, now, tokens, translate};
use crate::api::frontend::Frontend;
use crate::api::refusal::Refusal;
use crate::tokenizer::Tokenizer;

/// Continuations of the prompts, or a part of them.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct Completion {
    id: String,
    /// `text_completion`
    object: &'static str,
    created: u64,
    model: String,
    choices: Vec<CompletionChoice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<CompletionUsage>,
}

/// One of the continuations: those of the first prompt, then those of the second, and so on.
#[derive(Clone, Debug, Serialize, ToSchema)]
struct CompletionChoice {
    index: u32,
    text: String,
    logprobs: Option<Logprobs>,
    finish_reason: Option<CompletionFinishReason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<Vec<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_logprobs: Option<Value>,
    #[serde(flatten)]
    more: ChoiceExtensions,
}

/// Continues one or more prompts.
#[utoipa::path(
    post, path = "/v1/completions", request_body = CompletionRequest,
    responses(
        (status = 200, body = Completion, description = "With `stream`, server-sent events whose \
         data are objects of this type, then `[DONE]`"),
        (status = "default", body = super::errors::ErrorBody),
    )
)]
pub(super) async fn completions(
    State(frontend): State<Frontend>,
    headers: HeaderMap,
    Body(body): Body,
) -> Result<Response, Refusal> {
    let request = CompletionRequest::read(&body)?;
    let asks = translate::completions(&request)?;
    let n = request.common.n.unwrap_or(1);
    let wanted = Wanted::of(&request.common);
    let prompts = asks.len();
    let running = asks.into_iter().map(|ask| begin_with(&frontend, &headers, ask));
    let running = try_join_all(running).await?;
    let mut shape = Shape {
        tokenizer: frontend.serving()?.model.tokenizer.clone(),
        wanted,
        echo: request.own.echo.unwrap_or(false),
        created: now(),
        n,
        offsets: vec![0; prompts * n as usize],
        prompts: vec![None; prompts],
        usage: v1::Usage::default(),
        open: prompts,
    };
    if wanted.stream {
        return events::stream(running, move |prompt, part| shape.parts(prompt, part)).await;
    }
    let answers = try_join_all(running.into_iter().map(|running| running.whole())).await?;
    let mut whole: Option<Completion> = None;
    for (prompt, answer) in answers.into_iter().enumerate() {
        let part = shape.part(prompt, answer);
        match &mut whole {
            Some(whole) => whole.choices.extend(part.choices),
            None => whole = Some(part),
        }
    }
    let usage = Some(tokens::usage(shape.usage));
    Ok(Json(whole.map(|whole| Completion { usage, ..whole })).into_response())
}

/// Makes responses of what the engine gives.
struct Shape {
    tokenizer: Option<Tokenizer>,
    wanted: Wanted,
    echo: bool,
    created: u64,
    /// Choices of each prompt.
    n: u32,
    /// Characters of each choice so far.
    offsets: Vec<usize>,
    /// What is told of each prompt, once it is known; the first part of each of its choices may need it.
    prompts: Vec<Option<v1::Prompt>>,
    /// Of the prompts that are done.
    usage: v1::Usage,
    /// Prompts that are not done.
    open: usize,
}

impl Shape {
    fn parts(&mut self, prompt: usize, part: v1::GenerateResponse) -> Vec<Completion> {
        let part = self.part(prompt, part);
        let mut usage = Completion { choices: Vec::new(), ..part.clone() };
        let mut parts = vec![part];
        parts.retain(|part| !part.choices.is_empty());
        if self.open == 0 && self.wanted.usage {
            usage.usage = Some(tokens::usage(self.usage));
            parts.push(usage);
        }
        parts
    }

    fn part(&mut self, prompt: usize, part: v1::GenerateResponse) -> Completion {
        if let Some(usage) = part.usage {
            self.open -= 1;
            self.usage.prompt_tokens += usage.prompt_tokens;
            self.usage.completion_tokens += usage.completion_tokens;
            self.usage.cached_tokens += usage.cached_tokens;
        }
        if part.prompt.is_some() {
            self.prompts[prompt] = part.prompt;
        }
        let choices = part.choices.into_iter().filter_map(|choice| self.choice(prompt, choice));
        Completion {
            choices: choices.collect(),
            id: format!("cmpl-{}", part.request_id),
            object: "text_completion",
            created: self.created,
            model: part.model,
            usage: None,
        }
    }

    /// Nothing if there is nothing to tell.
    fn choice(&mut self, prompt: usize, choice: v1::Choice) -> Option<CompletionChoice> {
        let index = prompt as u32 * self.n + choice.index;
        let begins = self.offsets[index as usize] == 0;
        let told = self.prompts[prompt].as_ref().filter(|_| begins);
        let echoed = told.filter(|_| self.echo);
        let mut text = echoed.map_or_else(String::new, |prompt| self.text_of(&prompt.token_ids));
        let logprobs = self.logprobs(echoed, &choice, self.offsets[index as usize]);
        let prompt_token_ids = told.filter(|_| self.wanted.token_ids).map(|p| p.token_ids.clone());
        let scored = told.filter(|_| self.wanted.prompt_logprobs);
        let prompt_logprobs =
            scored.and_then(|prompt| tokens::prompt_logprobs(self.tokenizer.as_ref(), prompt));
        text.push_str(&choice.text);
        let more = self.wanted.extensions(&choice);
        let finish_reason = finish_reason(choice.finish_reason());
        let says_more =
            logprobs.is_some() || more.token_ids.is_some() || more.routed_experts.is_some();
        if text.is_empty() && finish_reason.is_none() && !says_more {
            return None;
        }
        self.offsets[index as usize] += text.chars().count();
        Some(CompletionChoice {
            index,
            text,
            logprobs,
            finish_reason,
            prompt_token_ids,
            prompt_logprobs,
            more,
        })
    }

    fn logprobs(
        &self,
        echoed: Option<&v1::Prompt>,
        choice: &v1::Choice,
        mut offset: usize,
    ) -> Option<Logprobs> {
        let tokenizer = self.tokenizer.as_ref();
        let mut lists = Logprobs::default();
        if let Some(prompt) = echoed.filter(|prompt| !prompt.logprobs.is_empty()) {
            let tokens = (prompt.token_ids.as_slice(), prompt.logprobs.as_slice());
            tokens::append_completion_logprobs(&mut lists, tokenizer, tokens, offset);
            // Nothing precedes the first token.
            (lists.token_logprobs[0], lists.top_logprobs[0]) = (None, Value::Null);
            offset += self.text_of(&prompt.token_ids).chars().count();
        }
        let tokens = (choice.token_ids.as_slice(), choice.logprobs.as_slice());
        tokens::append_completion_logprobs(&mut lists, tokenizer, tokens, offset);
        (!lists.tokens.is_empty()).then_some(lists)
    }

    fn text_of(&self, ids: &[u32]) -> String {
        self.tokenizer.as_ref().map_or_else(String::new, |tokenizer| tokenizer.decode(ids, false))
    }
}

fn finish_reason(reason: v1::FinishReason) -> Option<CompletionFinishReason> {
    match reason {
        v1::FinishReason::Unspecified => None,
        v1::FinishReason::Length => Some(CompletionFinishReason::Length),
        v1::FinishReason::Stop | v1::FinishReason::Abort | v1::FinishReason::ToolCalls => {
            Some(CompletionFinishReason::Stop)
        }
    }
}
