//! Messages: what they must be, and the form in which a template expects them.

use serde_json::{Map, Value};

use crate::reads::Reads;

/// Who may say something.
const ROLES: [&str; 6] = ["system", "developer", "user", "assistant", "tool", "function"];

/// The keys under which clients send a message's reasoning. Templates read the first, a few the second.
const REASONING_KEYS: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// The field inside a message, such as `.content[1]`, and what is wrong with it.
pub(crate) type Fault = (String, &'static str);

/// Checks one message of a client.
pub(crate) fn check_message(message: &Value) -> Result<(), Fault> {
    if !message.is_object() {
        return Err((String::new(), "is not an object"));
    }
    match message["role"].as_str() {
        None => return Err((".role".to_owned(), "is not a string")),
        Some(role) if !ROLES.contains(&role) => {
            let what = "is not system, developer, user, assistant, tool or function";
            return Err((".role".to_owned(), what));
        }
        Some(_) => (),
    }
    let calls = match &message["tool_calls"] {
        Value::Null => &[],
        Value::Array(calls) => &calls[..],
        _ => return Err((".tool_calls".to_owned(), "is not a list")),
    };
    for (index, call) in calls.iter().enumerate() {
        check_call(call).map_err(|(field, what)| (format!(".tool_calls[{index}]{field}"), what))?;
    }
    check_content(&message["content"], !calls.is_empty())
}

fn check_content(content: &Value, has_calls: bool) -> Result<(), Fault> {
    match content {
        Value::String(_) => Ok(()),
        Value::Array(parts) => parts.iter().enumerate().try_for_each(|(index, part)| {
            check_part(part).map_err(|(field, what)| (format!(".content[{index}]{field}"), what))
        }),
        Value::Null if has_calls => Ok(()),
        Value::Null => Err((".content".to_owned(), "is missing, and there are no tool_calls")),
        _ => Err((".content".to_owned(), "is neither a string nor a list of parts")),
    }
}

fn check_part(part: &Value) -> Result<(), (&'static str, &'static str)> {
    match (&part["type"], &part["text"]) {
        (Value::String(kind), Value::String(_)) if kind == "text" => Ok(()),
        (Value::String(kind), _) if kind == "text" => Err((".text", "is not a string")),
        (Value::String(_), _) => Err((".type", "is not \"text\", and this model reads only text")),
        _ => Err((".type", "is not a string")),
    }
}

fn check_call(call: &Value) -> Result<(), (&'static str, &'static str)> {
    let function = &call["function"];
    if !function.is_object() {
        return Err((".function", "is not an object"));
    }
    if function["name"].as_str().is_none_or(str::is_empty) {
        return Err((".function.name", "is not the name of a function"));
    }
    match &function["arguments"] {
        Value::String(_) | Value::Object(_) | Value::Null => Ok(()),
        _ => Err((".function.arguments", "is neither a string nor an object")),
    }
}

/// A checked message in the form that templates are written for.
pub(crate) fn for_template(message: &Value, reads: Reads) -> Value {
    let mut message = message.clone();
    let Value::Object(fields) = &mut message else { return message };
    if !reads.developer && fields.get("role").is_some_and(|role| role == "developer") {
        fields.insert("role".to_owned(), "system".into());
    }
    if !reads.parts {
        join_parts(fields);
    }
    if let Some(Value::Array(calls)) = fields.get_mut("tool_calls")
        && !reads.arguments_text
    {
        calls.iter_mut().for_each(parse_arguments);
    }
    spread_reasoning(fields);
    message
}

/// Makes one text of several, as paragraphs.
fn join_parts(fields: &mut Map<String, Value>) {
    if let Some(Value::Array(parts)) = fields.get("content") {
        let texts: Vec<&str> = parts.iter().filter_map(|part| part["text"].as_str()).collect();
        let text = texts.join("\n").into();
        fields.insert("content".to_owned(), text);
    }
}

/// Clients send the arguments as text, most templates print them as an object.
fn parse_arguments(call: &mut Value) {
    let Some(arguments) = call.pointer_mut("/function/arguments") else { return };
    let Some(text) = arguments.as_str() else { return };
    if text.trim().is_empty() {
        *arguments = Map::new().into();
    } else if let Ok(object @ Value::Object(_)) = serde_json::from_str(text) {
        *arguments = object;
    }
}

/// Gives the reasoning every name that a template may read it by.
fn spread_reasoning(fields: &mut Map<String, Value>) {
    let given = REASONING_KEYS.iter().filter_map(|key| fields.get(*key));
    let Some(reasoning) = given.into_iter().find(|value| !value.is_null()).cloned() else { return };
    fields.entry("thinking").or_insert_with(|| reasoning.clone());
    fields.insert("reasoning_content".to_owned(), reasoning);
}
