//! A service level objective: how long a good answer may take.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::units::{duration, millis};

/// What a good answer keeps within; nothing of it is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slo {
    /// To the first token.
    pub ttft: Option<Duration>,
    /// For each further token.
    pub tpot: Option<Duration>,
    /// To the end.
    pub e2e: Option<Duration>,
}

impl FromStr for Slo {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut slo = Self::default();
        for part in text.split(',') {
            let (name, limit) = part
                .split_once(':')
                .ok_or_else(|| format!("{part:?} is not of the form ttft:200ms"))?;
            let place = match name.trim() {
                "ttft" => &mut slo.ttft,
                "tpot" => &mut slo.tpot,
                "e2e" => &mut slo.e2e,
                other => return Err(format!("{other:?} is not ttft, tpot or e2e")),
            };
            if place.replace(duration(limit.trim())?).is_some() {
                return Err(format!("{name} is there twice"));
            }
        }
        Ok(slo)
    }
}

impl fmt::Display for Slo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [("ttft", self.ttft), ("tpot", self.tpot), ("e2e", self.e2e)];
        let mut parts = Vec::new();
        for (name, limit) in all {
            parts.extend(limit.map(|limit| format!("{name}:{}ms", millis(limit))));
        }
        f.write_str(&parts.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objectives_are_read_and_wrong_ones_named() {
        let slo: Slo = "ttft:200ms,tpot:0.05s".parse().unwrap();
        assert_eq!(slo.to_string(), "ttft:200ms,tpot:50ms");
        let check = |text: &str, expected: &str| {
            let error = text.parse::<Slo>().unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        };
        check("", "form ttft:200ms");
        check("ttft=200ms", "\"ttft=200ms\"");
        check("ttft:200ms,fast:1s", "\"fast\"");
        check("ttft:200", "\"200\"");
        check("ttft:1s,ttft:2s", "twice");
    }
}
