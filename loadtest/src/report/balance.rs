//! What each node did over time, and how even that was.

use std::collections::{BTreeMap, BTreeSet};

use guildhall_placement::measures::balancedness;

use super::svg::{Frame, cell, colour, escape, line, picture, text, through};
use super::timeline::marks;
use crate::experts::{Experts, Interval, Period};

/// Shares of the nodes in the work of all layers.
pub(super) fn shares(experts: &Experts, end: f64) -> String {
    let frame = Frame::over_time(240.0, end, 1.0);
    let names: BTreeSet<&String> =
        experts.intervals.iter().flat_map(|of| of.nodes.keys()).collect();
    let places: BTreeMap<&str, usize> =
        names.iter().zip(0..).map(|(name, place)| (name.as_str(), place)).collect();
    let mut paths = vec![String::new(); places.len()];
    let mut ideal = String::new();
    for interval in &experts.intervals {
        stack(interval, &frame, |name, cell| paths[places[name]] += cell);
        for border in 1..interval.nodes.len() {
            let at = border as f64 / interval.nodes.len() as f64;
            ideal += &through(&[frame.at(interval.from, at), frame.at(interval.to, at)]);
        }
    }
    let mut content = frame.axes("seconds", "share of the work");
    for (name, place) in &places {
        let (path, colour, name) = (&paths[*place], colour(*place), escape(name));
        content += &format!(
            "<path d=\"{path}\" fill=\"{colour}\" fill-opacity=\".85\"><title>{name}</title></path>\n"
        );
    }
    content += &format!("<path d=\"{ideal}\" class=\"ideal\" fill=\"none\"/>\n");
    content += &marks(&frame, &experts.rebalances);
    let title = "Share of each node in the work over time, stacked";
    picture(frame.size, title, &content)
        + &legend(&places)
        + "<p class=\"note\">Dashed: where the borders are if all nodes do as much.</p>"
}

/// The nodes of an interval on top of each other; nothing where nothing was done.
fn stack(interval: &Interval, frame: &Frame, mut draw: impl FnMut(&str, &str)) {
    let nodes = interval.of_nodes();
    let all: u64 = nodes.iter().map(|(_, pairs)| pairs).sum();
    if all == 0 {
        return;
    }
    let mut below = 0.0;
    for (name, pairs) in nodes {
        let above = below + pairs as f64 / all as f64;
        let (left, top) = frame.at(interval.from, above);
        let (right, bottom) = frame.at(interval.to, below);
        draw(name, &cell((left, top), (right - left, bottom - top)));
        below = above;
    }
}

fn legend(places: &BTreeMap<&str, usize>) -> String {
    let mut text = "<ul class=\"legend\">".to_owned();
    for (name, place) in places {
        let (colour, name) = (colour(*place), escape(name));
        text += &format!("<li><i style=\"background:{colour}\"></i>{name}</li>");
    }
    text + "</ul>\n"
}

/// Balancedness of the nodes over time: each layer, their mean, and the means before and after each rebalance.
pub(super) fn evenness(experts: &Experts, end: f64) -> String {
    let frame = Frame::over_time(260.0, end, 1.05);
    let mut content = frame.axes("seconds", "balancedness (mean over maximum)");
    let layers = &experts.whole.layers;
    let mut of_layer = vec![Vec::new(); layers.len()];
    let mut mean = Vec::new();
    for interval in &experts.intervals {
        let even = of_layers(interval, layers.len());
        let used: Vec<f64> = even.iter().flatten().copied().collect();
        let middle = (interval.from + interval.to) / 2.0;
        for (points, even) in of_layer.iter_mut().zip(&even) {
            points.extend(even.map(|even| frame.at(middle, even)));
        }
        if !used.is_empty() {
            mean.push(frame.at(middle, used.iter().sum::<f64>() / used.len() as f64));
        }
    }
    for (points, layer) in of_layer.iter().zip(layers) {
        content += &curve(points, "layer", &format!("layer {}", layer.layer));
    }
    content += &line(frame.at(0.0, 1.0), frame.at(end, 1.0), "ideal");
    content += &curve(&mean, "mean", "mean of the layers");
    content += &marks(&frame, &experts.rebalances);
    content += &spans(experts, &frame);
    picture(frame.size, "Balancedness of the nodes over time, layer by layer", &content)
        + EVENNESS_NOTE
}

const EVENNESS_NOTE: &str = "<p class=\"note\">Thin: one layer. Thick and blue: their mean. Thick and \
    black (or white): the means between rebalances. Dashed: all nodes do as much, the best there is.</p>";

fn curve(points: &[(f64, f64)], class: &str, title: &str) -> String {
    let (path, title) = (through(points), escape(title));
    format!("<path d=\"{path}\" class=\"{class}\"><title>{title}</title></path>\n")
}

/// Each layer's balancedness in an interval; absent if it was not used.
fn of_layers(interval: &Interval, n_layers: usize) -> Vec<Option<f64>> {
    let of_layer = |layer: usize| {
        let load: Vec<f64> = interval.nodes.values().map(|pairs| pairs[layer] as f64).collect();
        (load.iter().sum::<f64>() > 0.0).then(|| balancedness(&load))
    };
    (0..n_layers).map(of_layer).collect()
}

fn spans(experts: &Experts, frame: &Frame) -> String {
    let span = |period: &Period, name: &str| {
        let (from, to) =
            (frame.at(period.from, period.balancedness), frame.at(period.to, period.balancedness));
        let label = ((from.0 + to.0) / 2.0, from.1 + 18.0);
        line(from, to, "span")
            + &text(label, "middle", "strong", &format!("{name} {:.2}", period.balancedness))
    };
    let mut content = String::new();
    let last = experts.rebalances.len().saturating_sub(1);
    for (index, rebalance) in experts.rebalances.iter().enumerate() {
        content += &rebalance.before.as_ref().map(|of| span(of, "before")).unwrap_or_default();
        // What is after this one is before the next.
        let after = rebalance.after.as_ref().filter(|_| index == last);
        content += &after.map(|of| span(of, "after")).unwrap_or_default();
    }
    content
}
