//! The one binary: every process and tool of Guildhall is a subcommand of it.

use std::process::ExitCode;

use clap::Parser as _;
use guildhall_telemetry::{Otlp, OtlpConfig};

use crate::config::{Command, Options};

mod config;
mod shutdown;
mod up;
mod guard;
mod local_cluster;
mod generate;
mod inspect;
mod doctor;
mod simulate;
mod evaluate;
mod admin;
mod loadtest;

fn main() -> ExitCode {
    let options = Options::parse();
    match run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            fail(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(options: Options) -> anyhow::Result<()> {
    let Options { command, logs } = options;
    guildhall_telemetry::init_logs(logs.log_format, &logs.log).map_err(anyhow::Error::msg)?;
    match command {
        Command::Router(role) => {
            let _exporting = export(&role.otlp, "guildhall-router", None)?;
            two_threads()?.block_on(async {
                let shutdown = shutdown::on_signal(role.stop_on_stdin_close)?;
                Ok(guildhall_router::run(role.config, shutdown).await?)
            })
        }
        Command::ExpertNode(role) => {
            let name = role.config.node_id.to_string();
            let _exporting = export(&role.otlp, "guildhall-expert-node", Some(&name))?;
            single_threaded()?.block_on(async {
                let shutdown = shutdown::on_signal(role.stop_on_stdin_close)?;
                Ok(guildhall_expert_node::run(role.config, shutdown).await?)
            })
        }
        Command::Up(up) => single_threaded()?.block_on(up::run(*up, &logs)),
        Command::Guard(options) => single_threaded()?.block_on(guard::run(options)),
        Command::Generate(options) => single_threaded()?.block_on(generate::run(options)),
        Command::Inspect(options) => inspect::run(&options),
        Command::Doctor(options) => doctor::run(&options),
        Command::Simulate(options) => simulate::run(&options),
        Command::Evaluate(options) => evaluate::run(&options),
        Command::Loadtest(options) => two_threads()?.block_on(loadtest::run(*options)),
        Command::Status(options) => single_threaded()?.block_on(admin::status(options)),
        Command::Drain(options) => single_threaded()?.block_on(admin::drain(options)),
        Command::Rebalance(options) => single_threaded()?.block_on(admin::rebalance(options)),
    }
}

/// Exports the traces of this process until it is dropped.
fn export(
    config: &OtlpConfig,
    service: &'static str,
    instance: Option<&str>,
) -> anyhow::Result<Option<Otlp>> {
    Otlp::open(config, service, instance).map_err(anyhow::Error::msg)
}

fn two_threads() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()
}

fn single_threaded() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// The last line of a run that failed: what went wrong, and every cause behind it.
#[expect(
    clippy::print_stderr,
    reason = "the log may be JSON; this line is for the person who typed the command"
)]
fn fail(error: &anyhow::Error) {
    eprintln!("guildhall: {error:#}");
}
