//! Rotary position embedding: the inverse frequencies of every supported scaling.

use super::fields::Fields;
use crate::Error;

/// The rotation of queries and keys.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// The base of the frequencies.
    pub theta: f64,
    /// How the frequencies are stretched for longer contexts.
    pub scaling: RopeScaling,
}

/// A method to stretch the context.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// None.
    Default,
    /// All frequencies divided by `factor` (position interpolation, arXiv 2306.15595).
    Linear {
        /// How many times longer.
        factor: f64,
    },
    /// Low frequencies interpolated, high ones kept, and a temperature (arXiv 2309.00071).
    Yarn {
        /// How many times longer.
        factor: f64,
        /// Length before stretching.
        original_max_positions: f64,
        /// Rotations above which a frequency is kept.
        beta_fast: f64,
        /// Rotations below which a frequency is interpolated.
        beta_slow: f64,
        /// What cosine and sine are multiplied with.
        attention_factor: f64,
        /// Whether the borders of the ramp are whole dimensions.
        truncate: bool,
    },
    /// The piecewise scaling of Llama 3.1.
    Llama3 {
        /// How many times longer.
        factor: f64,
        /// Wavelengths above `original_max_positions / low_freq_factor` are divided by `factor`.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_positions / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Length before stretching.
        original_max_positions: f64,
    },
}

impl Rope {
    /// Reads `rope_theta` and `rope_scaling`, or the newer `rope_parameters` that holds both. As in the reference,
    /// `rope_scaling` is in force where a file has it too.
    pub(super) fn read(
        fields: &mut Fields,
        default_theta: f64,
        max_positions: usize,
    ) -> Result<Self, Error> {
        let top_theta = fields.positive("rope_theta")?;
        let scaling = fields.object("rope_scaling")?;
        let parameters = fields.object("rope_parameters")?;
        let Some(mut rope) = scaling.or(parameters) else {
            let theta = top_theta.unwrap_or(default_theta);
            return Ok(Self { theta, scaling: RopeScaling::Default });
        };
        let theta = rope.positive("rope_theta")?.or(top_theta).unwrap_or(default_theta);
        if let Some(factor) = rope.number("partial_rotary_factor")?.filter(|factor| *factor != 1.0)
        {
            return Err(rope.unsupported("partial_rotary_factor", &factor.to_string()));
        }
        // `type` is the older name of `rope_type`.
        let kind = match rope.text("rope_type")? {
            Some(kind) => kind,
            None => rope.text("type")?.unwrap_or_else(|| "default".into()),
        };
        rope.text("type")?;
        let scaling = match kind.as_str() {
            "default" => RopeScaling::Default,
            "linear" => RopeScaling::Linear { factor: factor(&mut rope)? },
            "yarn" => yarn(&mut rope, max_positions)?,
            "llama3" => llama3(&mut rope, max_positions)?,
            other => return Err(rope.unsupported("rope_type", other)),
        };
        match rope.unknown(&[]).first() {
            Some(key) => Err(Error::unsupported(&rope.path, key.clone())),
            None => Ok(Self { theta, scaling }),
        }
    }

    /// One inverse frequency for each pair of dimensions: [head_dim / 2], in f32 as the reference computes them.
    #[must_use]
    pub fn inverse_frequencies(&self, head_dim: usize) -> Vec<f32> {
        let base = self.theta as f32;
        let plain = (0..head_dim / 2).map(|i| 1.0 / base.powf((2 * i) as f32 / head_dim as f32));
        match self.scaling {
            RopeScaling::Default => plain.collect(),
            RopeScaling::Linear { factor } => plain.map(|f| f / factor as f32).collect(),
            RopeScaling::Yarn { .. } => self.yarn_frequencies(head_dim),
            RopeScaling::Llama3 { .. } => plain.map(|f| self.llama3_frequency(f)).collect(),
        }
    }

    /// What cosine and sine are multiplied with.
    #[must_use]
    pub fn attention_factor(&self) -> f32 {
        match self.scaling {
            RopeScaling::Yarn { attention_factor, .. } => attention_factor as f32,
            _ => 1.0,
        }
    }

