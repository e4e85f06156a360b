//! Which faults a run has, when: `kill:expert-node-1@10s,pause:expert-node-2@15s+3s`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::units::duration;

/// A killed process is started again so much later, unless somebody says.
const BACK_AFTER: Duration = Duration::from_secs(1);
/// A fault that lasts longer is a mistake.
const MAX_LASTS: Duration = Duration::from_secs(600);
/// Factors that slowing down can have: below, nothing is slow; above, the node is as good as paused.
const FACTORS: std::ops::RangeInclusive<f64> = 1.1..=100.0;

/// Something that is done to a process of `guildhall up`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// What, and to whom.
    pub what: What,
    /// How long; of a killed process, until it is started again. On the wire in seconds.
    #[serde(rename = "seconds", with = "seconds")]
    pub lasts: Duration,
}

/// What is done, and to whom.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// SIGKILL to a node.
    Kill(String),
    /// SIGSTOP to a node, and SIGCONT in the end.
    Pause(String),
    /// SIGSTOP and SIGCONT in turns, so that a node runs one part of its time in `factor`.
    Slow {
        /// Its name.
        node: String,
        /// How many times as long everything takes.
        factor: f64,
    },
    /// SIGKILL to etcd, which then starts with the data that it had.
    EtcdDown,
}

impl Fault {
    /// Refuses what makes no sense for any cluster.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn check(&self) -> Result<(), String> {
        if self.lasts > MAX_LASTS {
            let (lasts, most) = (self.lasts.as_secs_f64(), MAX_LASTS.as_secs());
            return Err(format!("a fault lasts {most} s at most, and not {lasts} s"));
        }
        match &self.what {
            What::Slow { factor, .. } if !FACTORS.contains(factor) => {
                let (least, most) = (FACTORS.start(), FACTORS.end());
                Err(format!("a node is slowed down by {least} to {most}, and not by {factor}"))
            }
            _ => Ok(()),
        }
    }

    /// The process that it is done to, as `guildhall up` calls it.
    #[must_use]
    pub fn process(&self) -> &str {
        match &self.what {
            What::Kill(node) | What::Pause(node) | What::Slow { node, .. } => node,
            What::EtcdDown => "etcd",
        }
    }
}

/// Times on the wire.
mod seconds {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_f64(time.as_secs_f64())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let seconds = f64::deserialize(from)?;
        Duration::try_from_secs_f64(seconds).map_err(serde::de::Error::custom)
    }
}

/// A fault with its time.
#[derive(Clone, Debug, PartialEq)]
pub struct Timed {
    /// From the start of the run.
    pub at: Duration,
    /// What happens.
    pub fault: Fault,
    /// As it was written.
    pub text: String,
}

/// The faults of a run, in their order.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan(pub Vec<Timed>);

impl FromStr for Timed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let read = || {
            let (what, when) =
                text.split_once('@').ok_or("there is no @TIME, as in kill:expert-node-1@10s")?;
            let (when, lasts) = before_and_after(when, '+');
            let (when, factor) = before_and_after(when, '*');
            let (kind, node) = before_and_after(what, ':');
            let what = what_of(kind, node, factor)?;
            let lasts = match (&what, lasts) {
                (_, Some(lasts)) => duration(lasts)?,
                (What::Kill(_), None) => BACK_AFTER,
                _ => return Err("it does not say for how long, as in @10s+3s".into()),
            };
            let fault = Fault { what, lasts };
            fault.check()?;
            Ok(Self { at: duration(when)?, fault, text: text.to_owned() })
        };
        read().map_err(|what: String| format!("{text:?}: {what}"))
    }
}

fn before_and_after(text: &str, sign: char) -> (&str, Option<&str>) {
    text.split_once(sign).map_or((text, None), |(before, after)| (before, Some(after)))
}

