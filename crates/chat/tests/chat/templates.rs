//! Where templates are read from, and templates that do not work.

use std::time::{Duration, SystemTime};

use guildhall_chat::{ChatTemplate, Error, ToolFormat};
use serde_json::json;

use crate::support::{open, question, render, template, tool};

fn rendered(files: &[(&str, &str)], with_tools: bool) -> String {
    let tools = if with_tools { json!([tool("f", json!({}))]) } else { json!([]) };
    render(&open(files).unwrap().unwrap(), &question(), &tools).unwrap()
}

#[test]
fn a_model_without_a_template_has_none() {
    assert!(open(&[]).unwrap().is_none());
    assert!(open(&[("tokenizer_config.json", "{\"eos_token\": \"a\"}")]).unwrap().is_none());
}

#[test]
fn a_file_of_its_own_comes_before_the_tokenizers_configuration() {
    let config = ("tokenizer_config.json", r#"{"chat_template": "inside", "bos_token": "<s>"}"#);
    assert_eq!(rendered(&[config], false), "inside");
    assert_eq!(
        rendered(&[config, ("chat_template.jinja", "{{ bos_token }}alone")], false),
        "<s>alone"
    );
}

#[test]
fn a_file_that_is_named_comes_first() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("chat_template.jinja"), "model's").unwrap();
    let file = dir.path().join("other.html");
    match ChatTemplate::open(dir.path(), Some(&file)) {
        Err(Error::Read { path, .. }) => assert_eq!(path, file),
        other => panic!("{other:?}"),
    }
    // The name must not decide about escapes.
    std::fs::write(&file, "{{ '<named>' }}").unwrap();
    let template = ChatTemplate::open(dir.path(), Some(&file)).unwrap().unwrap();
    assert_eq!(render(&template, &question(), &json!([])).unwrap(), "<named>");
}

#[test]
fn of_several_templates_the_one_for_tools_is_for_tools() {
    let list = json!([
        {"name": "rag", "template": "r"},
        {"name": "tool_use", "template": "t <tool_call>"},
        {"name": "default", "template": "d"},
    ]);
    let config = json!({"chat_template": list}).to_string();
    let files = [("tokenizer_config.json", &*config)];
    assert_eq!(rendered(&files, false), "d");
    assert_eq!(rendered(&files, true), "t <tool_call>");
    assert_eq!(open(&files).unwrap().unwrap().tool_format(), ToolFormat::Hermes);
}

#[test]
fn the_template_tells_the_format_of_calls() {
    assert_eq!(template("{{ '<tool_call>' }}").tool_format(), ToolFormat::Hermes);
    assert_eq!(template("{{ messages }}").tool_format(), ToolFormat::Json);
}

#[test]
fn special_tokens_are_text_or_objects_or_undefined() {
    let config = r#"{"bos_token": {"content": "<b>"}, "eos_token": "<e>", "pad_token": null}"#;
    let source = "{{ bos_token }}{{ eos_token }}{{ pad_token is defined }}";
    let files = [("tokenizer_config.json", config), ("chat_template.jinja", source)];
    assert_eq!(rendered(&files, false), "<b><e>False");
}

fn check_broken(files: &[(&str, &str)], file: &str, expected: &str) {
    match open(files) {
        Err(Error::Template { path, what }) => {
            assert!(path.ends_with(file), "{path:?}");
            assert!(what.contains(expected), "{what}");
        }
        other => panic!("{files:?} gave {other:?}"),
    }
}

#[test]
fn a_template_that_cannot_be_understood_is_named_by_file_and_line() {
    let lines = "first\n{% if x %}\n{% endfor %}";
    check_broken(&[("chat_template.jinja", lines)], "chat_template.jinja", "line 3");
    let config = json!({"chat_template": lines}).to_string();
    check_broken(&[("tokenizer_config.json", &config)], "tokenizer_config.json", "line 3");
    check_broken(&[("tokenizer_config.json", "{")], "tokenizer_config.json", "line 1");
    let config = r#"{"chat_template": 5}"#;
    check_broken(&[("tokenizer_config.json", config)], "tokenizer_config.json", "neither");
    let config = r#"{"chat_template": [{"name": "rag", "template": ""}]}"#;
    check_broken(&[("tokenizer_config.json", config)], "tokenizer_config.json", "default");
}

fn check_fails(source: &str, expected: &str) {
    match render(&template(source), &question(), &json!([])) {
        Err(Error::Template { what, .. }) => assert!(what.contains(expected), "{what}"),
        other => panic!("{source} gave {other:?}"),
    }
}

#[test]
fn a_template_that_fails_is_named_by_line() {
    check_fails("a\n{{ messages.nowhere.deeper }}", "line 2");
    check_fails("\n\n{{ no_function() }}", "line 3");
    check_fails("{{ strftime_now('%Q') }}", "not a format of a time");
    check_fails("{{ nowhere | tojson }}", "no JSON form");
    check_fails("{{ {} | tojson(surprise=1) }}", "surprise");
}

#[test]
fn a_template_that_does_not_end_is_stopped() {
    let endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
    check_fails(endless, "has not ended");
}

#[test]
fn a_template_that_calls_itself_is_stopped() {
    check_fails("{% macro f(x) %}a{{ f(x) }}{% endmacro %}{{ f(1) }}", "recursion");
    check_fails("{% include 'default' %}", "recursion");
}

#[test]
fn values_that_are_nested_too_deeply_are_refused() {
    let grow = "{% set ns = namespace(x=[]) %}{% for i in range(1000) %}{% set ns.x = [ns.x] %}{% endfor %}";
    check_fails(&format!("{grow}{{{{ ns.x | tojson }}}}"), "nested");
    check_fails(&format!("{grow}{{{{ ns.x }}}}"), "nested");
}

#[test]
fn what_a_template_refuses_is_told_from_what_it_does_wrong() {
    let sources = [
        "{{ raise_exception('No ' ~ messages[0].role) }}",
        "{% macro check() %}{{ raise_exception('No user') }}{% endmacro %}{% if true %}{{ check() }}{% endif %}",
    ];
    for source in sources {
        match render(&template(source), &question(), &json!([])) {
            Err(Error::Refused(message)) => assert_eq!(message, "No user"),
            other => panic!("{source} gave {other:?}"),
        }
    }
}

#[test]
fn the_date_is_that_of_the_clock() {
    // 1 March 2024, 01:02:03 UTC.
    let clock = || SystemTime::UNIX_EPOCH + Duration::from_secs(1_709_254_923);
    let template = template("{{ strftime_now('%d %b %Y, %H:%M, %A %-d') }}").with_clock(clock);
    let rendered = render(&template, &question(), &json!([])).unwrap();
    assert_eq!(rendered, "01 Mar 2024, 01:02, Friday 1");
}

#[test]
fn marks_for_training_print_nothing_and_keep_lines() {
    let source = "a\n{% generation %}\n{{ 'b' -}}\n{%- endgeneration -%}\n c\n{% generation %}d{% endgeneration %}";
    let rendered = render(&template(source), &question(), &json!([])).unwrap();
    assert_eq!(rendered, "a\nbc\nd");
    check_broken(
        &[("chat_template.jinja", "{% generation %}\n\n{% endif")],
        "chat_template.jinja",
        "line 3",
    );
}

#[test]
fn threads_share_a_template() {
    let template = template("{{ messages[0].content }}");
    std::thread::scope(|scope| {
        let render = || render(&template, &question(), &json!([])).unwrap();
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(render)).collect();
        assert!(threads.into_iter().all(|thread| thread.join().unwrap() == "Hi"));
    });
}
