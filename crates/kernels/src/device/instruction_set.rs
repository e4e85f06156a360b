//! The processor features that the kernels are written for.

use std::fmt;
use std::str::FromStr;

#[cfg(target_arch = "x86_64")]
use crate::cpu::amx;
use crate::error::Error;

/// A set of processor instructions that the inner loops use, from the oldest to the newest.
///
/// Results of different sets agree within a tolerance only.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum InstructionSet {
    /// Plain Rust, for any processor: the reference.
    Portable,
    /// x86-64 with AVX2 and FMA; bf16 is widened to f32.
    Avx2,
    /// x86-64 with AVX-512F; bf16 is widened to f32.
    Avx512,
    /// x86-64 with AVX-512-BF16: pairs of bf16 are multiplied directly.
    Avx512Bf16,
    /// x86-64 with AVX-512-BF16 and AMX: bf16 is multiplied in registers that hold tiles.
    Amx,
}

impl InstructionSet {
    const ALL: [Self; 5] = [Self::Portable, Self::Avx2, Self::Avx512, Self::Avx512Bf16, Self::Amx];

    /// Returns the instruction set of this processor that the kernels are fastest with.
    ///
    /// `Avx512Bf16` only where AMD made it. Measured: on Zen 4 a long prompt takes 0.7 times as long as with widening,
    /// 32 sequences 0.8 times, one sequence 1.1 times; on Sapphire Rapids one row takes as long, and eight rows or
    /// more 1.4 times.
    /// `Amx` wherever it is: one row takes as long as with the others, 64 rows a third of the time or less.
    pub fn detect() -> Self {
        let fast = |set: &Self| *set != Self::Avx512Bf16 || is_made_by_amd();
        Self::available().into_iter().rfind(fast).unwrap_or(Self::Portable)
    }

    /// Returns the instruction sets of this processor.
    pub fn available() -> Vec<Self> {
        Self::ALL.into_iter().filter(|set| set.is_supported()).collect()
    }

    #[cfg(target_arch = "x86_64")]
    fn is_supported(self) -> bool {
        let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let avx512 = avx2 && is_x86_feature_detected!("avx512f");
        match self {
            Self::Portable => true,
            Self::Avx2 => avx2,
            Self::Avx512 => avx512,
            Self::Avx512Bf16 => {
                avx512
                    && is_x86_feature_detected!("avx512bf16")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vnni")
            }
            Self::Amx => Self::Avx512Bf16.is_supported() && amx::is_available(),
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn is_supported(self) -> bool {
        self == Self::Portable
    }

    /// Whether small integers are multiplied with AVX-512-VNNI: with every set of 512 bits, if the processor has it,
    /// because sums of integers have the same bits however they are computed.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn has_vnni(self) -> bool {
        self >= Self::Avx512
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vnni")
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Bf16 => "avx512-bf16",
            Self::Amx => "amx",
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn is_made_by_amd() -> bool {
    // Leaf 0 of every x86-64 processor spells the maker in these registers.
    let leaf = std::arch::x86_64::__cpuid(0);
    let maker = [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes).concat();
    maker == b"AuthenticAMD"
}

#[cfg(not(target_arch = "x86_64"))]
fn is_made_by_amd() -> bool {
    false
}

impl fmt::Display for InstructionSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for InstructionSet {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::ALL
            .into_iter()
            .find(|set| set.name() == name)
            .ok_or_else(|| Error::UnknownName { what: "instruction set", got: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for set in InstructionSet::ALL {
            assert_eq!(set.to_string().parse::<InstructionSet>().unwrap(), set);
        }
        assert!("mmx".parse::<InstructionSet>().is_err());
    }

    #[test]
    fn portable_is_always_there() {
        assert_eq!(InstructionSet::available()[0], InstructionSet::Portable);
    }
}
