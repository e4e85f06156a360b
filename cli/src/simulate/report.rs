//! The table of a simulation.

use std::io::Write as _;

use super::policy::Outcome;

/// One policy in one window.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Row {
    pub(crate) trace: String,
    pub(crate) shape: String,
    pub(crate) window: usize,
    pub(crate) policy: String,
    #[serde(flatten)]
    pub(crate) outcome: Outcome,
}

const HEADER: &str = "\
| load | layers × experts | window | policy | balancedness before | after | replicas | on a node twice | moved | GB | solved in ms | step before, ms | after |
|---|---|---|---|---|---|---|---|---|---|---|---|---|";

/// Prints a table, or a line of JSON for each row.
///
/// # Errors
/// Standard output is closed.
pub(crate) fn print(rows: &[Row], json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if !json {
        writeln!(out, "{HEADER}")?;
    }
    for row in rows {
        if json {
            writeln!(out, "{}", serde_json::to_string(row)?)?;
        } else {
            writeln!(out, "{}", line(row))?;
        }
    }
    Ok(())
}

fn line(row: &Row) -> String {
    let of = row.outcome;
    let before = |value: f64, text: String| if value == 0.0 { "".to_owned() } else { text };
    let moved = format!("{} ({:.0} %)", of.moved, 100.0 * of.moved as f64 / of.replicas as f64);
    let cells = [
        row.trace.clone(),
        row.shape.clone(),
        row.window.to_string(),
        row.policy.clone(),
        before(of.balancedness_before, format!("{:.3}", of.balancedness_before)),
        format!("{:.3}", of.balancedness),
        of.replicas.to_string(),
        of.duplicates.to_string(),
        before(of.balancedness_before, moved),
        format!("{:.1}", of.moved_bytes as f64 / 1e9),
        format!("{:.1}", of.solve_seconds * 1e3),
        before(of.step_seconds_before, format!("{:.2}", of.step_seconds_before * 1e3)),
        format!("{:.2}", of.step_seconds * 1e3),
    ];
    format!("| {} |", cells.join(" | "))
}
