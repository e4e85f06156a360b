//! `/tokenize` and `/detokenize`.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::requests::{ChatFields, fields, object};
use super::{Body, translate};
use crate::api::frontend::Frontend;
use crate::api::refusal::Refusal;
use crate::api::validate;
use crate::tokenizer::AddSpecial;

/// A text, or a conversation as in `/v1/chat/completions`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(super) struct TokenizeRequest {
    /// The text; absent: `messages`.
    prompt: Option<String>,
    /// Whether a text gets the special tokens that the tokenizer adds by itself; default true.
    add_special_tokens: Option<bool>,
    /// Also return each token's text.
    return_token_strs: Option<bool>,
    /// As in `/v1/chat/completions`, with its other fields.
    #[schema(value_type = Option<Vec<Object>>)]
    messages: Option<Value>,
}

/// Tokens.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct Tokenized {
    count: usize,
    max_model_len: usize,
    tokens: Vec<u32>,
    token_strs: Option<Vec<String>>,
}

/// Tokens to make text of.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub(super) struct DetokenizeRequest {
    tokens: Vec<u32>,
}

/// Text.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct Detokenized {
    prompt: String,
}

/// Turns a text or a conversation into tokens.
#[utoipa::path(post, path = "/tokenize", request_body = TokenizeRequest,
    responses((status = 200, body = Tokenized), (status = "default", body = super::errors::ErrorBody)))]
pub(super) async fn tokenize(
    State(frontend): State<Frontend>,
    Body(body): Body,
) -> Result<Json<Tokenized>, Refusal> {
    let body = object(&body)?;
    let request: TokenizeRequest = fields(&body)?;
    let model = frontend.serving()?.model.clone();
    let answer = move || {
        let tokens = match (&request.prompt, &request.messages) {
            (Some(text), None) => {
                let special = match request.add_special_tokens {
                    Some(false) => AddSpecial::No,
                    _ => AddSpecial::Yes,
                };
                validate::encode(&model, text, special)?
            }
            (None, Some(_)) => {
                let conversation = translate::conversation(fields::<ChatFields>(&body)?)?;
                validate::chat_tokens(&model, conversation)?
            }
            _ => return Err(Refusal::invalid("prompt", "either prompt or messages is needed")),
        };
        let text = |id: &u32| {
            let bytes = model.tokenizer.as_ref().map(|of| of.pieces().get(*id).bytes.clone());
            String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
        };
        let wanted = request.return_token_strs.unwrap_or(false);
        Ok(Tokenized {
            count: tokens.len(),
            max_model_len: model.max_model_len,
            token_strs: wanted.then(|| tokens.iter().map(text).collect()),
            tokens,
        })
    };
    super::off_the_runtime(answer).await.map(Json)
}

/// Turns tokens into text.
#[utoipa::path(post, path = "/detokenize", request_body = DetokenizeRequest,
    responses((status = 200, body = Detokenized), (status = "default", body = super::errors::ErrorBody)))]
pub(super) async fn detokenize(
    State(frontend): State<Frontend>,
    Body(body): Body,
) -> Result<Json<Detokenized>, Refusal> {
    let request: DetokenizeRequest = fields(&object(&body)?)?;
    let model = &frontend.serving()?.model;
    let Some(tokenizer) = model.tokenizer.clone() else {
        return Err(Refusal::invalid("tokens", "this model has no tokenizer"));
    };
    if let Some(token) = request.tokens.iter().find(|&&id| id as usize >= model.vocab_size) {
        let what = format!("token {token} is not below {}", model.vocab_size);
        return Err(Refusal::invalid("tokens", what));
    }
    let prompt = move || Ok(tokenizer.decode(&request.tokens, true));
    Ok(Json(Detokenized { prompt: super::off_the_runtime(prompt).await? }))
}
