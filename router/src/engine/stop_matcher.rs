//! Finds stop texts in a stream of text, across the borders of tokens.

/// Holds text back while it may be the beginning of a stop text.
pub(crate) struct StopMatcher {
    stops: Vec<String>,
    /// Whether a stop text that was found is shown.
    include: bool,
    held: String,
}

/// What may be shown now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Matched {
    pub(crate) text: String,
    /// The stop text that was found.
    pub(crate) stop: Option<String>,
}

impl StopMatcher {
    /// `stops` has no empty text.
    pub(crate) fn new(stops: Vec<String>, include: bool) -> Self {
        Self { stops, include, held: String::new() }
    }

    /// Takes more text.
    pub(crate) fn push(&mut self, text: &str) -> Matched {
        self.held.push_str(text);
        // The stop text that is complete first, so that it does not matter how the text is cut.
        let place = |(which, stop): (usize, &String)| {
            self.held.find(stop.as_str()).map(|at| (at + stop.len(), at, which))
        };
        if let Some((end, begin, which)) = self.stops.iter().enumerate().filter_map(place).min() {
            self.held.truncate(if self.include { end } else { begin });
            let stop = Some(self.stops[which].clone());
            return Matched { text: std::mem::take(&mut self.held), stop };
        }
        let undecided = self.undecided();
        let rest = self.held.split_off(self.held.len() - undecided);
        Matched { text: std::mem::replace(&mut self.held, rest), stop: None }
    }

    /// What was held back, when no more text comes.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Bytes at the end of `held` with which a stop text may begin.
    fn undecided(&self) -> usize {
        let of_stop = |stop: &String| {
            let longest = self.held.len().min(stop.len().saturating_sub(1));
            let begins = |n: &usize| stop.is_char_boundary(*n) && self.held.ends_with(&stop[..*n]);
            (1..=longest).rev().find(begins).unwrap_or(0)
        };
        self.stops.iter().map(of_stop).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(stops: &[&str], pieces: &[&str], expected: &[&str], stop: Option<&str>) {
        let stops = stops.iter().map(ToString::to_string).collect();
        let mut matcher = StopMatcher::new(stops, false);
        let mut found = None;
        let mut shown: Vec<String> = Vec::new();
        for piece in pieces {
            let matched = matcher.push(piece);
            shown.push(matched.text);
            found = matched.stop;
        }
        assert_eq!(shown, expected);
        assert_eq!(found.as_deref(), stop);
    }

    #[test]
    fn text_is_held_back_until_it_is_decided() {
        check(&["END"], &["a E", "N", "x"], &["a ", "", "ENx"], None);
        check(&["END"], &["a E", "N", "D more"], &["a ", "", ""], Some("END"));
        check(&["aab"], &["aaa", "b"], &["a", ""], Some("aab"));
        check(&["\n\n", "."], &["one\n", "two. three"], &["one", "\ntwo"], Some("."));
        check(&["é"], &["caf", "é"], &["caf", ""], Some("é"));
        check(&[], &["all"], &["all"], None);
    }

    #[test]
    fn a_stop_text_can_be_a_part_of_the_answer() {
        let mut matcher = StopMatcher::new(vec!["END".into()], true);
        assert_eq!(matcher.push("a EN").text, "a ");
        let matched = matcher.push("D more");
        assert_eq!((matched.text.as_str(), matched.stop.as_deref()), ("END", Some("END")));
    }

    proptest! {
        #[test]
        fn how_text_is_cut_changes_nothing(
            text in "[abé]{0,30}", stops in prop::collection::vec("[abé]{1,4}", 0..3),
            cut in 1usize..5,
        ) {
            let place = |stop: &String| text.find(stop.as_str()).map(|at| (at + stop.len(), at));
            let whole = stops.iter().filter_map(place).min().map(|(_, at)| at);
            let expected = whole.map_or(text.as_str(), |at| &text[..at]);
            let mut matcher = StopMatcher::new(stops, false);
            let (mut shown, mut stopped) = (String::new(), false);
            let characters: Vec<char> = text.chars().collect();
            for piece in characters.chunks(cut) {
                let matched = matcher.push(&piece.iter().collect::<String>());
                shown.push_str(&matched.text);
                stopped = matched.stop.is_some();
                if stopped { break; }
            }
            if !stopped { shown.push_str(&matcher.finish()); }
            prop_assert_eq!(shown, expected);
            prop_assert_eq!(stopped, whole.is_some());
        }
    }
}
