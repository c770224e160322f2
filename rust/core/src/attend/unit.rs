//! What one thread works on at a time.

/// Queries to work on: some new tokens of a sequence, or the newest of several sequences that begin with the same
/// blocks; the query heads of some key heads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unit<'a> {
    /// Blocks of each sequence, `(sequences, width)`.
    pub(crate) tables: &'a [i32],
    /// Tokens of each sequence up to the last query.
    pub(crate) lengths: Lengths<'a>,
    /// The first query among the tokens of the batch.
    pub(crate) first: usize,
    /// Query tokens.
    pub(crate) num_tokens: usize,
    /// The first key head.
    pub(crate) head: usize,
    /// Key heads.
    pub(crate) num_heads: usize,
    /// Query heads that read a key head.
    pub(crate) group: usize,
}

/// Whose tokens the queries of a unit are.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Lengths<'a> {
    /// The last ones of a sequence of this length.
    One(usize),
    /// The last one of each sequence; so many of the first tokens are in the same blocks for all. Whole tiles.
    Each(&'a [i64], usize),
}

impl<'a> Unit<'a> {
    /// Rows of a key head.
    pub(super) fn rows(&self) -> usize {
        self.num_tokens * self.group
    }

    /// The place of a query in its sequence.
    #[inline(always)]
    pub(super) fn position(&self, token: usize) -> usize {
        match self.lengths {
            Lengths::One(length) => length - self.num_tokens + token,
            Lengths::Each(lengths, _) => lengths[token] as usize - 1,
        }
    }

    /// What is read first: by all queries.
    pub(super) fn first_span(&self) -> Span<'a> {
        let (end, is_shared) = match self.lengths {
            Lengths::One(length) => (length, false),
            Lengths::Each(_, shared) => (shared, true),
        };
        Span { table: self.table(0), end, first: 0, last: self.num_tokens, is_shared }
    }

    /// What is read after a span, and where that starts.
    pub(super) fn span_after(&self, span: Span<'_>) -> Option<(Span<'a>, usize)> {
        let Lengths::Each(lengths, shared) = self.lengths else { return None };
        let first = if span.is_shared { 0 } else { span.last };
        let end = *lengths.get(first)? as usize;
        Some((Span { table: self.table(first), end, first, last: first + 1, is_shared: false }, shared))
    }

    fn table(&self, sequence: usize) -> &'a [i32] {
        let count = match self.lengths {
            Lengths::One(_) => 1,
            Lengths::Each(lengths, _) => lengths.len(),
        };
        let width = self.tables.len() / count;
        &self.tables[sequence * width..][..width]
    }
}

/// Tokens that some queries of a unit read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span<'a> {
    /// Their blocks, from the beginning of the sequence.
    pub(super) table: &'a [i32],
    /// Where they end.
    pub(super) end: usize,
    /// The first query.
    pub(super) first: usize,
    /// The end of the queries.
    pub(super) last: usize,
    /// Whether sequences go on alone behind it.
    is_shared: bool,
}
