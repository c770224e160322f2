//! What has been measured on a text so far: each group of measures when it is first asked for.

use super::counts::{Counts, Until};
use super::letters;
use super::lines::{Lines, Seen};
use super::ngrams::{Bounds, Duplicate, Ngrams, Top};

/// Memory that is kept between texts.
#[derive(Default)]
pub(super) struct Buffers {
    pub(super) ends: Vec<Until>,
    pieces: [Seen; 2],
    ngrams: Ngrams,
}

/// A text in its normal form and what is known of it.
pub(super) struct Page<'a> {
    text: &'a str,
    sought_stop_words: u32,
    buffers: &'a mut Buffers,
    counts: Option<Counts>,
    lines: Option<Lines>,
    bounds: Option<Bounds>,
    top: Option<Top>,
    duplicate: Option<Duplicate>,
}

impl<'a> Page<'a> {
    /// Nothing is known yet; no more than so many different stop words will be counted.
    pub(super) fn new(text: &'a str, sought_stop_words: u32, buffers: &'a mut Buffers) -> Self {
        let (counts, lines, bounds, top, duplicate) = (None, None, None, None, None);
        Self { text, sought_stop_words, buffers, counts, lines, bounds, top, duplicate }
    }

    pub(super) fn counts(&mut self) -> &Counts {
        let ends = &mut self.buffers.ends;
        self.counts.get_or_insert_with(|| Counts::of(self.text, self.sought_stop_words, ends))
    }

    pub(super) fn top_letter(&self) -> u64 {
        letters::most_frequent(self.text)
    }

    pub(super) fn lines(&mut self) -> &Lines {
        self.counts();
        let Buffers { ends, pieces, .. } = &mut *self.buffers;
        self.lines.get_or_insert_with(|| Lines::of(self.text, ends, pieces))
    }

    /// What the n-grams measure at most.
    pub(super) fn bounds(&mut self) -> Bounds {
        let ngrams = &mut self.buffers.ngrams;
        *self.bounds.get_or_insert_with(|| {
            ngrams.read(self.text);
            ngrams.bounds()
        })
    }

    pub(super) fn top(&mut self) -> Top {
        self.bounds();
        *self.top.get_or_insert_with(|| self.buffers.ngrams.top())
    }

    pub(super) fn duplicate(&mut self) -> Duplicate {
        self.bounds();
        *self.duplicate.get_or_insert_with(|| self.buffers.ngrams.duplicate())
    }
}
