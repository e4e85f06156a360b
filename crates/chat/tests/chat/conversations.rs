//! Conversations that are not well-formed, and forms that templates get them in.

use guildhall_chat::{Conversation, Error};
use serde_json::{Map, Value, json};

use crate::support::{question, render, template, tool};

fn check_fault(messages: Value, tools: Value, field: &str) {
    match render(&template("x"), &messages, &tools) {
        Err(Error::Conversation { field: found, what }) => {
            assert_eq!(found, field, "{what} in {messages} {tools}");
        }
        other => panic!("{messages} {tools} gave {other:?}"),
    }
}

fn check_message_fault(message: Value, field: &str) {
    let messages = json!([{"role": "user", "content": "Hi"}, message]);
    check_fault(messages, json!([]), &format!("messages[1]{field}"));
}

fn check_tool_fault(tool_: Value, field: &str) {
    let tools = json!([tool("good", json!({})), tool_]);
    check_fault(question(), tools, &format!("tools[1]{field}"));
}

#[test]
fn faults_of_messages_are_named_by_place() {
    check_fault(json!([]), json!([]), "messages");
    check_message_fault(json!("Hi"), "");
    check_message_fault(json!({"content": "a"}), ".role");
    check_message_fault(json!({"role": 1, "content": "a"}), ".role");
    check_message_fault(json!({"role": "robot", "content": "a"}), ".role");
    check_message_fault(json!({"role": "user"}), ".content");
    check_message_fault(json!({"role": "user", "content": null}), ".content");
    check_message_fault(json!({"role": "user", "content": 5}), ".content");
    check_message_fault(
        json!({"role": "assistant", "content": null, "tool_calls": []}),
        ".content",
    );
}

#[test]
fn faults_of_parts_are_named_by_place() {
    let parts =
        |part: Value| json!({"role": "user", "content": [{"type": "text", "text": "a"}, part]});
    check_message_fault(parts(json!("a")), ".content[1].type");
    check_message_fault(parts(json!({"type": "text"})), ".content[1].text");
    check_message_fault(parts(json!({"type": "image_url", "image_url": {}})), ".content[1].type");
    check_message_fault(parts(json!({"type": "input_audio", "text": "a"})), ".content[1].type");
}

#[test]
fn faults_of_calls_are_named_by_place() {
    let call = |call: Value| json!({"role": "assistant", "tool_calls": [call]});
    check_message_fault(json!({"role": "assistant", "tool_calls": {}}), ".tool_calls");
    check_message_fault(call(json!({})), ".tool_calls[0].function");
    check_message_fault(call(json!({"function": {}})), ".tool_calls[0].function.name");
    check_message_fault(call(json!({"function": {"name": ""}})), ".tool_calls[0].function.name");
    let arguments = json!({"function": {"name": "f", "arguments": 5}});
    check_message_fault(call(arguments), ".tool_calls[0].function.arguments");
}

#[test]
fn faults_of_tools_are_named_by_place() {
    check_tool_fault(json!("f"), "");
    check_tool_fault(json!({"function": {"name": "f"}}), ".type");
    check_tool_fault(json!({"type": "retrieval"}), ".type");
    check_tool_fault(json!({"type": "function"}), ".function");
    check_tool_fault(json!({"type": "function", "function": {}}), ".function.name");
    for name in ["", "two words", "naïve", "a\"b", &"a".repeat(65)] {
        check_tool_fault(tool(name, json!({})), ".function.name");
    }
    check_tool_fault(tool("f", json!([])), ".function.parameters");
}

#[test]
fn names_of_tools_may_have_dots_and_dashes() {
    let names = ["a", "get_weather", "files.read-all", &"Z9".repeat(32)];
    for name in names {
        render(&template("x"), &question(), &json!([tool(name, Value::Null)])).unwrap();
    }
}

fn with_kwargs(kwargs: Value, begin: bool, go_on: bool) -> Result<String, Error> {
    let messages = question();
    template("{{ add_generation_prompt }}{{ style }}{{ messages[0].content }}").render(
        &Conversation {
            messages: messages.as_array().unwrap(),
            tools: &[],
            add_generation_prompt: begin,
            continue_final_message: go_on,
            template_kwargs: kwargs.as_object().unwrap(),
        },
    )
}

