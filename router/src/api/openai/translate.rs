//! From OpenAI's fields to `guildhall.v1`, which is then checked as any other request.

use async_openai::types::chat::{
    ChatCompletionToolChoiceOption as WireToolChoice, ResponseFormat, StopConfiguration,
    ToolChoiceOptions,
};
use guildhall_proto::v1;
use serde_json::Value;

use super::requests::{ChatCompletionRequest, ChatFields, Common, CompletionRequest, Prompts};
use crate::api::ask::{Ask, Conversation, ToolChoice};
use crate::api::refusal::Refusal;

/// Most prompts of one request.
const MAX_PROMPTS: usize = 128;
/// As OpenAI's completions have it.
const DEFAULT_COMPLETION_TOKENS: u32 = 16;

/// One request for each prompt.
pub(super) fn completions(request: &CompletionRequest) -> Result<Vec<Ask>, Refusal> {
    use v1::generate_request::Prompt;
    let (common, own) = (&request.common, &request.own);
    let ids = |ids: &Vec<u32>| Prompt::TokenIds(v1::TokenIds { ids: ids.clone() });
    let prompts: Vec<Prompt> = match &own.prompt {
        Prompts::Text(text) => vec![Prompt::Text(text.clone())],
        Prompts::Texts(texts) => texts.iter().cloned().map(Prompt::Text).collect(),
        Prompts::TokenIds(one) => vec![ids(one)],
        Prompts::ManyTokenIds(many) => many.iter().map(ids).collect(),
    };
    if prompts.is_empty() || prompts.len() > MAX_PROMPTS {
        let what = format!("{} prompts; 1 to {MAX_PROMPTS} are possible", prompts.len());
        return Err(Refusal::invalid("prompt", what));
    }
    let echo = own.echo.unwrap_or(false);
    let mut wire = generate_request(common)?;
    let outputs = wire.outputs.get_or_insert_default();
    outputs.top_logprobs = own.logprobs;
    outputs.prompt_logprobs = common.prompt_logprobs.or(own.logprobs.filter(|_| echo));
    outputs.prompt_token_ids |= echo;
    let stopping = wire.stopping.get_or_insert_default();
    stopping.max_tokens = stopping.max_tokens.or(Some(DEFAULT_COMPLETION_TOKENS));
    if echo && stopping.max_tokens == Some(0) {
        // Nothing but the prompt.
        outputs.prompt_logprobs = outputs.prompt_logprobs.or(Some(0));
    }
    let ask = |prompt| Ask {
        wire: v1::GenerateRequest { prompt: Some(prompt), ..wire.clone() },
        ..Ask::default()
    };
    Ok(prompts.into_iter().map(ask).collect())
}

/// The request of a conversation.
pub(super) fn chat(request: ChatCompletionRequest) -> Result<Ask, Refusal> {
    let ChatCompletionRequest { common, own } = request;
    let mut wire = generate_request(&common)?;
    if let Some(max_tokens) = own.max_completion_tokens {
        wire.stopping.get_or_insert_default().max_tokens = Some(max_tokens);
    }
    let outputs = wire.outputs.get_or_insert_default();
    outputs.prompt_logprobs = common.prompt_logprobs;
    match (own.logprobs.unwrap_or(false), own.top_logprobs) {
        (true, top) => outputs.top_logprobs = Some(top.unwrap_or(0)),
        (false, None | Some(0)) => {}
        (false, Some(_)) => {
            return Err(Refusal::invalid("top_logprobs", "needs logprobs to be true"));
        }
    }
    Ok(Ask { wire, conversation: Some(conversation(own)?), ..Ask::default() })
}

/// The conversation of a request.
pub(super) fn conversation(own: ChatFields) -> Result<Conversation, Refusal> {
    let continues = own.continue_final_message.unwrap_or(false);
    let generation_prompt = own.add_generation_prompt.unwrap_or(!continues);
    if continues && generation_prompt {
        let what = "contradicts add_generation_prompt";
        return Err(Refusal::invalid("continue_final_message", what));
    }
    Ok(Conversation {
        messages: own.messages,
        tools: own.tools.unwrap_or_default(),
        tool_choice: tool_choice(own.tool_choice)?,
        continue_final_message: continues,
        without_generation_prompt: !generation_prompt,
        template_variables: own.chat_template_kwargs.unwrap_or_default(),
    })
}

fn tool_choice(wire: Option<WireToolChoice>) -> Result<ToolChoice, Refusal> {
    match wire {
        None | Some(WireToolChoice::Mode(ToolChoiceOptions::Auto)) => Ok(ToolChoice::Auto),
        Some(WireToolChoice::Mode(ToolChoiceOptions::None)) => Ok(ToolChoice::None),
        Some(WireToolChoice::Mode(ToolChoiceOptions::Required)) => Ok(ToolChoice::Required),
        Some(WireToolChoice::Function(named)) => Ok(ToolChoice::Named(named.function.name)),
        Some(WireToolChoice::AllowedTools(_) | WireToolChoice::Custom(_)) => {
            Err(Refusal::invalid("tool_choice", "only none, auto, required and functions"))
        }
    }
}

