//! What requests ask: kinds of the demonstration model, random tokens, or the lines of a file.

use std::path::Path;

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;

use super::demo_kinds;
use crate::Error;
use crate::units::Count;

/// Kinds of random prompts: disjoint parts of the vocabulary.
const SLICES: usize = 8;

/// What a request asks.
#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// A text.
    Text(String),
    /// Its tokens.
    TokenIds(Vec<u32>),
}

/// Where prompts come from. Each source has kinds, over which a load can be skewed.
#[derive(Clone, Debug)]
pub enum Prompts {
    /// Beginnings of the texts that the demonstration model knows; each kind uses experts of its own.
    DemoKinds,
    /// Random tokens; a kind is a part of the vocabulary.
    Random(RandomIds),
    /// The lines of a file; each is a kind.
    Lines(Vec<Prompt>),
}

/// Prompts of random tokens.
#[derive(Clone, Copy, Debug)]
pub struct RandomIds {
    /// Tokens are below this.
    pub vocabulary: u32,
    /// Tokens of a prompt, those of the prefix included.
    pub tokens: Count,
    /// So many first tokens are the same in all prompts of a kind.
    pub shared_prefix: u32,
    /// Of the prefixes.
    pub seed: u64,
}

impl RandomIds {
    /// Refuses settings that contradict each other.
    ///
    /// # Errors
    /// Says which, and why.
    pub fn check(self) -> Result<Self, Error> {
        if self.vocabulary < SLICES as u32 {
            return Err(Error::Setting(format!(
                "--vocabulary {} is too small: random prompts need {SLICES} parts of it",
                self.vocabulary
            )));
        }
        if self.shared_prefix >= self.tokens.from {
            return Err(Error::Setting(format!(
                "--shared-prefix {} leaves nothing of the shortest prompt, --input-tokens {}",
                self.shared_prefix, self.tokens
            )));
        }
        Ok(self)
    }

    fn draw(&self, kind: usize, rng: &mut ChaCha8Rng) -> Vec<u32> {
        let part = self.vocabulary / SLICES as u32;
        let first = part * kind as u32;
        let length = rng.random_range(self.tokens.from..=self.tokens.to);
        let mut prefix = ChaCha8Rng::seed_from_u64(self.seed ^ (kind as u64 + 1) << 32);
        let token = |at: u32| match at < self.shared_prefix {
            true => prefix.random_range(first..first + part),
            false => rng.random_range(first..first + part),
        };
        (0..length).map(token).collect()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Line {
    Prompt(String),
    TokenIds(Vec<u32>),
}

impl Prompts {
    /// Reads a file with a JSON object on each line, `{"prompt": …}` or `{"token_ids": […]}`.
    ///
    /// # Errors
    /// The file cannot be read, a line is none of these, or there is none.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let wrong = |what: String| Error::Setting(format!("--prompts {}: {what}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        parse(&text).map_err(wrong)
    }

    /// How many kinds there are; at least one.
    #[must_use]
    pub fn n_kinds(&self) -> usize {
        match self {
            Self::DemoKinds => demo_kinds::NAMES.len(),
            Self::Random(_) => SLICES,
            Self::Lines(lines) => lines.len(),
        }
    }

    /// What to call a kind.
    #[must_use]
    pub fn name(&self, kind: usize) -> String {
        match self {
            Self::DemoKinds => demo_kinds::NAMES[kind].to_owned(),
            Self::Random(_) => format!("slice {kind}"),
            Self::Lines(_) => format!("line {}", kind + 1),
        }
    }

    pub(super) fn draw(&self, kind: usize, rng: &mut ChaCha8Rng) -> Prompt {
        match self {
            Self::DemoKinds => Prompt::Text(demo_kinds::draw(kind, rng)),
            Self::Random(random) => Prompt::TokenIds(random.draw(kind, rng)),
            Self::Lines(lines) => lines[kind].clone(),
        }
    }
}

fn parse(text: &str) -> Result<Prompts, String> {
    let mut prompts = Vec::new();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let line = serde_json::from_str::<Line>(line).map_err(|error| {
            format!("line {number} is not {{\"prompt\": …}} or {{\"token_ids\": […]}}: {error}")
        })?;
        prompts.push(match line {
            Line::Prompt(text) if text.is_empty() => {
                return Err(format!("line {number} has an empty prompt"));
            }
            Line::TokenIds(ids) if ids.is_empty() => {
                return Err(format!("line {number} has an empty prompt"));
            }
            Line::Prompt(text) => Prompt::Text(text),
            Line::TokenIds(ids) => Prompt::TokenIds(ids),
        });
    }
    if prompts.is_empty() {
        Err("there is no prompt in it".into())
    } else {
        Ok(Prompts::Lines(prompts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(shared_prefix: u32) -> RandomIds {
        RandomIds { vocabulary: 800, tokens: Count { from: 20, to: 30 }, shared_prefix, seed: 7 }
    }

    #[test]
    fn kinds_of_random_prompts_share_no_token() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for kind in 0..SLICES {
            let ids = random(0).draw(kind, &mut rng);
            let slice = kind as u32 * 100..(kind as u32 + 1) * 100;
            assert!((20..=30).contains(&ids.len()));
            assert!(ids.iter().all(|id| slice.contains(id)), "{kind}: {ids:?}");
        }
    }

    #[test]
    fn prompts_of_a_kind_share_a_prefix_and_nothing_more() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let [first, second] = [(); 2].map(|()| random(12).draw(3, &mut rng));
        assert_eq!(first[..12], second[..12]);
        assert_ne!(first[12..20], second[12..20]);
        assert_ne!(first[..12], random(12).draw(4, &mut rng)[..12]);
    }

    #[test]
    fn impossible_settings_are_named() {
        assert!(random(19).check().is_ok());
        assert!(random(20).check().unwrap_err().to_string().contains("--shared-prefix 20"));
        let small = RandomIds { vocabulary: 3, ..random(0) };
        assert!(small.check().unwrap_err().to_string().contains("--vocabulary 3"));
    }

    #[test]
    fn files_have_a_prompt_on_each_line() {
        let Ok(Prompts::Lines(lines)) = parse("{\"prompt\": \"a\"}\n\n{\"token_ids\": [1, 2]}\n")
        else {
            panic!("not read")
        };
        assert_eq!(lines, [Prompt::Text("a".into()), Prompt::TokenIds(vec![1, 2])]);
        let check = |text: &str, expected: &str| {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected), "{text:?}: {error}");
        };
        check("", "no prompt");
        check("{\"prompt\": \"a\"}\n{\"text\": \"b\"}", "line 2");
        check("{\"token_ids\": [-1]}", "line 1");
        check("{\"prompt\": \"\"}", "line 1 has an empty prompt");
        check("[1]", "line 1");
    }
}
