//! Every bad field is refused by its name.

use super::*;

/// The demonstration model, with a short context.
fn demo() -> ServedModel {
    ServedModel { max_model_len: 64, ..crate::api::fuzzing::demo().clone() }
}

/// A model without text.
fn bare() -> ServedModel {
    ServedModel {
        tokenizer: None,
        grammars: None,
        chat_template: None,
        vocab_size: 10,
        eos_token_ids: vec![9],
        max_model_len: 8,
        ..demo()
    }
}

fn ids(ids: &[u32]) -> Option<v1::generate_request::Prompt> {
    Some(v1::generate_request::Prompt::TokenIds(v1::TokenIds { ids: ids.to_vec() }))
}

fn ask() -> Ask {
    let wire = v1::GenerateRequest {
        prompt: ids(&[1, 2, 3]),
        sampling: Some(v1::Sampling::default()),
        stopping: Some(v1::Stopping::default()),
        outputs: Some(v1::Outputs::default()),
        ..Default::default()
    };
    Ask { wire, ..Ask::default() }
}

fn refused(model: &ServedModel, change: impl FnOnce(&mut v1::GenerateRequest)) -> Refusal {
    let mut ask = ask();
    change(&mut ask.wire);
    request(model, ask).map(|checked| checked.request).unwrap_err()
}

fn check(change: impl FnOnce(&mut v1::GenerateRequest), named: &str) {
    let refusal = refused(&bare(), change);
    assert_eq!(refusal.kind, RefusalKind::Invalid);
    assert!(refusal.sentence().contains(named), "{refusal:?} does not say {named:?}");
}

fn sampling(wire: &mut v1::GenerateRequest) -> &mut v1::Sampling {
    wire.sampling.as_mut().unwrap()
}

fn stopping(wire: &mut v1::GenerateRequest) -> &mut v1::Stopping {
    wire.stopping.as_mut().unwrap()
}

fn outputs(wire: &mut v1::GenerateRequest) -> &mut v1::Outputs {
    wire.outputs.as_mut().unwrap()
}

#[test]
fn absent_fields_have_their_defaults() {
    let request = request(&bare(), ask()).unwrap().request;
    assert!(request.id.starts_with("gen-"));
    assert_eq!((request.n, request.sampling.temperature), (1, 0.0));
    assert_eq!((request.sampling.repetition_penalty, request.sampling.top_p), (1.0, 1.0));
    assert_eq!(request.stopping.max_tokens, 5);
    assert_eq!(request.stopping.eos_token_ids, [9]);
    assert_eq!(request.outputs.top_logprobs, None);
}

#[test]
fn eos_can_be_ignored_and_the_context_bounds_max_tokens() {
    let mut ask = ask();
    *stopping(&mut ask.wire) =
        v1::Stopping { ignore_eos: true, max_tokens: Some(100), ..Default::default() };
    let stopping = request(&bare(), ask).unwrap().request.stopping;
    assert_eq!((stopping.max_tokens, stopping.eos_token_ids), (5, vec![]));
}

