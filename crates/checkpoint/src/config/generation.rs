//! What generation_config.json says about ending a sequence.

use std::path::Path;

use super::fields::Fields;
use crate::Error;

/// Tokens with a meaning for generation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GenerationDefaults {
    /// Each of these ends a sequence.
    pub eos_token_ids: Vec<u32>,
}

impl GenerationDefaults {
    /// Reads generation_config.json, or config.json where the former is missing or says nothing.
    pub(crate) fn read(dir: &Path) -> Result<Self, Error> {
        let mut eos_token_ids = Vec::new();
        for name in ["generation_config.json", "config.json"] {
            let path = dir.join(name);
            let text = match std::fs::read(&path) {
                Ok(text) => text,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                Err(e) => return Err(Error::io(path, e)),
            };
            eos_token_ids = Fields::parse(&path, &text)?.token_ids("eos_token_id")?;
            if !eos_token_ids.is_empty() {
                break;
            }
        }
        Ok(Self { eos_token_ids })
    }
}
