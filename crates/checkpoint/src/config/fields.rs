//! Reading a JSON object key by key, so that nothing in it is silently ignored.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::Error;

/// A JSON object that remembers which keys were asked for.
pub(super) struct Fields {
    pub(super) path: PathBuf,
    // Prefix of the keys in messages: empty, or `rope_scaling.`.
    within: String,
    object: Map<String, Value>,
    seen: BTreeSet<String>,
}

/// Sizes above this are taken for a mistake or an attack, not for a model.
const MAX_SIZE: u64 = 1 << 31;

impl Fields {
    pub(super) fn parse(path: &Path, text: &[u8]) -> Result<Self, Error> {
        let value: Value = serde_json::from_slice(text)
            .map_err(|e| Error::malformed(path, format!("not JSON: {e}")))?;
        let Value::Object(object) = value else {
            return Err(Error::malformed(path, "not a JSON object"));
        };
        Ok(Self { path: path.into(), within: String::new(), object, seen: BTreeSet::new() })
    }

    /// The value of `key`; an explicit null is no value.
    pub(super) fn value(&mut self, key: &str) -> Option<&Value> {
        self.seen.insert(key.into());
        self.object.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn keys(&self) -> Vec<String> {
        self.object.keys().cloned().collect()
    }

    pub(super) fn malformed(&self, key: &str, what: &str) -> Error {
        Error::malformed(&self.path, format!("{}{key} {what}", self.within))
    }

    pub(super) fn unsupported(&self, key: &str, value: &str) -> Error {
        Error::unsupported(&self.path, format!("{}{key} = {value}", self.within))
    }

    fn typed<T>(
        &mut self,
        key: &str,
        what: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let text = value.to_string();
        let read = read(value);
        if read.is_none() {
            let text: String = text.chars().take(60).collect();
            return Err(self.malformed(key, &format!("is {text}, not {what}")));
        }
        Ok(read)
    }

    /// A count of at least 1.
    pub(super) fn size(&mut self, key: &str) -> Result<Option<usize>, Error> {
        let read = |value: &Value| {
            let size = value.as_u64().filter(|size| (1..MAX_SIZE).contains(size))?;
            usize::try_from(size).ok()
        };
        self.typed(key, &format!("a size from 1 to {}", MAX_SIZE - 1), read)
    }

    pub(super) fn required_size(&mut self, key: &str) -> Result<usize, Error> {
        self.size(key)?.ok_or_else(|| self.malformed(key, "is missing"))
    }

    pub(super) fn number(&mut self, key: &str) -> Result<Option<f64>, Error> {
        self.typed(key, "a finite number", |value| value.as_f64().filter(|n| n.is_finite()))
    }

    /// A number above 0 that stays one in f32, in which it is computed with.
    pub(super) fn positive(&mut self, key: &str) -> Result<Option<f64>, Error> {
        self.typed(key, "a number above 0", |value| {
            value.as_f64().filter(|n| *n > 0.0 && (*n as f32).is_normal())
        })
    }

    pub(super) fn flag(&mut self, key: &str) -> Result<Option<bool>, Error> {
        self.typed(key, "true or false", Value::as_bool)
    }

    pub(super) fn text(&mut self, key: &str) -> Result<Option<String>, Error> {
        self.typed(key, "a text", |value| value.as_str().map(str::to_owned))
    }

    pub(super) fn indices(&mut self, key: &str) -> Result<Option<Vec<usize>>, Error> {
        let index = |value: &Value| usize::try_from(value.as_u64()?).ok();
        self.typed(key, "a list of layer numbers", |value| {
            value.as_array()?.iter().map(index).collect()
        })
    }

    pub(super) fn texts(&mut self, key: &str) -> Result<Option<Vec<String>>, Error> {
        self.typed(key, "a list of texts", |value| {
            value.as_array()?.iter().map(|v| v.as_str().map(str::to_owned)).collect()
        })
    }

    /// A token id or a list of them.
    pub(super) fn token_ids(&mut self, key: &str) -> Result<Vec<u32>, Error> {
        let id = |value: &Value| u32::try_from(value.as_u64()?).ok();
        let ids = self.typed(key, "a token id or a list of them", |value| match value {
            Value::Array(ids) => ids.iter().map(id).collect(),
            one => id(one).map(|id| vec![id]),
        })?;
        Ok(ids.unwrap_or_default())
    }

    /// The object under `key`, to be read in turn.
    pub(super) fn object(&mut self, key: &str) -> Result<Option<Self>, Error> {
        let object = self.typed(key, "an object", |value| value.as_object().cloned())?;
        let within = format!("{}{key}.", self.within);
        Ok(object.map(|object| Self {
            path: self.path.clone(),
            within,
            object,
            seen: BTreeSet::new(),
        }))
    }

    /// The keys that nobody asked for and that are not in `harmless`, in alphabetical order.
    pub(super) fn unknown(&self, harmless: &[&str]) -> Vec<String> {
        let known = |key: &&String| !self.seen.contains(*key) && !harmless.contains(&key.as_str());
        let unknown = self.object.keys().filter(known);
        let mut unknown: Vec<_> = unknown.map(|key| format!("{}{key}", self.within)).collect();
        unknown.sort_unstable();
        unknown
    }
}
