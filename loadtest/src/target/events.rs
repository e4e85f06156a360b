//! Server-sent events, cut anywhere: the data of each.

use super::Failure;

/// A line that is longer is none of an answer.
const MAX_LINE_BYTES: usize = 16 << 20;

/// The beginning of a stream's next line and event.
#[derive(Debug, Default)]
pub(super) struct Events {
    line: Vec<u8>,
    data: Vec<String>,
}

impl Events {
    /// Takes in more bytes, and gives the data of the events that they complete.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<Vec<String>, Failure> {
        let mut events = Vec::new();
        for &byte in bytes {
            if byte != b'\n' {
                self.line.push(byte);
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let line = String::from_utf8_lossy(&line);
            let line = line.strip_suffix('\r').unwrap_or(&line);
            if let Some(data) = line.strip_prefix("data:") {
                self.data.push(data.strip_prefix(' ').unwrap_or(data).to_owned());
            } else if line.is_empty() && !self.data.is_empty() {
                events.push(std::mem::take(&mut self.data).join("\n"));
            }
        }
        if self.line.len() > MAX_LINE_BYTES {
            return Err(Failure::new("no sense", "a line of the stream has no end"));
        }
        Ok(events)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STREAM: &[u8] = b": hello\ndata: {\"a\":1}\n\nevent: x\r\ndata:two\r\ndata: lines\r\n\r\n\n\ndata: [DONE]\n\n";

    proptest! {
        #[test]
        fn events_do_not_depend_on_where_the_stream_is_cut(
            cuts in prop::collection::vec(0..STREAM.len(), 0..10),
        ) {
            let mut cuts = cuts;
            cuts.extend([0, STREAM.len()]);
            cuts.sort_unstable();
            let mut events = Events::default();
            let mut found = Vec::new();
            for pair in cuts.windows(2) {
                found.extend(events.feed(&STREAM[pair[0]..pair[1]]).unwrap());
            }
            prop_assert_eq!(found, ["{\"a\":1}", "two\nlines", "[DONE]"]);
        }
    }
}
