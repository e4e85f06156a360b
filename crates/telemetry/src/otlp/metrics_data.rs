//! The page of metrics as OTLP has it: what Prometheus scrapes and what a collector is sent are the same numbers.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, InstrumentationScope, KeyValue, any_value::Value,
};
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint,
    ResourceMetrics, ScopeMetrics, Sum, metric::Data, number_data_point,
};
use opentelemetry_proto::tonic::resource::v1::Resource;

use crate::Sample;

/// When the numbers of a page were begun and read, in nanoseconds since 1970.
#[derive(Clone, Copy)]
pub(crate) struct Period {
    from: u64,
    to: u64,
}

impl Period {
    /// From the start of the process to now.
    pub(crate) fn since(start: SystemTime) -> Self {
        Self { from: nanoseconds(start), to: nanoseconds(SystemTime::now()) }
    }
}

fn nanoseconds(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// What a collector is sent of a page in the text format of Prometheus; everything counts from the start of the process.
pub(crate) fn request(
    page: &str,
    resource: Vec<KeyValue>,
    period: Period,
) -> ExportMetricsServiceRequest {
    let (mut metrics, mut helps) = (Vec::new(), BTreeMap::new());
    // Samples follow the line that says what they are of.
    let (mut kind, mut samples) = (("", ""), Vec::new());
    for line in page.lines() {
        if let Some((name, help)) = comment(line, "# HELP ") {
            helps.insert(name, help);
        } else if let Some(next) = comment(line, "# TYPE ") {
            metrics.extend(metric(kind, &helps, &std::mem::take(&mut samples), period));
            kind = next;
        } else {
            samples.extend(Sample::read(line));
        }
    }
    metrics.extend(metric(kind, &helps, &samples, period));
    let scope = InstrumentationScope {
        name: "guildhall".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        ..Default::default()
    };
    let of_scope = ScopeMetrics { scope: Some(scope), metrics, ..Default::default() };
    let resource = Resource { attributes: resource, ..Default::default() };
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(resource),
            scope_metrics: vec![of_scope],
            ..Default::default()
        }],
    }
}

fn comment<'a>(line: &'a str, begin: &str) -> Option<(&'a str, &'a str)> {
    line.strip_prefix(begin)?.split_once(' ')
}

fn metric(
    (name, kind): (&str, &str),
    helps: &BTreeMap<&str, &str>,
    samples: &[Sample<'_>],
    period: Period,
) -> Option<Metric> {
    let points = || samples.iter().map(|of| number(of, period)).collect();
    let cumulative = AggregationTemporality::Cumulative.into();
    let data = match kind {
        "counter" => Data::Sum(Sum {
            data_points: points(),
            aggregation_temporality: cumulative,
            is_monotonic: true,
        }),
        "gauge" => Data::Gauge(Gauge { data_points: points() }),
        "histogram" => Data::Histogram(Histogram {
            data_points: histograms(name, samples, period),
            aggregation_temporality: cumulative,
        }),
        _ => return None,
    };
    Some(Metric {
        name: name.to_owned(),
        description: helps.get(name).copied().unwrap_or_default().to_owned(),
        unit: unit(name).to_owned(),
        data: Some(data),
        ..Default::default()
    })
}

/// By UCUM, as OpenTelemetry wants it.
fn unit(name: &str) -> &'static str {
    match name.trim_end_matches("_total") {
        name if name.ends_with("_seconds") => "s",
        name if name.ends_with("_bytes") => "By",
        _ => "",
    }
}

fn number(sample: &Sample<'_>, period: Period) -> NumberDataPoint {
    NumberDataPoint {
        attributes: sample.labels.iter().map(|(name, value)| attribute(name, value)).collect(),
        start_time_unix_nano: period.from,
        time_unix_nano: period.to,
        value: Some(number_data_point::Value::AsDouble(sample.value)),
        ..Default::default()
    }
}

