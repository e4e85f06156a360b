//! Grammars that force calls, as llguidance reads them.

use guildhall_chat::{Error, Forced, ToolFormat, forced_grammar};
use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::ApproximateTokEnv;
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};

use crate::support::{Answer, tool};

fn tools() -> Vec<Value> {
    let city = json!({
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city"],
        "additionalProperties": false,
    });
    let reference = json!({
        "properties": {"n": {"$ref": "#/$defs/small"}},
        "required": ["n"],
        "$defs": {"small": {"enum": [1, 2]}},
        "x-guidance": {"whitespace_flexible": true},
    });
    let bare = json!({"type": "function", "function": {"name": "clock.now-utc"}});
    vec![tool("weather", city), tool("count", reference), bare]
}

/// Whether a text is a whole answer by this grammar.
fn accepts(grammar: &str, text: &str) -> bool {
    let mut factory = ParserFactory::new_simple(&ApproximateTokEnv::single_byte_env()).unwrap();
    let parser = factory.quiet().create_parser(TopLevelGrammar::from_lark(grammar.to_owned()));
    let mut matcher = Matcher::new(parser);
    assert_eq!(matcher.get_error(), None, "{grammar}");
    let tokens: Vec<u32> = text.bytes().map(u32::from).collect();
    let read = matcher.try_consume_tokens(&tokens).unwrap();
    read == tokens.len() && matcher.is_accepting().unwrap()
}

fn check(format: ToolFormat, choice: Forced<'_>, text: &str, expected: bool) {
    let grammar = forced_grammar(format, &tools(), choice).unwrap();
    assert_eq!(accepts(&grammar, text), expected, "{text} by\n{grammar}");
    if expected {
        let answer = Answer::read(format, [text]);
        assert_eq!(answer.text, "", "the parser of the same format finds more than calls");
        assert!(!answer.calls.is_empty());
    }
}

const WEATHER: &str = r#"{"name": "weather", "arguments": {"city": "Zürich", "days": 2}}"#;
const COUNT: &str = r#"{"name": "count", "arguments": {"n": 2}}"#;
const CLOCK: &str = r#"{"name": "clock.now-utc", "arguments": {"any": ["thing", {}]}}"#;
const WRONG: [&str; 9] = [
    "",
    "Sure!",
    r#"{"name": "nobody", "arguments": {}}"#,
    r#"{"name": "weather", "arguments": {}}"#,
    r#"{"name": "weather", "arguments": {"city": "a", "extra": 1}}"#,
    r#"{"name": "weather", "arguments": {"city":"a"}}"#,
    r#"{"name": "count", "arguments": {"n": 3}}"#,
    r#"{"arguments": {"n": 2}, "name": "count"}"#,
    r#"{"name": "clock.now-utc", "arguments": []}"#,
];

fn tagged(call: &str) -> String {
    format!("<tool_call>\n{call}\n</tool_call>")
}

#[test]
fn any_json_call_or_list_of_calls_is_accepted() {
    let json = ToolFormat::Json;
    for call in [WEATHER, COUNT, CLOCK, r#"{"name": "clock.now-utc", "arguments": {}}"#] {
        check(json, Forced::Any, call, true);
        check(json, Forced::Any, &format!("[{call}]"), true);
        check(json, Forced::Any, &format!("{call}, {call}"), false);
        check(json, Forced::Any, &call[..call.len() - 1], false);
    }
    check(json, Forced::Any, &format!("[{WEATHER}, {COUNT}, {CLOCK}]"), true);
    check(json, Forced::Any, &format!("[{WEATHER}, {COUNT}"), false);
    check(json, Forced::Any, "[]", false);
    for text in WRONG {
        check(json, Forced::Any, text, false);
    }
}

#[test]
fn any_row_of_tagged_calls_is_accepted() {
    let hermes = ToolFormat::Hermes;
    for call in [WEATHER, COUNT, CLOCK] {
        check(hermes, Forced::Any, &tagged(call), true);
        check(hermes, Forced::Any, call, false);
    }
    check(hermes, Forced::Any, &[tagged(WEATHER), tagged(COUNT)].join("\n"), true);
    check(hermes, Forced::Any, &[tagged(WEATHER), tagged(COUNT)].join(" "), false);
    check(hermes, Forced::Any, &format!("{}\n", tagged(WEATHER)), false);
    for text in WRONG {
        check(hermes, Forced::Any, &tagged(text), false);
    }
}

#[test]
fn a_named_tool_is_called_once() {
    let named = Forced::Named("count");
    check(ToolFormat::Json, named, COUNT, true);
    check(ToolFormat::Json, named, WEATHER, false);
    check(ToolFormat::Json, named, &format!("[{COUNT}]"), false);
    check(ToolFormat::Hermes, named, &tagged(COUNT), true);
    check(ToolFormat::Hermes, named, &tagged(WEATHER), false);
    check(ToolFormat::Hermes, named, &[tagged(COUNT), tagged(COUNT)].join("\n"), false);
}

#[test]
fn a_tool_that_is_not_there_cannot_be_forced() {
    let fault = |tools: &[Value], choice| match forced_grammar(ToolFormat::Json, tools, choice) {
        Err(Error::Conversation { field, what }) => format!("{field}: {what}"),
        other => panic!("{other:?}"),
    };
    let named = fault(&tools(), Forced::Named("rain"));
    assert_eq!(named, "tool_choice: asks for \"rain\", which is none of the tools");
    assert_eq!(fault(&[], Forced::Any), "tool_choice: asks for a call, but there are no tools");
    let bad = tool("a\" | /.*/", json!({}));
    assert!(fault(&[bad], Forced::Any).starts_with("tools[0].function.name: "));
}
