//! The settings of a load test, read once and checked together.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use crate::Error;
use crate::assertion::Assertions;
use crate::chaos::Plan;
use crate::experts::Watch;
use crate::results::{Slo, Window};
use crate::schedule::{
    Arrivals, Drawn, Load, Pace, Process, Prompts, RandomIds, Replay, Replaying, Skew,
};
use crate::sweep::Sweep;
use crate::target::{Api, Server};
use crate::units::{self, Count};

/// Where the admin API is unless somebody says.
pub const DEFAULT_ADMIN: &str = "http://127.0.0.1:50053";

/// How long a run is measured unless somebody says.
const DURATION: Duration = Duration::from_secs(30);

/// What to load, with what, and what to make of it.
#[derive(Clone, Debug, clap::Args)]
pub struct LoadtestConfig {
    /// API to load: guildhall or vllm (gRPC), openai (HTTP).
    #[arg(long, env = "GUILDHALL_LOADTEST_TARGET", default_value = "guildhall")]
    pub target: Api,

    /// Its address; default: where `guildhall up` listens.
    #[arg(long, env = "GUILDHALL_SERVER", value_name = "URL")]
    pub server: Option<String>,

    /// Its key, if it needs one.
    #[arg(long, env = "GUILDHALL_API_KEY", hide_env_values = true, value_name = "KEY")]
    pub api_key: Option<String>,

    /// Model to ask for; default: the one that is served.
    #[arg(long, env = "GUILDHALL_LOADTEST_MODEL_NAME", value_name = "NAME")]
    pub model_name: Option<String>,

    /// Address of the admin API, where the use of experts and nodes comes from; default: with a key, http://127.0.0.1:50053.
    #[arg(long, env = "GUILDHALL_ADMIN", value_name = "URL")]
    pub admin: Option<String>,

    /// Key of the admin API; without it, experts are not watched. Default: that of `guildhall up`, if no server is named.
    #[arg(long, env = "GUILDHALL_ADMIN_API_KEY", hide_env_values = true, value_name = "KEY")]
    pub admin_api_key: Option<String>,

    /// Requests that are always running (a closed loop), unless there is a rate.
    #[arg(long, env = "GUILDHALL_LOADTEST_CONCURRENCY", default_value = "16", value_name = "N")]
    pub concurrency: NonZeroUsize,

    /// Requests that come in a second, whatever the server does (an open loop).
    #[arg(long, env = "GUILDHALL_LOADTEST_RATE", value_parser = units::rate, value_name = "R")]
    pub rate: Option<f64>,

    /// The same, growing from the first to the second over the run.
    #[arg(long, env = "GUILDHALL_LOADTEST_RAMP", conflicts_with = "rate", value_name = "FROM:TO")]
    pub ramp: Option<Ramp>,

