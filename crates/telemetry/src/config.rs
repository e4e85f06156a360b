//! Where a process sends its traces and metrics, from flags or the standard variables of OpenTelemetry.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Everything that exporting over OTLP can be told; headers and the size of batches come from the variables of
/// OpenTelemetry alone.
#[derive(Clone, Debug, clap::Args)]
pub struct OtlpConfig {
    /// Collector of OpenTelemetry, as in http://127.0.0.1:4317; default: nothing is exported.
    #[arg(
        long,
        env = "OTEL_EXPORTER_OTLP_ENDPOINT",
        default_value = "",
        hide_default_value = true,
        value_name = "URL"
    )]
    pub otlp_endpoint: String,

    /// Collector of traces, if it is another one.
    #[arg(
        long,
        env = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        default_value = "",
        hide_default_value = true,
        value_name = "URL"
    )]
    pub otlp_traces_endpoint: String,

    /// Collector of metrics, if it is another one.
    #[arg(
        long,
        env = "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
        default_value = "",
        hide_default_value = true,
        value_name = "URL"
    )]
    pub otlp_metrics_endpoint: String,

    /// Milliseconds between two exports of all metrics.
    #[arg(long, env = "OTEL_METRIC_EXPORT_INTERVAL", default_value = "60000", value_parser = milliseconds, value_name = "MILLISECONDS")]
    pub otlp_metrics_interval: Duration,

    /// How collectors are spoken to: grpc or http/protobuf.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_PROTOCOL", default_value_t)]
    pub otlp_protocol: OtlpProtocol,

    /// File with the certificates (PEM) of whoever may sign those of collectors; default: whom the system trusts.
    #[arg(
        long,
        env = "OTEL_EXPORTER_OTLP_CERTIFICATE",
        default_value = "",
        hide_default_value = true,
        value_name = "FILE"
    )]
    pub otlp_certificate: String,

    /// Milliseconds that a collector gets to take what it is sent.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_TIMEOUT", default_value = "10000", value_parser = milliseconds, value_name = "MILLISECONDS")]
    pub otlp_timeout: Duration,

    /// Which requests are traced: always_on, always_off or traceidratio, or one of these behind parentbased_, which
    /// heeds what the caller's traceparent says.
    #[arg(long, env = "OTEL_TRACES_SAMPLER", default_value_t)]
    pub otlp_traces_sampler: TracesSampler,

    /// The share of requests for traceidratio.
    #[arg(long, env = "OTEL_TRACES_SAMPLER_ARG", default_value = "1", value_parser = ratio, value_name = "RATIO")]
    pub otlp_traces_ratio: f64,

    /// Spans that wait to be sent; one more is dropped and counted.
    #[arg(long, env = "OTEL_BSP_MAX_QUEUE_SIZE", default_value = "16384", value_name = "N")]
    pub otlp_max_queued_spans: usize,

    /// Export nothing, whatever else is said.
    #[arg(long, env = "OTEL_SDK_DISABLED", hide = true)]
    pub otlp_disabled: bool,
}

/// How a collector is spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OtlpProtocol {
    /// Protobuf over gRPC.
    #[default]
    Grpc,
    /// Protobuf over HTTP/1.1.
    HttpProtobuf,
}

/// Which requests are traced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TracesSampler {
    /// Whether the caller decides where there is one.
    pub parent_based: bool,
    /// For all others.
    pub root: RootSampler,
}

/// Which requests are traced whose caller does not say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootSampler {
    /// All.
    AlwaysOn,
    /// None.
    AlwaysOff,
    /// A share of them.
    TraceIdRatio,
}

impl OtlpConfig {
    /// Where traces go.
    pub(crate) fn traces_endpoint(&self) -> Option<String> {
        self.endpoint(&self.otlp_traces_endpoint, "v1/traces")
    }

    /// Where metrics go.
    pub(crate) fn metrics_endpoint(&self) -> Option<String> {
        self.endpoint(&self.otlp_metrics_endpoint, "v1/metrics")
    }

    /// What is sent along with metrics. The exporter of traces reads its variables itself.
    pub(crate) fn metrics_headers() -> String {
        let own = std::env::var("OTEL_EXPORTER_OTLP_METRICS_HEADERS");
        own.or_else(|_| std::env::var("OTEL_EXPORTER_OTLP_HEADERS")).unwrap_or_default()
    }

    fn endpoint(&self, own: &str, path: &str) -> Option<String> {
        match (own, self.otlp_endpoint.as_str()) {
            _ if self.otlp_disabled => None,
            ("", "") => None,
            ("", base) => Some(match self.otlp_protocol {
                OtlpProtocol::Grpc => base.to_owned(),
                OtlpProtocol::HttpProtobuf => format!("{}/{path}", base.trim_end_matches('/')),
            }),
            (own, _) => Some(own.to_owned()),
        }
    }

    /// The same settings as flags, for a process that is started.
    #[must_use]
    pub fn flags(&self) -> Vec<String> {
        let mut flags = Vec::new();
        let mut add = |name: &str, value: &dyn fmt::Display| flags.push(format!("{name}={value}"));
        add("--otlp-endpoint", &self.otlp_endpoint);
        add("--otlp-traces-endpoint", &self.otlp_traces_endpoint);
        add("--otlp-metrics-endpoint", &self.otlp_metrics_endpoint);
        add("--otlp-metrics-interval", &self.otlp_metrics_interval.as_millis());
        add("--otlp-protocol", &self.otlp_protocol);
        add("--otlp-certificate", &self.otlp_certificate);
        add("--otlp-timeout", &self.otlp_timeout.as_millis());
        add("--otlp-traces-sampler", &self.otlp_traces_sampler);
        add("--otlp-traces-ratio", &self.otlp_traces_ratio);
        add("--otlp-max-queued-spans", &self.otlp_max_queued_spans);
        if self.otlp_disabled {
            flags.push("--otlp-disabled".into());
        }
        flags
    }
}

