//! What a client asks a prompt for, and the rules that it must keep.

use serde_json::{Map, Value};

use crate::Error;
use crate::messages::check_message;
use crate::tools::check_tools;

/// What every template gets, and no client may replace.
const OUR_VARIABLES: [&str; 5] =
    ["messages", "tools", "add_generation_prompt", "raise_exception", "strftime_now"];

/// One request for a prompt, with messages and tools as OpenAI's chat API has them.
#[derive(Debug, Clone, Copy)]
pub struct Conversation<'a> {
    /// From the oldest to the newest; at least one.
    pub messages: &'a [Value],
    /// What the model may call. A template sees `none` if there is nothing.
    pub tools: &'a [Value],
    /// Whether the prompt ends with the beginning of an answer.
    pub add_generation_prompt: bool,
    /// Whether the prompt ends right behind the last message's content, so that the model goes on with it.
    pub continue_final_message: bool,
    /// More variables of the template, such as `enable_thinking`.
    pub template_kwargs: &'a Map<String, Value>,
}

impl Conversation<'_> {
    /// Checks everything that does not depend on the template.
    ///
    /// # Errors
    ///
    /// The first field that is not as it must be.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.messages.is_empty() {
            return Err(Error::conversation("messages", "are none"));
        }
        for (index, message) in self.messages.iter().enumerate() {
            check_message(message).map_err(|(field, what)| {
                Error::conversation(format!("messages[{index}]{field}"), what)
            })?;
        }
        check_tools(self.tools)?;
        if let Some(name) = self.template_kwargs.keys().find(|name| is_ours(name)) {
            let what = "is a name that the server gives a meaning to";
            return Err(Error::conversation(format!("template_kwargs.{name}"), what));
        }
        self.check_end()
    }

    fn check_end(&self) -> Result<(), Error> {
        if !self.continue_final_message {
            return Ok(());
        }
        if self.add_generation_prompt {
            let what = "contradicts add_generation_prompt, which begins another message";
            return Err(Error::conversation("continue_final_message", what));
        }
        let last = self.messages.len() - 1;
        match &self.messages[last]["content"] {
            Value::String(_) => Ok(()),
            Value::Array(parts) if !parts.is_empty() => Ok(()),
            _ => Err(Error::conversation(
                format!("messages[{last}].content"),
                "is nothing that continue_final_message could go on with",
            )),
        }
    }
}

fn is_ours(name: &str) -> bool {
    OUR_VARIABLES.contains(&name)
}
