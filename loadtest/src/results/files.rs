//! The JSON file of a run, written and read.

use std::path::Path;

use super::{FORMAT, Outcome};
use crate::Error;

/// Writes the outcome of a run as JSON.
///
/// # Errors
/// The file cannot be written.
pub fn write(path: &Path, outcome: &Outcome) -> Result<(), Error> {
    let json = serde_json::to_string_pretty(outcome);
    let json = json.map_err(|error| failed(path, format!("making JSON: {error}")))?;
    write_text(path, &(json + "\n"))
}

/// Writes a text.
///
/// # Errors
/// The file cannot be written.
pub fn write_text(path: &Path, text: &str) -> Result<(), Error> {
    std::fs::write(path, text).map_err(|error| failed(path, format!("writing it: {error}")))
}

/// Reads what [`write`] has written.
///
/// # Errors
/// The file cannot be read, or is of another form.
pub fn read(path: &Path) -> Result<Outcome, Error> {
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|error| failed(path, format!("reading it: {error}")))?;
    let outcome: Outcome = serde_json::from_str(&text)
        .map_err(|error| failed(path, format!("it is no result of a load test: {error}")))?;
    if outcome.format == FORMAT {
        return Ok(outcome);
    }
    let what = format!("its format is {}, and {FORMAT} is known", outcome.format);
    Err(failed(path, what))
}

fn failed(path: &Path, what: String) -> Error {
    Error::File { path: path.to_owned(), what }
}
