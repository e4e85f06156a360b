//! What a terminal shows while a run goes on: a few lines that are drawn anew each second, or one where it is none.

use std::time::Duration;

use crate::experts::Strip;
use crate::results::Percentiles;

/// Heights of a sparkline.
const HEIGHTS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Characters of a progress bar and of a sparkline, at most.
const BAR: usize = 30;
/// Nodes that are shown by name.
const NODES: usize = 4;
/// No terminal is narrower.
const LEAST_WIDTH: usize = 20;

/// How far a run is.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// What is being run, where there are several runs.
    pub leg: String,
    /// Since its start.
    pub elapsed: Duration,
    /// How long it will be, if the clock ends it.
    pub total: Option<Duration>,
    /// Whether it still warms up.
    pub warming_up: bool,
    /// Requests that are sent and have not ended.
    pub running: usize,
    /// Whole answers so far.
    pub succeeded: u64,
    /// Failed requests so far.
    pub failed: u64,
    /// Tokens that came so far.
    pub tokens: u64,
    /// Tokens of each of the last seconds.
    pub rates: Vec<f64>,
    /// Time to the first token, of answers that ended in the last seconds.
    pub ttft: Percentiles,
    /// Time between parts of the same.
    pub itl: Percentiles,
    /// How nodes were used just now, if they are watched.
    pub strip: Option<Strip>,
}

/// What a terminal can show.
#[derive(Clone, Copy, Debug)]
pub struct Screen {
    /// Characters of a line.
    pub width: usize,
    /// Whether there may be colours.
    pub colours: bool,
}

impl Progress {
    fn phase(&self) -> &'static str {
        if self.warming_up { "warming up" } else { "measuring" }
    }

    /// One line, for files.
    #[must_use]
    pub fn line(&self) -> String {
        let Self { leg, elapsed, running, succeeded, failed, tokens, .. } = self;
        let leg = if leg.is_empty() { String::new() } else { format!("{leg}  ") };
        format!(
            "{:>6.0} s  {:<10}  {leg}{running} running, {succeeded} succeeded, {failed} failed, {tokens} tokens",
            elapsed.as_secs_f64(),
            self.phase()
        )
    }

    /// Some lines, for a terminal; each ends with a line feed, and none is wider than the screen.
    #[must_use]
    pub fn draw(&self, screen: Screen) -> String {
        let latency = |of: &Percentiles| match of.count {
            0 => "-".to_owned(),
            _ => format!("{:.1} / {:.1} ms", of.p50_ms, of.p99_ms),
        };
        let rate = self.rates.last().copied().unwrap_or_default();
        let counts =
            format!("{} running   {} ok   {} failed", self.running, self.succeeded, self.failed);
        let (ttft, itl) = (latency(&self.ttft), latency(&self.itl));
        let mut lines = vec![
            Line::new(self.bar(), Colour::Plain),
            Line::new(counts, if self.failed > 0 { Colour::Red } else { Colour::Plain }),
            Line::new(format!("{rate:>8.0} tokens/s  {}", sparkline(&self.rates)), Colour::Blue),
            Line::new(format!("ttft {ttft}   itl {itl}   (p50 / p99)"), Colour::Plain),
        ];
        lines.extend(self.strip.as_ref().map(|strip| Line::new(nodes(strip), Colour::Yellow)));
        lines.iter().map(|line| line.draw(screen)).collect()
    }

    fn bar(&self) -> String {
        let seconds = self.elapsed.as_secs_f64();
        let leg = if self.leg.is_empty() { String::new() } else { format!("  {}", self.leg) };
        let Some(total) = self.total.filter(|total| !total.is_zero()) else {
            return format!("{seconds:.0} s  {}{leg}", self.phase());
        };
        let share = (seconds / total.as_secs_f64()).clamp(0.0, 1.0);
        let full = (share * BAR as f64).floor() as usize;
        let (full, empty) = ("█".repeat(full), "░".repeat(BAR - full));
        format!("{full}{empty} {seconds:.0} of {:.0} s  {}{leg}", total.as_secs_f64(), self.phase())
    }
}

#[derive(Clone, Copy, Debug)]
enum Colour {
    Plain,
    Red,
    Blue,
    Yellow,
}

struct Line {
    text: String,
    colour: Colour,
}

impl Line {
    fn new(text: String, colour: Colour) -> Self {
        Self { text, colour }
    }

