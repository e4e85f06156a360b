//! The names and rules that chat templates are written against: Jinja2 as transformers sets it up.

use std::fmt::Write;
use std::time::SystemTime;

use chrono::{DateTime, Utc};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, ValueKind, from_args};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, Value, filters};
use minijinja_contrib::pycompat::unknown_method_callback;

use crate::python::{self, JsonStyle};

/// Instructions of one rendering. A message costs a template some hundred, so that this is room for tens of
/// thousands of messages; a template that uses it all has taken about a second.
pub(crate) const FUEL: u64 = 20_000_000;

/// How deep blocks and calls of macros may lie in one another, where a call counts about five times. Templates need
/// ten; this much fits into a thread's stack of 2 MiB many times over.
const MAX_RECURSION: usize = 200;

/// What a template said with `raise_exception`, on its way through the engine.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refusal(pub(crate) String);

/// An environment without templates; `clock` is what `strftime_now` reads, in UTC.
pub(crate) fn environment(clock: fn() -> SystemTime) -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the default delimiters do not contradict each other"));
    // By default the ending of a template's name decides.
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(MAX_RECURSION);
    environment.set_unknown_method_callback(call_method);
    environment.set_formatter(|out, _, value| Ok(out.write_str(&python::str(value)?)?));
    environment.add_filter("string", |value: &Value| python::str(value));
    environment.add_filter("tojson", to_json);
    environment.add_filter("first", |value: &Value| filters::first(&or_empty(value)));
    environment.add_filter("last", |value: &Value| filters::last(or_empty(value)));
    environment.add_filter("length", |value: &Value| filters::length(&or_empty(value)));
    environment.add_filter("count", |value: &Value| filters::length(&or_empty(value)));
    environment.add_test("sequence", is_sequence);
    environment.add_test("iterable", is_iterable);
    environment.add_function("raise_exception", raise_exception);
    set_clock(&mut environment, clock);
    environment
}

/// Makes `strftime_now` read this clock.
pub(crate) fn set_clock(environment: &mut Environment<'static>, clock: fn() -> SystemTime) {
    environment.add_function("strftime_now", move |format: &str| strftime(clock(), format));
}

/// The template's source without the marks that transformers puts around answers for training, which print nothing.
///
/// They become blocks that the engine knows, with the same effect on white space and on the count of lines.
pub(crate) fn without_training_marks(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (text, block) = rest.split_at(at);
        let (block, after) = block.split_at(block.find("%}").unwrap_or(block.len()));
        out.push_str(text);
        let word = block.trim_start_matches("{%").trim_matches(|c| "+- \t\r\n".contains(c));
        match word {
            "generation" => out.push_str(&block.replace(word, "if true")),
            "endgeneration" => out.push_str(&block.replace(word, "endif")),
            _ => out.push_str(block),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

fn raise_exception(message: &Value) -> Result<Value, Error> {
    let refusal = Refusal(python::str(message)?);
    Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(refusal))
}

fn strftime(now: SystemTime, format: &str) -> Result<String, Error> {
    let mut text = String::new();
    write!(text, "{}", DateTime::<Utc>::from(now).format(format)).map_err(|_| {
        Error::new(ErrorKind::InvalidOperation, format!("{format:?} is not a format of a time"))
    })?;
    Ok(text)
}

/// `json.dumps` with the arguments that transformers passes on.
fn to_json(value: &Value, ensure_ascii: Option<bool>, options: Kwargs) -> Result<String, Error> {
    let indent = match options.get::<Option<Value>>("indent")? {
        None => None,
        Some(indent) if indent.is_none() => None,
        Some(indent) => Some(match indent.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(usize::try_from(indent)?),
        }),
    };
    let separators = match options.get::<Option<Vec<String>>>("separators")? {
        Some(separators) => separators,
        None if indent.is_some() => vec![",".to_owned(), ": ".to_owned()],
        None => vec![", ".to_owned(), ": ".to_owned()],
    };
    let Ok([item_separator, key_separator]) = <[String; 2]>::try_from(separators) else {
        return Err(Error::new(ErrorKind::InvalidOperation, "separators are not two"));
    };
    let style = JsonStyle {
        indent,
        item_separator,
        key_separator,
        sort_keys: options.get::<Option<bool>>("sort_keys")?.unwrap_or_default(),
        ensure_ascii: match options.get::<Option<bool>>("ensure_ascii")? {
            Some(named) => named,
            None => ensure_ascii.unwrap_or_default(),
        },
    };
    options.assert_all_used()?;
    style.dump(value)
}

/// Jinja2 lets what is not defined pass for an empty list.
fn or_empty(value: &Value) -> Value {
    if value.is_undefined() { Value::from_iter([(); 0]) } else { value.clone() }
}

/// Jinja2 calls a sequence what has a length and items, which strings and mappings have too.
fn is_sequence(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::String)
        || value.is_undefined()
}

/// In Python nothing can be iterated over in `None`.
fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

/// Python's methods of strings, lists and dictionaries.
fn call_method(
    state: &mut State,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    match value.as_str() {
        Some(text) => match string_method(text, method, args)? {
            Some(result) => Ok(result),
            None => unknown_method_callback(state, value, method, args),
        },
        None => unknown_method_callback(state, value, method, args),
    }
}

/// The methods of strings that the engine's own collection lacks.
fn string_method(text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let result = match method {
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "partition" => {
            let (separator,): (&str,) = from_args(args)?;
            let (before, after) = text.split_once(separator).unwrap_or((text, ""));
            let found = if before.len() < text.len() { separator } else { "" };
            Value::from_iter([before, found, after])
        }
        "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            let (before, after) = text.rsplit_once(separator).unwrap_or(("", text));
            let found = if after.len() < text.len() { separator } else { "" };
            Value::from_iter([before, found, after])
        }
        "rsplit" => {
            let (separator, limit): (&str, Option<usize>) = from_args(args)?;
            let pieces = limit.map_or(usize::MAX, |limit| limit.saturating_add(1));
            let pieces: Vec<&str> = text.rsplitn(pieces, separator).collect();
            Value::from_iter(pieces.into_iter().rev())
        }
        _ => return Ok(None),
    };
    Ok(Some(result))
}
