//! Answers with calls, without, and with what only looks like calls.

use guildhall_chat::{Part, ToolCallParser, ToolFormat};

use crate::support::Answer;

fn check(format: ToolFormat, answer: &str, text: &str, calls: &[(&str, &str)]) {
    let found = Answer::read(format, [answer]);
    let calls: Vec<_> =
        calls.iter().map(|(name, json)| ((*name).to_owned(), (*json).to_owned())).collect();
    assert_eq!((&*found.text, found.calls), (text, calls), "{answer}");
}

fn check_hermes(answer: &str, text: &str, calls: &[(&str, &str)]) {
    check(ToolFormat::Hermes, answer, text, calls);
}

fn check_json(answer: &str, text: &str, calls: &[(&str, &str)]) {
    check(ToolFormat::Json, answer, text, calls);
}

fn check_no_call(format: ToolFormat, answer: &str) {
    check(format, answer, answer, &[]);
}

#[test]
fn formats_are_read_as_they_are_printed() {
    for format in ToolFormat::ALL {
        assert_eq!(format.to_string().parse::<ToolFormat>().unwrap(), format);
    }
    let error = "xml".parse::<ToolFormat>().unwrap_err();
    assert_eq!(error.to_string(), "\"xml\" is not a tool format: these are hermes and json");
}

#[test]
fn hermes_calls_stand_between_tags() {
    let call = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": [1, {\"b\": \"}\\\"\"}]}}\n</tool_call>";
    let arguments = "{\"a\": [1, {\"b\": \"}\\\"\"}]}";
    check_hermes(call, "", &[("f", arguments)]);
    check_hermes(&format!("I look.\n{call}"), "I look.\n", &[("f", arguments)]);
    check_hermes(&format!("\n\n{call}\n{call}\n"), "", &[("f", arguments); 2]);
    check_hermes(&format!("{call} and {call}."), " and .", &[("f", arguments); 2]);
    check_hermes("<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>", "", &[("f", "{}")]);
    check_hermes("<tool_call>{\"name\":\"f\",\"parameters\":{ }}</tool_call>", "", &[("f", "{ }")]);
    check_hermes(
        "<tool_call>{\"name\":\"n\\u00e4\",\"arguments\":{}}</tool_call>",
        "",
        &[("nä", "{}")],
    );
}

#[test]
fn json_calls_are_the_whole_answer() {
    check_json("{\"name\": \"f\", \"arguments\": {\"a\": 1}}", "", &[("f", "{\"a\": 1}")]);
    check_json(" \n{\"name\":\"f\",\"parameters\":{}} \n", "", &[("f", "{}")]);
    let two =
        " [ {\"name\":\"f\",\"arguments\":{}} , {\"name\":\"g\",\"arguments\":{\"a\":\"]\"}}\n]\n";
    check_json(two, "", &[("f", "{}"), ("g", "{\"a\":\"]\"}")]);
    check_json("{\"name\":\"f\",\"arguments\":{},\"id\":[\"}\"]}", "", &[("f", "{}")]);
}

#[test]
fn arguments_may_come_before_the_name() {
    check_json("{\"arguments\": {\"a\": \"{\"}, \"name\": \"f\"}", "", &[("f", "{\"a\": \"{\"}")]);
    check_hermes("<tool_call>{\"parameters\":{},\"name\":\"f\"}</tool_call>x", "x", &[("f", "{}")]);
    check_no_call(ToolFormat::Json, "{\"arguments\": {\"a\": \"{\"}, \"name\": \"f\"");
}

#[test]
fn what_only_looks_like_a_call_is_text() {
    let objects = [
        "{}",
        "{\"name\": \"Bob\"}",
        "{\"name\": \"Bob\", \"age\": 5}",
        "{\"name\": 5, \"arguments\": {}}",
        "{\"name\": \"\", \"arguments\": {}}",
        "{\"name\": \"f\", \"arguments\": \"{}\"}",
        "{\"name\": \"f\", \"arguments\": []}",
        "{\"name\": \"f\", \"name\": \"g\", \"arguments\": {}}",
        "{\"id\": 1, \"name\": \"f\", \"arguments\": {}}",
        "{\"name\": \"f\\x\", \"arguments\": {}}",
        "{name: 1}",
        "{\"name\": \"a\nb\", \"arguments\": {}}",
        "{\"name\" \"f\"}",
        "{\"name\": \"f\"; \"arguments\": {}}",
        "{\"arguments\": {}, \"arguments\": {}}",
        "{\"arguments\": {}}",
        "{,}",
        "{\"na",
        "{\"name\": \"f\", \"argu",
    ];
    for object in objects {
        check_no_call(ToolFormat::Json, object);
        check_no_call(ToolFormat::Json, &format!("\n[{object}] "));
        check_no_call(ToolFormat::Hermes, &format!("a <tool_call>\n{object}\n</tool_call> b"));
    }
    for text in ["", " \n", "[]", "[1]", "[[{", "a{\"name\":\"f\",\"arguments\":{}}", "<tool_call>"]
    {
        check_no_call(ToolFormat::Json, text);
    }
    for text in [
        "",
        " \n",
        "<",
        "a < b",
        "<tool_cal",
        "<tool_call>",
        "</tool_call>",
        "<<tool_call> x",
        "<tool_call>{",
    ] {
        check_no_call(ToolFormat::Hermes, text);
    }
}

#[test]
fn a_call_behind_something_like_a_call_is_found() {
    let call = "<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>";
    for before in
        ["<tool_call>", "<tool_call>\n", "<", "<tool_", "a <tool_call>{} ", "<tool_call>{\""]
    {
        check_hermes(&format!("{before}{call}"), before, &[("f", "{}")]);
    }
}

