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
    /// Remove white space at the start, at the end, or both.
    Strip { left: bool, right: bool },
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
            Self::Strip { left, right } => {
                let text = if *left { text.trim_start() } else { text };
                Some((if *right { text.trim_end() } else { text }).to_owned())
            }
        }
    }
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
    fn unchanged_text_is_not_copied() {
        assert!(matches!(normalize(&[Step::Nfc], "plain", Place::First), Cow::Borrowed(_)));
    }
}
