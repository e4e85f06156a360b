//! Metrics in Prometheus form: what each is called and means, and the page that shows them all.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Label};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_util::MetricKindMask;

/// A metric, known to the whole process by its name.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// As Prometheus has it; the unit is its ending.
    pub name: &'static str,
    /// What kind of number.
    pub kind: MetricKind,
    /// One sentence.
    pub description: &'static str,
    /// Names of the labels.
    pub labels: &'static [&'static str],
}

/// What kind of number a metric is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MetricKind {
    /// It only grows, while the process lives.
    Counter,
    /// Seconds, of which there are only ever more.
    Seconds,
    /// It is what it is.
    Gauge,
    /// How many values were at most so large, for each of these.
    Histogram(&'static [f64]),
}

impl Metric {
    /// A number that only grows.
    #[must_use]
    pub const fn counter(
        name: &'static str,
        labels: &'static [&'static str],
        description: &'static str,
    ) -> Self {
        Self { name, kind: MetricKind::Counter, description, labels }
    }

    /// Seconds that only grow.
    #[must_use]
    pub const fn seconds(
        name: &'static str,
        labels: &'static [&'static str],
        description: &'static str,
    ) -> Self {
        Self { name, kind: MetricKind::Seconds, description, labels }
    }

    /// A number that comes and goes.
    #[must_use]
    pub const fn gauge(
        name: &'static str,
        labels: &'static [&'static str],
        description: &'static str,
    ) -> Self {
        Self { name, kind: MetricKind::Gauge, description, labels }
    }

    /// Seconds, counted in buckets.
    #[must_use]
    pub const fn histogram(
        name: &'static str,
        labels: &'static [&'static str],
        buckets: &'static [f64],
        description: &'static str,
    ) -> Self {
        Self { name, kind: MetricKind::Histogram(buckets), description, labels }
    }

    /// A line of a table: name, kind, labels, meaning.
    fn describe(&self) -> String {
        let kind = match self.kind {
            MetricKind::Counter | MetricKind::Seconds => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram(_) => "histogram",
        };
        let labels: Vec<String> = self.labels.iter().map(|label| format!("`{label}`")).collect();
        format!("| `{}` | {kind} | {} | {} |", self.name, labels.join(", "), self.description)
    }

    /// A table of some of them.
    #[must_use]
    pub fn table(metrics: &[Self]) -> String {
        let lines: Vec<String> = metrics.iter().map(Self::describe).collect();
        format!("| metric | kind | labels | |\n|---|---|---|---|\n{}\n", lines.join("\n"))
    }

    fn labels(&self, values: &[&str]) -> Vec<Label> {
        debug_assert_eq!(values.len(), self.labels.len(), "{}", self.name);
        let pairs = self.labels.iter().zip(values);
        pairs.map(|(&name, &value)| Label::new(name, value.to_owned())).collect()
    }

    /// The counter with these values of its labels, to be kept where it is used often.
    pub fn counter_of(&self, values: &[&str]) -> Counter {
        metrics::counter!(self.name, self.labels(values))
    }

    /// The seconds with these values of their labels, to be kept where they are used often.
    pub fn seconds_of(&self, values: &[&str]) -> Seconds {
        debug_assert_eq!(self.kind, MetricKind::Seconds, "{}", self.name);
        Seconds(self.counter_of(values))
    }

    /// The histogram with these values of its labels, to be kept where it is used often.
    pub fn histogram_of(&self, values: &[&str]) -> Histogram {
        metrics::histogram!(self.name, self.labels(values))
    }

    /// Counts.
    pub fn add(&self, values: &[&str], more: u64) {
        self.counter_of(values).increment(more);
    }

    /// Takes over what is counted elsewhere since the start of the process.
    pub fn counted(&self, values: &[&str], total: u64) {
        self.counter_of(values).absolute(total);
    }

    /// Takes over what something is now.
    pub fn set(&self, values: &[&str], now: f64) {
        let gauge: Gauge = metrics::gauge!(self.name, self.labels(values));
        gauge.set(now);
    }

    /// Adds a duration without labels.
    pub fn record(&self, duration: Duration) {
        metrics::histogram!(self.name).record(duration.as_secs_f64());
    }
}

/// Seconds that add up. The exporter counts in whole numbers, so they are nanoseconds until somebody looks.
pub struct Seconds(Counter);

impl Seconds {
    /// Adds a time.
    pub fn add(&self, time: Duration) {
        self.0.increment(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }
}

/// All metrics of this process.
#[derive(Clone)]
pub struct MetricsPage {
    handle: PrometheusHandle,
    /// Names of those that are counted in nanoseconds.
    seconds: Arc<[&'static str]>,
    /// Copy what is counted elsewhere; called before each look at the page.
    lookups: Arc<Mutex<Vec<Lookup>>>,
}

type Lookup = Box<dyn Fn() + Send>;

/// A gauge that nobody sets for so long is shown no more: what it said is not known any longer.
const FORGET_GAUGES: Duration = Duration::from_secs(60);
/// Time between two times of putting what was recorded into buckets.
pub(crate) const TIDY_EVERY: Duration = Duration::from_secs(5);

static PAGE: OnceLock<Result<MetricsPage, String>> = OnceLock::new();
static EXPORTED: AtomicBool = AtomicBool::new(false);

impl MetricsPage {
    /// What [`Self::render`] gives, as HTTP names it.
    pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

    /// Collects metrics from now on; before, they are not counted. A process has one page, whoever asks for it first
    /// says which metrics there are.
    ///
    /// # Errors
    /// If something else collects them already.
    pub fn open(metrics: &[Metric]) -> Result<Self, String> {
        PAGE.get_or_init(|| Self::install(metrics)).clone()
    }