/// One point for each set of labels but `le`, whose values are the bounds of the buckets.
fn histograms(name: &str, samples: &[Sample<'_>], period: Period) -> Vec<HistogramDataPoint> {
    let mut points: Vec<(Vec<(&str, String)>, HistogramDataPoint)> = Vec::new();
    for sample in samples {
        let bound = sample.label("le").and_then(|bound| bound.parse::<f64>().ok());
        let labels: Vec<_> =
            sample.labels.iter().filter(|(label, _)| *label != "le").cloned().collect();
        let known = points.iter().position(|(of, _)| *of == labels);
        let at = known.unwrap_or_else(|| {
            points.push((labels.clone(), empty_histogram(&labels, period)));
            points.len() - 1
        });
        let point = &mut points[at].1;
        match (sample.name.strip_prefix(name), bound) {
            (Some("_bucket"), Some(bound)) => {
                let before: u64 = point.bucket_counts.iter().sum();
                point.bucket_counts.push((sample.value as u64).saturating_sub(before));
                point.explicit_bounds.extend(bound.is_finite().then_some(bound));
            }
            (Some("_sum"), None) => point.sum = Some(sample.value),
            (Some("_count"), None) => point.count = sample.value as u64,
            _ => {}
        }
    }
    points.into_iter().map(|(_, point)| point).collect()
}

fn empty_histogram(labels: &[(&str, String)], period: Period) -> HistogramDataPoint {
    HistogramDataPoint {
        attributes: labels.iter().map(|(name, value)| attribute(name, value)).collect(),
        start_time_unix_nano: period.from,
        time_unix_nano: period.to,
        ..Default::default()
    }
}

/// A name and a text, as OTLP pairs them.
pub(crate) fn attribute(name: &str, value: &str) -> KeyValue {
    let value = AnyValue { value: Some(Value::StringValue(value.to_owned())) };
    KeyValue { key: name.to_owned(), value: Some(value), ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = r#"# HELP calls_total Calls.
# TYPE calls_total counter
calls_total{node="a \"b\" \\ c",part="q"} 7
calls_total{node="d",part="q"} 1

# TYPE level gauge
level 0.25

# HELP time_seconds How long.
# TYPE time_seconds histogram
time_seconds_bucket{node="a",le="0.1"} 1
time_seconds_bucket{node="a",le="1"} 3
time_seconds_bucket{node="a",le="+Inf"} 4
time_seconds_sum{node="a"} 5.5
time_seconds_count{node="a"} 4
time_seconds_bucket{node="b",le="0.1"} 0
time_seconds_bucket{node="b",le="1"} 0
time_seconds_bucket{node="b",le="+Inf"} 2
time_seconds_sum{node="b"} 9
time_seconds_count{node="b"} 2
"#;

    fn metrics() -> Vec<Metric> {
        let period = Period { from: 1, to: 2 };
        let request = request(PAGE, vec![attribute("service.name", "s")], period);
        request.resource_metrics[0].scope_metrics[0].metrics.clone()
    }

    #[test]
    fn counters_and_gauges_keep_their_labels_and_numbers() {
        let metrics = metrics();
        assert_eq!(metrics.len(), 3);
        let Some(Data::Sum(sum)) = &metrics[0].data else { panic!("{:?}", metrics[0]) };
        assert!(sum.is_monotonic);
        assert_eq!((metrics[0].name.as_str(), &*metrics[0].description), ("calls_total", "Calls."));
        let [first, second] = &sum.data_points[..] else { panic!("{sum:?}") };
        assert_eq!(first.attributes, [attribute("node", "a \"b\" \\ c"), attribute("part", "q")]);
        assert_eq!(first.value, Some(number_data_point::Value::AsDouble(7.0)));
        assert_eq!((first.start_time_unix_nano, first.time_unix_nano), (1, 2));
        assert_eq!(second.attributes[0], attribute("node", "d"));
        let Some(Data::Gauge(level)) = &metrics[1].data else { panic!("{:?}", metrics[1]) };
        assert_eq!(level.data_points[0].value, Some(number_data_point::Value::AsDouble(0.25)));
    }

    #[test]
    fn a_histogram_has_a_point_for_each_set_of_labels_with_buckets_that_do_not_overlap() {
        let metrics = metrics();
        assert_eq!(metrics[2].unit, "s");
        let Some(Data::Histogram(histogram)) = &metrics[2].data else { panic!("{:?}", metrics[2]) };
        let [a, b] = &histogram.data_points[..] else { panic!("{histogram:?}") };
        assert_eq!(a.attributes, [attribute("node", "a")]);
        assert_eq!(
            (&a.explicit_bounds[..], &a.bucket_counts[..]),
            (&[0.1, 1.0][..], &[1, 2, 1][..])
        );
        assert_eq!((a.sum, a.count), (Some(5.5), 4));
        assert_eq!((&b.bucket_counts[..], b.sum, b.count), (&[0, 0, 2][..], Some(9.0), 2));
    }
}
