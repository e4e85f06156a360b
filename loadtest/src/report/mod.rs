//! A page with pictures: one HTML file that needs nothing else, for light and dark screens.

use crate::chaos::Chaos;
use crate::experts::Experts;
use crate::results::Outcome;
use svg::escape;

mod verdict;
mod svg;
mod latency;
mod timeline;
mod balance;
mod heatmap;
mod sweep;

const STYLE: &str = include_str!("style.css");
/// No more moves are listed.
const SHOWN_REASONS: usize = 100;

/// A page about a run.
#[must_use]
pub fn page(outcome: &Outcome) -> String {
    let mut body = verdict::headline(outcome);
    if let Some(sweep) = &outcome.sweep {
        body += &section("How much it bears", &sweep::chart(sweep));
    }
    body += &section("How long requests took", &latency::chart(&outcome.latency));
    body += &section("What was served, second by second", &timeline::chart(outcome));
    if let Some(chaos) = &outcome.chaos {
        body += &section("What was done to the cluster", &faults(chaos));
    }
    match &outcome.experts {
        Some(experts) => body += &of_experts(experts, timeline::end(outcome)),
        None => {
            body += &section(
                "Experts",
                "<p>They were not watched: give <code>--admin</code> and <code>--admin-api-key</code>.</p>",
            );
        }
    }
    body += &section("What was asked for", &settings(outcome));
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>Guildhall load test</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n"
    )
}

fn section(title: &str, content: &str) -> String {
    format!("<section>\n<h2>{}</h2>\n{content}\n</section>\n", escape(title))
}

fn of_experts(experts: &Experts, end: f64) -> String {
    let mut text = section("Which experts were used", &heatmap::of_run(experts));
    text += &section("The same, part by part", &heatmap::of_slices(experts));
    text += &section("Which nodes did the work", &balance::shares(experts, end));
    text += &section("How evenly the nodes were used", &balance::evenness(experts, end));
    text + &section("Why experts were moved", &reasons(experts))
}

fn faults(chaos: &Chaos) -> String {
    let names = ["fault", "done at, s", "recovered after, ms", "longest gap, ms", "failed", ""];
    let mut text = "<table>\n<tr>".to_owned();
    for name in names {
        text += &format!("<th scope=\"col\">{name}</th>");
    }
    text += "</tr>\n";
    for fault in &chaos.faults {
        let recovery =
            fault.recovery_ms.map_or("not within the run".into(), |ms| format!("{ms:.0}"));
        text += &format!(
            "<tr><td>{}</td><td>{:.2}</td><td>{recovery}</td><td>{:.0}</td><td>{}</td><td>{}</td></tr>\n",
            escape(&fault.fault),
            fault.at,
            fault.longest_gap_ms,
            fault.failed,
            escape(fault.problem.as_deref().unwrap_or_default())
        );
    }
    let Chaos { compared, differing, quiet, .. } = chaos;
    text + &format!(
        "</table>\n<p class=\"note\">{compared} answers were compared with a quiet run of the same requests, {differing} \
         differ. In that run p99 of the time between two parts of a stream was {:.1} ms; streams have recovered when for a \
         second no more than a tenth more of their time lies in longer gaps.</p>",
        quiet.itl_p99_ms
    )
}

fn reasons(experts: &Experts) -> String {
    let mut text = String::new();
    for rebalance in &experts.rebalances {
        text += &format!("<p>{}.</p>\n", escape(&rebalance.describe()));
    }
    if experts.reasons.is_empty() {
        return text + "<p>The balancer gave no reasons: nothing was moved.</p>";
    }
    text += "<table>\n<tr><th scope=\"col\">second</th><th scope=\"col\">move</th></tr>\n";
    for reason in experts.reasons.iter().take(SHOWN_REASONS) {
        text += &format!("<tr><td>{:.1}</td><td>{}</td></tr>\n", reason.at, escape(&reason.text));
    }
    text += "</table>";
    if experts.reasons.len() > SHOWN_REASONS {
        text += &format!("<p>And {} more.</p>", experts.reasons.len() - SHOWN_REASONS);
    }
    text
}

fn settings(outcome: &Outcome) -> String {
    let mut text = "<table>\n".to_owned();
    for (name, value) in &outcome.settings {
        let (name, value) = (escape(name), escape(value));
        text += &format!("<tr><th scope=\"row\">--{name}</th><td>{value}</td></tr>\n");
    }
    text + "</table>"
}

#[cfg(test)]
mod tests;
