//! Two runs beside each other.

use crate::assertion::Metric;
use crate::results::Outcome;

/// A change of less is none: two runs of the same differ as much.
const NOISE: f64 = 0.05;

/// What is compared, and whether less of it is better.
const COMPARED: [(&str, bool); 18] = [
    ("requests_per_second", false),
    ("tokens_per_second", false),
    ("error_rate", true),
    ("goodput", false),
    ("p50_ttft", true),
    ("p90_ttft", true),
    ("p99_ttft", true),
    ("p50_tpot", true),
    ("p90_tpot", true),
    ("p99_tpot", true),
    ("p50_itl", true),
    ("p99_itl", true),
    ("p50_e2e", true),
    ("p90_e2e", true),
    ("p99_e2e", true),
    ("balancedness_before", false),
    ("balancedness", false),
    ("max_rate", false),
];

/// A table of two runs; times are in milliseconds.
#[must_use]
pub fn describe(first: &Outcome, second: &Outcome) -> String {
    let mut text = different_settings(first, second);
    text += &format!("{:<22}{:>12} {:>12} {:>9}\n", "", "first", "second", "change");
    for (name, less_is_better) in COMPARED {
        let Ok(metric) = name.parse::<Metric>() else { continue };
        let (before, after) = (metric.of(first), metric.of(second));
        if before.is_none() && after.is_none() {
            continue;
        }
        let value =
            |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.3}"));
        let change = change(before.zip(after), less_is_better);
        let line = format!("{name:<22}{:>12} {:>12} {change}", value(before), value(after));
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// By how much it changed, and what that means.
fn change(values: Option<(f64, f64)>, less_is_better: bool) -> String {
    let Some((before, after)) = values.filter(|(before, _)| *before > 0.0) else {
        return String::new();
    };
    let change = after / before - 1.0;
    let meaning = match change {
        change if change.abs() <= NOISE => "",
        change if (change < 0.0) == less_is_better => "  better",
        _ => "  worse",
    };
    format!("{:>+8.1}%{meaning}", change * 100.0)
}

fn different_settings(first: &Outcome, second: &Outcome) -> String {
    let mut names: Vec<&String> = first.settings.keys().chain(second.settings.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let mut text = String::new();
    for name in names.into_iter().filter(|name| *name != "server") {
        let value = |outcome: &Outcome| outcome.settings.get(name).cloned().unwrap_or("-".into());
        let (before, after) = (value(first), value(second));
        if before != after {
            text += &format!("not the same load: --{name} is {before} and {after}\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Percentiles;

    fn outcome(tokens_per_second: f64, p99_ms: f64, seed: &str) -> Outcome {
        let mut outcome = Outcome::default();
        outcome.settings.insert("seed".into(), seed.into());
        outcome.throughput.tokens_per_second = tokens_per_second;
        outcome.latency.ttft = Percentiles { count: 1, p99_ms, ..Percentiles::default() };
        outcome
    }

    #[test]
    fn every_compared_name_is_a_metric() {
        assert!(COMPARED.iter().all(|(name, _)| name.parse::<Metric>().is_ok()));
    }

    #[test]
    fn changes_have_a_direction_and_a_meaning() {
        let table = describe(&outcome(100.0, 10.0, "1"), &outcome(80.0, 5.0, "1"));
        let line = |name: &str| table.lines().find(|line| line.starts_with(name)).unwrap();
        assert!(line("tokens_per_second").ends_with("-20.0%  worse"), "{table}");
        assert!(line("p99_ttft").ends_with("-50.0%  better"), "{table}");
        assert!(!table.contains("balancedness") && !table.contains("not the same load"), "{table}");
        let table = describe(&outcome(100.0, 10.0, "1"), &outcome(104.0, 10.0, "2"));
        assert!(table.contains("--seed is 1 and 2"), "{table}");
        assert!(table.contains("+4.0%\n"), "{table}");
    }
}
