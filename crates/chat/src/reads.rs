//! What a template is written for, guessed from its text.

use crate::ToolFormat;

/// What a template is able to read, and how its model writes tool calls.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reads {
    /// Content that is a list of parts.
    pub(crate) parts: bool,
    /// The arguments of a call as text, in place of an object.
    pub(crate) arguments_text: bool,
    /// The role `developer`.
    pub(crate) developer: bool,
    /// What the template shows the model as a tool call.
    pub(crate) tool_format: ToolFormat,
}

impl Reads {
    /// Looks at a template's source.
    pub(crate) fn of(source: &str) -> Self {
        let hermes = source.contains(ToolFormat::OPENING_TAG);
        Self {
            parts: blocks(source).any(|block| loops_over_parts(source, block)),
            arguments_text: prints_arguments(source),
            developer: source.contains("developer"),
            tool_format: if hermes { ToolFormat::Hermes } else { ToolFormat::Json },
        }
    }
}

/// What stands between the `{%` and `%}` of each block.
fn blocks(source: &str) -> impl Iterator<Item = &str> {
    source.split("{%").skip(1).filter_map(|text| Some(text.split_once("%}")?.0))
}

/// Whether a block is `for part in message.content`, and the part's type or text is used somewhere.
fn loops_over_parts(source: &str, block: &str) -> bool {
    let statement = block.trim_matches(|c: char| c.is_whitespace() || "+-".contains(c));
    let Some((part, list)) = statement.strip_prefix("for ").and_then(|s| s.split_once(" in "))
    else {
        return false;
    };
    let list = list.trim_start().split([' ', '|']).next().unwrap_or_default();
    let list = list.trim_end_matches(['\'', '"', ']']);
    let is_content = list
        .strip_suffix("content")
        .is_some_and(|owner| owner.is_empty() || owner.ends_with(['.', '\'', '"']));
    let part = part.trim();
    let uses = |key: &str| {
        let forms =
            [format!("{part}.{key}"), format!("{part}['{key}']"), format!("{part}[\"{key}\"]")];
        forms.iter().any(|form| source.contains(form))
    };
    is_content && (uses("type") || uses("text"))
}

/// Whether a template prints arguments as they come, and nowhere looks into them or makes JSON of them.
fn prints_arguments(source: &str) -> bool {
    let mut prints = false;
    for (at, word) in source.match_indices("arguments") {
        let (before, after) = (&source[..at], &source[at + word.len()..]);
        if !before.ends_with(['.', '\'', '"']) {
            continue;
        }
        let after = after.trim_start_matches(['\'', '"', ']']).trim_start();
        if ["|", ".", "is "].iter().any(|sign| after.starts_with(sign)) {
            return false;
        }
        prints |= ["+", "~", "}}", "-}}"].iter().any(|end| after.starts_with(end));
    }
    prints
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_parts(source: &str, expected: bool) {
        assert_eq!(Reads::of(source).parts, expected, "{source}");
    }

    #[test]
    fn a_template_that_goes_through_the_parts_gets_them() {
        check_parts("{% for c in message.content %}{{ c.text }}{% endfor %}", true);
        check_parts("{%- for c in message['content'] -%}{{ c['text'] }}{%- endfor %}", true);
        check_parts("{% for c in m[\"content\"] | list %}{% if c[\"type\"] == 1 %}", true);
        check_parts("{%- for item in content %}{%- if item.type == 'text' %}", true);
    }

    #[test]
    fn a_template_that_prints_content_gets_one_text() {
        check_parts("{% for m in messages %}{{ m.content }}{% endfor %}", false);
        check_parts("{% for c in message.content %}{{ c }}{% endfor %}", false);
        check_parts("{% for t in tools %}{{ t.type }}{{ t.content }}{% endfor %}", false);
        check_parts("{% for c in message.discontent %}{{ c.text }}{% endfor %}", false);
        check_parts("", false);
        check_parts("{% for c in", false);
    }

    fn check_arguments(source: &str, expected: bool) {
        assert_eq!(Reads::of(source).arguments_text, expected, "{source}");
    }

    #[test]
    fn a_template_that_prints_arguments_as_they_are_gets_text() {
        check_arguments("{{ 'json' + call['function']['arguments'] + 'end' }}", true);
        check_arguments("{{- call.function.arguments -}}", true);
        check_arguments("{{ call.arguments | tojson }}", false);
        check_arguments("{% set a = call.arguments %}{{ a | tojson }}", false);
        check_arguments("{% for k, v in call[\"arguments\"].items() %}", false);
        check_arguments("{% if c.arguments is string %}{{ c.arguments }}", false);
        check_arguments("{{ '\", \"arguments\": ' ~ (c.arguments | tojson) }}", false);
        check_arguments("{{ 'Without arguments' }}", false);
    }
}