    fn draw(&self, screen: Screen) -> String {
        let width = screen.width.max(LEAST_WIDTH);
        let text: String = self.text.chars().filter(|c| !c.is_control()).take(width).collect();
        let code = match self.colour {
            Colour::Plain => return text + "\n",
            Colour::Red => 31,
            Colour::Blue => 36,
            Colour::Yellow => 33,
        };
        if screen.colours { format!("\x1b[{code}m{text}\x1b[0m\n") } else { text + "\n" }
    }
}

/// The last values as heights, the greatest the highest.
fn sparkline(values: &[f64]) -> String {
    let values = &values[values.len().saturating_sub(BAR)..];
    let most = values.iter().copied().fold(0.0, f64::max);
    values.iter().map(|value| height(*value, most)).collect()
}

fn height(value: f64, most: f64) -> char {
    let top = HEIGHTS.len() - 1;
    let share = if most > 0.0 { (value / most).clamp(0.0, 1.0) } else { 0.0 };
    HEIGHTS[(share * top as f64).round() as usize]
}

/// How even it is, the share of each node as a height, and the busiest by name.
fn nodes(strip: &Strip) -> String {
    let most = strip.nodes.iter().map(|(_, share)| *share).fold(0.0, f64::max);
    let heights: String = strip.nodes.iter().map(|(_, share)| height(*share, most)).collect();
    let mut busiest: Vec<_> = strip.nodes.iter().collect();
    busiest.sort_by(|first, second| second.1.total_cmp(&first.1));
    let busiest = busiest.iter().take(NODES);
    let busiest: Vec<String> =
        busiest.map(|(node, share)| format!("{node} {:.0} %", share * 100.0)).collect();
    format!("nodes {heights}  balancedness {:.2}   {}", strip.balancedness, busiest.join("  "))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn progress() -> Progress {
        Progress {
            elapsed: Duration::from_secs(10),
            total: Some(Duration::from_secs(40)),
            running: 16,
            succeeded: 120,
            failed: 1,
            tokens: 9000,
            rates: vec![0.0, 400.0, 800.0],
            ttft: Percentiles { count: 3, p50_ms: 12.3, p99_ms: 45.6, ..Percentiles::default() },
            strip: Some(Strip {
                balancedness: 0.91,
                nodes: vec![("a".into(), 0.25), ("b".into(), 0.5), ("c".into(), 0.25)],
            }),
            ..Progress::default()
        }
    }

    #[test]
    fn a_terminal_shows_how_far_it_is_and_how_it_goes() {
        let drawn = progress().draw(Screen { width: 100, colours: false });
        let expected = "███████░░░░░░░░░░░░░░░░░░░░░░░ 10 of 40 s  measuring\n\
             16 running   120 ok   1 failed\n     800 tokens/s  ▁▅█\n\
             ttft 12.3 / 45.6 ms   itl -   (p50 / p99)\n\
             nodes ▅█▅  balancedness 0.91   b 50 %  a 25 %  c 25 %\n";
        assert_eq!(drawn, expected);
    }

    #[test]
    fn without_a_terminal_it_is_a_line() {
        let leg = Progress { leg: "quiet run".into(), warming_up: true, ..progress() };
        let expected =
            "    10 s  warming up  quiet run  16 running, 120 succeeded, 1 failed, 9000 tokens";
        assert_eq!(leg.line(), expected);
        assert!(leg.draw(Screen { width: 80, colours: false }).contains("warming up  quiet run\n"));
    }

    #[test]
    fn colours_are_there_only_where_they_may_be() {
        let drawn = |colours| progress().draw(Screen { width: 100, colours });
        assert!(drawn(true).contains("\x1b[31m16 running"));
        assert!(!drawn(false).contains('\x1b'));
    }

    proptest! {
        #[test]
        fn no_line_is_wider_than_the_screen(
            width in LEAST_WIDTH..200,
            rates in prop::collection::vec(0.0f64..1e9, 0..100),
            (elapsed, total) in (0u64..1000, prop::option::of(0u64..100)),
            leg in "\\PC{0,40}",
        ) {
            let elapsed = Duration::from_secs(elapsed);
            let total = total.map(Duration::from_secs);
            let progress = Progress { leg, elapsed, total, rates, ..progress() };
            let drawn = progress.draw(Screen { width, colours: false });
            prop_assert_eq!(drawn.lines().count(), 5);
            prop_assert!(drawn.lines().all(|line| line.chars().count() <= width));
        }
    }
}
