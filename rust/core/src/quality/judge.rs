//! Texts brought into their normal form and judged, one after the other.

use std::borrow::Cow;

use super::edits::{EDITS, Edits, take_out};
use super::page::{Buffers, Page};
use super::rules::{NOISE_WORDS, RULES, Rejection, STOP_WORDS, Thresholds};
use super::stop_words::NUM_STOP_WORDS;
use crate::text::normalize;

/// Judges texts; its memory is kept from one to the next, so a thread has one for all of its texts.
///
/// ```
/// use tempa_core::quality::{Judge, RULES};
///
/// let mut judge = Judge::default();
/// let verdict = judge.judge("too short\r\n", &RULES.map(|rule| rule.default));
/// assert_eq!(verdict.text, "too short");
/// assert_eq!(verdict.rejection.map(|rejection| RULES[rejection.rule].name), Some("min_chars"));
/// ```
#[derive(Default)]
pub struct Judge {
    edits: Edits,
    buffers: Buffers,
}

/// What became of a text.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict<'t> {
    /// Its normal form without the lines that were taken out: the text itself or a part of it where nothing had to change.
    pub text: Cow<'t, str>,
    /// Why it is rejected, if it is.
    pub rejection: Option<Rejection>,
    /// Bytes of the normal form that each of [`EDITS`] took out.
    pub removed: [u64; EDITS.len()],
}

impl Judge {
    /// Takes lines out of each text before it is judged. The default takes none.
    pub fn with_edits(edits: Edits) -> Self {
        Self { edits, ..Self::default() }
    }

    /// Brings a text into its normal form, takes out lines, and tries the rules on what is left.
    ///
    /// The rule on words in noisy lines is tried before such lines are taken out, and comes first then.
    pub fn judge<'t>(&mut self, text: &'t str, thresholds: &Thresholds) -> Verdict<'t> {
        let mut removed = [0; EDITS.len()];
        let mut text = normalize(text);
        if self.edits.contains(&true) {
            if self.edits.iter().zip(EDITS).any(|(&is_made, edit)| is_made && edit.is_noise) {
                let mut only: Thresholds = RULES.map(|rule| rule.off());
                only[NOISE_WORDS] = thresholds[NOISE_WORDS];
                if let Some(rejection) = self.verdict(&text, &only) {
                    return Verdict { text, rejection: Some(rejection), removed };
                }
            }
            if let Some(kept) = take_out(&text, self.edits, &mut self.buffers.ends, &mut removed) {
                text = Cow::Owned(normalize(&kept).into_owned());
            }
        }
        let rejection = self.verdict(&text, thresholds);
        Verdict { text, rejection, removed }
    }

    /// The first rule that rejects a text in its normal form.
    pub fn verdict(&mut self, text: &str, thresholds: &Thresholds) -> Option<Rejection> {
        let sought = thresholds[STOP_WORDS].ceil().min(NUM_STOP_WORDS.into());
        let mut page = Page::new(text, sought as u32, &mut self.buffers);
        RULES.iter().zip(thresholds).enumerate().find_map(|(rule, (definition, &threshold))| {
            if definition.is_off(threshold) {
                return None;
            }
            let bound = definition.bound_of_measure.map(|bound| bound(&mut page));
            if bound.is_some_and(|bound| definition.accepts(bound, threshold)) {
                return None;
            }
            let value = (definition.measure)(&mut page);
            (!definition.accepts(value, threshold)).then_some(Rejection { rule, value })
        })
    }

    /// What each rule measures on a text in its normal form.
    pub fn measure(&mut self, text: &str) -> Thresholds {
        let mut page = Page::new(text, NUM_STOP_WORDS, &mut self.buffers);
        RULES.map(|rule| (rule.measure)(&mut page))
    }
}

#[cfg(test)]
mod tests {
    use super::super::rules::RULES;
    use super::*;

    fn usual() -> Thresholds {
        RULES.map(|rule| rule.default)
    }

    fn off() -> Thresholds {
        RULES.map(|rule| rule.off())
    }

    fn rejected_by(text: &str, thresholds: &Thresholds) -> Option<&'static str> {
        Judge::default().verdict(text, thresholds).map(|rejection| RULES[rejection.rule].name)
    }

    #[test]
    fn ordinary_prose_passes_every_rule() {
        let prose = "The river begins in the hills above the town and runs to the sea through fields of barley. \
            In spring it floods the lower meadows, which is why no house stands there. Farmers have kept the banks \
            with willows since the days of their grandparents, and children learn to swim below the old mill.\n\n\
            Two bridges cross it. The older one was built of grey stone by a mason whose name nobody remembers; \
            the newer carries the railway. Trains stop at the station only twice a day.";
        assert_eq!(rejected_by(prose, &usual()), None);
    }

    /// Lecture L4: posts of thousands of letters M in mixed case, which made the loss of OLMo spike.
    #[test]
    fn a_page_of_thousands_of_m_is_rejected_by_the_rules_on_characters_alone() {
        let words = (0..800).map(|i| ["mMmM", "MMMMMM", "Mm", "mmmmM"][i % 4]);
        let page = words.collect::<Vec<_>>().join(" ");
        for name in ["max_top_letter", "max_repeated_chars"] {
            let only = RULES.map(|rule| if rule.name == name { rule.default } else { rule.off() });
            assert_eq!(rejected_by(&page, &only), Some(name));
        }
    }

    #[test]
    fn the_first_rule_in_the_table_gives_the_verdict_and_the_threshold_itself_is_accepted() {
        let mut thresholds = off();
        let mut judge = Judge::default();
        assert_eq!(judge.verdict("", &thresholds), None);
        thresholds[1] = 2.0;
        assert_eq!(judge.verdict("two words", &thresholds), None);
        assert_eq!(judge.verdict("one", &thresholds), Some(Rejection { rule: 1, value: 1.0 }));
        thresholds[0] = 10.0;
        assert_eq!(judge.verdict("one", &thresholds), Some(Rejection { rule: 0, value: 3.0 }));
    }

    #[test]
    fn noisy_lines_are_weighed_before_they_are_taken_out() {
        let prose = "It was a bright cold day in April and the clocks were striking.";
        let mut judge = Judge::with_edits(EDITS.map(|edit| edit.is_noise));
        let text = format!("Home\n\n{prose}\n\n\n3 likes");
        let verdict = judge.judge(&text, &off());
        assert_eq!((&*verdict.text, verdict.rejection), (prose, None));
        assert_eq!(verdict.removed, [0, 0, 0, 0, 0, 0, 8, 5]);
        let mut thresholds = off();
        thresholds[NOISE_WORDS] = 0.1;
        let rejection = judge.judge(&text, &thresholds).rejection;
        assert_eq!(rejection, Some(Rejection { rule: NOISE_WORDS, value: 3.0 / 16.0 }));
    }
}