impl TracesSampler {
    /// Whether a request is traced: what its caller said of its trace, and the trace's lot.
    pub(crate) fn decide(self, parent_sampled: Option<bool>, lot: f64, ratio: f64) -> bool {
        match (self.parent_based, parent_sampled) {
            (true, Some(sampled)) => sampled,
            _ => match self.root {
                RootSampler::AlwaysOn => true,
                RootSampler::AlwaysOff => false,
                RootSampler::TraceIdRatio => lot < ratio,
            },
        }
    }
}

impl Default for TracesSampler {
    fn default() -> Self {
        Self { parent_based: true, root: RootSampler::AlwaysOn }
    }
}

const PARENT_BASED: &str = "parentbased_";

impl FromStr for TracesSampler {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let root = match text.strip_prefix(PARENT_BASED).unwrap_or(text) {
            "always_on" => RootSampler::AlwaysOn,
            "always_off" => RootSampler::AlwaysOff,
            "traceidratio" => RootSampler::TraceIdRatio,
            _ => return Err(format!("{text:?} is no sampler that is known here")),
        };
        Ok(Self { parent_based: text.starts_with(PARENT_BASED), root })
    }
}

impl fmt::Display for TracesSampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.parent_based { PARENT_BASED } else { "" })?;
        f.write_str(match self.root {
            RootSampler::AlwaysOn => "always_on",
            RootSampler::AlwaysOff => "always_off",
            RootSampler::TraceIdRatio => "traceidratio",
        })
    }
}

impl FromStr for OtlpProtocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "grpc" => Ok(Self::Grpc),
            "http/protobuf" => Ok(Self::HttpProtobuf),
            _ => Err(format!("protocol {text:?} is neither grpc nor http/protobuf")),
        }
    }
}

impl fmt::Display for OtlpProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Grpc => "grpc",
            Self::HttpProtobuf => "http/protobuf",
        })
    }
}

fn milliseconds(text: &str) -> Result<Duration, String> {
    let milliseconds = text.parse().ok().filter(|milliseconds| *milliseconds > 0);
    let none = || format!("{text:?} is no number of milliseconds above 0");
    milliseconds.map(Duration::from_millis).ok_or_else(none)
}

fn ratio(text: &str) -> Result<f64, String> {
    let ratio = text.parse().ok().filter(|ratio: &f64| (0.0..=1.0).contains(ratio));
    ratio.ok_or_else(|| format!("{text:?} is no number from 0 to 1"))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Options {
        #[command(flatten)]
        otlp: OtlpConfig,
    }

    fn config(flags: &[&str]) -> OtlpConfig {
        Options::try_parse_from([&["test"], flags].concat()).unwrap().otlp
    }

    #[test]
    fn flags_give_the_same_settings_again() {
        let flags = ["--otlp-endpoint=http://a:1", "--otlp-protocol=http/protobuf"];
        let tls = ["--otlp-certificate=a.pem", "--otlp-timeout=500"];
        let sampler = ["--otlp-traces-sampler=parentbased_traceidratio", "--otlp-traces-ratio=0.5"];
        let first = config(&[flags, tls, sampler].concat());
        let passed_on = first.flags();
        let again = config(&passed_on.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(format!("{first:?}"), format!("{again:?}"));
    }

    #[test]
    fn each_protocol_has_its_own_addresses() {
        let check = |flags: &[&str], expected: Option<&str>| {
            assert_eq!(config(flags).traces_endpoint().as_deref(), expected, "{flags:?}");
        };
        let (base, own) = ("--otlp-endpoint=http://a:1/", "--otlp-traces-endpoint=http://b:2/own");
        let http = "--otlp-protocol=http/protobuf";
        check(&[], None);
        check(&[base], Some("http://a:1/"));
        check(&[base, http], Some("http://a:1/v1/traces"));
        let metrics = config(&[base, own, http]).metrics_endpoint();
        assert_eq!(metrics.as_deref(), Some("http://a:1/v1/metrics"));
        check(&[base, own], Some("http://b:2/own"));
        check(&[own, http], Some("http://b:2/own"));
        check(&[own, "--otlp-disabled"], None);
    }

    #[test]
    fn samplers_decide_by_parent_or_by_lot() {
        let check = |name: &str, parent, lot, expected| {
            let sampler: TracesSampler = name.parse().unwrap();
            assert_eq!(sampler.to_string(), name);
            assert_eq!(sampler.decide(parent, lot, 0.25), expected, "{name} {parent:?} {lot}");
        };
        check("always_on", Some(false), 0.9, true);
        check("always_off", Some(true), 0.1, false);
        check("traceidratio", Some(true), 0.5, false);
        check("traceidratio", None, 0.1, true);
        check("parentbased_always_on", Some(false), 0.1, false);
        check("parentbased_always_on", None, 0.1, true);
        check("parentbased_always_off", Some(true), 0.1, true);
        check("parentbased_traceidratio", None, 0.25, false);
        assert!("xray".parse::<TracesSampler>().is_err());
    }
}
