//! Requests as somebody recorded them: a file with their times, lengths and, if it has them, their prompts.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, NaiveDateTime};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;
use serde_json::Value;

use super::{Planned, Prompt, request_rng};
use crate::Error;

/// The first line of the Azure LLM inference traces.
const AZURE_HEADER: &str = "TIMESTAMP,ContextTokens,GeneratedTokens";
/// A hash of a Mooncake trace stands for so many tokens of a prompt.
const BLOCK_TOKENS: u32 = 512;
/// A longer prompt is none: a digit too many would fill the memory.
const MAX_TOKENS: u32 = 1 << 22;
/// Keeps the streams of blocks apart from those of requests.
const BLOCKS: u64 = 0xb10c;

/// A recorded load.
#[derive(Clone, Debug)]
pub struct Replay {
    /// In the order of their times, which count from the first.
    calls: Arc<[Call]>,
    /// So many times as fast as it was recorded.
    speed: f64,
    /// Tokens that are drawn are below this.
    vocabulary: u32,
    seed: u64,
}

/// How what a trace does not say is made up.
#[derive(Clone, Copy, Debug)]
pub struct Replaying {
    /// So many times as fast as it was recorded.
    pub speed: f64,
    /// Tokens that are drawn are below this.
    pub vocabulary: u32,
    /// Of the tokens that are drawn.
    pub seed: u64,
}

/// One line of a trace.
#[derive(Clone, Debug, PartialEq)]
struct Call {
    /// In the trace's own time, in seconds.
    at: f64,
    asked: Asked,
    output_tokens: u32,
}

/// What a trace says of a prompt.
#[derive(Clone, Debug, PartialEq)]
enum Asked {
    Prompt(Prompt),
    /// Its length alone.
    Tokens(u32),
    /// Its length, and of each block a hash: prompts that begin with the same hashes begin with the same tokens.
    Blocks(u32, Vec<u64>),
}

impl Replay {
    /// Reads a trace: JSON lines of ours or of Mooncake, or CSV of Azure.
    ///
    /// # Errors
    /// The file cannot be read, or a line is none of these; it is named by its number.
    pub fn read(path: &Path, how: Replaying) -> Result<Self, Error> {
        let wrong = |what: String| Error::Setting(format!("--trace {}: {what}", path.display()));
        if how.vocabulary == 0 {
            return Err(Error::Setting("--vocabulary 0 has no tokens for a trace".into()));
        }
        let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        let calls = parse(&text).map_err(wrong)?.into();
        Ok(Self { calls, speed: how.speed, vocabulary: how.vocabulary, seed: how.seed })
    }

    /// How many requests it has.
    #[must_use]
    pub fn n_requests(&self) -> usize {
        self.calls.len()
    }

    /// The request of this number, if there is one.
    pub(super) fn request(&self, number: u64) -> Option<Planned> {
        let call = self.calls.get(usize::try_from(number).ok()?)?;
        let seconds = (call.at - self.calls[0].at) / self.speed;
        Some(Planned {
            number,
            at: Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)),
            kind: 0,
            prompt: self.prompt(number, &call.asked),
            output_tokens: call.output_tokens,
        })
    }

    fn prompt(&self, number: u64, asked: &Asked) -> Prompt {
        let (length, hashes) = match asked {
            Asked::Prompt(prompt) => return prompt.clone(),
            Asked::Tokens(length) => (*length, &[][..]),
            Asked::Blocks(length, hashes) => (*length, &hashes[..]),
        };
        let mut ids = Vec::with_capacity(length as usize);
        for hash in hashes {
            let tokens = (length - ids.len() as u32).min(BLOCK_TOKENS);
            let mut block = ChaCha8Rng::seed_from_u64(self.seed ^ hash.rotate_left(32) ^ BLOCKS);
            ids.extend((0..tokens).map(|_| block.random_range(0..self.vocabulary)));
        }
        let mut rng = request_rng(self.seed, number);
        ids.extend((ids.len() as u32..length).map(|_| rng.random_range(0..self.vocabulary)));
        Prompt::TokenIds(ids)
    }
}

/// A line of our own form.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    at: f64,
    prompt: Option<String>,
    token_ids: Option<Vec<u32>>,
    input_tokens: Option<u32>,
    output_tokens: u32,
}

/// A line of a Mooncake trace; its time is in milliseconds.
#[derive(Deserialize)]
struct MooncakeLine {
    timestamp: f64,
    input_length: u32,
    output_length: u32,
    #[serde(default)]
    hash_ids: Vec<u64>,
}

