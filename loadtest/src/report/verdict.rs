//! The first thing that a reader sees: whether it went well, in a sentence.

use super::svg::{escape, number};
use crate::experts::Experts;
use crate::results::Outcome;

/// Below this, a step waits for its slowest node for more than a fifth of its time.
const EVEN: f64 = 0.8;
/// A rebalance that gains less has changed nothing to speak of.
const GAIN: f64 = 0.02;

/// How it went; the class of the page's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Grade {
    Good,
    Warn,
    Bad,
}

pub(super) fn headline(outcome: &Outcome) -> String {
    let (requests, served) = of_requests(outcome);
    let (balance, even) = outcome.experts.as_ref().map_or((Grade::Good, None), |experts| {
        let (grade, sentence) = of_balance(experts);
        (grade, Some(sentence))
    });
    let doubt = if outcome.warnings.is_empty() { Grade::Good } else { Grade::Warn };
    let (class, tag) = match requests.max(balance).max(doubt) {
        Grade::Good => ("good", "✓ good"),
        Grade::Warn => ("warn", "! worth a look"),
        Grade::Bad => ("bad", "✕ bad"),
    };
    let mut text = format!("<header class=\"{class}\">\n<span class=\"tag\">{tag}</span>\n<h1>");
    text += &escape(&served);
    if let Some(even) = even {
        text += &format!(" {}", escape(&even));
    }
    text += &format!("</h1>\n{}", numbers(outcome));
    for warning in &outcome.warnings {
        text += &format!("<p class=\"note\">{}</p>\n", escape(warning));
    }
    text + "</header>\n"
}

fn of_requests(outcome: &Outcome) -> (Grade, String) {
    let (sent, failed) = (outcome.requests.sent, outcome.n_failed());
    match failed {
        _ if sent == 0 => (Grade::Bad, "No request was measured.".into()),
        0 => (Grade::Good, format!("All {sent} requests were served.")),
        _ => {
            let codes: Vec<&str> = outcome.requests.failed.keys().map(String::as_str).collect();
            (Grade::Bad, format!("{failed} of {sent} requests failed ({}).", codes.join(", ")))
        }
    }
}

fn of_balance(experts: &Experts) -> (Grade, String) {
    let after = experts.balancedness();
    let grade = if after >= EVEN { Grade::Good } else { Grade::Warn };
    let hot: usize = experts.whole.layers.iter().map(|layer| layer.hot.len()).sum();
    let hot = match hot {
        0 => String::new(),
        1 => " One expert is hot.".into(),
        many => format!(" {many} experts are hot."),
    };
    let change = experts.balancedness_before().map(|before| (before, after - before));
    let sentence = match change {
        Some((before, gain)) if gain > GAIN => format!(
            "The balancer evened the nodes out: balancedness went from {before:.2} to {after:.2}."
        ),
        Some((before, gain)) if gain < -GAIN => format!(
            "The nodes are less even after the placement changed: balancedness went from {before:.2} to {after:.2}."
        ),
        _ if after >= EVEN => format!("The nodes are used evenly: balancedness {after:.2} of 1."),
        _ => format!("The nodes are used unevenly: balancedness {after:.2} of 1."),
    };
    (grade, sentence + &hot)
}

fn numbers(outcome: &Outcome) -> String {
    let mut all = vec![
        (number(outcome.throughput.tokens_per_second), "tokens a second"),
        (number(outcome.throughput.requests_per_second), "requests a second"),
        (format!("{} ms", number(outcome.latency.ttft.p50_ms)), "to the first token, median"),
        (format!("{} ms", number(outcome.latency.ttft.p99_ms)), "to the first token, p99"),
        (format!("{} ms", number(outcome.latency.tpot.p50_ms)), "for each token, median"),
    ];
    if let Some(goodput) = &outcome.goodput {
        all.push((format!("{} %", number(goodput.share * 100.0)), "within the objective"));
    }
    let mut text = "<ul class=\"numbers\">\n".to_owned();
    for (value, name) in all {
        text += &format!("<li><b>{value}</b><span>{name}</span></li>\n");
    }
    text + "</ul>\n"
}
