//! Latency over the rate of a sweep, with the knee marked.

use super::svg::{Frame, escape, line, number, picture, text, through};
use crate::sweep::{Level, Levels};

/// A name, a class for its line, and its value.
type Curve = (&'static str, &'static str, fn(&Level) -> f64);

/// What is drawn.
const CURVES: [Curve; 3] = [
    ("TTFT p99", "mean", |level| level.ttft_p99_ms),
    ("TTFT p50", "layer", |level| level.ttft_p50_ms),
    ("TPOT p99", "tpot", |level| level.tpot_p99_ms),
];
/// Times below are drawn as this one: a logarithmic scale has no zero.
const LEAST_MS: f64 = 0.01;

pub(super) fn chart(sweep: &Levels) -> String {
    let mut levels: Vec<&Level> = sweep.levels.iter().collect();
    levels.sort_by(|first, second| first.offered.total_cmp(&second.offered));
    let knee = match sweep.highest {
        Some(highest) => {
            format!("The highest rate that was borne is {} requests a second", number(highest))
        }
        None => "No rate was borne".into(),
    };
    let summary = format!("<p>{knee}; the sweep ended because {}.</p>\n", escape(&sweep.ended));
    summary + &curves(&levels, sweep.highest) + &table(&levels)
}

fn curves(levels: &[&Level], highest: Option<f64>) -> String {
    let logarithm = |ms: f64| ms.max(LEAST_MS).log10();
    let all =
        || levels.iter().flat_map(|level| CURVES.map(|(_, _, value)| logarithm(value(level))));
    let least = all().fold(f64::INFINITY, f64::min).min(0.0).floor();
    let most = all().fold(least + 1.0, f64::max).ceil();
    let end = levels.iter().map(|level| level.offered).fold(1e-3, f64::max) * 1.05;
    let mut frame = Frame::over_time(280.0, end, 1.0);
    frame.y = (least, most);
    let mut content = String::new();
    for decade in least as i32..=most as i32 {
        let (left, right) = (frame.at(0.0, f64::from(decade)), frame.at(end, f64::from(decade)));
        content += &line(left, right, "grid");
        let label = number(10f64.powi(decade));
        content += &text((left.0 - 6.0, left.1 + 4.0), "end", "", &label);
    }
    content += &frame.x_axis("requests a second that were offered");
    content += &text((frame.margins[0], 12.0), "start", "strong", "milliseconds (logarithmic)");
    for (name, class, value) in CURVES {
        let place = |level: &&Level| frame.at(level.offered, logarithm(value(level)));
        let points: Vec<_> = levels.iter().map(place).collect();
        content += &format!("<path d=\"{}\" class=\"{class}\"/>\n", through(&points));
        for (level, (x, y)) in levels.iter().zip(&points) {
            let title = format!("{name}: {} ms at {}", number(value(level)), number(level.offered));
            content += &format!(
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" class=\"dot\"><title>{title}</title></circle>\n"
            );
        }
        let end = points.last().copied().unwrap_or_default();
        content += &text((end.0 - 6.0, end.1 - 6.0), "end", "strong", name);
    }
    let knee = levels.iter().find(|level| Some(level.rate) == highest);
    if let Some(knee) = knee {
        let (bottom, top) = (frame.at(knee.offered, least), frame.at(knee.offered, most));
        content += &line(bottom, top, "mark");
        content += &text((top.0 + 4.0, top.1 - 3.0), "start", "mark-name", "knee");
    }
    picture(frame.size, "Latency over the rate of requests, with the knee marked", &content)
}

fn table(levels: &[&Level]) -> String {
    let mut text = "<table>\n<tr>".to_owned();
    for name in [
        "rate",
        "offered",
        "completed",
        "goodput",
        "tokens/s",
        "TTFT p50",
        "TTFT p99",
        "TPOT p50",
        "TPOT p99",
        "",
    ] {
        text += &format!("<th scope=\"col\">{name}</th>");
    }
    text += "</tr>\n";
    for level in levels {
        text += "<tr>";
        for cell in level.cells() {
            text += &format!("<td>{}</td>", escape(&cell));
        }
        text += "</tr>\n";
    }
    text + "</table>\n<p class=\"note\">Rates are requests a second, times are milliseconds. All other \
        pictures are of the highest level that was borne, or of the first.</p>"
}
