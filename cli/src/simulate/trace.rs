//! Expert loads over time: named shapes, or what a router has recorded.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// [layer][expert] tokens.
pub(crate) type Load = Vec<Vec<f64>>;

/// How the load of a layer's experts is distributed, and how it changes from window to window.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Trace {
    /// All alike, always.
    Uniform,
    /// The expert of rank r has 1/r^s; always.
    Zipf,
    /// A tenth of the experts has nine tenths of the load; always.
    HotSet,
    /// A hot set that is another one in each window.
    Rotating,
    /// Zipf at first; then each expert's load is multiplied by exp(N(0, drift)) in each window.
    Drifting,
    /// Zipf; in each window some experts have ten times as much, for that window only.
    Bursts,
    /// A JSON file: [window][layer][expert].
    Recorded(PathBuf),
}

impl std::str::FromStr for Trace {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "uniform" => Self::Uniform,
            "zipf" => Self::Zipf,
            "hot-set" => Self::HotSet,
            "rotating" => Self::Rotating,
            "drifting" => Self::Drifting,
            "bursts" => Self::Bursts,
            path => Self::Recorded(path.into()),
        })
    }
}

impl std::fmt::Display for Trace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Uniform => "uniform",
            Self::Zipf => "zipf",
            Self::HotSet => "hot-set",
            Self::Rotating => "rotating",
            Self::Drifting => "drifting",
            Self::Bursts => "bursts",
            Self::Recorded(path) => return path.display().fmt(f),
        })
    }
}

/// The numbers that a named trace is drawn from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) layers: usize,
    pub(crate) experts: usize,
    pub(crate) windows: usize,
    pub(crate) zipf_exponent: f64,
    pub(crate) drift: f64,
    pub(crate) seed: u64,
}

/// The load of each window.
///
/// # Errors
/// A recording that cannot be read, is empty, or has windows of different shapes or impossible numbers.
pub(crate) fn windows(trace: &Trace, shape: Shape) -> anyhow::Result<Vec<Load>> {
    if let Trace::Recorded(path) = trace {
        return recorded(path);
    }
    let mut rng = ChaCha8Rng::seed_from_u64(shape.seed);
    let layers: Vec<Vec<usize>> = (0..shape.layers)
        .map(|_| {
            let mut ranks: Vec<usize> = (0..shape.experts).collect();
            ranks.shuffle(&mut rng);
            ranks
        })
        .collect();
    let mut load: Load = layers.iter().map(|ranks| first(trace, ranks, shape)).collect();
    let mut windows = vec![load.clone()];
    while windows.len() < shape.windows {
        let mut window = load.clone();
        for layer in &mut window {
            change(trace, layer, shape.drift, &mut rng);
        }
        // A burst passes; a drift stays.
        if *trace != Trace::Bursts {
            load.clone_from(&window);
        }
        windows.push(window);
    }
    Ok(windows)
}

/// The load of a layer's experts by their ranks.
fn first(trace: &Trace, ranks: &[usize], shape: Shape) -> Vec<f64> {
    let of_rank = |&rank: &usize| match trace {
        Trace::Uniform | Trace::Recorded(_) => 1.0,
        Trace::HotSet | Trace::Rotating => {
            let hot = shape.experts.div_ceil(10);
            let cold = shape.experts - hot;
            if rank < hot { 0.9 / hot as f64 } else { 0.1 / cold.max(1) as f64 }
        }
        Trace::Zipf | Trace::Drifting | Trace::Bursts => {
            (rank as f64 + 1.0).powf(-shape.zipf_exponent)
        }
    };
    ranks.iter().map(of_rank).collect()
}

fn change(trace: &Trace, load: &mut [f64], drift: f64, rng: &mut ChaCha8Rng) {
    match trace {
        Trace::Rotating => load.shuffle(rng),
        Trace::Drifting => load.iter_mut().for_each(|load| *load *= (drift * normal(rng)).exp()),
        Trace::Bursts => {
            for _ in 0..load.len().div_ceil(50) {
                let expert = rng.random_range(0..load.len());
                load[expert] *= 10.0;
            }
        }
        Trace::Uniform | Trace::Zipf | Trace::HotSet | Trace::Recorded(_) => {}
    }
}

/// A standard normal number (Box and Muller).
fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let (u, v): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
    (-2.0 * u.ln()).sqrt() * (2.0 * std::f64::consts::PI * v).cos()
}

fn recorded(path: &Path) -> anyhow::Result<Vec<Load>> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("reading the recorded load {}", path.display()))?;
    let windows: Vec<Load> = serde_json::from_str(&text).with_context(|| {
        format!("{} is no recorded load, [window][layer][expert]", path.display())
    })?;
    let shape = |load: &Load| load.iter().map(Vec::len).collect::<Vec<_>>();
    let first = windows.first().map(shape).unwrap_or_default();
    let regular = first
        .first()
        .is_some_and(|&experts| experts > 0 && first.iter().all(|&other| other == experts));
    ensure!(regular, "{}: not every layer has the same experts", path.display());
    for (index, window) in windows.iter().enumerate() {
        ensure!(shape(window) == first, "{}: window {index} has another shape", path.display());
        let proper = window.iter().flatten().all(|load| load.is_finite() && *load >= 0.0);
        ensure!(proper, "{}: window {index} has a load that is none", path.display());
    }
    Ok(windows)
}
