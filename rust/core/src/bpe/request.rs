//! What a call can ask for beside the ids of a text: bytes that may not be UTF-8, tokens around the text, a limit.

use aho_corasick::{AhoCorasick, MatchKind};

use super::encode::Encoder;
use super::normalize::Place;
use super::special::Allowed;
use super::tokenizer::Tokenizer;
use crate::{Error, Monitor, Ragged, Result};

/// What to encode.
#[derive(Debug, Clone, Copy)]
pub enum Input<'t> {
    /// Text.
    Text(&'t str),
    /// Bytes. What is UTF-8 in them is encoded as text; bytes that are not, up to the next that are, are one piece,
    /// and the text on both sides is cut as if it ended and began there.
    Bytes(&'t [u8]),
}

impl<'t> Input<'t> {
    /// The bytes.
    pub fn as_bytes(&self) -> &'t [u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Bytes(bytes) => bytes,
        }
    }
}

/// The options of a call; the default asks for nothing.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Which added tokens are recognised.
    pub allowed: Allowed,
    /// Which special tokens must not occur.
    pub disallowed: Disallowed,
    /// Put the tokens of the file's template around the text.
    pub add_special: bool,
    /// Most ids, those of the template included.
    pub max_tokens: Option<usize>,
    /// Cut off the start of a text that is too long, not its end.
    pub keeps_end: bool,
}

/// Special tokens that are an error in text.
#[derive(Debug, Clone, Default)]
pub struct Disallowed(Option<(AhoCorasick, Vec<String>)>);

impl Disallowed {
    /// The specials of these names.
    ///
    /// # Errors
    /// [`Error::Value`] if the tokenizer has no such special.
    pub fn new(tokenizer: &Tokenizer, names: Vec<String>) -> Result<Self> {
        if names.is_empty() {
            return Ok(Self::default());
        }
        for name in &names {
            tokenizer.special_id(name)?;
        }
        let finder = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(&names);
        let finder = finder.map_err(|error| Error::value(format!("too many special tokens: {error}")))?;
        Ok(Self(Some((finder, names))))
    }

    fn check(&self, input: Input<'_>) -> Result<()> {
        let Self(Some((finder, names))) = self else { return Ok(()) };
        let Some(found) = finder.find(input.as_bytes()) else { return Ok(()) };
        let name = &names[found.pattern().as_usize()];
        let place = match input {
            Input::Text(text) => format!("character {}", text[..found.start()].chars().count()),
            Input::Bytes(_) => format!("byte {}", found.start()),
        };
        Err(Error::value(format!(
            "the special token {name:?} is in the text at {place}: allow it by name, or encode it as \
             plain text with disallowed_special=()"
        )))
    }
}

impl Encoder<'_> {
    /// Appends the ids that a call asks for.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`]; [`Error::Value`] if a disallowed token is in the text or the limit is
    /// smaller than the template.
    pub fn encode_request(&mut self, input: Input<'_>, request: &Request, ids: &mut Vec<u32>) -> Result<()> {
        let Request { allowed, disallowed, add_special, max_tokens, keeps_end } = request;
        disallowed.check(input)?;
        let template = &self.tokenizer().pipeline.template;
        let (before, after) =
            if *add_special { (&*template.before, &*template.after) } else { Default::default() };
        ids.extend_from_slice(before);
        let start = ids.len();
        match input {
            Input::Text(text) => self.encode(text, allowed, ids)?,
            Input::Bytes(bytes) => self.encode_bytes(bytes, allowed, ids)?,
        }
        if let Some(most) = *max_tokens {
            let around = before.len() + after.len();
            let most = most.checked_sub(around).ok_or_else(|| {
                Error::value(format!(
                    "max_tokens must be at least {around} for the added special tokens, got {most}"
                ))
            })?;
            let surplus = (ids.len() - start).saturating_sub(most);
            if *keeps_end {
                ids.drain(start..start + surplus);
            }
            ids.truncate(start + most);
        }
        ids.extend_from_slice(after);
        Ok(())
    }

    fn encode_bytes(&mut self, bytes: &[u8], allowed: &Allowed, ids: &mut Vec<u32>) -> Result<()> {
        let (mut place, mut done) = (Place::First, 0);
        // Where the bytes that are not UTF-8 begin: chunks without text between them belong together.
        let mut invalid = 0;
        for chunk in bytes.utf8_chunks() {
            if !chunk.valid().is_empty() {
                if invalid < done {
                    self.encode_cached(&bytes[invalid..done], ids)?;
                }
                self.encode_at(place, chunk.valid(), allowed, ids)?;
                invalid = done + chunk.valid().len();
            }
            place = Place::Continued;
            done += chunk.valid().len() + chunk.invalid().len();
        }
        if invalid < done { self.encode_cached(&bytes[invalid..done], ids) } else { Ok(()) }
    }
}

impl Tokenizer {
    /// Appends the ids of each input to `rows`, on `num_threads` threads (one for each processor if `None`). The monitor
    /// counts bytes.
    ///
    /// # Errors
    /// As [`Encoder::encode_request`], naming the text, counted from `first`; [`Error::Interrupted`] if cancelled.
    pub fn encode_requests(
        &self,
        inputs: &[Input<'_>],
        first: usize,
        request: &Request,
        num_threads: Option<usize>,
        monitor: &Monitor,
        rows: &mut Ragged<u32>,
    ) -> Result<()> {
        let encode = |encoder: &mut Encoder<'_>, input: Input<'_>, ids: &mut Vec<u32>| {
            encoder.encode_request(input, request, ids)
        };
        self.append_inputs(inputs, first, num_threads, monitor, encode, rows)
    }

    /// Appends the number of ids of each input to `counts`; see [`Tokenizer::encode_requests`].
    ///
    /// # Errors
    /// As [`Tokenizer::encode_requests`].
    pub fn count_requests(
        &self,
        inputs: &[Input<'_>],
        first: usize,
        request: &Request,
        num_threads: Option<usize>,
        monitor: &Monitor,
        counts: &mut Vec<u32>,
    ) -> Result<()> {
        let count = |encoder: &mut Encoder<'_>, input: Input<'_>, counts: &mut Vec<u32>| {
            let start = counts.len();
            encoder.encode_request(input, request, counts)?;
            let count = (counts.len() - start) as u32;
            counts.truncate(start);
            counts.push(count);
            Ok(())
        };
        let mut rows = Ragged { values: std::mem::take(counts), offsets: vec![0] };
        let done = self.append_inputs(inputs, first, num_threads, monitor, count, &mut rows);
        *counts = rows.values;
        done
    }

    fn append_inputs(
        &self,
        inputs: &[Input<'_>],
        first: usize,
        num_threads: Option<usize>,
        monitor: &Monitor,
        encode: impl Fn(&mut Encoder<'_>, Input<'_>, &mut Vec<u32>) -> Result<()> + Sync,
        rows: &mut Ragged<u32>,
    ) -> Result<()> {
        let num_bytes = |i: usize| inputs[i].as_bytes().len();
        let make = |encoder: &mut Encoder<'_>, i: usize, rows: &mut Ragged<u32>| {
            encode(encoder, inputs[i], &mut rows.values).map_err(|error| match error {
                Error::Value(reason) => Error::Value(format!("text {}: {reason}", first + i)),
                other => other,
            })?;
            rows.end_row();
            monitor.advance(num_bytes(i) as u64)
        };
        self.append_rows(inputs.len(), num_bytes, num_threads, make, rows)
    }
}
