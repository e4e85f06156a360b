//! Log-probabilities and tokens in OpenAI's forms.

use async_openai::types::chat::{
    ChatChoiceLogprobs, ChatCompletionTokenLogprob, CompletionUsage, Logprobs, PromptTokensDetails,
    TopLogprobs,
};
use guildhall_proto::v1;
use serde_json::{Map, Value};

use crate::tokenizer::Tokenizer;

/// A token as text; bytes that are no characters of their own become U+FFFD.
fn text(tokenizer: Option<&Tokenizer>, id: u32) -> (String, Vec<u8>) {
    let bytes = tokenizer.map_or_else(Vec::new, |of| of.pieces().get(id).bytes.clone());
    (String::from_utf8_lossy(&bytes).into_owned(), bytes)
}

pub(super) fn usage(usage: v1::Usage) -> CompletionUsage {
    CompletionUsage {
        prompt_tokens: usage.prompt_tokens,
        completion_tokens: usage.completion_tokens,
        total_tokens: usage.prompt_tokens + usage.completion_tokens,
        prompt_tokens_details: Some(PromptTokensDetails {
            cached_tokens: Some(usage.cached_tokens),
            ..Default::default()
        }),
        completion_tokens_details: None,
    }
}

/// The log-probabilities of a part of an answer, if it has any.
pub(super) fn chat_logprobs(
    tokenizer: Option<&Tokenizer>,
    choice: &v1::Choice,
) -> Option<ChatChoiceLogprobs> {
    if choice.logprobs.is_empty() {
        return None;
    }
    let top = |top: &v1::TopLogprob| {
        let (token, bytes) = text(tokenizer, top.token_id);
        TopLogprobs { token, logprob: top.logprob, bytes: Some(bytes) }
    };
    let token = |(&id, of): (&u32, &v1::TokenLogprobs)| {
        let (token, bytes) = text(tokenizer, id);
        ChatCompletionTokenLogprob {
            token,
            logprob: of.logprob,
            bytes: Some(bytes),
            top_logprobs: of.top.iter().map(top).collect(),
        }
    };
    let content = choice.token_ids.iter().zip(&choice.logprobs).map(token).collect();
    Some(ChatChoiceLogprobs { content: Some(content), refusal: None })
}

/// Adds tokens to the lists of a completion; `offset` is where the first begins in its text, in characters.
pub(super) fn append_completion_logprobs(
    lists: &mut Logprobs,
    tokenizer: Option<&Tokenizer>,
    (ids, logprobs): (&[u32], &[v1::TokenLogprobs]),
    mut offset: usize,
) {
    for (&id, of) in ids.iter().zip(logprobs) {
        let (token, _) = text(tokenizer, id);
        lists.text_offset.push(u32::try_from(offset).unwrap_or(u32::MAX));
        offset += token.chars().count();
        lists.tokens.push(token);
        lists.token_logprobs.push(Some(of.logprob));
        lists.top_logprobs.push(top_by_text(tokenizer, of));
    }
}

fn top_by_text(tokenizer: Option<&Tokenizer>, of: &v1::TokenLogprobs) -> Value {
    let mut by_text = Map::new();
    for top in &of.top {
        // Tokens that look alike: the most probable one counts.
        by_text.entry(text(tokenizer, top.token_id).0).or_insert_with(|| top.logprob.into());
    }
    Value::Object(by_text)
}

/// The prompt's log-probabilities, as vLLM gives them: for each token but the first, ids to log-probability and rank.
pub(super) fn prompt_logprobs(tokenizer: Option<&Tokenizer>, prompt: &v1::Prompt) -> Option<Value> {
    if prompt.logprobs.is_empty() {
        return None;
    }
    let of_position = |(position, (id, of)): (usize, (&u32, &v1::TokenLogprobs))| {
        if position == 0 {
            return Value::Null;
        }
        let entry = |id: u32, logprob: f32| {
            let (token, _) = text(tokenizer, id);
            (id.to_string(), serde_json::json!({"logprob": logprob, "decoded_token": token}))
        };
        let mut entries: Map<String, Value> =
            of.top.iter().map(|top| entry(top.token_id, top.logprob)).collect();
        entries.extend([entry(*id, of.logprob)]);
        Value::Object(entries)
    };
    let positions = prompt.token_ids.iter().zip(&prompt.logprobs).enumerate();
    Some(positions.map(of_position).collect())
}

/// The chosen experts as nested lists: [tokens, layers, k].
pub(super) fn routed_experts(routes: &v1::RoutedExperts) -> Vec<Vec<Vec<u32>>> {
    let (layers, top_k) = (routes.layers.len().max(1), (routes.top_k as usize).max(1));
    let of_token = |token: &[u32]| token.chunks(top_k).map(<[u32]>::to_vec).collect();
    routes.experts.chunks(layers * top_k).map(of_token).collect()
}
