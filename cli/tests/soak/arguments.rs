//! What the test is told, and how it is run again.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// The arguments. Dropping them in a panic prints how to replay it.
pub(crate) struct Arguments {
    /// How long the load lasts.
    pub(crate) time: Duration,
    pub(crate) seed: u64,
}

const DEFAULT_SECONDS: u64 = 30;
const DEFAULT_SEED: u64 = 1;
/// Less says nothing of memory, which is looked at each second.
const LEAST_SECONDS: u64 = 9;

impl Arguments {
    /// Reads `--seconds N` and `--seed N`. What else cargo passes to every test, such as a filter, is not for this one.
    pub(crate) fn parse(args: impl Iterator<Item = String>) -> Self {
        let args: Vec<String> = args.collect();
        let seconds = number_after("--seconds", &args).unwrap_or(DEFAULT_SECONDS);
        assert!(seconds >= LEAST_SECONDS, "--seconds {seconds} is under {LEAST_SECONDS}");
        let seed = number_after("--seed", &args).unwrap_or(DEFAULT_SEED);
        Self { time: Duration::from_secs(seconds), seed }
    }
}

fn number_after<N: FromStr>(flag: &str, args: &[String]) -> Option<N> {
    let at = args.iter().position(|arg| arg == flag)?;
    let number = args.get(at + 1).and_then(|text| text.parse().ok());
    Some(number.unwrap_or_else(|| panic!("{flag} needs a number")))
}

impl fmt::Display for Arguments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "--seconds {} --seed {}", self.time.as_secs(), self.seed)
    }
}

impl Drop for Arguments {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}; to replay:", self.seed);
            eprintln!("cargo test --package guildhall-cli --test soak -- {self}");
        }
    }
}
