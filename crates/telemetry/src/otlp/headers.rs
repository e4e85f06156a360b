//! Headers for a collector, as the variables of OpenTelemetry have them.

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

/// Reads `name=value,name=value`; a percent sign and two hexadecimal digits in a value are a byte.
pub(super) fn read(text: &str) -> Result<HeaderMap, String> {
    let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    // What they say may be secret.
    let unreadable = |number| format!("header {number} is not as in name=value");
    let read = |(index, pair)| header(pair).ok_or_else(|| unreadable(index + 1));
    pairs.enumerate().map(read).collect()
}

fn header(pair: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = pair.split_once('=')?;
    let name = HeaderName::from_bytes(name.trim().as_bytes()).ok()?;
    let value = value.trim();
    // A percent sign that begins no byte stands for itself, as in the headers of traces.
    let bytes = decoded(value).unwrap_or_else(|| value.into());
    let mut value = HeaderValue::from_bytes(&bytes).ok()?;
    value.set_sensitive(true);
    Some((name, value))
}

fn decoded(text: &str) -> Option<Vec<u8>> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (code, rest) = part.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(code, 16).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_are_read_and_what_is_wrong_is_not_shown() {
        let check = |text: &str, expected: &[(&str, &str)]| {
            let headers = read(text).unwrap();
            let found = headers.iter().map(|(name, of)| (name.as_str(), of.to_str().unwrap()));
            assert_eq!(found.collect::<Vec<_>>(), expected, "{text:?}");
        };
        check("", &[]);
        check("api-key=a=b", &[("api-key", "a=b")]);
        check(" Tenant = x , b=1%2C2%25,", &[("tenant", "x"), ("b", "1,2%")]);
        check("authorization=Bearer%20s,half=5%", &[("authorization", "Bearer s"), ("half", "5%")]);
        for text in ["a=1,secret", "a=1,two words=secret", "a=1,b=secret%0a"] {
            assert_eq!(read(text).unwrap_err(), "header 2 is not as in name=value");
        }
    }
}
