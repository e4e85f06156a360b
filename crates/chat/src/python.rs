//! How Python writes values: as JSON, and as the text of `str` and `repr`.

use std::fmt::Write;

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};

/// Levels of lists and objects in one another. More than any JSON text that was parsed has, and little stack.
const MAX_DEPTH: usize = 300;

/// The settings of Python's `json.dumps`.
#[derive(Debug)]
pub(crate) struct JsonStyle {
    /// What one level is indented by; nothing keeps everything in one line.
    pub(crate) indent: Option<String>,
    pub(crate) item_separator: String,
    pub(crate) key_separator: String,
    pub(crate) sort_keys: bool,
    pub(crate) ensure_ascii: bool,
}

impl JsonStyle {
    /// Writes a value as `json.dumps` does.
    ///
    /// # Errors
    ///
    /// The value has no JSON form, or is nested too deeply.
    pub(crate) fn dump(&self, value: &Value) -> Result<String, Error> {
        let mut out = String::new();
        self.write(&mut out, value, 0)?;
        Ok(out)
    }

    fn write(&self, out: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
        check_depth(depth)?;
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(&number(value, ["NaN", "Infinity", "-Infinity"])),
            ValueKind::String => self.write_string(out, value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => self.write_list(out, value, depth)?,
            ValueKind::Map => self.write_object(out, value, depth)?,
            kind => return Err(invalid(format!("a value of type {kind} has no JSON form"))),
        }
        Ok(())
    }

    fn write_list(&self, out: &mut String, list: &Value, depth: usize) -> Result<(), Error> {
        let mut items = list.try_iter()?.peekable();
        if items.peek().is_none() {
            out.push_str("[]");
            return Ok(());
        }
        out.push('[');
        for (index, item) in items.enumerate() {
            self.begin_item(out, index, depth + 1);
            self.write(out, &item, depth + 1)?;
        }
        self.end_line(out, depth);
        out.push(']');
        Ok(())
    }

    fn write_object(&self, out: &mut String, object: &Value, depth: usize) -> Result<(), Error> {
        let mut keys: Vec<Value> = object.try_iter()?.collect();
        if keys.is_empty() {
            out.push_str("{}");
            return Ok(());
        }
        if self.sort_keys {
            keys.sort();
        }
        out.push('{');
        for (index, key) in keys.iter().enumerate() {
            self.begin_item(out, index, depth + 1);
            match key.as_str() {
                Some(text) => self.write_string(out, text),
                // Other keys become strings of their JSON text.
                None => self.write_string(out, &self.dump(key)?),
            }
            out.push_str(&self.key_separator);
            self.write(out, &object.get_item(key)?, depth + 1)?;
        }
        self.end_line(out, depth);
        out.push('}');
        Ok(())
    }

    fn begin_item(&self, out: &mut String, index: usize, depth: usize) {
        if index > 0 {
            out.push_str(&self.item_separator);
        }
        self.end_line(out, depth);
    }

    fn end_line(&self, out: &mut String, depth: usize) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(indent.as_str(), depth));
        }
    }

    fn write_string(&self, out: &mut String, text: &str) {
        out.push('"');
        for character in text.chars() {
            match character {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                '\0'..='\x1f' => push_utf16(out, character),
                '\x7f'.. if self.ensure_ascii => push_utf16(out, character),
                _ => out.push(character),
            }
        }
        out.push('"');
    }
}

/// The escapes of a character's UTF-16 form.
fn push_utf16(out: &mut String, character: char) {
    for unit in character.encode_utf16(&mut [0; 2]) {
        push_hex(out, "\\u", 4, u32::from(*unit));
    }
}

/// The text that `str(value)` gives and that `{{ value }}` prints.
///
/// # Errors
///
/// The value is nested too deeply.
pub(crate) fn str(value: &Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::Undefined => Ok(String::new()),
        ValueKind::String => Ok(value.as_str().unwrap_or_default().to_owned()),
        _ => {
            let mut out = String::new();
            write_repr(&mut out, value, 0)?;
            Ok(out)
        }
    }
}

fn write_repr(out: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
    check_depth(depth)?;
    match value.kind() {
        ValueKind::Number => out.push_str(&number(value, ["nan", "inf", "-inf"])),
        ValueKind::String => write_quoted(out, value.as_str().unwrap_or_default()),
        ValueKind::Seq => {
            out.push('[');
            for (index, item) in value.try_iter()?.enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                write_repr(out, &item, depth + 1)?;
            }
            out.push(']');
        }
        ValueKind::Map => {
            out.push('{');
            for (index, key) in value.try_iter()?.enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                write_repr(out, &key, depth + 1)?;
                out.push_str(": ");
                write_repr(out, &value.get_item(&key)?, depth + 1)?;
            }
            out.push('}');
        }
        _ => out.push_str(&value.to_string()),
    }
    Ok(())
}

/// Python quotes with `'`, unless that would need an escape and `"` would not.
fn write_quoted(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for character in text.chars() {
        match character {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            _ if character == quote => {
                out.push('\\');
                out.push(quote);
            }
            '\'' | '"' => out.push(character),
            _ if is_printable(character) => out.push(character),
            '\0'..='\u{ff}' => push_hex(out, "\\x", 2, u32::from(character)),
            '\u{100}'..='\u{ffff}' => push_hex(out, "\\u", 4, u32::from(character)),
            _ => push_hex(out, "\\U", 8, u32::from(character)),
        }
    }
    out.push(quote);
}

/// Rust escapes the same characters as Python, besides quotes, and accents that have no letter to stand on.
fn is_printable(character: char) -> bool {
    format!("a{character}").escape_debug().count() == 2
}

fn push_hex(out: &mut String, prefix: &str, digits: usize, value: u32) {
    // Writing into a string does not fail.
    let _ = write!(out, "{prefix}{value:0digits$x}");
}

/// A number as Python writes it; `special` are its words for what is not a number, infinity and minus infinity.
fn number(value: &Value, special: [&str; 3]) -> String {
    match f64::try_from(value.clone()) {
        Ok(float) if !value.is_integer() => float_text(float, special),
        _ => value.to_string(),
    }
}

/// The shortest digits that read back as the same number, with an exponent below 1e-4 and from 1e16 on.
fn float_text(float: f64, special: [&str; 3]) -> String {
    if float.is_nan() {
        return special[0].to_owned();
    }
    if float.is_infinite() {
        return special[if float > 0.0 { 1 } else { 2 }].to_owned();
    }
    let scientific = format!("{float:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        return format!("{float:?}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

fn check_depth(depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(invalid(format!("a value is nested more than {MAX_DEPTH} levels deep")));
    }
    Ok(())
}

fn invalid(what: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, what)
}
