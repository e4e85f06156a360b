//! What every answer owes its request.

use guildhall_proto::v1;
use guildhall_proto::v1::FinishReason;
use guildhall_proto::v1::choice::MatchedStop;
use guildhall_proto::v1::constraint::Form;
use guildhall_proto::v1::generate_request::Prompt;

use crate::requests::REGEX;

/// Experts of each layer of the demonstration model.
const EXPERTS: u32 = 16;

/// Fails unless an answer is whole, and what was asked for.
pub(crate) fn assert_proper(request: &v1::GenerateRequest, response: &v1::GenerateResponse) {
    let usage = response.usage.expect("the last part carries the usage");
    assert_eq!(response.choices.len(), request.n.max(1) as usize, "{request:?} {response:?}");
    let generated: usize = response.choices.iter().map(|choice| choice.token_ids.len()).sum();
    assert_eq!(usage.completion_tokens as usize, generated, "{request:?} {response:?}");
    assert!(usage.cached_tokens <= usage.prompt_tokens, "{request:?} {usage:?}");
    let ids = match &request.prompt {
        Some(Prompt::TokenIds(ids)) => Some(&ids.ids),
        _ => None,
    };
    if let Some(ids) = ids {
        assert_eq!(usage.prompt_tokens as usize, ids.len(), "{request:?}");
    }
    check_prompt(request, response, (ids, usage.prompt_tokens));
    for (index, choice) in (0..).zip(&response.choices) {
        let context = || format!("{request:?} {choice:?}");
        assert_eq!(choice.index, index, "{}", context());
        check_end(request, choice);
        check_outputs(request, choice, usage.prompt_tokens);
        let form = request.constraint.as_ref().and_then(|constraint| constraint.form.as_ref());
        if let Some(form) = form.filter(|_| ended_by_itself(choice)) {
            assert!(has_form(form, &choice.text), "{}", context());
        }
    }
}

fn check_prompt(
    request: &v1::GenerateRequest,
    response: &v1::GenerateResponse,
    (ids, tokens): (Option<&Vec<u32>>, u32),
) {
    let outputs = request.outputs.unwrap_or_default();
    let Some(prompt) = &response.prompt else {
        assert!(!outputs.prompt_token_ids && outputs.prompt_logprobs.is_none(), "{request:?}");
        return;
    };
    assert_eq!(prompt.token_ids.len() as u32, tokens, "{request:?}");
    if let Some(ids) = ids {
        assert_eq!(&prompt.token_ids, ids);
    }
    let scores = if outputs.prompt_logprobs.is_some() { tokens } else { 0 };
    assert_eq!(prompt.logprobs.len() as u32, scores, "{request:?}");
}

fn ended_by_itself(choice: &v1::Choice) -> bool {
    choice.finish_reason() == FinishReason::Stop && choice.matched_stop.is_none()
}

fn check_end(request: &v1::GenerateRequest, choice: &v1::Choice) {
    let context = || format!("{request:?} {choice:?}");
    let stopping = request.stopping.as_ref().unwrap();
    let tokens = choice.token_ids.len() as u32;
    let most = stopping.max_tokens.unwrap();
    assert!((stopping.min_tokens.max(1)..=most).contains(&tokens), "{}", context());
    match (choice.finish_reason(), &choice.matched_stop) {
        (FinishReason::Length, None) => assert_eq!(tokens, most, "{}", context()),
        (FinishReason::Stop, None) => {}
        (FinishReason::Stop, Some(MatchedStop::StopText(text))) => {
            assert!(stopping.stop.contains(text), "{}", context());
        }
        (FinishReason::Stop, Some(MatchedStop::StopTokenId(id))) => {
            assert!(stopping.stop_token_ids.contains(id), "{}", context());
            assert_eq!(choice.token_ids.last(), Some(id), "{}", context());
        }
        _ => panic!("no proper end: {}", context()),
    }
    let hidden = !stopping.include_stop && stopping.min_tokens == 0;
    let shows = stopping.stop.iter().any(|stop| choice.text.contains(stop));
    assert!(!(hidden && shows), "a stop text is in the answer: {}", context());
}

fn check_outputs(request: &v1::GenerateRequest, choice: &v1::Choice, prompt_tokens: u32) {
    let context = || format!("{request:?} {choice:?}");
    let outputs = request.outputs.unwrap_or_default();
    let tokens = choice.token_ids.len();
    match outputs.top_logprobs {
        None => assert!(choice.logprobs.is_empty(), "{}", context()),
        Some(top) => {
            assert_eq!(choice.logprobs.len(), tokens, "{}", context());
            let right = |of: &v1::TokenLogprobs| of.logprob <= 0.0 && of.top.len() == top as usize;
            assert!(choice.logprobs.iter().all(right), "{}", context());
        }
    }
    let Some(routes) = &choice.routed_experts else {
        assert!(!outputs.routed_experts, "{}", context());
        return;
    };
    let positions = prompt_tokens + tokens as u32 - 1;
    assert_eq!((routes.first_position, routes.tokens), (0, positions), "{}", context());
    let expected = (routes.tokens * routes.top_k) as usize * routes.layers.len();
    assert_eq!(routes.experts.len(), expected, "{}", context());
    assert!(routes.experts.iter().all(|expert| *expert < EXPERTS), "{}", context());
}

/// Whether a text is what the forms of this test ask for.
fn has_form(form: &Form, text: &str) -> bool {
    match form {
        Form::Choice(choices) => choices.texts.iter().any(|choice| choice == text),
        Form::Lark(_) => ["yes", "no", "no sir"].contains(&text),
        Form::Regex(regex) => {
            assert_eq!(regex, REGEX);
            let Some((letters, number)) = text.split_once(' ') else { return false };
            let letters_fit = letters.chars().all(|c| ('a'..='f').contains(&c));
            letters_fit && (2..=9).contains(&letters.len()) && ["one", "two"].contains(&number)
        }
        Form::JsonSchema(_) => {
            let Ok(value) = serde_json::from_str::<serde_json::Value>(text) else { return false };
            // An integer may be longer than any type of Rust.
            value["name"].is_string() && value["n"].is_number()
        }
    }
}
