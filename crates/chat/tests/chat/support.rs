//! Models that consist of a template, and conversations to render.

use guildhall_chat::{ChatTemplate, Conversation, Error, Part, ToolCallParser, ToolFormat};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// The template of a model that consists of these files.
pub(crate) fn open(files: &[(&str, &str)]) -> Result<Option<ChatTemplate>, Error> {
    let dir = TempDir::new().unwrap();
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    ChatTemplate::open(dir.path(), None)
}

pub(crate) fn template(source: &str) -> ChatTemplate {
    open(&[("chat_template.jinja", source)]).unwrap().unwrap()
}

/// Renders messages with tools, as the beginning of an answer.
pub(crate) fn render(
    template: &ChatTemplate,
    messages: &Value,
    tools: &Value,
) -> Result<String, Error> {
    template.render(&Conversation {
        messages: messages.as_array().unwrap(),
        tools: tools.as_array().unwrap(),
        add_generation_prompt: true,
        continue_final_message: false,
        template_kwargs: &Map::new(),
    })
}

pub(crate) fn question() -> Value {
    json!([{"role": "user", "content": "Hi"}])
}

pub(crate) fn tool(name: &str, parameters: Value) -> Value {
    json!({"type": "function", "function": {"name": name, "parameters": parameters}})
}

/// An answer as a client gets it in the end.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) calls: Vec<(String, String)>,
    /// The parts in their order, where neighbours of one kind are one.
    pub(crate) parts: Vec<Part>,
}

impl Answer {
    pub(crate) fn read<'a>(format: ToolFormat, pieces: impl IntoIterator<Item = &'a str>) -> Self {
        let mut parser = ToolCallParser::new(format);
        let mut answer = Self::default();
        for piece in pieces {
            parser.push(piece).into_iter().for_each(|part| answer.add(part));
        }
        parser.finish().into_iter().for_each(|part| answer.add(part));
        answer
    }

    fn add(&mut self, part: Part) {
        match &part {
            Part::Text(text) => {
                assert_ne!(text, "", "a part without content");
                self.text.push_str(text);
            }
            Part::Call { index, name } => {
                assert_eq!(*index, self.calls.len());
                self.calls.push((name.clone(), String::new()));
            }
            Part::Arguments { index, json } => {
                assert_eq!(*index + 1, self.calls.len());
                self.calls[*index].1.push_str(json);
            }
        }
        match (self.parts.last_mut(), part) {
            (Some(Part::Text(last)), Part::Text(text)) => last.push_str(&text),
            (Some(Part::Arguments { json: last, .. }), Part::Arguments { json, .. }) => {
                last.push_str(&json);
            }
            (_, part) => self.parts.push(part),
        }
    }
}
