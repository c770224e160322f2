//! Which part of a text is its answer, and whether it is the right one.

use rayon::prelude::*;

use super::number::{numbers, parse_number};
use crate::{Error, Result};

/// What introduces the final answer in GSM8K (ch3 B12).
const MARKER: &str = "####";
const BOXED: &str = "\\boxed{";

/// Where to look for the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extract {
    /// After the last `####`, as in GSM8K: the number there, or the rest of the line.
    Marker,
    /// Inside the last `\boxed{...}`.
    Boxed,
    /// The last number of the text.
    Number,
    /// The first of the above that is there.
    Any,
}

impl std::str::FromStr for Extract {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "marker" => Ok(Self::Marker),
            "boxed" => Ok(Self::Boxed),
            "number" => Ok(Self::Number),
            "any" => Ok(Self::Any),
            _ => Err(Error::value(format!("unknown extraction {name:?}; known: marker, boxed, number, any"))),
        }
    }
}

/// The answer a text gives, or `None` if it gives none.
pub fn extract_answer(text: &str, how: Extract) -> Option<&str> {
    match how {
        Extract::Marker => after_marker(text),
        Extract::Boxed => boxed(text),
        Extract::Number => numbers(text).last().map(|span| &text[span]),
        Extract::Any => [Extract::Marker, Extract::Boxed, Extract::Number]
            .into_iter()
            .find_map(|how| extract_answer(text, how)),
    }
}

fn after_marker(text: &str) -> Option<&str> {
    let line = text[text.rfind(MARKER)? + MARKER.len()..].lines().next()?.trim();
    let number = numbers(line).next().filter(|span| line[..span.start].chars().all(|c| !c.is_alphanumeric()));
    // A number wins over words after it ("18 dollars"), but only when nothing worded comes before.
    let answer = number.map_or(line, |span| &line[span]);
    (!answer.is_empty()).then_some(answer)
}

fn boxed(text: &str) -> Option<&str> {
    let inside = &text[text.rfind(BOXED)? + BOXED.len()..];
    let mut depth = 0;
    for (at, byte) in inside.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' if depth == 0 => return Some(inside[..at].trim()),
            b'}' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// Whether two answers say the same: as exact numbers if both are, otherwise as words without regard to
/// case and spacing.
pub fn answers_equal(a: &str, b: &str) -> bool {
    match (parse_number(a), parse_number(b)) {
        (Some(a), Some(b)) => a == b,
        (None, None) => {
            let words = |text: &str| text.split_whitespace().map(str::to_lowercase).collect::<Vec<_>>();
            words(a) == words(b)
        }
        _ => false,
    }
}

/// 1 for each text whose extracted answer equals the expected one, 0 for the others.
///
/// # Errors
/// [`Error::Value`] if there are not as many answers as texts.
pub fn grade<T: AsRef<str> + Sync, A: AsRef<str> + Sync>(
    texts: &[T],
    answers: &[A],
    how: Extract,
) -> Result<Vec<f32>> {
    if texts.len() != answers.len() {
        return Err(Error::value(format!("{} texts and {} answers", texts.len(), answers.len())));
    }
    Ok(texts
        .par_iter()
        .zip(answers)
        .with_min_len(64)
        .map(|(text, answer)| {
            let given = extract_answer(text.as_ref(), how);
            f32::from(given.is_some_and(|given| answers_equal(given, answer.as_ref())))
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_answer_is_found_where_the_format_puts_it() {
        for (text, how, expected) in [
            ("so 9 * 2 = 18\n#### 18", Extract::Any, Some("18")),
            ("#### 3\nno, #### $1,000 dollars\nor 7", Extract::Marker, Some("1,000")),
            ("#### -5", Extract::Marker, Some("-5")),
            ("#### (B) 2", Extract::Marker, Some("(B) 2")),
            ("#### \n18", Extract::Marker, None),
            ("####", Extract::Any, None),
            ("\\boxed{1} then \\boxed{\\frac{1}{2}}.", Extract::Any, Some("\\frac{1}{2}")),
            ("\\boxed{1", Extract::Boxed, None),
            ("10-5=5, so it is -5.", Extract::Any, Some("-5")),
            ("no idea", Extract::Any, None),
            ("18", Extract::Marker, None),
        ] {
            assert_eq!(extract_answer(text, how), expected, "{text}");
        }
    }

    #[test]
    fn equality_is_numeric_for_numbers_and_verbal_for_words() {
        assert!(answers_equal("3.50", "3.5"));
        assert!(answers_equal("1,000", "1000"));
        assert!(answers_equal("\\frac{1}{2}", "0.5"));
        assert!(answers_equal(" New  York", "new york"));
        assert!(!answers_equal("5", "-5"));
        assert!(!answers_equal("0.333", "1/3"));
        assert!(!answers_equal("five", "5"));
    }

    #[test]
    fn grading_needs_one_answer_for_each_text() {
        assert_eq!(grade(&["#### 2", "no"], &["2.0", "2"], Extract::Any).unwrap(), [1.0, 0.0]);
        assert!(grade(&["a"], &[] as &[&str], Extract::Any).is_err());
        assert!("last".parse::<Extract>().is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_graded_without_panic(text in "(####|\\\\boxed\\{|[-+$.,0-9a-z é}\n]){0,30}") {
            for how in [Extract::Marker, Extract::Boxed, Extract::Number, Extract::Any] {
                if let Some(answer) = extract_answer(&text, how) {
                    prop_assert!(answers_equal(answer, answer));
                }
            }
        }
    }
}
