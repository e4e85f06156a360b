//! Times and ranges as people write them: `200ms`, `1.5s`, `16:64`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Longest time that a setting may be.
const MAX_SECONDS: f64 = 7.0 * 24.0 * 3600.0;

/// Reads a time with its unit: us, ms, s or m.
///
/// # Errors
/// A sentence that names the text and what is wrong with it.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time, such as 200ms, 1.5s or 2m");
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
    let (number, unit) = text.split_at(digits);
    let scale = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        _ => return Err(wrong()),
    };
    let seconds = number.parse::<f64>().map_err(|_| wrong())? * scale;
    if seconds > MAX_SECONDS {
        return Err(format!("{text:?} is over seven days"));
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// A number of requests in a second.
///
/// # Errors
/// A sentence that names the text and what is wrong with it.
pub fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok().filter(|rate| (1e-3..=1e6).contains(rate));
    rate.ok_or_else(|| format!("{text:?} is no rate between 0.001 and 1000000 requests a second"))
}

/// How many times as fast something goes.
///
/// # Errors
/// A sentence that names the text and what is wrong with it.
pub fn speed(text: &str) -> Result<f64, String> {
    let speed = text.parse::<f64>().ok().filter(|speed| (1e-3..=1e3).contains(speed));
    speed.ok_or_else(|| format!("{text:?} is not between 0.001 and 1000 times"))
}

/// How many tokens: always as many, or any number from the first to the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// The least.
    pub from: u32,
    /// The most.
    pub to: u32,
}

impl FromStr for Count {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no number of tokens, such as 64 or 16:64");
        let (from, to) = text.split_once(':').unwrap_or((text, text));
        let number = |text: &str| text.parse::<u32>().map_err(|_| wrong());
        let (from, to) = (number(from)?, number(to)?);
        let fits = from > 0 && from <= to;
        fits.then_some(Self { from, to }).ok_or_else(wrong)
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self { from, to } if from == to => from.fmt(f),
            Self { from, to } => write!(f, "{from}:{to}"),
        }
    }
}

/// A time in milliseconds.
#[must_use]
pub fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        let check = |text: &str, ms: f64| assert_eq!(duration(text).map(millis), Ok(ms), "{text}");
        check("200ms", 200.0);
        check("1.5s", 1500.0);
        check("2m", 120_000.0);
        check("0s", 0.0);
        for wrong in ["", "5", "s", "-1s", "1h", "1..2s", "1e9s", "nans", "99999999s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn rates_are_finite_and_above_zero() {
        assert_eq!(rate("2.5"), Ok(2.5));
        for wrong in ["", "0", "-1", "inf", "NaN", "1e9"] {
            assert!(rate(wrong).unwrap_err().contains(wrong));
            assert!(speed(wrong).unwrap_err().contains(wrong));
        }
    }

    #[test]
    fn counts_are_ranges() {
        assert_eq!("64".parse(), Ok(Count { from: 64, to: 64 }));
        assert_eq!("16:64".parse(), Ok(Count { from: 16, to: 64 }));
        for wrong in ["", "0", "4:", "5:4", "1:2:3", "-1"] {
            assert!(wrong.parse::<Count>().is_err(), "{wrong}");
        }
    }
}
