//! Which experts were used: a row for each layer, a column for each expert.

use super::svg::{cell, escape, picture, rect, text};
use crate::experts::{Experts, LayerUse};

/// Shades of use.
const SHADES: usize = 12;
/// An expert with so many times the mean, or more, has the strongest shade.
const DARKEST: f64 = 3.0;
/// More than so many times the mean is hot, as everywhere.
const HOT: f64 = crate::experts::HOT_TIMES;
/// Less is dead, as everywhere.
const DEAD: f64 = guildhall_placement::measures::DEAD_BELOW;
/// Hot experts that are named in the table.
const NAMED: usize = 12;

/// The use of all of the run.
pub(super) fn of_run(experts: &Experts) -> String {
    let layers: Vec<u32> = experts.whole.layers.iter().map(|layer| layer.layer).collect();
    let title = "Heatmap of the use of experts in the whole run: a row for each layer, a column for each expert";
    let map = map(&layers, &experts.pairs, (900.0, true), title);
    format!(
        "<div class=\"heatmap\">{map}</div>\n{}\n{}",
        "<p class=\"note\">The stronger the colour, the more tokens an expert got, relative to the mean of its layer. Framed in red: hot, over twice the mean. Crossed out: dead, under a hundredth of it.</p>",
        table(&experts.whole.layers)
    )
}

/// The use of parts of the run, in small.
pub(super) fn of_slices(experts: &Experts) -> String {
    let layers: Vec<u32> = experts.whole.layers.iter().map(|layer| layer.layer).collect();
    let mut content = "<div class=\"row\">\n".to_owned();
    for slice in &experts.slices {
        let span = format!("{:.1} to {:.1} s", slice.from, slice.to);
        let title = format!("Heatmap of the use of experts from {span}");
        let map = map(&layers, &slice.pairs, (300.0, false), &title);
        content += &format!("<div><h3>{span}</h3>{map}</div>\n");
    }
    content + "</div>"
}

/// A map of this width, with or without names of rows and columns.
fn map(layers: &[u32], pairs: &[Vec<u64>], (width, named): (f64, bool), title: &str) -> String {
    let n_experts = pairs.iter().map(Vec::len).max().unwrap_or(0).max(1);
    let (left, below) = if named { (64.0, 40.0) } else { (1.0, 1.0) };
    let size = (width - left - 2.0) / n_experts as f64;
    let size = (size, size.clamp(width / 100.0, width / 28.0));
    let mut cells = Cells { size, ..Cells::default() };
    let mut names = String::new();
    for (row, (&layer, of_layer)) in layers.iter().zip(pairs).enumerate() {
        let y = 2.0 + row as f64 * size.1;
        cells.add_row((left, y), layer, of_layer);
        if named && (layers.len() <= 24 || row % 4 == 0) {
            let place = (left - 6.0, y + size.1 / 2.0 + 4.0);
            names += &text(place, "end", "", &format!("layer {layer}"));
        }
    }
    let height = 4.0 + layers.len() as f64 * size.1 + below;
    if named {
        names += &columns(n_experts, (left, size.0), height - below + 14.0);
    }
    picture((width, height), title, &(names + &cells.draw()))
}

/// The cells of a map. All of one shade are one path: a large model has ten thousands.
#[derive(Default)]
struct Cells {
    size: (f64, f64),
    shades: [String; SHADES + 1],
    grid: String,
    dead: String,
    hot: String,
}

impl Cells {
    fn add_row(&mut self, (left, y): (f64, f64), layer: u32, pairs: &[u64]) {
        let mean = pairs.iter().sum::<u64>() as f64 / pairs.len().max(1) as f64;
        for (expert, &pairs) in pairs.iter().enumerate() {
            let (x, (width, height)) = (left + expert as f64 * self.size.0, self.size);
            let times = if mean > 0.0 { pairs as f64 / mean } else { 0.0 };
            let shade = (times / DARKEST * SHADES as f64).round() as usize;
            let cell = cell((x, y), self.size);
            self.shades[shade.min(SHADES)] += &cell;
            self.grid += &cell;
            if times > HOT {
                let title = format!("layer {layer}, expert {expert}: {times:.1} times the mean");
                let inside = (width - 2.0, height - 2.0);
                self.hot += &rect((x + 1.0, y + 1.0), inside, "hot", &title);
            } else if times < DEAD && mean > 0.0 {
                self.dead += &cross((x, y), self.size);
            }
        }
    }

    fn draw(&self) -> String {
        let Self { shades, grid, dead, hot, .. } = self;
        let mut content = String::new();
        for (shade, path) in shades.iter().enumerate().skip(1).filter(|(_, of)| !of.is_empty()) {
            let opacity = shade as f64 / SHADES as f64;
            content +=
                &format!("<path d=\"{path}\" class=\"heat\" fill-opacity=\"{opacity:.2}\"/>\n");
        }
        let lines =
            format!("<path d=\"{grid}\" class=\"cells\"/>\n<path d=\"{dead}\" class=\"dead\"/>\n");
        content + &lines + hot
    }
}

fn cross((x, y): (f64, f64), (w, h): (f64, f64)) -> String {
    format!("M{x:.1} {y:.1}l{w:.1} {h:.1}m0 -{h:.1}l-{w:.1} {h:.1}")
}

/// Numbers of the experts, as many as there is room for.
fn columns(n_experts: usize, (left, width): (f64, f64), y: f64) -> String {
    let every = (26.0 / width).ceil().max(1.0) as usize;
    let mut content = String::new();
    for expert in (0..n_experts).step_by(every) {
        let place = (left + (expert as f64 + 0.5) * width, y);
        content += &text(place, "middle", "", &expert.to_string());
    }
    content + &text((left, y + 18.0), "start", "", "expert")
}

fn table(layers: &[LayerUse]) -> String {
    let mut text =
        "<details><summary>The measures, layer by layer</summary>\n<table>\n<tr>".to_owned();
    let columns = [
        "layer",
        "pairs",
        "balancedness",
        "variation",
        "entropy",
        "effective share",
        "dead",
        "hot (times the mean)",
    ];
    for name in columns {
        text += &format!("<th scope=\"col\">{name}</th>");
    }
    text += "</tr>\n";
    for layer in layers {
        let of = layer.experts;
        text += &format!("<tr><th scope=\"row\">{}</th><td>{}</td>", layer.layer, layer.pairs);
        for value in [
            of.balancedness,
            of.coefficient_of_variation,
            of.normalised_entropy,
            of.effective_share,
        ] {
            text += &format!("<td>{value:.3}</td>");
        }
        let hot = layer.hot.iter().take(NAMED);
        let hot: Vec<String> =
            hot.map(|hot| format!("{} ({:.1})", hot.expert, hot.times)).collect();
        text +=
            &format!("<td>{}</td><td>{}</td></tr>\n", layer.dead.len(), escape(&hot.join(", ")));
    }
    text + "</table></details>"
}
