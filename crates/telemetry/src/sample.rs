//! Lines of a page of metrics, read again: for whoever shows or sends the same numbers.

/// A line with a number.
#[derive(Debug, PartialEq)]
pub struct Sample<'a> {
    /// The metric; of a histogram with the ending that says which of its numbers it is.
    pub name: &'a str,
    /// Names and values, as they stand.
    pub labels: Vec<(&'a str, String)>,
    /// The number.
    pub value: f64,
}

impl<'a> Sample<'a> {
    /// Reads `name{label="value",…} number`; comments and empty lines are nothing.
    #[must_use]
    pub fn read(line: &'a str) -> Option<Self> {
        let (before, value) = line.rsplit_once(' ').filter(|_| !line.starts_with('#'))?;
        let value = value.parse().ok()?;
        let Some((name, labels)) = before.split_once('{') else {
            return Some(Self { name: before, labels: Vec::new(), value });
        };
        let mut rest = labels.strip_suffix('}')?;
        let mut labels = Vec::new();
        while let Some((label, after)) = rest.split_once("=\"") {
            let (text, after) = quoted(after)?;
            labels.push((label, text));
            rest = after.strip_prefix(',').unwrap_or(after);
        }
        Some(Self { name, labels, value })
    }

    /// The value of a label.
    #[must_use]
    pub fn label(&self, name: &str) -> Option<&str> {
        let found = self.labels.iter().find(|(label, _)| *label == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// The text up to the next quotation mark that stands for itself, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match letters.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_read_as_they_were_before_they_were_quoted() {
        let line = r#"calls_total{node="a \"b\" \\ c",part="x,y"} 7"#;
        let sample = Sample::read(line).unwrap();
        assert_eq!((sample.name, sample.value.to_bits()), ("calls_total", 7f64.to_bits()));
        assert_eq!(sample.label("node"), Some("a \"b\" \\ c"));
        assert_eq!((sample.label("part"), sample.label("other")), (Some("x,y"), None));
        assert_eq!(Sample::read("level 0.25").unwrap().labels, []);
        for nothing in ["", "# TYPE level gauge", "level high", "open{a=\"b} 1"] {
            assert_eq!(Sample::read(nothing), None, "{nothing:?}");
        }
    }
}