#[test]
fn every_bad_field_is_named() {
    use v1::generate_request::Prompt;
    check(|w| w.prompt = None, "prompt");
    check(|w| w.prompt = ids(&[]), "prompt: no tokens");
    check(|w| w.prompt = ids(&[1, 10]), "token 10 at 1");
    check(|w| w.prompt = ids(&[1; 8]), "8 tokens leave no room within 8");
    check(|w| w.prompt = Some(Prompt::Text("a".into())), "no tokenizer");
    check(|w| w.prompt = Some(Prompt::Chat(v1::Chat::default())), "chat.messages: this model has");
    check(|w| w.request_id = "x".repeat(300), "request_id");
    check(|w| w.cache_salt = "x".repeat(300), "cache_salt");
    check(|w| w.n = 1000, "n: 1000");
    check(|w| w.timeout_ms = 1 << 40, "timeout_ms");
    check(|w| sampling(w).temperature = -1.0, "sampling.temperature");
    check(|w| sampling(w).temperature = f32::NAN, "sampling.temperature");
    check(|w| sampling(w).top_p = Some(0.0), "sampling.top_p");
    check(|w| sampling(w).top_p = Some(1.5), "sampling.top_p");
    check(|w| sampling(w).min_p = 2.0, "sampling.min_p");
    check(|w| sampling(w).repetition_penalty = Some(0.0), "sampling.repetition_penalty");
    check(|w| sampling(w).presence_penalty = 2.5, "sampling.presence_penalty");
    check(|w| sampling(w).frequency_penalty = f32::INFINITY, "sampling.frequency_penalty");
    check(|w| sampling(w).logit_bias = [(10, 1.0)].into(), "sampling.logit_bias: token 10");
    check(|w| sampling(w).logit_bias = [(1, 101.0)].into(), "sampling.logit_bias");
    check(|w| stopping(w).max_tokens = Some(0), "stopping.max_tokens");
    check(|w| stopping(w).min_tokens = 6, "stopping.min_tokens");
    check(|w| stopping(w).stop = vec![String::new()], "stopping.stop");
    check(|w| stopping(w).stop = vec!["a".into(); 65], "stopping.stop");
    check(|w| stopping(w).stop_token_ids = vec![1; 2000], "stopping.stop_token_ids");
    check(|w| outputs(w).top_logprobs = Some(5000), "outputs.top_logprobs");
    check(|w| outputs(w).prompt_logprobs = Some(5000), "outputs.prompt_logprobs");
    let other = refused(&bare(), |w| w.model = "other".into());
    assert_eq!(other.kind, RefusalKind::UnknownModel);
    assert!(other.message.contains("\"other\" is not \"demo\""));
}

fn constrain(form: v1::constraint::Form) -> Refusal {
    refused(&demo(), |w| w.constraint = Some(v1::Constraint { form: Some(form) }))
}

#[test]
fn a_bad_form_is_named() {
    use v1::constraint::Form;
    let named = |refusal: Refusal, field: &str| {
        assert_eq!(refusal.field.as_deref(), Some(field), "{refusal:?}");
    };
    named(constrain(Form::JsonSchema("{".into())), "constraint.json_schema");
    named(constrain(Form::JsonSchema("{\"type\": 3}".into())), "constraint.json_schema");
    named(constrain(Form::Regex("(".into())), "constraint.regex");
    named(constrain(Form::Lark("nothing".into())), "constraint.lark");
    named(constrain(Form::Choice(v1::Choices::default())), "constraint.choice");
    named(constrain(Form::Regex("a".repeat(1 << 20))), "constraint.regex");
}

fn chat(change: impl FnOnce(&mut v1::Chat)) -> Result<Checked, Refusal> {
    let user = v1::Message { role: "user".into(), content: "Hi".into(), ..Default::default() };
    let tool = v1::Tool { name: "add".into(), ..Default::default() };
    let mut chat = v1::Chat { messages: vec![user], tools: vec![tool], ..Default::default() };
    change(&mut chat);
    let mut ask = ask();
    ask.wire.prompt = Some(v1::generate_request::Prompt::Chat(chat));
    request(&ServedModel { max_model_len: 1024, ..demo() }, ask)
}

#[test]
fn a_forced_tool_is_a_form() {
    assert!(chat(|_| {}).unwrap().request.constraint.is_none());
    let forced = chat(|chat| chat.forced_tool = "add".into()).unwrap();
    assert!(forced.request.constraint.is_some() && forced.tools == Some(ToolFormat::Json));
    let none = chat(|chat| chat.tool_choice = v1::ToolChoice::None.into()).unwrap();
    assert_eq!(none.tools, None);
    let unknown = chat(|chat| chat.forced_tool = "sub".into()).map(|_| ()).unwrap_err();
    assert_eq!(unknown.field.as_deref(), Some("chat.tool_choice"));
}

#[test]
fn a_bad_conversation_is_named() {
    let nobody = chat(|chat| chat.messages[0].role = "nobody".into()).map(|_| ()).unwrap_err();
    assert_eq!(nobody.field.as_deref(), Some("chat.messages[0].role"));
    let tool = chat(|chat| chat.tools[0].name = "a b".into()).map(|_| ()).unwrap_err();
    assert!(tool.field.unwrap().starts_with("chat.tools[0]"));
}
