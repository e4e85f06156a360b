//! What was asked, and how it went.

use std::collections::BTreeMap;
use std::fmt;

/// What a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Of the pool whose answers are known.
    Fixed,
    Tokens,
    Text,
    Chat,
    Constrained,
    /// Any of these with little time.
    Deadline,
    /// Any of these with something wrong.
    Bad,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    Finished,
    /// The client left.
    Left,
    /// RESOURCE_EXHAUSTED.
    Refused,
    /// DEADLINE_EXCEEDED.
    TimeOver,
    /// INVALID_ARGUMENT or NOT_FOUND.
    Invalid,
}

const KINDS: [Kind; 7] = [
    Kind::Fixed,
    Kind::Tokens,
    Kind::Text,
    Kind::Chat,
    Kind::Constrained,
    Kind::Deadline,
    Kind::Bad,
];
const OUTCOMES: [Outcome; 5] =
    [Outcome::Finished, Outcome::Left, Outcome::Refused, Outcome::TimeOver, Outcome::Invalid];

/// Requests by kind and outcome. Displays as a table.
#[derive(Default)]
pub(crate) struct Tally {
    requests: BTreeMap<(Kind, Outcome), u64>,
    tokens: usize,
}

impl Tally {
    pub(crate) fn count(&mut self, kind: Kind, outcome: Outcome, tokens: usize) {
        *self.requests.entry((kind, outcome)).or_default() += 1;
        self.tokens += tokens;
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (key, count) in &other.requests {
            *self.requests.entry(*key).or_default() += count;
        }
        self.tokens += other.tokens;
    }

    /// Generated tokens that clients have read.
    pub(crate) fn tokens(&self) -> usize {
        self.tokens
    }

    pub(crate) fn of(&self, outcome: Outcome) -> u64 {
        self.requests.iter().filter(|((_, other), _)| *other == outcome).map(|(_, n)| n).sum()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:12}", "requests")?;
        for outcome in OUTCOMES {
            write!(f, "{:>10}", format!("{outcome:?}"))?;
        }
        for kind in KINDS {
            write!(f, "\n{:12}", format!("{kind:?}"))?;
            for outcome in OUTCOMES {
                write!(f, "{:10}", self.requests.get(&(kind, outcome)).unwrap_or(&0))?;
            }
        }
        write!(f, "\n{:12}", "all")?;
        OUTCOMES.iter().try_for_each(|outcome| write!(f, "{:10}", self.of(*outcome)))
    }
}