fn parse(text: &str) -> Result<Vec<Call>, String> {
    let mut lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()).peekable();
    let azure = lines.next_if(|(_, line)| line.trim() == AZURE_HEADER).is_some();
    let parse_line = if azure { azure_line } else { json_line };
    let mut calls = Vec::new();
    for (number, line) in lines {
        let call = parse_line(line.trim()).and_then(check);
        calls.push(call.map_err(|what| format!("line {number}: {what}"))?);
    }
    if calls.is_empty() {
        return Err("there is no request in it".into());
    }
    calls.sort_by(|first: &Call, second| first.at.total_cmp(&second.at));
    Ok(calls)
}

/// Refuses what cannot be sent.
fn check(call: Call) -> Result<Call, String> {
    let tokens = match &call.asked {
        Asked::Prompt(Prompt::Text(text)) => text.len(),
        Asked::Prompt(Prompt::TokenIds(ids)) => ids.len(),
        Asked::Tokens(length) | Asked::Blocks(length, _) => *length as usize,
    };
    match &call.asked {
        _ if !call.at.is_finite() => Err("its time is no number".into()),
        _ if tokens == 0 => Err("its prompt is empty".into()),
        _ if call.output_tokens == 0 => Err("its answer has no tokens".into()),
        Asked::Tokens(length) | Asked::Blocks(length, _) if *length > MAX_TOKENS => {
            Err(format!("its prompt has {length} tokens, over {MAX_TOKENS}"))
        }
        Asked::Blocks(length, hashes) if hashes.len() > length.div_ceil(BLOCK_TOKENS) as usize => {
            let blocks = hashes.len();
            Err(format!("{length} tokens are fewer than its {blocks} blocks of {BLOCK_TOKENS}"))
        }
        _ => Ok(call),
    }
}

fn json_line(line: &str) -> Result<Call, String> {
    let value: Value = serde_json::from_str(line).map_err(|error| format!("no JSON: {error}"))?;
    if value.get("timestamp").is_some() {
        let line: MooncakeLine = serde_json::from_value(value)
            .map_err(|error| format!("no line of a Mooncake trace: {error}"))?;
        return Ok(Call {
            at: line.timestamp / 1e3,
            asked: match line.hash_ids.is_empty() {
                true => Asked::Tokens(line.input_length),
                false => Asked::Blocks(line.input_length, line.hash_ids),
            },
            output_tokens: line.output_length,
        });
    }
    let form = "{\"at\": SECONDS, \"prompt\" or \"token_ids\" or \"input_tokens\": …, \"output_tokens\": N}";
    let line: Line =
        serde_json::from_value(value).map_err(|error| format!("not {form}: {error}"))?;
    let asked = match (line.prompt, line.token_ids, line.input_tokens) {
        (Some(text), None, None) => Asked::Prompt(Prompt::Text(text)),
        (None, Some(ids), None) => Asked::Prompt(Prompt::TokenIds(ids)),
        (None, None, Some(tokens)) => Asked::Tokens(tokens),
        _ => return Err("it needs one of prompt, token_ids and input_tokens".into()),
    };
    Ok(Call { at: line.at, asked, output_tokens: line.output_tokens })
}

fn azure_line(line: &str) -> Result<Call, String> {
    let fields: Vec<&str> = line.split(',').collect();
    let [time, context, generated] = fields[..] else {
        return Err(format!("it has {} fields, not those of {AZURE_HEADER}", fields.len()));
    };
    let count =
        |text: &str| text.trim().parse().map_err(|_| format!("{text:?} is no number of tokens"));
    let (context, generated): (u32, u32) = (count(context)?, count(generated)?);
    let at = seconds(time)
        .ok_or_else(|| format!("{time:?} is no time, such as 2023-11-16 18:15:46.6805900"))?;
    Ok(Call { at, asked: Asked::Tokens(context), output_tokens: generated })
}

