//! The tools that a client offers, checked before a template or a grammar sees them.

use serde_json::Value;

use crate::Error;

/// Bytes of a tool's name.
const MAX_NAME_BYTES: usize = 64;

/// Checks that each tool is a function with a usable name and, where it has parameters, a schema.
///
/// # Errors
///
/// The first field that is not as the API has it, such as `tools[2].function.name`.
pub(crate) fn check_tools(tools: &[Value]) -> Result<(), Error> {
    for (index, tool) in tools.iter().enumerate() {
        check_tool(tool)
            .map_err(|(field, what)| Error::conversation(format!("tools[{index}]{field}"), what))?;
    }
    Ok(())
}

/// The name of a tool that was checked.
pub(crate) fn tool_name(tool: &Value) -> &str {
    tool["function"]["name"].as_str().unwrap_or_default()
}

/// The field inside the tool, and what is wrong with it.
fn check_tool(tool: &Value) -> Result<(), (&'static str, &'static str)> {
    if !tool.is_object() {
        return Err(("", "is not an object"));
    }
    if tool["type"] != "function" {
        return Err((".type", "is not \"function\", the only kind of tool there is"));
    }
    let function = &tool["function"];
    if !function.is_object() {
        return Err((".function", "is not an object"));
    }
    let Some(name) = function["name"].as_str() else {
        return Err((".function.name", "is not a string"));
    };
    if !is_name(name) {
        return Err((".function.name", "is not 1 to 64 of the characters A-Z a-z 0-9 _ . -"));
    }
    match &function["parameters"] {
        Value::Object(_) | Value::Null => Ok(()),
        _ => Err((".function.parameters", "is not a JSON schema, which is an object")),
    }
}

fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    (1..=MAX_NAME_BYTES).contains(&name.len()) && name.bytes().all(allowed)
}
