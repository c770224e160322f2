//! Changes that a tokenizer file makes to a text before it is cut.

use std::borrow::Cow;

use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

/// One change. Every step takes the whole of a text between added tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Canonical composition, as Qwen's files ask for.
    Nfc,
    /// Canonical decomposition.
    Nfd,
    /// Compatibility composition.
    Nfkc,
    /// Compatibility decomposition.
    Nfkd,
    /// Lower case, character by character.
    Lowercase,
    /// Put a string in front.
    Prepend(String),
    /// Replace one string by another.
    Replace { from: String, to: String },
    /// Replace runs of one character by a string.
    ReplaceRuns { of: char, runs: Runs, to: String },
    /// Remove white space at the start, at the end, or both.
    Strip { left: bool, right: bool },
}

/// Which runs of a character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Runs {
    /// The one that the text begins with.
    First,
    /// The one that the text ends with.
    Last,
    /// Those of two or more.
    Repeated,
}

impl Step {
    fn apply(&self, text: &str) -> Option<String> {
        match self {
            Self::Nfc if is_nfc_quick(text.chars()) == IsNormalized::Yes => None,
            Self::Nfc => Some(text.nfc().collect()),
            Self::Nfd => Some(text.nfd().collect()),
            Self::Nfkc => Some(text.nfkc().collect()),
            Self::Nfkd => Some(text.nfkd().collect()),
            Self::Lowercase => Some(text.chars().flat_map(char::to_lowercase).collect()),
            Self::Prepend(prefix) => (!text.is_empty()).then(|| format!("{prefix}{text}")),
            Self::Replace { from, to } => text.contains(from).then(|| text.replace(from, to)),
            Self::ReplaceRuns { of, runs: Runs::First, to } => {
                let rest = text.trim_start_matches(*of);
                (rest.len() < text.len()).then(|| format!("{to}{rest}"))
            }
            Self::ReplaceRuns { of, runs: Runs::Last, to } => {
                let rest = text.trim_end_matches(*of);
                (rest.len() < text.len()).then(|| format!("{rest}{to}"))
            }
            Self::ReplaceRuns { of, runs: Runs::Repeated, to } => replace_repeated(text, *of, to),
            Self::Strip { left, right } => {
                let text = if *left { text.trim_start() } else { text };
                Some((if *right { text.trim_end() } else { text }).to_owned())
            }
        }
    }
}

fn replace_repeated(text: &str, of: char, to: &str) -> Option<String> {
    let twice = String::from_iter([of, of]);
    let (mut replaced, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once(&twice) {
        replaced += before;
        replaced += to;
        rest = after.trim_start_matches(of);
    }
    (rest.len() < text.len()).then(|| replaced + rest)
}

/// Where a text stands in what is encoded, which decides whether something is put in front of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// At the very start.
    First,
    /// After an added token.
    Later,
    /// Right after the text before it, of which it is the continuation.
    Continued,
}

/// The text after all steps, one after the other.
pub(super) fn normalize<'t>(steps: &[Step], text: &'t str, place: Place) -> Cow<'t, str> {
    let mut text = Cow::Borrowed(text);
    for step in steps {
        if place == Place::Continued && matches!(step, Step::Prepend(_)) {
            continue;
        }
        if let Some(changed) = step.apply(&text) {
            text = Cow::Owned(changed);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_apply_in_order() {
        let steps =
            [Step::Nfc, Step::Replace { from: "é".into(), to: "e".into() }, Step::Prepend("_".into())];
        assert_eq!(normalize(&steps, "e\u{301}x", Place::First), "_ex");
        assert_eq!(normalize(&steps, "e\u{301}x", Place::Continued), "ex");
        assert_eq!(normalize(&steps, "", Place::First), "");
    }

    #[test]
    fn runs_are_found_where_they_are_asked_for() {
        let replace = |runs, text: &str| {
            normalize(&[Step::ReplaceRuns { of: ' ', runs, to: "_".into() }], text, Place::First).into_owned()
        };
        for (text, first, last, repeated) in [
            ("", "", "", ""),
            (" ", "_", "_", " "),
            ("   ", "_", "_", "_"),
            ("  a b   c ", "_a b   c ", "  a b   c_", "_a b_c "),
            ("a", "a", "a", "a"),
        ] {
            let found = [Runs::First, Runs::Last, Runs::Repeated].map(|runs| replace(runs, text));
            assert_eq!(found, [first, last, repeated], "{text:?}");
        }
    }

    #[test]
    fn unchanged_text_is_not_copied() {
        assert!(matches!(normalize(&[Step::Nfc], "plain", Place::First), Cow::Borrowed(_)));
    }
}
