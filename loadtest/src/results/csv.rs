//! A line for each request, as it ends.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Record;
use crate::Error;
use crate::units::millis;

const HEADER: &str = "number,kind,intended_s,sent_s,ended_s,ttft_ms,tpot_ms,e2e_ms,prompt_tokens,output_tokens,error";

/// A file that is being written.
pub struct Csv {
    path: PathBuf,
    file: BufWriter<File>,
}

impl Csv {
    /// Makes a file with the names of the columns.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn create(path: &Path) -> Result<Self, Error> {
        let failed = |error: std::io::Error| failed(path, &error);
        let mut file = BufWriter::new(File::create(path).map_err(failed)?);
        writeln!(file, "{HEADER}").map_err(failed)?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Adds a request.
    pub(crate) fn add(&mut self, record: &Record, kind: &str) -> Result<(), Error> {
        let line = line(record, kind);
        writeln!(self.file, "{line}").map_err(|error| failed(&self.path, &error))
    }

    /// Writes what is left.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn finish(mut self) -> Result<(), Error> {
        self.file.flush().map_err(|error| failed(&self.path, &error))
    }
}

fn failed(path: &Path, error: &std::io::Error) -> Error {
    Error::File { path: path.to_owned(), what: format!("writing it: {error}") }
}

fn line(record: &Record, kind: &str) -> String {
    let ms = |time: Option<Duration>| {
        time.map(|time| format!("{:.3}", millis(time))).unwrap_or_default()
    };
    let error = record.failure.as_ref().map(|failure| failure.code.as_str());
    [
        record.number.to_string(),
        quoted(kind),
        format!("{:.6}", record.intended.as_secs_f64()),
        format!("{:.6}", record.sent.as_secs_f64()),
        format!("{:.6}", record.ended.as_secs_f64()),
        ms(record.ttft()),
        ms(record.tpot()),
        ms(Some(record.e2e())),
        record.heard.usage.prompt.to_string(),
        record.heard.output_tokens().to_string(),
        quoted(error.unwrap_or_default()),
    ]
    .join(",")
}

fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        return format!("\"{}\"", text.replace('"', "\"\""));
    }
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::target::{Failure, Heard};

    #[test]
    fn a_line_has_what_its_header_says() {
        let mut heard = Heard::new(Instant::now());
        heard.parts = vec![(Duration::from_millis(1500), 1), (Duration::from_millis(1700), 2)];
        let record = Record {
            number: 7,
            kind: 0,
            intended: Duration::from_secs(1),
            sent: Duration::from_millis(1001),
            ended: Duration::from_secs(2),
            heard,
            failure: Some(Failure::new("a \"b\", c", "")),
        };
        let line = line(&record, "story");
        assert_eq!(
            line,
            "7,story,1.000000,1.001000,2.000000,500.000,100.000,1000.000,0,3,\"a \"\"b\"\", c\""
        );
        assert_eq!(HEADER.split(',').count(), line.replace("\"\", c", "").split(',').count());
    }
}
