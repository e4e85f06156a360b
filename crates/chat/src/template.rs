//! A model's chat template: how it turns a conversation into a prompt.

use std::error::Error as _;
use std::path::Path;
use std::time::SystemTime;

use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind};
use serde_json::Value;

use crate::conversation::Conversation;
use crate::environment::{FUEL, Refusal, environment, set_clock, without_training_marks};
use crate::messages::for_template;
use crate::reads::Reads;
use crate::template_files::TemplateFiles;
use crate::{Error, ToolFormat};

/// Stands behind the content that `continue_final_message` ends at. Its space tells whether the template keeps the
/// white space at the end of a message.
const END_MARK: &str = "END_OF_WHAT_IS_CONTINUED ";

/// The chat template of a model, ready to render.
#[derive(Debug)]
pub struct ChatTemplate {
    files: TemplateFiles,
    environment: Environment<'static>,
    default: Variant,
    tool_use: Option<Variant>,
}

/// One of a model's templates.
#[derive(Debug)]
struct Variant {
    /// Its name in the environment.
    name: &'static str,
    reads: Reads,
}

impl ChatTemplate {
    /// Reads and compiles the template of the model in `dir`, if it has one.
    ///
    /// It is `file` where one is named, or else `chat_template.jinja`, or else the `chat_template` in
    /// `tokenizer_config.json`: a string, or a list in which `tool_use` is for conversations with tools and `default`
    /// for all others.
    ///
    /// # Errors
    ///
    /// A file that is named or there cannot be read, or what stands in it cannot be understood.
    pub fn open(dir: &Path, file: Option<&Path>) -> Result<Option<Self>, Error> {
        let Some(files) = TemplateFiles::read(dir, file)? else { return Ok(None) };
        let mut environment = environment(SystemTime::now);
        let default = add(&mut environment, &files, "default", &files.default)?;
        let tool_use = match &files.tool_use {
            Some(source) => Some(add(&mut environment, &files, "tool_use", source)?),
            None => None,
        };
        Ok(Some(Self { files, environment, default, tool_use }))
    }

    /// Makes `strftime_now` read another clock than the system's.
    #[must_use]
    pub fn with_clock(mut self, clock: fn() -> SystemTime) -> Self {
        set_clock(&mut self.environment, clock);
        self
    }

    /// How the model writes tool calls, as far as its template tells.
    #[must_use]
    pub fn tool_format(&self) -> ToolFormat {
        self.tool_use.as_ref().unwrap_or(&self.default).reads.tool_format
    }

    /// Renders a conversation as the model was trained to read it, as transformers does.
    ///
    /// # Errors
    ///
    /// The conversation is not well-formed, the template refuses it, or the template is broken.
    pub fn render(&self, conversation: &Conversation<'_>) -> Result<String, Error> {
        conversation.check()?;
        let variant = match &self.tool_use {
            Some(tool_use) if !conversation.tools.is_empty() => tool_use,
            _ => &self.default,
        };
        let messages = conversation.messages.iter();
        let mut messages: Vec<Value> =
            messages.map(|message| for_template(message, variant.reads)).collect();
        if !conversation.continue_final_message {
            return self.fill(variant, conversation, messages);
        }
        mark_end(&mut messages);
        let text = self.fill(variant, conversation, messages)?;
        cut_at_mark(text).ok_or_else(|| {
            let what = "the model's chat template does not print the last message's content";
            Error::conversation("continue_final_message", what)
        })
    }

    fn fill(
        &self,
        variant: &Variant,
        conversation: &Conversation<'_>,
        messages: Vec<Value>,
    ) -> Result<String, Error> {
        let mut variables = self.files.tokens.clone();
        // transformers always names this one.
        variables.insert("documents".to_owned(), Value::Null);
        variables.extend(conversation.template_kwargs.clone());
        let tools = match conversation.tools {
            [] => Value::Null,
            tools => tools.into(),
        };
        variables.insert("tools".to_owned(), tools);
        variables.insert("messages".to_owned(), messages.into());
        let begin_answer = conversation.add_generation_prompt.into();
        variables.insert("add_generation_prompt".to_owned(), begin_answer);
        let variables = minijinja::Value::from(Serde(variables));
        let template = self.environment.get_template(variant.name);
        let text = template.and_then(|template| template.render(variables));
        text.map_err(|error| self.failure(&error))
    }

    /// Tells a refusal from a failure.
    fn failure(&self, error: &minijinja::Error) -> Error {
        let mut source = error.source();
        while let Some(cause) = source {
            if let Some(Refusal(message)) = cause.downcast_ref() {
                return Error::Refused(message.clone());
            }
            source = cause.source();
        }
        broken(&self.files.path, error)
    }
}

fn add(
    environment: &mut Environment<'static>,
    files: &TemplateFiles,
    name: &'static str,
    source: &str,
) -> Result<Variant, Error> {
    let added = environment.add_template_owned(name, without_training_marks(source));
    added.map_err(|error| broken(&files.path, &error))?;
    Ok(Variant { name, reads: Reads::of(source) })
}

/// The engine's error with its causes, from the outermost to the innermost, and the line of the template.
fn broken(path: &Path, error: &minijinja::Error) -> Error {
    if error.kind() == ErrorKind::OutOfFuel {
        return Error::template(
            path,
            format!("its chat template has not ended after {FUEL} steps"),
        );
    }
    let mut what = match error.line() {
        Some(line) => format!("line {line} of its chat template: {}", error.kind()),
        None => format!("its chat template: {}", error.kind()),
    };
    if let Some(detail) = error.detail() {
        what.push_str(": ");
        what.push_str(detail);
    }
    let mut source = error.source();
    while let Some(cause) = source {
        what.push_str(": ");
        what.push_str(&cause.to_string());
        source = cause.source();
    }
    Error::template(path, what)
}

/// Puts the mark behind the last message's content, or behind the last of its parts.
fn mark_end(messages: &mut [Value]) {
    let content = messages.last_mut().and_then(|message| message.get_mut("content"));
    let text = match content {
        Some(Value::Array(parts)) => parts.last_mut().and_then(|part| part.get_mut("text")),
        content => content,
    };
    if let Some(Value::String(text)) = text {
        text.push_str(END_MARK);
    }
}

/// What stands before the mark, without the white space that the template would have taken away there.
fn cut_at_mark(mut text: String) -> Option<String> {
    let at = text.rfind(END_MARK.trim_end())?;
    let keeps_space = text[at..].starts_with(END_MARK);
    text.truncate(at);
    if !keeps_space {
        text.truncate(text.trim_end().len());
    }
    Some(text)
}