/// A date and time as seconds from 1970, with or without an offset from UTC.
fn seconds(text: &str) -> Option<f64> {
    let with_offset = DateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f%:z");
    let utc = with_offset.map(|time| time.to_utc()).or_else(|_| {
        NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f").map(|time| time.and_utc())
    });
    let utc = utc.ok()?;
    Some(utc.timestamp() as f64 + f64::from(utc.timestamp_subsec_nanos()) / 1e9)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn replay(text: &str, speed: f64) -> Vec<Planned> {
        let calls = parse(text).unwrap().into();
        let replay = Replay { calls, speed, vocabulary: 100, seed: 7 };
        (0..).map_while(|number| replay.request(number)).collect()
    }

    fn ids(planned: &Planned) -> &[u32] {
        match &planned.prompt {
            Prompt::TokenIds(ids) => ids,
            Prompt::Text(text) => panic!("{text:?} is a text"),
        }
    }

    #[test]
    fn a_trace_is_played_in_order_from_its_first_request_at_any_speed() {
        let text = "{\"at\": 7.0, \"token_ids\": [4, 5], \"output_tokens\": 2}\n\n\
                    {\"at\": 5.0, \"prompt\": \"a\", \"output_tokens\": 3}\n\
                    {\"at\": 9.0, \"input_tokens\": 6, \"output_tokens\": 1}\n";
        let calls = replay(text, 2.0);
        let times: Vec<_> = calls.iter().map(|call| call.at.unwrap().as_millis()).collect();
        assert_eq!(times, [0, 1000, 2000]);
        assert_eq!(calls[0].prompt, Prompt::Text("a".into()));
        assert_eq!((ids(&calls[1]), calls[1].output_tokens), (&[4, 5][..], 2));
        assert_eq!(ids(&calls[2]).len(), 6);
        assert!(ids(&calls[2]).iter().all(|id| *id < 100));
        assert_eq!(calls, replay(text, 2.0), "one seed is one load");
    }

    #[test]
    fn prompts_with_the_same_hashes_begin_with_the_same_tokens() {
        let line = |length: u32, hashes: &str| {
            format!(
                "{{\"timestamp\": 1500, \"input_length\": {length}, \"output_length\": 9, \"hash_ids\": [{hashes}]}}\n"
            )
        };
        let text = line(1030, "3, 8, 9") + &line(1200, "3, 8, 10") + &line(600, "4");
        let calls = replay(&text, 1.0);
        assert_eq!(calls.iter().map(|call| ids(call).len()).collect::<Vec<_>>(), [1030, 1200, 600]);
        assert_eq!(ids(&calls[0])[..1024], ids(&calls[1])[..1024]);
        assert_ne!(ids(&calls[0])[1024..], ids(&calls[1])[1024..1030]);
        assert_ne!(ids(&calls[0])[..512], ids(&calls[2])[..512]);
    }

    #[test]
    fn traces_of_azure_are_read() {
        let text = "TIMESTAMP,ContextTokens,GeneratedTokens\n\
                    2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n";
        let calls = replay(text, 1.0);
        let gap = calls[1].at.unwrap().as_secs_f64();
        assert!((gap - 4.314_579).abs() < 1e-5, "{gap}");
        assert_eq!((ids(&calls[1]).len(), calls[1].output_tokens), (396, 109));
        assert_eq!(seconds("2024-05-10 00:00:01+00:00"), seconds("2024-05-10 01:00:01.0+01:00"));
    }

    #[test]
    fn bad_lines_are_named() {
        let check = |text: &str, expected: &str| {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected), "{text:?}: {error}");
        };
        check("", "no request");
        check(
            "{\"at\": 0, \"prompt\": \"a\", \"output_tokens\": 1}\n\nnonsense",
            "line 3: no JSON",
        );
        check("{\"at\": 0, \"prompt\": \"a\"}", "line 1: not {\"at\": SECONDS");
        check("{\"at\": 0, \"prompt\": \"a\", \"output_tokens\": 1, \"model\": 1}", "`model`");
        check("{\"at\": 0, \"output_tokens\": 1}", "one of prompt, token_ids and input_tokens");
        check("{\"at\": 0, \"prompt\": \"\", \"output_tokens\": 1}", "prompt is empty");
        check("{\"at\": 0, \"input_tokens\": 5, \"output_tokens\": 0}", "no tokens");
        check("{\"at\": 0, \"input_tokens\": 99999999, \"output_tokens\": 1}", "over 4194304");
        check("{\"timestamp\": 0, \"input_length\": 5}", "line 1: no line of a Mooncake trace");
        let blocks = "{\"timestamp\": 0, \"input_length\": 513, \"output_length\": 1, \"hash_ids\": [1, 2, 3]}";
        check(blocks, "fewer than its 3 blocks");
        check("TIMESTAMP,ContextTokens,GeneratedTokens\nnow,1,1", "line 2: \"now\" is no time");
        check("TIMESTAMP,ContextTokens,GeneratedTokens\n1,2", "line 2: it has 2 fields");
        check("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,-1,1", "\"-1\"");
    }

    proptest! {
        #[test]
        fn a_replay_keeps_every_request_with_its_gaps(
            times in prop::collection::vec(0.0f64..1e4, 1..40),
            speed in 0.1f64..10.0,
        ) {
            let line = |at: &f64| format!("{{\"at\": {at}, \"input_tokens\": 3, \"output_tokens\": 1}}\n");
            let calls = replay(&times.iter().map(line).collect::<String>(), speed);
            let mut sorted = times.clone();
            sorted.sort_by(f64::total_cmp);
            prop_assert_eq!(calls.len(), times.len());
            for (call, at) in calls.iter().zip(&sorted) {
                let expected = (at - sorted[0]) / speed;
                prop_assert!((call.at.unwrap().as_secs_f64() - expected).abs() < 1e-6);
            }
        }
    }
}
