//! Beginnings of the kinds of text that the demonstration model knows.

use rand::Rng as _;
use rand::seq::IndexedRandom as _;
use rand_chacha::ChaCha8Rng;

/// The kinds, as `models/demo/README.md` calls them.
pub(super) const NAMES: &[&str] =
    &["story", "arithmetic", "weather", "recipe", "json", "questions"];

const TRAITS: &[&str] =
    &["brave", "shy", "curious", "quiet", "patient", "gentle", "clever", "kind"];
const ANIMALS: &[&str] =
    &["mouse", "owl", "fox", "bear", "otter", "badger", "frog", "deer", "duck"];
const PEOPLE: &[&str] =
    &["Tess", "Bea", "Hugo", "Ivy", "Milo", "Clara", "Finn", "Rosa", "Otto", "Nell"];
const TOWNS: &[&str] = &["Oakford", "Milldale", "Oslo", "Fernhill", "Ashby", "Stonebridge"];
const DAYS: &[&str] =
    &["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
const DISHES: &[&str] =
    &["Carrot soup", "Apple cake", "Tomato salad", "Cheese omelette", "Plum smoothie", "Leek soup"];
const RECORDS: &[&str] = &["book", "user", "product", "order", "sensor", "event"];
const THINGS: &[&str] = &["grass", "snow", "the sky", "a lemon", "a strawberry", "coal"];

/// A prompt of a kind.
pub(super) fn draw(kind: usize, rng: &mut ChaCha8Rng) -> String {
    let number = rng.random_range(11..90);
    let other = rng.random_range(11..90);
    let mut any = |from: &[&'static str]| from.choose(rng).copied().unwrap_or_default();
    match NAMES[kind] {
        "story" => format!(
            "Once upon a time there was a {} {} named {}",
            any(TRAITS),
            any(ANIMALS),
            any(PEOPLE)
        ),
        "arithmetic" => format!("Work out {number} + {other}."),
        "weather" => format!("Weather report for {}, {}\n", any(TOWNS), any(DAYS)),
        "recipe" => {
            format!("Recipe: {} (serves {})\n\nIngredients:\n", any(DISHES), number % 6 + 1)
        }
        "json" => format!("{{\"type\": \"{}\", \"id\": {number}{other}", any(RECORDS)),
        _ => format!("Question: What colour is {}?\nAnswer:", any(THINGS)),
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn prompts_of_a_kind_differ_and_those_of_two_kinds_begin_differently() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut beginnings = Vec::new();
        for kind in 0..NAMES.len() {
            let mut all: Vec<String> = (0..20).map(|_| draw(kind, &mut rng)).collect();
            beginnings.push(all[0][..4].to_owned());
            all.sort();
            all.dedup();
            assert!(all.len() > 4, "{all:?}");
        }
        beginnings.sort();
        beginnings.dedup();
        assert_eq!(beginnings.len(), NAMES.len());
    }
}
