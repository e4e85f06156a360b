//! W3C trace context: which trace a call belongs to.

use std::collections::BTreeSet;
use std::fmt;

/// A trace id, the caller's span id and the flags, as `traceparent` carries them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// Never all zero.
    pub trace_id: [u8; 16],
    /// Never all zero.
    pub span_id: [u8; 8],
    /// Bit 0: sampled.
    pub flags: u8,
}

/// Says that bytes or a header are no trace context.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a trace context: {0}")]
pub struct InvalidTraceContext(&'static str);

/// Bytes of the binary form.
const BINARY_LEN: usize = 25;
/// The flag that says that spans of this trace are kept.
const SAMPLED: u8 = 1;

impl TraceContext {
    /// The beginning of a trace.
    #[must_use]
    pub fn root() -> Self {
        Self { trace_id: random_id(), span_id: random_id(), flags: 0 }
    }

    /// Another span of the same trace.
    #[must_use]
    pub fn child(self) -> Self {
        Self { span_id: random_id(), ..self }
    }

    /// The same span, whose trace is kept or not.
    #[must_use]
    pub fn with_sampled(self, sampled: bool) -> Self {
        Self { flags: if sampled { self.flags | SAMPLED } else { self.flags & !SAMPLED }, ..self }
    }

    /// Whether spans of this trace are kept.
    #[must_use]
    pub fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// A number below 1 that is the same wherever this trace is seen, and even over all traces.
    #[must_use]
    pub fn lot(self) -> f64 {
        let [.., a, b, c, d] = self.trace_id;
        f64::from(u32::from_be_bytes([a, b, c, d])) / 2f64.powi(32)
    }

    /// The binary form: trace id, span id, flags.
    #[must_use]
    pub fn to_bytes(self) -> [u8; BINARY_LEN] {
        let mut bytes = [0; BINARY_LEN];
        bytes[..16].copy_from_slice(&self.trace_id);
        bytes[16..24].copy_from_slice(&self.span_id);
        bytes[24] = self.flags;
        bytes
    }

    /// Reads the binary form.
    ///
    /// # Errors
    /// Another length, or an id that is all zero.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, InvalidTraceContext> {
        let bytes: [u8; BINARY_LEN] =
            bytes.try_into().map_err(|_| InvalidTraceContext("needs 25 bytes"))?;
        let (ids, flags) = (&bytes[..24], bytes[24]);
        let mut context = Self { trace_id: [0; 16], span_id: [0; 8], flags };
        context.trace_id.copy_from_slice(&ids[..16]);
        context.span_id.copy_from_slice(&ids[16..]);
        if context.trace_id == [0; 16] || context.span_id == [0; 8] {
            return Err(InvalidTraceContext("an id is all zero"));
        }
        Ok(context)
    }

    /// Reads the header `traceparent` (`00-<32 hex>-<16 hex>-<2 hex>`; later versions may append fields).
    ///
    /// # Errors
    /// Anything else.
    pub fn from_traceparent(header: &str) -> Result<Self, InvalidTraceContext> {
        let mut parts = header.split('-');
        let mut next = || parts.next().ok_or(InvalidTraceContext("too few fields"));
        let (version, trace, span, flags) = (next()?, next()?, next()?, next()?);
        let [version] = hex::<1>(version)?;
        let extra = parts.next().is_some();
        if version == 0xff || (version == 0 && extra) {
            return Err(InvalidTraceContext("unknown version"));
        }
        let mut bytes = [0; BINARY_LEN];
        bytes[..16].copy_from_slice(&hex::<16>(trace)?);
        bytes[16..24].copy_from_slice(&hex::<8>(span)?);
        bytes[24..].copy_from_slice(&hex::<1>(flags)?);
        Self::from_bytes(&bytes)
    }
}

/// The trace ids of what a log line is about, as its field `trace_id`; nothing where there is no trace.
pub fn trace_ids(of: impl IntoIterator<Item = TraceContext>) -> Option<String> {
    let ids: BTreeSet<String> = of.into_iter().map(|context| context.to_string()).collect();
    (!ids.is_empty()).then(|| ids.into_iter().collect::<Vec<_>>().join(" "))
}

/// The trace id in hex, by which logs and traces find each other.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.trace_id.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

fn random_id<const N: usize>() -> [u8; N] {
    loop {
        let mut id = [0; N];
        rand::fill(&mut id[..]);
        if id != [0; N] {
            return id;
        }
    }
}

fn hex<const N: usize>(text: &str) -> Result<[u8; N], InvalidTraceContext> {
    let digits = text.as_bytes();
    let lower = |c: &u8| matches!(c, b'0'..=b'9' | b'a'..=b'f');
    if digits.len() != 2 * N || !digits.iter().all(lower) {
        return Err(InvalidTraceContext("a field is not lower-case hex of its length"));
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        let digit = |c: u8| if c < b'a' { c - b'0' } else { c - b'a' + 10 };
        *byte = digit(pair[0]) << 4 | digit(pair[1]);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn traceparent_survives_the_binary_form() {
        let context = TraceContext::from_traceparent(HEADER).unwrap();
        assert_eq!(context.span_id, [0x00, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7]);
        assert_eq!(TraceContext::from_bytes(&context.to_bytes()), Ok(context));
        assert_eq!(context.to_string(), HEADER[3..35]);
    }

    #[test]
    fn a_child_is_another_span_of_the_same_trace() {
        let parent = TraceContext::root().with_sampled(true);
        let child = parent.child();
        assert_eq!((child.trace_id, child.flags), (parent.trace_id, parent.flags));
        assert_ne!(child.span_id, parent.span_id);
        assert!(child.is_sampled() && !child.with_sampled(false).is_sampled());
        assert_eq!(child.lot(), parent.lot());
        assert!((0.0..1.0).contains(&child.lot()));
        assert_ne!(TraceContext::root().trace_id, parent.trace_id);
    }

    #[test]
    fn broken_headers_are_refused() {
        let zero = "00-00000000000000000000000000000000-00f067aa0ba902b7-01";
        let upper = HEADER.to_uppercase();
        let extra = format!("{HEADER}-x");
        let version = HEADER.replacen("00", "ff", 1);
        for bad in ["", "00-", "00-12-34-56", zero, &upper, &extra, &version, "00-é-é-é"] {
            assert!(TraceContext::from_traceparent(bad).is_err(), "{bad:?} was accepted");
        }
        assert!(TraceContext::from_bytes(&[1; 24]).is_err());
    }

    #[test]
    fn a_later_version_may_append_fields() {
        let later = format!("{}-more", HEADER.replacen("00", "01", 1));
        assert!(TraceContext::from_traceparent(&later).is_ok());
    }
}