    /// Requests as a file recorded them, each at its time (an open loop): {"at": SECONDS, "output_tokens": N} with
    /// "prompt", "token_ids" or "input_tokens" on each line, or a trace of Azure (CSV) or Mooncake (JSON lines).
    #[arg(
        long,
        env = "GUILDHALL_LOADTEST_TRACE",
        conflicts_with_all = ["rate", "ramp", "concurrency", "arrivals", "prompts", "skew", "skew_period",
            "input_tokens", "shared_prefix", "output_tokens"],
        value_name = "FILE"
    )]
    pub trace: Option<PathBuf>,

    /// Play a trace so many times as fast.
    #[arg(
        long,
        env = "GUILDHALL_LOADTEST_TRACE_SPEED",
        requires = "trace",
        value_parser = units::speed,
        value_name = "TIMES"
    )]
    pub trace_speed: Option<f64>,

    /// Try one rate after another, each for --duration after --warmup, until the server is saturated: so many from one
    /// rate to another (FROM:TO:STEPS), or twice as much each time and then between (FROM).
    #[arg(
        long,
        env = "GUILDHALL_LOADTEST_SWEEP",
        conflicts_with_all = ["rate", "ramp", "trace", "concurrency", "requests", "csv"],
        value_name = "RATES"
    )]
    pub sweep: Option<Sweep>,

    /// Run everything twice, first quietly and then with these faults in a cluster of `guildhall up`:
    /// kill:NODE@TIME[+TIME], pause:NODE@TIME+TIME, slow:NODE@TIME*FACTOR+TIME, etcd-down@TIME+TIME, with commas between.
    #[arg(long, env = "GUILDHALL_LOADTEST_CHAOS", conflicts_with = "sweep", value_name = "FAULTS")]
    pub chaos: Option<Plan>,

    /// Control socket of that cluster, which `guildhall up` prints; default: that of `guildhall up`, if no server is named.
    #[arg(long, env = "GUILDHALL_CONTROL", value_name = "PATH")]
    pub control: Option<PathBuf>,

    /// How irregularly they come: constant, poisson, gamma or gamma:SHAPE (below 1: bursts).
    #[arg(
        long,
        env = "GUILDHALL_LOADTEST_ARRIVALS",
        default_value = "poisson",
        value_name = "PROCESS"
    )]
    pub arrivals: Process,

    /// Requests of an open loop that may run at once; more wait in the client, and their latency counts that.
    #[arg(
        long,
        env = "GUILDHALL_LOADTEST_MAX_IN_FLIGHT",
        default_value = "4096",
        value_name = "N"
    )]
    pub max_in_flight: NonZeroUsize,

    /// How long it is measured; default: 30s, or to the end of a trace.
    #[arg(long, env = "GUILDHALL_LOADTEST_DURATION", value_parser = units::duration, value_name = "TIME")]
    pub duration: Option<Duration>,

    /// End after so many requests, the warm-up included, and not by the clock.
    #[arg(long, env = "GUILDHALL_LOADTEST_REQUESTS", value_name = "N")]
    pub requests: Option<u64>,

    /// How long it is loaded before it is measured.
    #[arg(long, env = "GUILDHALL_LOADTEST_WARMUP", value_parser = units::duration, default_value = "2s", value_name = "TIME")]
    pub warmup: Duration,

    /// A request that takes longer has failed.
    #[arg(long, env = "GUILDHALL_LOADTEST_TIMEOUT", value_parser = units::duration, default_value = "60s", value_name = "TIME")]
    pub timeout: Duration,

    /// What to ask: kinds (texts of the demonstration model), random (token ids), or a file with {"prompt": …} or
    /// {"token_ids": […]} on each line.
    #[arg(long, env = "GUILDHALL_LOADTEST_PROMPTS", default_value = "kinds", value_name = "WHAT")]
    pub prompts: String,

    /// Which kinds of prompts (or parts of the vocabulary, or lines) are asked for how often: natural, one-kind,
    /// hot-set, rotating or drifting.
    #[arg(long, env = "GUILDHALL_LOADTEST_SKEW", default_value = "natural")]
    pub skew: Skew,

    /// A skew that changes does so after so many requests.
    #[arg(long, env = "GUILDHALL_LOADTEST_SKEW_PERIOD", default_value = "200", value_name = "N")]
    pub skew_period: u64,

    /// Tokens of a random prompt: N, or any number FROM:TO.
    #[arg(long, env = "GUILDHALL_LOADTEST_INPUT_TOKENS", default_value = "64", value_name = "N")]
    pub input_tokens: Count,

    /// Random prompts of a kind begin with so many equal tokens.
    #[arg(
        long,
        env = "GUILDHALL_LOADTEST_SHARED_PREFIX",
        default_value = "0",
        value_name = "TOKENS"
    )]
    pub shared_prefix: u32,

    /// Random prompts have tokens below this.
    #[arg(long, env = "GUILDHALL_LOADTEST_VOCABULARY", default_value = "2000", value_name = "N")]
    pub vocabulary: u32,

    /// Tokens of an answer: N, or any number FROM:TO.
    #[arg(long, env = "GUILDHALL_LOADTEST_OUTPUT_TOKENS", default_value = "64", value_name = "N")]
    pub output_tokens: Count,

    /// Let answers end where the model ends them, and not only when they are as long as was asked for.
    #[arg(long, env = "GUILDHALL_LOADTEST_HEED_EOS")]
    pub heed_eos: bool,

    /// The same seed gives the same requests.
    #[arg(long, env = "GUILDHALL_LOADTEST_SEED", default_value = "1", value_name = "N")]
    pub seed: u64,

    /// What a good answer keeps within, as in ttft:200ms,tpot:50ms,e2e:2s.
    #[arg(long, env = "GUILDHALL_LOADTEST_SLO", value_name = "LIMITS")]
    pub slo: Option<Slo>,

    /// What must hold at the end, as in 'p99_ttft<300ms,balancedness>0.9'; else the exit code is not 0.
    #[arg(long = "assert", env = "GUILDHALL_LOADTEST_ASSERT", value_name = "CONDITIONS")]
    pub assertions: Option<Assertions>,

    /// Write everything that was found as JSON.
    #[arg(long, env = "GUILDHALL_LOADTEST_JSON", value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Write a line for each request, as it ends.
    #[arg(long, env = "GUILDHALL_LOADTEST_CSV", value_name = "FILE")]
    pub csv: Option<PathBuf>,

    /// Write a page with pictures.
    #[arg(long, env = "GUILDHALL_LOADTEST_REPORT", value_name = "FILE.html")]
    pub report: Option<PathBuf>,
}