fn generate_request(common: &Common) -> Result<v1::GenerateRequest, Refusal> {
    refuse_unsupported(common)?;
    let n = common.n.unwrap_or(1);
    if n == 0 {
        return Err(Refusal::invalid("n", "is 0"));
    }
    let token_ids = common.return_token_ids.unwrap_or(false);
    Ok(v1::GenerateRequest {
        model: common.model.clone(),
        request_id: common.request_id.clone().unwrap_or_default(),
        sampling: Some(sampling(common)?),
        stopping: Some(stopping(common)),
        outputs: Some(v1::Outputs {
            routed_experts: common.return_routed_experts.unwrap_or(false),
            prompt_token_ids: token_ids || common.prompt_logprobs.is_some(),
            special_tokens: !common.skip_special_tokens.unwrap_or(true),
            ..Default::default()
        }),
        constraint: constraint(common)?.map(|form| v1::Constraint { form: Some(form) }),
        n,
        timeout_ms: common.timeout_ms.unwrap_or(0),
        cache_salt: common.cache_salt.clone().unwrap_or_default(),
        prompt: None,
    })
}

/// What would change the answer if it were ignored.
fn refuse_unsupported(common: &Common) -> Result<(), Refusal> {
    if common.audio.is_some() {
        return Err(Refusal::invalid("audio", "is not supported"));
    }
    if common.functions.is_some() {
        return Err(Refusal::invalid("functions", "is not supported; use tools"));
    }
    if common.suffix.as_ref().is_some_and(|suffix| !suffix.is_empty()) {
        return Err(Refusal::invalid("suffix", "is not supported"));
    }
    if common.best_of.is_some_and(|best_of| best_of != common.n.unwrap_or(1)) {
        return Err(Refusal::invalid("best_of", "other than n is not supported"));
    }
    Ok(())
}

fn sampling(common: &Common) -> Result<v1::Sampling, Refusal> {
    let top_k = match common.top_k.unwrap_or(0) {
        -1 => 0,
        k => u32::try_from(k).map_err(|_| Refusal::invalid("top_k", format!("is {k}")))?,
    };
    let biases = common.logit_bias.iter().flatten().map(|(token, bias)| {
        let id = token.trim().parse();
        let id =
            id.map_err(|_| Refusal::invalid("logit_bias", format!("{token:?} is no token id")))?;
        Ok((id, *bias))
    });
    Ok(v1::Sampling {
        temperature: common.temperature.unwrap_or(1.0),
        top_k,
        top_p: common.top_p,
        min_p: common.min_p.unwrap_or(0.0),
        seed: common.seed.map(i64::cast_unsigned),
        repetition_penalty: common.repetition_penalty,
        presence_penalty: common.presence_penalty.unwrap_or(0.0),
        frequency_penalty: common.frequency_penalty.unwrap_or(0.0),
        logit_bias: biases.collect::<Result<_, Refusal>>()?,
    })
}

fn stopping(common: &Common) -> v1::Stopping {
    let stop = match &common.stop {
        None => Vec::new(),
        Some(StopConfiguration::String(one)) => vec![one.clone()],
        Some(StopConfiguration::StringArray(many)) => many.clone(),
    };
    v1::Stopping {
        max_tokens: common.max_tokens,
        stop,
        stop_token_ids: common.stop_token_ids.clone().unwrap_or_default(),
        ignore_eos: common.ignore_eos.unwrap_or(false),
        min_tokens: common.min_tokens.unwrap_or(0),
        include_stop: common.include_stop_str_in_output.unwrap_or(false),
    }
}

/// The one form that is asked for, under whichever name.
fn constraint(common: &Common) -> Result<Option<v1::constraint::Form>, Refusal> {
    use v1::constraint::Form;
    let schema = |value: &Value| match value {
        Value::String(text) => Form::JsonSchema(text.clone()),
        schema => Form::JsonSchema(schema.to_string()),
    };
    let any_object = || Form::JsonSchema(r#"{"type": "object"}"#.into());
    let choice = |texts: &Vec<String>| Form::Choice(v1::Choices { texts: texts.clone() });
    let mut forms = Vec::new();
    match &common.response_format {
        None | Some(ResponseFormat::Text) => {}
        Some(ResponseFormat::JsonObject) => forms.push(any_object()),
        Some(ResponseFormat::JsonSchema { json_schema }) => forms.push(schema(&json_schema.schema)),
    }
    if let Some(asked) = &common.structured_outputs {
        forms.extend(asked.json.as_ref().map(schema));
        forms.extend(asked.json_object.filter(|wanted| *wanted).map(|_| any_object()));
        forms.extend(asked.regex.clone().map(Form::Regex));
        forms.extend(asked.choice.as_ref().map(choice));
        forms.extend(asked.grammar.clone().map(Form::Lark));
    }
    forms.extend(common.guided_json.as_ref().map(schema));
    forms.extend(common.guided_regex.clone().map(Form::Regex));
    forms.extend(common.guided_choice.as_ref().map(choice));
    forms.extend(common.guided_grammar.clone().map(Form::Lark));
    if forms.len() > 1 {
        let what = format!("{} forms are asked for, and an answer has one", forms.len());
        return Err(Refusal::invalid("structured_outputs", what));
    }
    Ok(forms.pop())
}
