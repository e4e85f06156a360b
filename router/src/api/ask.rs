//! What every API makes of a request before it is checked.

use std::time::Duration;

use guildhall_proto::v1;
use guildhall_telemetry::TraceContext;
use serde_json::{Map, Value};

use crate::traces::RequestTrace;

/// A request in the form of `guildhall.v1`, and what came beside it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ask {
    pub(crate) wire: v1::GenerateRequest,
    /// In place of the prompt of `wire`.
    pub(crate) conversation: Option<Conversation>,
    /// Until when the client waits.
    pub(crate) timeout: Option<Duration>,
    /// The client's own span.
    pub(crate) caller: Option<TraceContext>,
    /// Whether the client wants to see where each step's time goes.
    pub(crate) asks_deep: bool,
    /// What becomes of that; decided before the rest is looked at.
    pub(crate) trace: RequestTrace,
}

/// The header of a client that wants a deep trace.
const DEEP_TRACE: &str = "x-guildhall-deep-trace";

impl Ask {
    /// Takes over what headers say of the trace.
    pub(crate) fn traced<'a>(self, header: impl Fn(&'static str) -> Option<&'a str>) -> Self {
        // A header that cannot be read starts no trace, but is no reason to refuse the request.
        let caller =
            header("traceparent").and_then(|text| TraceContext::from_traceparent(text).ok());
        let asks_deep = header(DEEP_TRACE).is_some_and(|text| matches!(text, "1" | "true"));
        Self { caller, asks_deep, ..self }
    }

    /// What is asked for, as OpenTelemetry names it.
    pub(crate) fn operation(&self) -> &'static str {
        if self.conversation.is_some() { "chat" } else { "text_completion" }
    }
}

/// A conversation with messages and tools in the form of OpenAI's chat API.
#[derive(Clone, Debug, Default)]
pub(crate) struct Conversation {
    pub(crate) messages: Vec<Value>,
    pub(crate) tools: Vec<Value>,
    pub(crate) tool_choice: ToolChoice,
    pub(crate) continue_final_message: bool,
    /// Go on with the last message rather than with one of the assistant.
    pub(crate) without_generation_prompt: bool,
    pub(crate) template_variables: Map<String, Value>,
}

/// Which tools are called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum ToolChoice {
    /// The model decides.
    #[default]
    Auto,
    /// None; the model does not see any.
    None,
    /// At least one.
    Required,
    /// This one.
    Named(String),
}

impl TryFrom<v1::Chat> for Conversation {
    /// The field that is wrong, and what is wrong with it.
    type Error = (String, String);

    fn try_from(chat: v1::Chat) -> Result<Self, Self::Error> {
        let tool_choice = match (chat.forced_tool.as_str(), chat.tool_choice()) {
            ("", v1::ToolChoice::Auto) => ToolChoice::Auto,
            ("", v1::ToolChoice::None) => ToolChoice::None,
            ("", v1::ToolChoice::Required) => ToolChoice::Required,
            (name, v1::ToolChoice::Auto) => ToolChoice::Named(name.to_owned()),
            _ => return Err(("forced_tool".into(), "contradicts tool_choice".into())),
        };
        let tools = (0..).zip(chat.tools).map(|(index, tool)| self::tool(index, tool));
        let template_variables = match chat.template_variables_json.as_str() {
            "" => Map::new(),
            json => serde_json::from_str(json)
                .map_err(|e| ("template_variables_json".to_owned(), e.to_string()))?,
        };
        Ok(Self {
            messages: chat.messages.into_iter().map(message).collect(),
            tools: tools.collect::<Result<_, _>>()?,
            tool_choice,
            continue_final_message: chat.continue_final_message,
            without_generation_prompt: false,
            template_variables,
        })
    }
}

fn message(message: v1::Message) -> Value {
    let mut value = serde_json::json!({"role": message.role, "content": message.content});
    if !message.tool_calls.is_empty() {
        let calls = message.tool_calls.into_iter().map(|call| {
            serde_json::json!({"id": call.id, "type": "function",
                "function": {"name": call.name, "arguments": call.arguments_json}})
        });
        value["tool_calls"] = calls.collect();
    }
    if !message.tool_call_id.is_empty() {
        value["tool_call_id"] = message.tool_call_id.into();
    }
    value
}

fn tool(index: usize, tool: v1::Tool) -> Result<Value, (String, String)> {
    let mut function = serde_json::json!({"name": tool.name});
    if !tool.description.is_empty() {
        function["description"] = tool.description.into();
    }
    if !tool.parameters_json.is_empty() {
        let parameters: Value = serde_json::from_str(&tool.parameters_json)
            .map_err(|e| (format!("tools[{index}].parameters_json"), e.to_string()))?;
        function["parameters"] = parameters;
    }
    Ok(serde_json::json!({"type": "function", "function": function}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chat_becomes_what_templates_read() {
        let call = v1::ToolCall { id: "1".into(), name: "add".into(), arguments_json: "{}".into() };
        let chat = v1::Chat {
            messages: vec![
                v1::Message { role: "user".into(), content: "hi".into(), ..Default::default() },
                v1::Message {
                    role: "assistant".into(),
                    tool_calls: vec![call],
                    ..Default::default()
                },
            ],
            tools: vec![v1::Tool { name: "add".into(), ..Default::default() }],
            forced_tool: "add".into(),
            ..Default::default()
        };
        let conversation = Conversation::try_from(chat.clone()).unwrap();
        assert_eq!(conversation.messages[0], serde_json::json!({"role": "user", "content": "hi"}));
        assert_eq!(conversation.messages[1]["tool_calls"][0]["function"]["name"], "add");
        assert_eq!(conversation.tools[0]["function"]["name"], "add");
        assert_eq!(conversation.tool_choice, ToolChoice::Named("add".into()));

        let both = v1::Chat { tool_choice: v1::ToolChoice::None.into(), ..chat.clone() };
        assert_eq!(Conversation::try_from(both).unwrap_err().0, "forced_tool");
        let mut broken = chat;
        broken.tools[0].parameters_json = "{".into();
        assert_eq!(Conversation::try_from(broken).unwrap_err().0, "tools[0].parameters_json");
    }
}
