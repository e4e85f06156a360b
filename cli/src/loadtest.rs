//! Runs a load test: progress on standard error (drawn anew each second on a terminal), the page at the end on standard output, files on request.

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use guildhall_loadtest::results::{Outcome, console, files};
use guildhall_loadtest::target::Api;
use guildhall_loadtest::{LoadtestConfig, Progress, Screen, compare, report};

use crate::config::{LoadtestCommand, LoadtestOptions, terminal};
use crate::local_cluster::LocalCluster;
use crate::shutdown;

/// Time between two lines about the progress where they are not written over.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Loads a router, or compares two runs.
pub(crate) async fn run(options: LoadtestOptions) -> anyhow::Result<()> {
    match options.command {
        Some(LoadtestCommand::Compare { first, second }) => {
            print(&compare::describe(&files::read(&first)?, &files::read(&second)?))
        }
        None => load(&found(options)?).await,
    }
}

/// Settings that load the cluster on this machine, if they name no server.
fn found(options: LoadtestOptions) -> anyhow::Result<LoadtestConfig> {
    let LoadtestOptions { mut config, runtime, .. } = options;
    if config.server.is_some() {
        return Ok(config);
    }
    let Some(local) = LocalCluster::find(&runtime.folder())? else { return Ok(config) };
    if config.admin.is_none() && local.has_key(config.admin_api_key.as_deref()) {
        config.admin = Some(local.admin.clone());
        config.admin_api_key = Some(local.admin_api_key.clone());
    }
    config.server = Some(match config.target {
        Api::Guildhall | Api::Vllm => local.server,
        Api::Openai => local.http,
    });
    config.control.get_or_insert(local.control);
    Ok(config)
}

async fn load(config: &LoadtestConfig) -> anyhow::Result<()> {
    let stop = shutdown::on_signal(false)?;
    let mut shown = Shown { screen: terminal(), last: None, lines: 0 };
    let outcome = guildhall_loadtest::run(config, stop, |progress| shown.show(&progress)).await?;
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
struct Shown {
    /// Absent where it is no terminal.
    screen: Option<Screen>,
    /// When a line was last written.
    last: Option<Duration>,
    /// Lines that are written over by the next ones.
    lines: usize,
}

impl Shown {
    fn show(&mut self, progress: &Progress) {
        match self.screen {
            Some(screen) => self.draw(progress, screen),
            None => self.write(progress),
        }
    }

    fn draw(&mut self, progress: &Progress, screen: Screen) {
        // Up to where it began, and everything from there on is cleared.
        let back = match self.lines {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\r\x1b[0J"),
        };
        let drawn = progress.draw(screen);
        self.lines = drawn.lines().count();
        // Lines that are too wide are clipped, and do not become two.
        write_error(&format!("{back}\x1b[?7l{drawn}\x1b[?7h"));
    }

    fn write(&mut self, progress: &Progress) {
        // A run after another one begins at 0 again.
        let soon = |last: Duration| (last..last + LINE_EVERY).contains(&progress.elapsed);
        if !self.last.is_some_and(soon) {
            self.last = Some(progress.elapsed);
            write_error(&(progress.line() + "\n"));
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
