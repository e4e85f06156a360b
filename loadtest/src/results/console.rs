//! The page that a terminal shows at the end.

use super::Outcome;
use crate::chaos::Chaos;
use crate::experts::Experts;
use crate::sweep::Levels;

/// No more hot experts are named.
const SHOWN_HOT: usize = 8;
/// No more moves are listed.
const SHOWN_REASONS: usize = 10;

/// A page about a run.
#[must_use]
pub fn describe(outcome: &Outcome) -> String {
    let mut text = outcome.sweep.as_ref().map(describe_levels).unwrap_or_default();
    text += &describe_requests(outcome);
    text += &describe_latency(outcome);
    text += &outcome.chaos.as_ref().map(describe_chaos).unwrap_or_default();
    if let Some(experts) = &outcome.experts {
        text += &describe_experts(experts);
    }
    for warning in &outcome.warnings {
        text += &format!("\nwarning: {warning}\n");
    }
    text
}

/// A line for each level of a sweep; rates in requests a second, times in milliseconds.
fn describe_levels(sweep: &Levels) -> String {
    let names = [
        "rate",
        "offered",
        "completed",
        "goodput",
        "tokens/s",
        "ttft p50",
        "ttft p99",
        "tpot p50",
        "tpot p99",
    ];
    let mut text = "\n".to_owned();
    for name in names {
        text += &format!("{name:>9} ");
    }
    for level in &sweep.levels {
        text += "\n";
        let cells = level.cells();
        for cell in &cells[..names.len()] {
            text += &format!("{cell:>9} ");
        }
        text += &format!(" {}", cells[names.len()]);
        text.truncate(text.trim_end().len());
    }
    text += &match sweep.highest {
        Some(highest) => format!("\nthe highest rate that was borne: {highest:.4} requests/s"),
        None => "\nno rate was borne".into(),
    };
    text + &format!(" ({})\n", sweep.ended)
}

fn describe_requests(outcome: &Outcome) -> String {
    let (requests, throughput) = (&outcome.requests, &outcome.throughput);
    let mut text = format!(
        "\n{} requests in {:.1} s after {:.1} s of warm-up: {} succeeded, {} failed\n",
        requests.sent,
        throughput.seconds,
        throughput.from_seconds,
        requests.succeeded,
        outcome.n_failed()
    );
    for (code, failed) in &requests.failed {
        text += &format!("  {:>6} × {code}: {}\n", failed.count, failed.example);
    }
    text += &format!(
        "{:.1} requests/s, {:.0} tokens/s; {} prompt tokens ({} cached), {} generated\n",
        throughput.requests_per_second,
        throughput.tokens_per_second,
        requests.prompt_tokens,
        requests.cached_tokens,
        requests.output_tokens
    );
    if let Some(goodput) = &outcome.goodput {
        text += &format!(
            "goodput ({}): {:.1} requests/s, {:.1} %\n",
            goodput.slo,
            goodput.requests_per_second,
            goodput.share * 100.0
        );
    }
    text
}

fn describe_latency(outcome: &Outcome) -> String {
    let mut text = format!(
        "\n{:<24}{:>9} {:>9} {:>9} {:>9} {:>9} {:>9}\n",
        "milliseconds", "p50", "p90", "p95", "p99", "p99.9", "max"
    );
    for (_, name, of) in outcome.latency.of_server() {
        text += &format!("{name:<24}");
        for ms in [of.p50_ms, of.p90_ms, of.p95_ms, of.p99_ms, of.p999_ms, of.max_ms] {
            text += &format!("{ms:>9.1} ");
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

fn describe_chaos(chaos: &Chaos) -> String {
    let quiet = &chaos.quiet;
    let mut text = format!(
        "\nfaults (a quiet run of the same requests: {:.0} tokens/s, p99 of ITL {:.1} ms)\n",
        quiet.tokens_per_second, quiet.itl_p99_ms
    );
    for fault in &chaos.faults {
        text += &format!("  {}\n", fault.describe());
    }
    let Chaos { compared, differing, differing_requests, .. } = chaos;
    text += &format!("  {compared} answers compared with the quiet run, {differing} differ");
    if !differing_requests.is_empty() {
        text += &format!(" (requests {differing_requests:?})");
    }
    text + "\n"
}

fn describe_experts(experts: &Experts) -> String {
    let mut text = "\nhow evenly experts and nodes were used, mean over maximum (1 is even)\n\
         layer   nodes  experts  entropy     pairs  dead / hot experts (times the mean)\n"
        .to_owned();
    for layer in &experts.whole.layers {
        let hot = layer.hot.iter().take(SHOWN_HOT);
        let hot: Vec<String> =
            hot.map(|hot| format!("{} ({:.1}×)", hot.expert, hot.times)).collect();
        text += &format!(
            "{:>5}  {:>6.3}  {:>7.3}  {:>7.3} {:>9}  {} / {}\n",
            layer.layer,
            layer.nodes.balancedness,
            layer.experts.balancedness,
            layer.experts.normalised_entropy,
            layer.pairs,
            layer.dead.len(),
            if hot.is_empty() { "-".into() } else { hot.join(" ") }
        );
    }
    for change in &experts.rebalances {
        text += &format!("{}\n", change.describe());
    }
    for reason in experts.reasons.iter().take(SHOWN_REASONS) {
        text += &format!("  {:>6.1} s  {}\n", reason.at, reason.text);
    }
    if experts.reasons.len() > SHOWN_REASONS {
        text += &format!("  and {} more\n", experts.reasons.len() - SHOWN_REASONS);
    }
    text
}
