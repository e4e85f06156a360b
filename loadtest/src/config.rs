//! The settings of a load test, read once and checked together.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use crate::Error;
use crate::assertion::Assertions;
use crate::experts::Watch;
use crate::results::{Slo, Window};
use crate::schedule::{Arrivals, Load, Pace, Process, Prompts, RandomIds, Skew};
use crate::target::{Api, Server};
use crate::units::{self, Count};

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

    /// Address of the admin API; its key must be given too. It is where the use of experts and nodes comes from.
    #[arg(
        long,
        env = "GUILDHALL_ADMIN",
        default_value = "http://127.0.0.1:50053",
        value_name = "URL"
    )]
    pub admin: String,

    /// Key of the admin API; without it, experts are not watched.
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

    /// How long it is measured.
    #[arg(long, env = "GUILDHALL_LOADTEST_DURATION", value_parser = units::duration, default_value = "30s", value_name = "TIME")]
    pub duration: Duration,

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
        Ok(Load {
            arrivals: self.arrivals()?,
            prompts: self.prompts()?,
            skew: self.skew,
            skew_period: self.skew_period,
            output_tokens: self.output_tokens,
            seed: self.seed,
        })
    }

    fn arrivals(&self) -> Result<Arrivals, Error> {
        let over = self.warmup + self.duration;
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
        Some(Watch { address: self.admin.clone(), key })
    }

    /// The part of the run that is measured.
    pub(crate) fn window(&self) -> Window {
        let to = self.requests.is_none().then_some(self.warmup + self.duration);
        Window { from: self.warmup, to }
    }

    /// What was asked for, by the names of the flags, without keys.
    pub(crate) fn settings(&self) -> BTreeMap<String, String> {
        let mut settings = BTreeMap::new();
        let mut set = |name: &str, value: String| settings.insert(name.to_owned(), value);
        set("target", format!("{:?}", self.target).to_lowercase());
        set("server", self.address());
        match (self.rate, self.ramp) {
            (None, None) => set("concurrency", self.concurrency.to_string()),
            (Some(rate), _) => set("rate", rate.to_string()),
            (None, Some(Ramp { from, to })) => set("ramp", format!("{from}:{to}")),
        };
        if self.rate.is_some() || self.ramp.is_some() {
            set("arrivals", self.arrivals.to_string());
        }
        match self.requests {
            Some(requests) => set("requests", requests.to_string()),
            None => set("duration", format!("{}s", self.duration.as_secs_f64())),
        };
        set("warmup", format!("{}s", self.warmup.as_secs_f64()));
        set("prompts", self.prompts.clone());
        set("skew", self.skew.to_string());
        set("output-tokens", self.output_tokens.to_string());
        set("seed", self.seed.to_string());
        if self.prompts == "random" {
            set("input-tokens", self.input_tokens.to_string());
            set("shared-prefix", self.shared_prefix.to_string());
        }
        settings
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Options {
        #[command(flatten)]
        config: LoadtestConfig,
    }

    fn config(args: &[&str]) -> Result<LoadtestConfig, String> {
        let args = ["loadtest"].iter().chain(args);
        Ok(Options::try_parse_from(args).map_err(|error| error.to_string())?.config)
    }

    #[test]
    fn without_flags_it_is_a_closed_loop_against_up() {
        let config = config(&[]).unwrap();
        let load = config.load().unwrap();
        assert_eq!(load.arrivals, Arrivals::Closed);
        assert_eq!(config.server().address, "http://127.0.0.1:50051");
        assert!(config.watch().is_none() && matches!(load.prompts, Prompts::DemoKinds));
    }

    #[test]
    fn contradictions_are_named() {
        let check = |args: &[&str], expected: &str| {
            let error = match config(args) {
                Ok(config) => config.load().unwrap_err().to_string(),
                Err(error) => error,
            };
            assert!(error.contains(expected), "{args:?}: {error}");
        };
        check(&["--rate", "5", "--ramp", "1:2"], "--ramp");
        check(&["--ramp", "1"], "FROM:TO");
        check(&["--rate", "0"], "\"0\" is no rate");
        check(&["--skew", "zipf"], "\"zipf\"");
        check(&["--slo", "ttft"], "ttft:200ms");
        check(&["--assert", "p99<3"], "p99");
        check(&["--shared-prefix", "3"], "--prompts random");
        check(&["--prompts", "/no/such/file"], "/no/such/file");
        check(
            &["--prompts", "random", "--input-tokens", "8", "--shared-prefix", "8"],
            "--shared-prefix 8",
        );
        check(&["--ramp", "1:2", "--duration", "0s", "--warmup", "0s"], "--duration");
        check(&["--concurrency", "0"], "--concurrency");
    }

    #[test]
    fn keys_are_in_no_file() {
        let config = config(&["--api-key", "hush", "--admin-api-key", "hush"]).unwrap();
        assert!(config.settings().values().all(|value| !value.contains("hush")));
    }
}
