//! Shapes and axes, and text that cannot become markup.

use std::fmt::Write as _;

/// Colours of nodes, which light and dark pages both show; more nodes begin again.
const COLOURS: [&str; 8] =
    ["#4c8bd0", "#f08a24", "#5aa454", "#b279a2", "#3fa7a0", "#c9a227", "#8c6bb1", "#9c755f"];
/// Lines of a grid, at most.
const TICKS: usize = 6;

/// A text as it may stand in HTML, in an element or in quotes.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            c if c.is_control() && c != '\n' => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

pub(super) fn colour(number: usize) -> &'static str {
    COLOURS[number % COLOURS.len()]
}

/// A picture with what it shows, for those who do not see it.
pub(super) fn picture((width, height): (f64, f64), title: &str, content: &str) -> String {
    let title = escape(title);
    format!(
        "<svg viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\" aria-label=\"{title}\">\n<title>{title}</title>\n{content}</svg>\n"
    )
}

/// A text at a place; `anchor` is start, middle or end.
pub(super) fn text((x, y): (f64, f64), anchor: &str, class: &str, text: &str) -> String {
    format!(
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" class=\"{class}\">{}</text>\n",
        escape(text)
    )
}

pub(super) fn line((x1, y1): (f64, f64), (x2, y2): (f64, f64), class: &str) -> String {
    format!(
        "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" class=\"{class}\"/>\n"
    )
}

/// A rectangle from one corner to the other, with a text that appears on it.
pub(super) fn rect((x, y): (f64, f64), (w, h): (f64, f64), class: &str, title: &str) -> String {
    format!(
        "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\" class=\"{class}\"><title>{}</title></rect>\n",
        w.max(0.0),
        h.max(0.0),
        escape(title)
    )
}

/// The path through some points.
pub(super) fn through(points: &[(f64, f64)]) -> String {
    let mut path = String::new();
    for (index, (x, y)) in points.iter().enumerate() {
        let command = if index == 0 { 'M' } else { 'L' };
        // Writing to a string does not fail.
        let _ = write!(path, "{command}{x:.1} {y:.1}");
    }
    path
}

/// A rectangle as a part of a path, which is shorter than an element of its own.
pub(super) fn cell((x, y): (f64, f64), (w, h): (f64, f64)) -> String {
    format!("M{x:.1} {y:.1}h{w:.1}v{h:.1}h-{w:.1}z")
}

/// A picture whose places are values: x from left to right, y from the bottom up.
pub(super) struct Frame {
    pub(super) size: (f64, f64),
    /// Left, top, right, bottom of what is drawn, from the edges.
    pub(super) margins: [f64; 4],
    pub(super) x: (f64, f64),
    pub(super) y: (f64, f64),
}

impl Frame {
    /// A frame for what happens over time.
    pub(super) fn over_time(height: f64, end: f64, most: f64) -> Self {
        Self {
            size: (900.0, height),
            margins: [52.0, 36.0, 12.0, 38.0],
            x: (0.0, end.max(1e-3)),
            y: (0.0, most.max(1e-9)),
        }
    }

    pub(super) fn at(&self, x: f64, y: f64) -> (f64, f64) {
        let [left, top, right, bottom] = self.margins;
        let (width, height) = (self.size.0 - left - right, self.size.1 - top - bottom);
        let share =
            |value: f64, (from, to): (f64, f64)| ((value - from) / (to - from)).clamp(0.0, 1.0);
        (left + share(x, self.x) * width, top + (1.0 - share(y, self.y)) * height)
    }

    /// Lines with their values, and what the values are.
    pub(super) fn axes(&self, x_name: &str, y_name: &str) -> String {
        let mut axes = String::new();
        for value in ticks(self.y) {
            let (x, y) = self.at(self.x.0, value);
            axes += &line((x, y), self.at(self.x.1, value), "grid");
            axes += &text((x - 6.0, y + 4.0), "end", "", &number(value));
        }
        axes += &self.x_axis(x_name);
        axes + &text((self.margins[0], 12.0), "start", "strong", y_name)
    }

    /// The values from left to right, and what they are.
    pub(super) fn x_axis(&self, name: &str) -> String {
        let mut axis = String::new();
        let bottom = self.size.1 - self.margins[3];
        for value in ticks(self.x) {
            let (x, _) = self.at(value, self.y.0);
            axis += &text((x, bottom + 16.0), "middle", "", &number(value));
        }
        axis + &text((self.size.0 - self.margins[2], bottom + 32.0), "end", "", name)
    }

    /// A part of the time, over the whole height.
    pub(super) fn span(&self, from: f64, to: f64, class: &str, title: &str) -> String {
        let ((left, bottom), (right, top)) = (self.at(from, self.y.0), self.at(to, self.y.1));
        rect((left, top), (right - left, bottom - top), class, title)
    }
}

/// Round values from one to another.
pub(super) fn ticks((from, to): (f64, f64)) -> Vec<f64> {
    let least = (to - from) / TICKS as f64;
    let power = 10f64.powf(least.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|times| times * power);
    let step = steps.into_iter().find(|step| *step >= least).unwrap_or(10.0 * power);
    let first = (from / step).ceil() as i64;
    let last = (to / step * (1.0 + 1e-9)).floor() as i64;
    (first..=last).map(|number| number as f64 * step).collect()
}

/// A number in few characters.
pub(super) fn number(value: f64) -> String {
    let digits = match value.abs() {
        0.0 => 0,
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        v if v >= 0.1 => 2,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_becomes_markup() {
        assert_eq!(escape("<a href='x'>&\"\u{0}"), "&lt;a href=&#39;x&#39;&gt;&amp;&quot; ");
    }

    #[test]
    fn ticks_are_round_and_few() {
        assert_eq!(ticks((0.0, 1.0)), [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]);
        assert_eq!(ticks((0.0, 34.0)), [0.0, 10.0, 20.0, 30.0]);
        for most in [1e-6, 0.3, 7.0, 99.0, 12_345.0] {
            assert!((2..=7).contains(&ticks((0.0, most)).len()), "{most}");
        }
    }

    #[test]
    fn numbers_are_short() {
        let check = |value: f64, text: &str| assert_eq!(number(value), text);
        check(0.0, "0");
        check(1200.0, "1200");
        check(12.50, "12.5");
        check(0.6000000000000001, "0.6");
        check(0.005, "0.005");
    }

    #[test]
    fn places_are_within_the_frame() {
        let frame = Frame::over_time(200.0, 10.0, 5.0);
        assert_eq!(frame.at(0.0, 0.0), (52.0, 162.0));
        assert_eq!(frame.at(10.0, 5.0), (888.0, 36.0));
        assert_eq!(frame.at(99.0, -3.0), (888.0, 162.0));
    }
}