fn what_of(kind: &str, node: Option<&str>, factor: Option<&str>) -> Result<What, String> {
    if factor.is_some() && kind != "slow" {
        return Err("only slow has a factor".into());
    }
    let node = match (kind, node.filter(|node| !node.is_empty())) {
        ("etcd-down", None) => return Ok(What::EtcdDown),
        ("etcd-down", Some(_)) => return Err("there is one etcd, which needs no name".into()),
        ("kill" | "pause" | "slow", None) => {
            return Err(format!("it names no node, as in {kind}:expert-node-1@10s"));
        }
        (_, node) => node.unwrap_or_default().to_owned(),
    };
    match kind {
        "kill" => Ok(What::Kill(node)),
        "pause" => Ok(What::Pause(node)),
        "slow" => {
            let factor = factor.ok_or("it names no factor, as in slow:NODE@10s*5+3s")?;
            let number = factor.parse().map_err(|_| format!("{factor:?} is no factor"))?;
            Ok(What::Slow { node, factor: number })
        }
        _ => Err("it is not kill:, pause:, slow: or etcd-down".into()),
    }
}

impl FromStr for Plan {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut faults: Vec<Timed> = text.split(',').map(str::parse).collect::<Result<_, _>>()?;
        faults.sort_by_key(|timed| timed.at);
        for (index, first) in faults.iter().enumerate() {
            let meets = |second: &&Timed| {
                second.fault.process() == first.fault.process()
                    && second.at <= first.at + first.fault.lasts
            };
            if let Some(second) = faults[index + 1..].iter().find(meets) {
                return Err(format!("{} begins before {} is over", second.text, first.text));
            }
        }
        Ok(Self(faults))
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<&str> = self.0.iter().map(|timed| timed.text.as_str()).collect();
        f.write_str(&texts.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn faults_are_read_in_their_order() {
        let text = "pause:n-2@15s+3s,kill:n-1@10s,slow:n-0@20s*10+5s,etcd-down@25s+500ms";
        let Plan(faults) = text.parse().unwrap();
        let found: Vec<_> = faults.iter().map(|of| (of.at, of.fault.clone())).collect();
        let fault = |what, lasts| Fault { what, lasts };
        let slow = What::Slow { node: "n-0".into(), factor: 10.0 };
        assert_eq!(
            found,
            [
                (S(10), fault(What::Kill("n-1".into()), BACK_AFTER)),
                (S(15), fault(What::Pause("n-2".into()), S(3))),
                (S(20), fault(slow, S(5))),
                (S(25), fault(What::EtcdDown, Duration::from_millis(500))),
            ]
        );
        assert!(text.parse::<Plan>().unwrap().to_string().starts_with("kill:n-1@10s,pause:"));
    }

    #[test]
    fn wrong_faults_are_named() {
        let check = |text: &str, expected: &str| {
            let error = text.parse::<Plan>().unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        };
        check("", "no @TIME");
        check("kill:n-1", "\"kill:n-1\": there is no @TIME");
        check("kill@3s", "names no node");
        check("kill:n@3", "\"3\" is no time");
        check("kill:n@3s+", "\"\" is no time");
        check("kill:n@3s*2", "only slow has a factor");
        check("pause:n@3s", "for how long");
        check("slow:n@3s+1s", "names no factor");
        check("slow:n@3s*fast+1s", "\"fast\" is no factor");
        check("slow:n@3s*1+1s", "by 1.1 to 100");
        check("slow:n@3s*nan+1s", "by 1.1 to 100");
        check("pause:n@3s+11m", "600 s at most");
        check("etcd-down:n@3s+1s", "needs no name");
        check("drop:n@3s+1s", "\"drop:n@3s+1s\": it is not kill:");
        check("pause:n@5s+1s,kill:n@2s+4s", "pause:n@5s+1s begins before kill:n@2s+4s is over");
    }

    #[test]
    fn faults_travel_as_json() {
        for text in ["kill:n@1s", "pause:n@1s+2s", "slow:n@1s*4+2s", "etcd-down@1s+2s"] {
            let fault = text.parse::<Timed>().unwrap().fault;
            let json = serde_json::to_string(&fault).unwrap();
            assert_eq!(serde_json::from_str::<Fault>(&json).unwrap(), fault, "{json}");
        }
        let slow = "{\"what\":{\"slow\":{\"node\":\"n\",\"factor\":4.0}},\"seconds\":2.0}";
        assert!(serde_json::from_str::<Fault>(slow).is_ok());
        assert!(serde_json::from_str::<Fault>(&slow.replace("2.0", "-2.0")).is_err());
    }
}
