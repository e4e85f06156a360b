//! Where a model keeps its chat templates and the tokens that they mention.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::Error;

/// The special tokens that templates print.
const TOKENS: [&str; 4] = ["bos_token", "eos_token", "pad_token", "unk_token"];

/// What the files of a model say about its conversations.
#[derive(Debug)]
pub(crate) struct TemplateFiles {
    /// The file with the templates.
    pub(crate) path: PathBuf,
    /// The text of the template.
    pub(crate) default: String,
    /// The text of the one for conversations with tools, where there is another.
    pub(crate) tool_use: Option<String>,
    /// The special tokens by their names, as text.
    pub(crate) tokens: Map<String, Value>,
}

impl TemplateFiles {
    /// Reads `file`, or `chat_template.jinja` in `dir`, or the template in its `tokenizer_config.json`.
    ///
    /// Nothing if the model has no template.
    pub(crate) fn read(dir: &Path, file: Option<&Path>) -> Result<Option<Self>, Error> {
        let config_path = dir.join("tokenizer_config.json");
        let config = match read_if_there(&config_path)? {
            Some(text) => serde_json::from_str(&text)
                .map_err(|error| Error::template(&config_path, error.to_string()))?,
            None => Value::Null,
        };
        let tokens = tokens(&config);
        let beside = dir.join("chat_template.jinja");
        let alone = match file {
            Some(file) => Some((file, read(file)?)),
            None => read_if_there(&beside)?.map(|text| (&*beside, text)),
        };
        if let Some((path, default)) = alone {
            return Ok(Some(Self { path: path.to_owned(), default, tool_use: None, tokens }));
        }
        let (default, tool_use) = match &config["chat_template"] {
            Value::Null => return Ok(None),
            Value::String(text) => (text.clone(), None),
            Value::Array(list) => {
                let default = named(list, "default").ok_or_else(|| {
                    Error::template(&config_path, "none of its chat templates is named default")
                })?;
                (default, named(list, "tool_use"))
            }
            _ => {
                let what = "its chat_template is neither a string nor a list";
                return Err(Error::template(&config_path, what));
            }
        };
        Ok(Some(Self { path: config_path, default, tool_use, tokens }))
    }
}

fn read(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })
}

fn read_if_there(path: &Path) -> Result<Option<String>, Error> {
    match read(path) {
        Err(Error::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Ok(None)
        }
        other => other.map(Some),
    }
}

fn named(list: &[Value], name: &str) -> Option<String> {
    let entry = list.iter().find(|entry| entry["name"] == name)?;
    entry["template"].as_str().map(str::to_owned)
}

/// A token is written as its text, or as an object with its text and how it is matched.
fn tokens(config: &Value) -> Map<String, Value> {
    let text = |name: &str| config[name].as_str().or_else(|| config[name]["content"].as_str());
    let entry = |name: &&str| Some(((*name).to_owned(), text(name)?.into()));
    TOKENS.iter().filter_map(entry).collect()
}