    /// Opens it if somebody asks for it or it is exported.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_if(asked: bool, metrics: &[Metric]) -> Result<Option<Self>, String> {
        let wanted = asked || EXPORTED.load(Ordering::Relaxed);
        wanted.then(|| Self::open(metrics)).transpose()
    }

    /// Somebody looks at it from time to time without being asked.
    pub(crate) fn will_be_exported() {
        EXPORTED.store(true, Ordering::Relaxed);
    }

    /// The page, if it is open.
    pub(crate) fn opened() -> Option<Self> {
        PAGE.get().and_then(|page| page.clone().ok())
    }

    /// Puts what is recorded into buckets, if the page is open.
    pub(crate) fn tidy() {
        if let Some(page) = Self::opened() {
            page.handle.run_upkeep();
        }
    }

    /// Has something copied to the page before each look at it.
    pub fn before_each_look(&self, lookup: impl Fn() + Send + 'static) {
        self.lookups.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(lookup));
    }

    fn install(metrics: &[Metric]) -> Result<Self, String> {
        let mut builder =
            PrometheusBuilder::new().idle_timeout(MetricKindMask::GAUGE, Some(FORGET_GAUGES));
        for metric in metrics {
            if let MetricKind::Histogram(buckets) = metric.kind {
                let name = Matcher::Full(metric.name.into());
                let with_buckets = builder.set_buckets_for_metric(name, buckets);
                builder = with_buckets.map_err(|e| format!("{}: {e}", metric.name))?;
            }
        }
        let handle = builder.install_recorder().map_err(|e| format!("metrics: {e}"))?;
        for metric in metrics {
            match metric.kind {
                MetricKind::Counter | MetricKind::Seconds => {
                    metrics::describe_counter!(metric.name, metric.description);
                }
                MetricKind::Gauge => metrics::describe_gauge!(metric.name, metric.description),
                MetricKind::Histogram(_) => {
                    metrics::describe_histogram!(metric.name, metric.description);
                }
            }
        }
        let process = metrics_process::Collector::default();
        process.describe();
        let seconds = metrics.iter().filter(|metric| metric.kind == MetricKind::Seconds);
        let seconds = seconds.map(|metric| metric.name).collect();
        let page = Self { handle, seconds, lookups: Arc::default() };
        page.before_each_look(move || process.collect());
        Ok(page)
    }

    /// The page, in the text format of Prometheus.
    #[must_use]
    pub fn render(&self) -> String {
        for lookup in &*self.lookups.lock().unwrap_or_else(PoisonError::into_inner) {
            lookup();
        }
        in_seconds(&self.handle.render(), &self.seconds)
    }

    /// Puts what is recorded into buckets from time to time, for ever; until then each value takes memory.
    pub async fn keep_tidy(self) {
        loop {
            tokio::time::sleep(TIDY_EVERY).await;
            self.handle.run_upkeep();
        }
    }
}

/// A page on which the samples of some metrics are seconds in place of nanoseconds.
fn in_seconds(page: &str, seconds: &[&str]) -> String {
    let mut shown = String::with_capacity(page.len());
    for line in page.lines() {
        let of =
            |name: &&str| line.strip_prefix(*name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        let sample = seconds.iter().any(of).then(|| line.rsplit_once(' ')).flatten();
        match sample.and_then(|(labels, value)| Some((labels, value.parse::<u64>().ok()?))) {
            Some((labels, nanoseconds)) => {
                shown.push_str(labels);
                shown.push_str(&format!(" {}", nanoseconds as f64 / 1e9));
            }
            None => shown.push_str(line),
        }
        shown.push('\n');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECONDS: Metric = Metric::histogram("t_seconds", &[], &[0.1, 1.0], "How long it took.");
    const CALLS: Metric = Metric::counter("t_calls_total", &["node"], "Calls.");
    const TIME: Metric = Metric::seconds("t_part_seconds_total", &["part"], "Time of parts.");
    const LEVEL: Metric = Metric::gauge("t_level", &[], "How full it is.");

    #[test]
    fn a_page_has_what_was_recorded_with_names_and_buckets() {
        let page = MetricsPage::open(&[SECONDS, CALLS, TIME, LEVEL]).unwrap();
        SECONDS.record(Duration::from_millis(500));
        SECONDS.record(Duration::from_secs(2));
        CALLS.add(&["a"], 2);
        CALLS.counter_of(&["a"]).increment(1);
        CALLS.counted(&["b"], 7);
        let time = TIME.seconds_of(&["a 7"]);
        time.add(Duration::from_micros(250));
        time.add(Duration::from_secs(2));
        LEVEL.set(&[], 0.25);
        let text = page.render();
        for line in [
            "# HELP t_seconds How long it took.",
            "# TYPE t_seconds histogram",
            "t_seconds_bucket{le=\"0.1\"} 0",
            "t_seconds_bucket{le=\"1\"} 1",
            "t_seconds_bucket{le=\"+Inf\"} 2",
            "t_seconds_sum 2.5",
            "t_seconds_count 2",
            "t_calls_total{node=\"a\"} 3",
            "t_calls_total{node=\"b\"} 7",
            "# TYPE t_part_seconds_total counter",
            "t_part_seconds_total{part=\"a 7\"} 2.00025",
            "t_level 0.25",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        let memory = text.lines().find_map(|l| l.strip_prefix("process_resident_memory_bytes "));
        assert!(memory.unwrap().parse::<f64>().unwrap() > 1e6);
        assert!(MetricsPage::open(&[]).is_ok(), "it is the same page");
    }
}
