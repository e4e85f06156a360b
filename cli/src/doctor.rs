//! What this machine can do: which instructions compute rightly and how fast, what is short, what a model would cost.

use std::fmt::Write as _;
use std::io::Write as _;
use std::num::NonZeroUsize;

use anyhow::Context as _;
use guildhall_checkpoint::{ModelConfig, Parameters, StorageType};
use guildhall_kernels::{CpuOptions, InstructionSet, Probe, memory_of_machine};

use crate::config::DoctorOptions;

/// Sums in f32 differ by their order, and by no more than this.
const TOLERANCE: f32 = 1e-5;
/// Each client is an open file, and a loaded router has some hundreds.
const FEW_FILES: u64 = 4096;

pub(crate) fn run(options: &DoctorOptions) -> anyhow::Result<()> {
    let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let threads = options.threads.unwrap_or(cores);
    let config = options.model.as_ref().map(|dir| ModelConfig::from_file(&dir.join("config.json")));
    let config = config.transpose()?;
    let mut stdout = std::io::stdout();
    write!(stdout, "{}", machine(cores)).context("printing")?;
    let format = options.weights;
    writeln!(stdout, "\ninstructions (* is the default), {threads} threads, {format} weights")?;
    let default = InstructionSet::detect();
    let (mut wrong, mut gb_per_s) = (Vec::new(), 0.0);
    for set in InstructionSet::available() {
        let options = CpuOptions { instruction_set: Some(set), ..CpuOptions::of_threads(threads) };
        let probe = Probe::run(options, format).with_context(|| format!("trying {set}"))?;
        let (mark, verdict) = (if set == default { '*' } else { ' ' }, verdict(probe));
        let (stream, flops) = (probe.weights_gb_per_s, probe.gflop_per_s);
        writeln!(stdout, "{mark} {set:<12} {stream:>6.1} GB/s {flops:>7.0} GFLOP/s  {verdict}")?;
        if set == default {
            gb_per_s = stream;
        }
        if !is_right(probe) {
            wrong.push(set.to_string());
        }
    }
    if let Some(config) = config {
        write!(stdout, "{}", bound(&config, gb_per_s))?;
    }
    anyhow::ensure!(
        wrong.is_empty(),
        "{} computes wrongly here: choose another by --instruction-set",
        wrong.join(", ")
    );
    Ok(())
}

fn is_right(probe: Probe) -> bool {
    probe.difference <= TOLERANCE
}

fn verdict(probe: Probe) -> String {
    match is_right(probe) {
        true => "computes as plain code does".into(),
        false => format!("WRONG: differs from plain code by {:e}", probe.difference),
    }
}

fn machine(cores: NonZeroUsize) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let gib = memory_of_machine() as f64 / f64::from(1 << 30);
    let processor = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = after(&processor, "model name").unwrap_or("a processor of an unknown name");
    let mut text =
        format!("guildhall {version}\nmachine: {name}, {cores} cores, {gib:.1} GiB of memory\n");
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let files = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let files = files.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    if let Some(files) = files.filter(|files| *files < FEW_FILES) {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "only {files} files may be open: raise it (ulimit -n), each client is one"
        );
    }
    text
}

/// What follows a key of /proc/cpuinfo and its colon.
fn after<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    Some(line.split_once(':')?.1.trim())
}

/// The speed that memory allows.
fn bound(config: &ModelConfig, gb_per_s: f64) -> String {
    let parameters = Parameters::of(config);
    let mut text = "\nthis model at that speed of memory\n".to_owned();
    for storage in [StorageType::Bf16, StorageType::Int8, StorageType::Int4] {
        let bytes = parameters.token_bytes(storage);
        let (mb, most) = (bytes as f64 / 1e6, gb_per_s * 1e9 / bytes.max(1) as f64);
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "  {:<5} a token reads {mb:.1} MB of weights: one stream gets {most:.0} tokens/s at most",
            storage.name()
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_or_is_no_number_is_wrong() {
        let probe = |difference| Probe { difference, weights_gb_per_s: 1.0, gflop_per_s: 1.0 };
        assert!(is_right(probe(1e-6)));
        assert!(!is_right(probe(1e-3)) && !is_right(probe(f32::NAN)));
        assert!(verdict(probe(1e-3)).contains("WRONG"));
    }

    #[test]
    fn keys_of_the_processor_are_found() {
        let text = "processor\t: 0\nmodel name\t: A: B\n";
        assert_eq!(after(text, "model name"), Some("A: B"));
        assert_eq!(after(text, "flags"), None);
    }
}
