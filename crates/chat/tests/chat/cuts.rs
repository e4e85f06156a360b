//! How an answer is cut into pieces changes nothing, and nothing of it is lost.

use guildhall_chat::{Part, ToolFormat};
use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::support::Answer;

/// What answers with and without calls are put together from.
const FRAGMENTS: [&str; 30] = [
    "<tool_call>",
    "</tool_call>",
    "<tool_call>\n{\"name\": \"f\", \"arguments\": ",
    "}\n</tool_call>",
    "<tool",
    "</tool_",
    "{\"name\": \"get\", \"arguments\": {\"a\": 1}}",
    "{\"parameters\":{\"x\":[]},\"name\":\"g\"}",
    "{\"name\":\"h\",\"parameters\":",
    "{",
    "}",
    "[",
    "]",
    "\"",
    "\"name\"",
    "\"arguments\"",
    ":",
    ",",
    " ",
    "\n",
    "\\",
    "\\u00e9",
    "é🦀",
    "5",
    "null",
    "text",
    "<",
    ">",
    "{\"a\": \"</tool_call>\"}",
    "[{\"name\":\"i\",\"arguments\":{}},",
];

fn answers() -> impl Strategy<Value = String> {
    prop::collection::vec(select(&FRAGMENTS[..]), 0..12).prop_map(|fragments| fragments.concat())
}

fn formats() -> impl Strategy<Value = ToolFormat> {
    select(&ToolFormat::ALL[..])
}

fn pieces<'a>(text: &'a str, cuts: &[Index]) -> Vec<&'a str> {
    let ends: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| *cut.get(&ends)).collect();
    cuts.sort_unstable();
    let mut from = 0;
    let mut pieces = Vec::new();
    for cut in cuts.into_iter().chain([text.len()]) {
        pieces.push(&text[from..cut]);
        from = cut;
    }
    pieces
}

/// Whether all parts stand in the answer in their order, and everything does if there are no calls.
fn check_kept(answer: &str, found: &Answer) -> Result<(), TestCaseError> {
    if found.calls.is_empty() {
        prop_assert_eq!(&found.text, answer);
    }
    let mut rest = answer;
    for part in &found.parts {
        let (Part::Text(text) | Part::Arguments { json: text, .. }) = part else { continue };
        let at = rest.find(text.as_str());
        prop_assert!(at.is_some(), "{:?} is not in {:?}", text, rest);
        rest = &rest[at.unwrap() + text.len()..];
    }
    Ok(())
}

/// Text that is no part of a call, whatever stands around it.
fn texts() -> impl Strategy<Value = String> {
    let fragments =
        ["<", "<tool", "<tool_call", "</tool", " ", "\n", "{", "}", "a", "é🦀", ">", "\"", "[,]"];
    prop::collection::vec(select(fragments.to_vec()), 0..5).prop_map(|fragments| fragments.concat())
}

fn calls() -> impl Strategy<Value = (String, String, String)> {
    let names = select(vec!["f", "get_weather", "é"]);
    let arguments = select(vec![
        "{}",
        "{ \"a\" : [1, {\"b\": \"</tool_call>}\\\"\"}] }",
        "{\"<tool_call>\": null}",
    ]);
    (names, arguments, any::<bool>(), select(vec!["", "\n", "  "])).prop_map(
        |(name, arguments, name_first, blank)| {
            let object = if name_first {
                format!("{{{blank}\"name\": \"{name}\",\"arguments\":{blank}{arguments}{blank}}}")
            } else {
                format!("{{\"parameters\": {arguments}{blank},\"name\":{blank}\"{name}\"}}")
            };
            let tagged = format!("<tool_call>{blank}{object}{blank}</tool_call>");
            (tagged, name.to_owned(), arguments.to_owned())
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn cuts_change_nothing(
        format in formats(),
        answer in answers(),
        cuts in prop::collection::vec(any::<Index>(), 0..8),
    ) {
        let whole = Answer::read(format, [&*answer]);
        check_kept(&answer, &whole)?;
        let cut = Answer::read(format, pieces(&answer, &cuts));
        prop_assert_eq!(whole, cut, "{}", &answer);
    }

    #[test]
    fn single_characters_change_nothing(format in formats(), answer in answers()) {
        let whole = Answer::read(format, [&*answer]);
        let characters = answer.char_indices().map(|(at, c)| &answer[at..at + c.len_utf8()]);
        prop_assert_eq!(whole, Answer::read(format, characters), "{}", &answer);
    }

    #[test]
    fn any_text_without_calls_is_kept(format in formats(), answer in ".{0,60}") {
        prop_assert_eq!(Answer::read(format, [&*answer]).text, answer);
    }

    #[test]
    fn texts_and_calls_are_told_apart(
        first in texts(),
        rest in prop::collection::vec((calls(), texts()), 0..4),
    ) {
        let mut answer = first.clone();
        let mut expected = vec![first];
        let mut called = Vec::new();
        for ((call, name, arguments), text) in rest {
            answer.extend([&*call, &*text]);
            called.push((name, arguments));
            expected.push(text);
        }
        // Blank text around calls only separates them.
        let blank = |text: &String| !called.is_empty() && text.trim().is_empty();
        let expected: Vec<String> = expected.into_iter().filter(|text| !blank(text)).collect();
        let found = Answer::read(ToolFormat::Hermes, [&*answer]);
        prop_assert_eq!(found.text, expected.concat(), "{}", &answer);
        prop_assert_eq!(found.calls, called, "{}", &answer);
    }
}
