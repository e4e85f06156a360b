//! Tokens of each second, and where requests failed.

use super::svg::{Frame, picture, text};
use crate::experts::Rebalance;
use crate::results::Outcome;

/// When the last thing happened, in seconds from the start.
pub(super) fn end(outcome: &Outcome) -> f64 {
    let last = outcome.timeline.last().map_or(0.0, |second| second.at + second.seconds);
    let intervals = outcome.experts.iter().flat_map(|experts| &experts.intervals);
    intervals.map(|interval| interval.to).fold(last, f64::max)
}

pub(super) fn chart(outcome: &Outcome) -> String {
    let rates = outcome.timeline.iter().map(|second| second.tokens as f64 / second.seconds);
    let most = rates.clone().fold(0.0, f64::max) * 1.1;
    let frame = Frame::over_time(220.0, end(outcome), most);
    let mut content = frame.axes("seconds", "tokens a second");
    for (second, rate) in outcome.timeline.iter().zip(rates) {
        let title = format!("second {:.0}: {rate:.0} tokens a second", second.at);
        let (left, top) = frame.at(second.at, rate);
        let (right, bottom) = frame.at(second.at + second.seconds, 0.0);
        let size = ((right - left - 1.0).max(0.5), bottom - top);
        content += &super::svg::rect((left, top), size, "bar", &title);
        if second.failed > 0 {
            let title = format!("second {:.0}: {} requests failed", second.at, second.failed);
            let size = (right - left - 1.0, 6.0);
            content += &super::svg::rect((left, bottom - 6.0), size, "failed", &title);
        }
    }
    content += &warm_up(&frame, outcome.throughput.from_seconds);
    let rebalances = outcome.experts.iter().flat_map(|experts| &experts.rebalances);
    content += &marks(&frame, rebalances);
    content += &faults(&frame, outcome);
    let picture = picture(frame.size, "Tokens of each second of the run", &content);
    picture
        + "<p class=\"note\">Grey: the warm-up, which no number counts. Red at the bottom: requests failed.</p>"
}

fn warm_up(frame: &Frame, seconds: f64) -> String {
    if seconds <= 0.0 {
        return String::new();
    }
    frame.span(0.0, seconds, "warm-up", "warm-up")
}

/// What was done to the cluster: a line at its beginning, and a band until streams flowed again.
fn faults(frame: &Frame, outcome: &Outcome) -> String {
    let mut marks = String::new();
    for fault in outcome.chaos.iter().flat_map(|chaos| &chaos.faults) {
        let recovered = fault.recovery_ms.map_or(frame.x.1, |ms| fault.at + ms / 1e3);
        marks += &frame.span(fault.at, recovered, "fault", &fault.describe());
        let (x, bottom) = frame.at(fault.at, frame.y.0);
        marks += &super::svg::line((x, frame.margins[1]), (x, bottom), "fault-mark");
        let name = fault.fault.split('@').next().unwrap_or_default();
        marks += &text((x + 4.0, frame.margins[1] + 10.0), "start", "fault-name", name);
    }
    marks
}

/// Where the placement changed: a line at its beginning, and a band until its end.
pub(super) fn marks<'a>(
    frame: &Frame,
    rebalances: impl IntoIterator<Item = &'a Rebalance>,
) -> String {
    let mut marks = String::new();
    for rebalance in rebalances {
        let title = format!("placement {}, {:.1} s", rebalance.epoch, rebalance.from);
        marks += &frame.span(rebalance.from, rebalance.to, "roll-out", &title);
        let (x, top) = frame.at(rebalance.from, frame.y.1);
        let (_, bottom) = frame.at(rebalance.from, frame.y.0);
        marks += &super::svg::line((x, top), (x, bottom), "mark");
        marks += &text((x + 4.0, top - 3.0), "start", "mark-name", "rebalance");
    }
    marks
}
