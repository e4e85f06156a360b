//! Percentiles of the times of requests, on one logarithmic scale.

use super::svg::{line, number, picture, text};
use crate::results::{Latencies, Percentiles};

const WIDTH: f64 = 900.0;
const LEFT: f64 = 170.0;
const RIGHT: f64 = 30.0;
const ROW: f64 = 46.0;
const TOP: f64 = 30.0;

pub(super) fn chart(latency: &Latencies) -> String {
    let rows: Vec<_> = latency.of_server().into_iter().filter(|row| row.2.count > 0).collect();
    if rows.is_empty() {
        return "<p>No request succeeded, so there is nothing to show.</p>".into();
    }
    let least = rows.iter().map(|row| row.2.p50_ms).fold(f64::INFINITY, f64::min).max(1e-3);
    let most = rows.iter().map(|row| row.2.max_ms).fold(least, f64::max);
    let decades = (least.log10().floor(), most.log10().ceil().max(least.log10().floor() + 1.0));
    let place = |ms: f64| {
        let share = (ms.max(1e-3).log10() - decades.0) / (decades.1 - decades.0);
        LEFT + share.clamp(0.0, 1.0) * (WIDTH - LEFT - RIGHT)
    };
    let height = TOP + ROW * rows.len() as f64 + 20.0;
    let mut content = String::new();
    for decade in decades.0 as i32..=decades.1 as i32 {
        let ms = 10f64.powi(decade);
        content += &line((place(ms), TOP - 8.0), (place(ms), height - 20.0), "grid");
        content += &text((place(ms), height - 4.0), "middle", "", &unit(ms));
    }
    for (index, (_, name, times)) in rows.iter().enumerate() {
        let y = TOP + ROW * (index as f64 + 0.5);
        content += &text((LEFT - 14.0, y + 4.0), "end", "strong", name);
        content += &row(times, y, place);
    }
    let title = "Times of requests on a logarithmic scale: dots from the median to the longest";
    picture((WIDTH, height), title, &content) + &table(latency)
}

fn row(times: &Percentiles, y: f64, place: impl Fn(f64) -> f64) -> String {
    let points = [
        ("p50", times.p50_ms),
        ("p90", times.p90_ms),
        ("p95", times.p95_ms),
        ("p99", times.p99_ms),
        ("p99.9", times.p999_ms),
        ("max", times.max_ms),
    ];
    let mut content = line((place(times.p50_ms), y), (place(times.max_ms), y), "range");
    for (name, ms) in points {
        let radius = if name == "p50" { 7.0 } else { 4.5 };
        content += &format!(
            "<circle cx=\"{:.1}\" cy=\"{y:.1}\" r=\"{radius}\" class=\"dot\"><title>{name}: {}</title></circle>\n",
            place(ms),
            unit(ms)
        );
    }
    // The two that people look at; further labels would lie on each other.
    content += &text((place(times.p50_ms), y - 12.0), "middle", "", "p50");
    if place(times.p99_ms) - place(times.p50_ms) > 32.0 {
        content += &text((place(times.p99_ms), y - 12.0), "middle", "", "p99");
    }
    content
}

fn unit(ms: f64) -> String {
    match ms {
        ms if ms >= 1000.0 => format!("{} s", number(ms / 1e3)),
        ms if ms < 0.1 => format!("{} µs", number(ms * 1e3)),
        ms => format!("{} ms", number(ms)),
    }
}

fn table(latency: &Latencies) -> String {
    let mut text =
        "<details><summary>The numbers, in milliseconds</summary>\n<table>\n<tr><th></th>"
            .to_owned();
    for name in ["p50", "p90", "p95", "p99", "p99.9", "max", "mean", "count"] {
        text += &format!("<th scope=\"col\">{name}</th>");
    }
    text += "</tr>\n";
    for (_, name, of) in latency.of_server() {
        text += &format!("<tr><th scope=\"row\">{name}</th>");
        for ms in [of.p50_ms, of.p90_ms, of.p95_ms, of.p99_ms, of.p999_ms, of.max_ms, of.mean_ms] {
            text += &format!("<td>{ms:.1}</td>");
        }
        text += &format!("<td>{}</td></tr>\n", of.count);
    }
    text + "</table></details>\n"
}
