//! Amounts of memory, as people write them.

use std::path::Path;

/// An amount of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemorySize {
    /// So many bytes.
    Bytes(usize),
    /// So much of what the machine has in all, in hundredths.
    Percent(u8),
}

impl MemorySize {
    /// In bytes, on a machine with `total` bytes.
    #[must_use]
    pub fn of(self, total: usize) -> usize {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(share) => total / 100 * usize::from(share),
        }
    }
}

impl std::str::FromStr for MemorySize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(share) = text.strip_suffix('%') {
            let share = share.trim().parse().ok().filter(|share| (1..=95).contains(share));
            return share
                .map(Self::Percent)
                .ok_or_else(|| format!("{text:?} is not within 1% and 95%"));
        }
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let shift = match &text[digits.len()..] {
            "" | "B" => 0,
            "KiB" | "K" => 10,
            "MiB" | "M" => 20,
            "GiB" | "G" => 30,
            unit => return Err(format!("unit {unit:?} is none of B, KiB, MiB, GiB, %")),
        };
        let count: usize =
            digits.trim().parse().map_err(|_| format!("{digits:?} is no whole number"))?;
        let too_large = || format!("{text} is too large");
        count.checked_mul(1 << shift).map(Self::Bytes).ok_or_else(too_large)
    }
}

/// Bytes of this machine's memory, as Linux says; 0 where it does not.
#[must_use]
pub fn memory_of_machine() -> usize {
    let text = std::fs::read_to_string(Path::new("/proc/meminfo")).unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse().ok());
    kib.unwrap_or(0usize) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [("0", 0), ("17", 17), ("3KiB", 3072), ("2G", 2 << 30)] {
            assert_eq!(text.parse(), Ok(MemorySize::Bytes(bytes)));
        }
        assert_eq!("20%".parse::<MemorySize>().unwrap().of(1000), 200);
        for bad in ["", "GiB", "1.5GiB", "5TB", "99999999999999GiB", "-1", "0%", "96%", "x%"] {
            assert!(bad.parse::<MemorySize>().is_err(), "{bad:?} was accepted");
        }
    }
}