/// A rate that grows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ramp {
    from: f64,
    to: f64,
}

impl std::str::FromStr for Ramp {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (from, to) = text
            .split_once(':')
            .ok_or_else(|| format!("{text:?} is not of the form FROM:TO, in requests a second"))?;
        Ok(Self { from: units::rate(from)?, to: units::rate(to)? })
    }
}

impl LoadtestConfig {
    /// The requests to send.
    ///
    /// # Errors
    /// Settings that contradict each other, or a file of prompts that cannot be read.
    pub(crate) fn load(&self) -> Result<Load, Error> {
        if let Some(path) = &self.trace {
            let speed = self.trace_speed.unwrap_or(1.0);
            let how = Replaying { speed, vocabulary: self.vocabulary, seed: self.seed };
            return Ok(Load::Replayed(Replay::read(path, how)?));
        }
        Ok(Load::Drawn(Drawn {
            arrivals: self.arrivals()?,
            prompts: self.prompts()?,
            skew: self.skew,
            skew_period: self.skew_period,
            output_tokens: self.output_tokens,
            seed: self.seed,
        }))
    }

    fn arrivals(&self) -> Result<Arrivals, Error> {
        let over = self.warmup + self.duration();
        let pace = match (self.rate, self.ramp) {
            (None, None) => return Ok(Arrivals::Closed),
            (Some(rate), _) => Pace::Steady(rate),
            (None, Some(Ramp { .. })) if over.is_zero() => {
                return Err(Error::Setting("--ramp needs a --duration above 0".into()));
            }
            (None, Some(Ramp { from, to })) => Pace::Ramp { from, to, over },
        };
        Ok(Arrivals::Open { pace, process: self.arrivals })
    }

    fn prompts(&self) -> Result<Prompts, Error> {
        if self.prompts == "random" {
            let random = RandomIds {
                vocabulary: self.vocabulary,
                tokens: self.input_tokens,
                shared_prefix: self.shared_prefix,
                seed: self.seed,
            };
            return Ok(Prompts::Random(random.check()?));
        }
        if self.shared_prefix > 0 {
            let what = "--shared-prefix is for --prompts random: other prompts are as they are";
            return Err(Error::Setting(what.into()));
        }
        match self.prompts.as_str() {
            "kinds" => Ok(Prompts::DemoKinds),
            file => Prompts::read(file.as_ref()),
        }
    }