    fn yarn_frequencies(&self, head_dim: usize) -> Vec<f32> {
        let RopeScaling::Yarn {
            factor,
            original_max_positions,
            beta_fast,
            beta_slow,
            truncate,
            ..
        } = self.scaling
        else {
            return Vec::new();
        };
        // The dimension whose wave makes this many rotations within the original length.
        let dimension = |rotations: f64| {
            head_dim as f64 * (original_max_positions / (rotations * std::f64::consts::TAU)).ln()
                / (2.0 * self.theta.ln())
        };
        let (mut low, mut high) = (dimension(beta_fast), dimension(beta_slow));
        if truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        let (low, mut high) = (low.max(0.0), high.min(head_dim as f64 - 1.0));
        if low == high {
            high += 0.001;
        }
        let (low, high) = (low as f32, high as f32);
        let frequency = |i: usize| {
            let power = (self.theta as f32).powf((2 * i) as f32 / head_dim as f32);
            let (kept, interpolated) = (1.0 / power, 1.0 / (factor as f32 * power));
            let share_kept = 1.0 - ((i as f32 - low) / (high - low)).clamp(0.0, 1.0);
            interpolated * (1.0 - share_kept) + kept * share_kept
        };
        (0..head_dim / 2).map(frequency).collect()
    }

    fn llama3_frequency(&self, frequency: f32) -> f32 {
        let RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_positions,
        } = self.scaling
        else {
            return frequency;
        };
        let wavelength = std::f32::consts::TAU / frequency;
        let original = original_max_positions as f32;
        let (low, high) = (low_freq_factor as f32, high_freq_factor as f32);
        if wavelength > original / low {
            return frequency / factor as f32;
        }
        if wavelength < original / high {
            return frequency;
        }
        let smooth = (original / wavelength - low) / (high - low);
        (1.0 - smooth) * frequency / factor as f32 + smooth * frequency
    }
}

fn factor(rope: &mut Fields) -> Result<f64, Error> {
    rope.positive("factor")?.ok_or_else(|| rope.malformed("factor", "is missing"))
}

fn yarn(rope: &mut Fields, max_positions: usize) -> Result<RopeScaling, Error> {
    let original_max_positions =
        rope.positive("original_max_position_embeddings")?.unwrap_or(max_positions as f64);
    let factor = rope.positive("factor")?.unwrap_or(max_positions as f64 / original_max_positions);
    let temperature = |scale: f64| {
        if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 }
    };
    let (mscale, all_dim) = (rope.number("mscale")?, rope.number("mscale_all_dim")?);
    let stated = rope.positive("attention_factor")?;
    let inferred = match (mscale, all_dim) {
        (Some(mscale), Some(all_dim)) if mscale != 0.0 && all_dim != 0.0 => {
            temperature(mscale) / temperature(all_dim)
        }
        _ => temperature(1.0),
    };
    Ok(RopeScaling::Yarn {
        factor,
        original_max_positions,
        beta_fast: rope.positive("beta_fast")?.unwrap_or(32.0),
        beta_slow: rope.positive("beta_slow")?.unwrap_or(1.0),
        attention_factor: stated.unwrap_or(inferred),
        truncate: rope.flag("truncate")?.unwrap_or(true),
    })
}

fn llama3(rope: &mut Fields, max_positions: usize) -> Result<RopeScaling, Error> {
    let missing = |rope: &Fields, key: &str| rope.malformed(key, "is missing");
    Ok(RopeScaling::Llama3 {
        factor: factor(rope)?,
        low_freq_factor: rope
            .positive("low_freq_factor")?
            .ok_or_else(|| missing(rope, "low_freq_factor"))?,
        high_freq_factor: rope
            .positive("high_freq_factor")?
            .ok_or_else(|| missing(rope, "high_freq_factor"))?,
        original_max_positions: rope
            .positive("original_max_position_embeddings")?
            .unwrap_or(max_positions as f64),
    })
}
