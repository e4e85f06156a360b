//! Runs a load test: progress on standard error, the page at the end on standard output, files on request.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use guildhall_loadtest::results::{Outcome, console, files};
use guildhall_loadtest::{LoadtestConfig, Progress, compare, report};

use crate::config::{LoadtestCommand, LoadtestOptions};
use crate::shutdown;

/// Time between two lines about the progress where they are not written over.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Loads a router, or compares two runs.
pub(crate) async fn run(options: LoadtestOptions) -> anyhow::Result<()> {
    match options.command {
        Some(LoadtestCommand::Compare { first, second }) => {
            print(&compare::describe(&files::read(&first)?, &files::read(&second)?))
        }
        None => load(&options.config).await,
    }
}

async fn load(config: &LoadtestConfig) -> anyhow::Result<()> {
    let stop = shutdown::on_signal(false)?;
    let mut shown = Shown::default();
    let outcome = guildhall_loadtest::run(config, stop, |progress| shown.show(&progress)).await?;
    shown.end();
    print(&console::describe(&outcome))?;
    if let Some(path) = &config.json {
        files::write(path, &outcome)?;
    }
    if let Some(path) = &config.report {
        files::write_text(path, &report::page(&outcome))?;
    }
    verdict(config, &outcome)
}

/// An error if nothing succeeded, or something that was to hold does not.
fn verdict(config: &LoadtestConfig, outcome: &Outcome) -> anyhow::Result<()> {
    ensure!(
        outcome.requests.sent > 0,
        "no request was sent after the warm-up: nothing is measured"
    );
    ensure!(outcome.requests.succeeded > 0, "no request succeeded");
    let Some(assertions) = &config.assertions else { return Ok(()) };
    let failures = assertions.failures(outcome);
    if failures.is_empty() {
        return print(&format!("\nholds: {assertions}\n"));
    }
    bail!("does not hold: {}", failures.join("; "))
}

/// What is on standard error of the progress.
#[derive(Default)]
struct Shown {
    /// When a line was last written.
    last: Option<Duration>,
}

impl Shown {
    fn show(&mut self, progress: &Progress) {
        let terminal = std::io::stderr().is_terminal();
        let soon = |last: Duration| progress.elapsed < last + LINE_EVERY;
        if !terminal && self.last.is_some_and(soon) {
            return;
        }
        self.last = Some(progress.elapsed);
        let Progress { leg, elapsed, warming_up, running, succeeded, failed, tokens } = progress;
        let phase = if *warming_up { "warming up" } else { "measuring" };
        let line = format!(
            "{:>6.0} s  {phase:<10}  {leg}{}{running} running, {succeeded} succeeded, {failed} failed, {tokens} tokens",
            elapsed.as_secs_f64(),
            if leg.is_empty() { "" } else { "  " },
        );
        let (before, after) = if terminal { ("\r\x1b[2K", "") } else { ("", "\n") };
        write_error(&format!("{before}{line}{after}"));
    }

    fn end(&self) {
        if self.last.is_some() && std::io::stderr().is_terminal() {
            write_error("\n");
        }
    }
}

fn write_error(text: &str) {
    let mut stderr = std::io::stderr();
    if stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush()).is_err() {
        tracing::debug!("nobody reads standard error");
    }
}

fn print(text: &str) -> anyhow::Result<()> {
    std::io::stdout().write_all(text.as_bytes()).context("writing to standard output")
}