    pub(crate) fn address(&self) -> String {
        self.server.clone().unwrap_or_else(|| self.target.default_server().to_owned())
    }

    pub(crate) fn server(&self) -> Server {
        Server {
            address: self.address(),
            api_key: self.api_key.clone(),
            model: self.model_name.clone(),
            heed_eos: self.heed_eos,
        }
    }

    /// Where to ask for the use of experts, if there is a key for it.
    pub(crate) fn watch(&self) -> Option<Watch> {
        let key = self.admin_api_key.clone()?;
        let address = self.admin.clone().unwrap_or_else(|| DEFAULT_ADMIN.to_owned());
        Some(Watch { address, key })
    }

    fn duration(&self) -> Duration {
        self.duration.unwrap_or(DURATION)
    }

    /// The faults of the run, and whom to ask for them.
    ///
    /// # Errors
    /// There is nobody to ask, or a fault would come when nothing is sent any more.
    pub(crate) fn faults(&self) -> Result<Option<(Plan, PathBuf)>, Error> {
        let Some(plan) = self.chaos.clone() else { return Ok(None) };
        let control = self.control.clone();
        let control = control.ok_or_else(|| Error::Setting("--chaos needs --control".into()))?;
        let late = plan.0.iter().find(|fault| self.window().to.is_some_and(|to| fault.at >= to));
        match late {
            Some(late) => {
                let what = format!("--chaos {}: the run has ended by then", late.text);
                Err(Error::Setting(what))
            }
            None => Ok(Some((plan, control))),
        }
    }

    /// The part of the run that is measured.
    pub(crate) fn window(&self) -> Window {
        let clock = match (self.requests, self.trace.is_some()) {
            (Some(_), _) => None,
            (None, true) => self.duration,
            (None, false) => Some(self.duration()),
        };
        let to = clock.map(|duration| self.warmup + duration);
        Window { from: self.warmup, to }
    }

    /// What was asked for, by the names of the flags, without keys.
    pub(crate) fn settings(&self) -> BTreeMap<String, String> {
        let mut settings = BTreeMap::new();
        let mut set = |name: &str, value: String| settings.insert(name.to_owned(), value);
        set("target", format!("{:?}", self.target).to_lowercase());
        set("server", self.address());
        match (&self.trace, self.rate, self.ramp) {
            (Some(trace), ..) => set("trace", trace.display().to_string()),
            (None, None, None) if self.sweep.is_some() => None,
            (None, None, None) => set("concurrency", self.concurrency.to_string()),
            (None, Some(rate), _) => set("rate", rate.to_string()),
            (None, None, Some(Ramp { from, to })) => set("ramp", format!("{from}:{to}")),
        };
        if let Some(speed) = self.trace_speed {
            set("trace-speed", speed.to_string());
        }
        if let Some(chaos) = &self.chaos {
            set("chaos", chaos.to_string());
        }
        if let Some(sweep) = self.sweep {
            set("sweep", sweep.to_string());
        }
        if self.rate.is_some() || self.ramp.is_some() || self.sweep.is_some() {
            set("arrivals", self.arrivals.to_string());
        }
        match (self.requests, self.window().to) {
            (Some(requests), _) => set("requests", requests.to_string()),
            (None, Some(to)) => set("duration", format!("{}s", (to - self.warmup).as_secs_f64())),
            (None, None) => None,
        };
        set("warmup", format!("{}s", self.warmup.as_secs_f64()));
        set("seed", self.seed.to_string());
        if self.trace.is_some() {
            return settings;
        }
        set("prompts", self.prompts.clone());
        set("skew", self.skew.to_string());
        set("output-tokens", self.output_tokens.to_string());
        if self.prompts == "random" {
            set("input-tokens", self.input_tokens.to_string());
            set("shared-prefix", self.shared_prefix.to_string());
        }
        settings
    }
}

#[cfg(test)]
mod tests;