#[test]
fn a_call_that_is_cut_keeps_what_was_written() {
    check_json("{\"name\": \"f\", \"arguments\": {\"a\": \"x", "", &[("f", "{\"a\": \"x")]);
    check_json("[{\"name\": \"f\", \"arguments\": {}}, ", "", &[("f", "{}")]);
    check_json("[{\"name\": \"f\", \"arguments\": {}}, {\"na", ", {\"na", &[("f", "{}")]);
    check_hermes("<tool_call>{\"name\": \"f\", \"arguments\": {}}\n</tool_", "", &[("f", "{}")]);
    check_hermes("<tool_call>{\"name\": \"f\", \"arguments\": {}", "", &[("f", "{}")]);
}

#[test]
fn a_call_whose_end_is_missing_ends_where_something_else_begins() {
    let call = "<tool_call>{\"name\":\"f\",\"arguments\":{}";
    check_hermes(&format!("{call}}}{call}}}</tool_call>"), "", &[("f", "{}"); 2]);
    check_hermes(&format!("{call}\n</tool_call>{call}}}"), "", &[("f", "{}"); 2]);
    check_hermes(&format!("{call}}} Done."), " Done.", &[("f", "{}")]);
    check_hermes(&format!("{call}}}}}\n</tool_call>"), "}\n</tool_call>", &[("f", "{}")]);
    check_json("{\"name\":\"f\",\"arguments\":{}} So.", " So.", &[("f", "{}")]);
    check_json("{\"name\":\"f\",\"arguments\":{}}]", "]", &[("f", "{}")]);
    check_json("[{\"name\":\"f\",\"arguments\":{}}, 5]", ", 5]", &[("f", "{}")]);
}

fn text(text: &str) -> Vec<Part> {
    vec![Part::Text(text.to_owned())]
}

fn arguments(index: usize, json: &str) -> Vec<Part> {
    vec![Part::Arguments { index, json: json.to_owned() }]
}

fn check_stream(format: ToolFormat, stream: &[(&str, Vec<Part>)]) {
    let mut parser = ToolCallParser::new(format);
    for (piece, expected) in stream {
        assert_eq!(&parser.push(piece), expected, "{piece}");
    }
    assert_eq!(parser.finish(), []);
}

#[test]
fn only_what_may_become_a_call_is_held_back() {
    let call = |index| Part::Call { index, name: "f".to_owned() };
    check_stream(
        ToolFormat::Hermes,
        &[
            ("I ", text("I ")),
            ("look <", text("look ")),
            ("b> <tool", text("<b> ")),
            ("_call>\n{\"name\": \"f\"", vec![]),
            (", \"arguments\": ", vec![]),
            ("{", [vec![call(0)], arguments(0, "{")].concat()),
            ("\"a\"", arguments(0, "\"a\"")),
            (": 1}", arguments(0, ": 1}")),
            ("}\n</tool_call>\n", vec![]),
            ("<tool_call>{\"arguments\": {}, \"name\": \"f\"", vec![]),
            ("}", [vec![call(1)], arguments(1, "{}")].concat()),
            ("</tool_call>", vec![]),
            ("\nx", text("\nx")),
        ],
    );
    check_stream(
        ToolFormat::Json,
        &[
            ("\n", vec![]),
            (
                "x {\"name\": \"f\", \"arguments\": {}",
                text("\nx {\"name\": \"f\", \"arguments\": {}"),
            ),
            ("<tool_call>", text("<tool_call>")),
        ],
    );
    check_stream(
        ToolFormat::Json,
        &[
            ("[{\"name\":\"f\",\"arguments\":{", [vec![call(0)], arguments(0, "{")].concat()),
            ("}},", arguments(0, "}")),
            ("{\"name\":\"f\",\"arguments\":{}}]", [vec![call(1)], arguments(1, "{}")].concat()),
        ],
    );
}

#[test]
fn an_object_is_text_as_soon_as_it_cannot_be_a_call() {
    let json = ToolFormat::Json;
    check_stream(json, &[("{\"n", vec![]), ("umber", text("{\"number"))]);
    check_stream(json, &[("{\"name\":", vec![]), (" 5", text("{\"name\": 5"))]);
    check_stream(json, &[("{\"name\": \"a\", \"", vec![]), ("n", text("{\"name\": \"a\", \"n"))]);
}

#[test]
fn what_is_held_back_is_bounded() {
    let beginnings = [
        (ToolFormat::Json, "{\"name\": \"", "a"),
        (ToolFormat::Json, "{\"arguments\": {", "[],"),
        (ToolFormat::Json, "", " "),
        (ToolFormat::Hermes, "<tool_call>", "\n"),
        (ToolFormat::Hermes, "<tool_call>{\"arguments\": {\"", "<tool_call>{"),
    ];
    for (format, begin, more) in beginnings {
        let mut parser = ToolCallParser::new(format);
        assert_eq!(parser.push(begin), []);
        let more = more.repeat((1 << 20) / more.len() + 1);
        let parts = parser.push(&more);
        assert!(matches!(&parts[..], [Part::Text(text)] if text.len() + 20 > 1 << 20), "{begin}");
        let all = Answer::read(format, [begin, &more]);
        assert_eq!(all.text, format!("{begin}{more}"));
    }
}

#[test]
fn a_parser_that_has_finished_begins_again() {
    let mut parser = ToolCallParser::new(ToolFormat::Json);
    parser.push("[{\"name\":\"f\",\"arguments\":{");
    assert_eq!(parser.finish(), []);
    let second = parser.push("{\"name\":\"g\",\"arguments\":{}}");
    assert_eq!(second[0], Part::Call { index: 0, name: "g".to_owned() });
}