#[test]
fn a_client_sets_variables_but_not_ours() {
    assert_eq!(with_kwargs(json!({"style": "odd"}), false, false).unwrap(), "FalseoddHi");
    for name in ["messages", "tools", "add_generation_prompt", "raise_exception"] {
        match with_kwargs(json!({name: 1}), true, false) {
            Err(Error::Conversation { field, .. }) => {
                assert_eq!(field, format!("template_kwargs.{name}"));
            }
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn an_answer_cannot_be_begun_and_continued_at_once() {
    match with_kwargs(json!({}), true, true) {
        Err(Error::Conversation { field, .. }) => assert_eq!(field, "continue_final_message"),
        other => panic!("{other:?}"),
    }
    assert_eq!(with_kwargs(json!({}), false, true).unwrap(), "FalseHi");
}

fn continued(source: &str, last: Value) -> Result<String, Error> {
    template(source).render(&Conversation {
        messages: &[last],
        tools: &[],
        add_generation_prompt: false,
        continue_final_message: true,
        template_kwargs: &Map::new(),
    })
}

#[test]
fn what_is_continued_must_be_there_and_in_the_prompt() {
    let calls = json!({"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]});
    match continued("{{ messages[0].content }}", calls) {
        Err(Error::Conversation { field, .. }) => assert_eq!(field, "messages[0].content"),
        other => panic!("{other:?}"),
    }
    let message = json!({"role": "assistant", "content": "a"});
    match continued("always the same", message) {
        Err(Error::Conversation { field, .. }) => assert_eq!(field, "continue_final_message"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn white_space_stays_where_the_template_keeps_it() {
    let message = json!({"role": "assistant", "content": " a b \n"});
    let kept = continued("<{{ messages[0].content }}>", message.clone());
    assert_eq!(kept.unwrap(), "< a b \n");
    let trimmed = continued("<{{ messages[0].content | trim }}>", message);
    assert_eq!(trimmed.unwrap(), "<a b");
}

fn check_seen(source: &str, message: Value, expected: &str) {
    let rendered = render(&template(source), &json!([message]), &json!([]));
    assert_eq!(rendered.unwrap(), expected, "{source} of {message}");
}

#[test]
fn parts_are_one_text_for_a_template_that_prints_content() {
    let parts = json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]);
    check_seen("{{ messages[0].content }}", json!({"role": "user", "content": parts}), "a\nb");
    check_seen("[{{ messages[0].content }}]", json!({"role": "user", "content": []}), "[]");
}

#[test]
fn developers_are_the_system_for_a_template_that_does_not_know_them() {
    let message = json!({"role": "developer", "content": "a"});
    check_seen("{{ messages[0].role }}", message.clone(), "system");
    check_seen("{{ messages[0].role }}{# or developer #}", message, "developer");
}

#[test]
fn reasoning_is_found_under_each_of_its_names() {
    let source = "{{ messages[0].reasoning_content }} {{ messages[0].thinking }}";
    for key in ["reasoning_content", "thinking", "reasoning"] {
        check_seen(source, json!({"role": "assistant", "content": "", key: "hm"}), "hm hm");
    }
    check_seen(source, json!({"role": "assistant", "content": "", "reasoning": null}), " ");
}

#[test]
fn arguments_are_objects_where_they_are_json() {
    let source = "{{ messages[0].tool_calls[0].function.arguments | tojson }}";
    let cases = [
        (json!("{\"b\":1,\"a\":[2]}"), r#"{"b": 1, "a": [2]}"#),
        (json!({"b": 1}), r#"{"b": 1}"#),
        (json!(""), "{}"),
        (json!("{\"b\":"), r#""{\"b\":""#),
        (json!("5"), r#""5""#),
    ];
    for (arguments, expected) in cases {
        let calls = json!([{"function": {"name": "f", "arguments": arguments}}]);
        check_seen(source, json!({"role": "assistant", "tool_calls": calls}), expected);
    }
}

#[test]
fn arguments_are_text_for_a_template_that_prints_them_as_they_are() {
    let source = "{{ 'f ' + messages[0].tool_calls[0].function.arguments }}";
    let calls = json!([{"function": {"name": "f", "arguments": "{\"b\":1}"}}]);
    check_seen(source, json!({"role": "assistant", "tool_calls": calls}), "f {\"b\":1}");
}
