//! Lines that are taken out of a text, by the published rules on lines.

use std::sync::LazyLock;

use aho_corasick::AhoCorasick;

use super::counts::{Counts, Until};
use super::lines::{Line, is_counter, is_ellipsis, is_number, is_one_word, is_uppercase};

/// One kind of line.
pub struct Edit {
    /// Its name in reports and settings.
    pub name: &'static str,
    /// Whether a document with many words in such lines is better dropped (`RefinedWeb`): the rule on noise does.
    pub(super) is_noise: bool,
    takes_out: fn(&Line<'_>) -> bool,
}

/// The edits in the order in which they are tried: four of C4 (Raffel et al. 2020), four of `RefinedWeb` (Penedo et al. 2023).
pub const EDITS: [Edit; 8] = [
    edit("unended_lines", |line| !is_ended(line.text)),
    edit("few_word_lines", |line| line.num_words() < FEW_WORDS),
    edit("javascript_lines", |line| JAVASCRIPT.is_match(line.text)),
    edit("policy_lines", |line| POLICY.is_match(line.text)),
    noise("uppercase_lines", is_uppercase),
    noise("number_lines", is_number),
    noise("counter_lines", is_counter),
    noise("one_word_lines", is_one_word),
];

/// Which of [`EDITS`] are made.
pub type Edits = [bool; EDITS.len()];

/// A line of fewer words is no sentence (C4).
const FEW_WORDS: u64 = 5;

static JAVASCRIPT: LazyLock<AhoCorasick> = LazyLock::new(|| any_case(&["javascript"]));
static POLICY: LazyLock<AhoCorasick> = LazyLock::new(|| {
    any_case(&[
        "terms of use",
        "privacy policy",
        "cookie policy",
        "uses cookies",
        "use of cookies",
        "use cookies",
    ])
});

/// Finds phrases in any case of ASCII letters.
fn any_case(phrases: &[&str]) -> AhoCorasick {
    let found = AhoCorasick::builder().ascii_case_insensitive(true).build(phrases);
    // Only more phrases than memory can hold make it fail.
    found.unwrap_or_else(|_| unreachable!("a few phrases fit"))
}

const fn edit(name: &'static str, takes_out: fn(&Line<'_>) -> bool) -> Edit {
    Edit { name, is_noise: false, takes_out }
}

const fn noise(name: &'static str, takes_out: fn(&Line<'_>) -> bool) -> Edit {
    Edit { name, is_noise: true, takes_out }
}

/// Whether a line ends with a mark that ends a sentence, or a quotation mark behind it, and not with three dots.
fn is_ended(line: &str) -> bool {
    line.chars().next_back().is_some_and(|last| {
        matches!(last, '.' | '!' | '?' | '"' | '”' | '»')
            || matches!(last, '。' | '！' | '？' | '」' | '』' | '؟' | '۔' | '।' | '॥' | '။' | '។')
    }) && !is_ellipsis(line, '.')
}

/// Takes lines out of a text in its normal form; nothing if all stay.
///
/// `removed` gets the bytes that went by each edit, line feeds included. Blank lines stay.
pub(super) fn take_out(
    text: &str,
    edits: Edits,
    ends: &mut Vec<Until>,
    removed: &mut [u64; EDITS.len()],
) -> Option<String> {
    Counts::of(text, 0, ends);
    let mut kept: Option<String> = None;
    let (mut start, mut has_line) = (0, false);
    for (line, until) in Line::all(text, ends).zip(&*ends) {
        let whole = &text[start..until.end];
        let takes_out = |place: &usize| edits[*place] && (EDITS[*place].takes_out)(&line);
        let by = if line.text.is_empty() { None } else { (0..EDITS.len()).find(takes_out) };
        if let Some(place) = by {
            kept.get_or_insert_with(|| text[..start.saturating_sub(1)].to_owned());
            removed[place] += whole.len() as u64 + 1;
        } else if let Some(kept) = &mut kept {
            if has_line {
                kept.push('\n');
            }
            kept.push_str(whole);
        }
        has_line |= by.is_none();
        start = until.end + 1;
    }
    // The text ends without a line feed.
    if let (false, Some(last)) = (has_line, removed.iter_mut().rev().find(|bytes| **bytes > 0)) {
        *last -= 1;
    }
    kept
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn taken_out(text: &str, edits: Edits) -> (String, [u64; EDITS.len()]) {
        let mut removed = [0; EDITS.len()];
        let kept = take_out(text, edits, &mut Vec::new(), &mut removed);
        (kept.unwrap_or_else(|| text.to_owned()), removed)
    }

    #[test]
    fn each_edit_takes_out_its_line() {
        let prose = "It was a bright cold day in April.\n\nThe clocks of the town were striking \"thirteen\"";
        for (name, line) in [
            ("unended_lines", "A heading of six words here"),
            ("unended_lines", "and so it goes on and on..."),
            ("few_word_lines", "Read it all."),
            ("javascript_lines", "Please turn on JavaScript in your browser."),
            ("policy_lines", "By reading on you accept our Privacy Policy."),
            ("uppercase_lines", "SIGN UP NOW AND SAVE a lot."),
            ("number_lines", "12 / 40 / 1984."),
            ("counter_lines", "3 likes"),
            ("one_word_lines", "Home"),
        ] {
            let place = EDITS.iter().position(|edit| edit.name == name).unwrap();
            let only = std::array::from_fn(|other| other == place);
            let (kept, removed) = taken_out(&format!("{prose}\n{line}"), only);
            assert_eq!((kept.as_str(), removed[place]), (prose, line.len() as u64 + 1), "{line}");
        }
    }

    proptest! {
        #[test]
        fn what_is_taken_out_and_what_stays_is_the_text(
            text in "(Home|12|A line that ends well.|a heading| x y|JavaScript is off\\.|漢字|\n|\n\n){0,12}",
            bits in any::<u8>(),
        ) {
            let edits = std::array::from_fn(|place| bits >> place & 1 == 1);
            let (kept, removed) = taken_out(&text, edits);
            prop_assert_eq!(kept.len() as u64 + removed.iter().sum::<u64>(), text.len() as u64);
            let left = text.split('\n').filter(|line| {
                let is_taken = |place: &usize| edits[*place] && taken_out(line, std::array::from_fn(|other| other == *place)).0.is_empty();
                line.is_empty() || !(0..EDITS.len()).any(|place| is_taken(&place))
            });
            prop_assert_eq!(kept, left.collect::<Vec<_>>().join("\n"));
        }
    }
}
