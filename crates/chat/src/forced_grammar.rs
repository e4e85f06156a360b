//! A grammar that leaves a model no choice but to call a tool.

use serde_json::{Value, json};

use crate::tools::{check_tools, tool_name};
use crate::{Error, ToolFormat};

/// Which calls an answer must consist of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forced<'a> {
    /// One call or more, of any tools.
    Any,
    /// One call of the tool of this name.
    Named(&'a str),
}

/// Writes a grammar in the Lark dialect of llguidance whose texts are exactly such calls.
///
/// The name comes before the arguments, with the separators of Python's `json.dumps`, as templates show calls to the
/// model. The arguments follow the schema in the tool's `parameters`, with the same separators and no other white
/// space: a model could write that without end.
///
/// # Errors
///
/// A tool is not well-formed, there are none, or none has the name that is asked for. Whether a schema can be
/// followed shows only when the grammar is compiled.
pub fn forced_grammar(
    format: ToolFormat,
    tools: &[Value],
    choice: Forced<'_>,
) -> Result<String, Error> {
    check_tools(tools)?;
    let callable: Vec<&Value> = match choice {
        Forced::Any => tools.iter().collect(),
        Forced::Named(name) => {
            tools.iter().filter(|tool| tool_name(tool) == name).take(1).collect()
        }
    };
    if callable.is_empty() {
        let what = match choice {
            Forced::Any => "asks for a call, but there are no tools".to_owned(),
            Forced::Named(name) => format!("asks for {name:?}, which is none of the tools"),
        };
        return Err(Error::conversation("tool_choice", what));
    }
    let names: Vec<String> = (0..callable.len()).map(|index| format!("call_{index}")).collect();
    let mut lines =
        vec![format!("start: {}", start(format, choice)), format!("call: {}", names.join(" | "))];
    for (index, tool) in callable.into_iter().enumerate() {
        let (before, after) = around_arguments(format, tool_name(tool));
        // Lark writes strings as JSON does.
        let (before, after) = (Value::from(before), Value::from(after));
        lines.push(format!("call_{index}: {before} arguments_{index} {after}"));
        lines.push(format!("arguments_{index}: %json {}", arguments_schema(tool)));
    }
    Ok(lines.join("\n"))
}

fn start(format: ToolFormat, choice: Forced<'_>) -> &'static str {
    match (format, choice) {
        (_, Forced::Named(_)) => "call",
        (ToolFormat::Hermes, Forced::Any) => r#"call ("\n" call)*"#,
        (ToolFormat::Json, Forced::Any) => r#"call | "[" call (", " call)* "]""#,
    }
}

/// The text of a call before and behind its arguments.
fn around_arguments(format: ToolFormat, name: &str) -> (String, String) {
    let (before, after) = (format!("{{\"name\": \"{name}\", \"arguments\": "), "}".to_owned());
    match format {
        ToolFormat::Json => (before, after),
        ToolFormat::Hermes => (
            format!("{}\n{before}", ToolFormat::OPENING_TAG),
            format!("{after}\n{}", ToolFormat::CLOSING_TAG),
        ),
    }
}

/// The schema of a tool's arguments, which are an object whatever it leaves open.
fn arguments_schema(tool: &Value) -> Value {
    let mut schema = match &tool["function"]["parameters"] {
        Value::Object(schema) => schema.clone(),
        _ => serde_json::Map::new(),
    };
    schema.entry("type").or_insert_with(|| "object".into());
    let style = json!({
        "item_separator": ", ",
        "key_separator": ": ",
        "whitespace_flexible": false,
    });
    schema.insert("x-guidance".to_owned(), style);
    schema.into()
}
