//! The requests of a server or a rollout, and one step for a batch of them.

use rayon::prelude::*;
use rustc_hash::FxHashMap;

use super::draw::{Drawn, Scratch};
use super::history::History;
use super::read::Query;
use super::settings::{self, Settings, check_ids};
use super::{OnBad, Row, STREAM, Wanted};
use crate::{Error, Result, rng};

/// Logits below which one thread is faster.
const SERIAL_BELOW: usize = 1 << 17;

/// One token per row.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Draws {
    /// The tokens; -1 for a bad row.
    pub ids: Vec<i64>,
    /// Log-probabilities of the wanted kind; NaN without one.
    pub logps: Vec<f32>,
    /// Log-probabilities among the tokens that were kept: what was really drawn from.
    pub kept_logps: Vec<f32>,
    /// `top_n` ids for each row, the likeliest first; -1 where there are not so many.
    pub top_ids: Vec<i64>,
    /// Their log-probabilities; -inf likewise.
    pub top_logps: Vec<f32>,
}

/// One request.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) settings: Settings,
    /// Bits of `allowed_ids`.
    pub(super) allowed: Option<Vec<i32>>,
    pub(super) seed: u64,
    pub(super) history: History,
}

impl Request {
    pub(super) fn query<'a>(&'a self, row: Row<'a>, mask: Option<&'a [i32]>) -> Query<'a> {
        Query {
            row,
            mask,
            allowed: self.allowed.as_deref(),
            settings: &self.settings,
            history: &self.history,
        }
    }

    /// The random bits of the next token.
    pub(super) fn bits(&self, stream: u64) -> u64 {
        rng::bits64(self.seed, stream, self.history.position())
    }
}

/// Requests by handle, and the tokens that they have drawn.
#[derive(Debug, Clone)]
pub struct Sampler {
    vocab: usize,
    pub(super) requests: FxHashMap<i64, Request>,
    next: i64,
}

impl Sampler {
    /// # Errors
    /// [`Error::Value`] if the vocabulary is empty or has more than [`super::MAX_VOCAB`] tokens.
    pub fn new(vocab: usize) -> Result<Self> {
        settings::check_vocab(vocab)?;
        Ok(Self { vocab, requests: FxHashMap::default(), next: 0 })
    }

    /// Tokens of the vocabulary.
    pub fn vocab(&self) -> usize {
        self.vocab
    }

    /// Number of requests.
    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Adds a request and returns its handle, which is never used again.
    ///
    /// # Errors
    /// [`Error::Value`] if a setting is out of range or an id is not in the vocabulary.
    pub fn add(&mut self, settings: Settings, seed: u64, prompt: &[u32]) -> Result<i64> {
        settings.check()?;
        settings.check_ids(self.vocab)?;
        check_ids("the prompt", prompt, self.vocab)?;
        let history = History::new(&settings, prompt);
        let allowed = settings.allowed_ids.as_ref().map(|ids| {
            let mut words = vec![0; self.vocab.div_ceil(32)];
            for &id in ids {
                words[id as usize / 32] |= 1 << (id % 32);
            }
            words
        });
        Ok(self.insert(Request { settings, allowed, seed, history }))
    }

    /// Copies a request as it is now, once for each seed.
    ///
    /// # Errors
    /// [`Error::Key`] if there is no such request.
    pub fn fork(&mut self, handle: i64, seeds: &[u64]) -> Result<Vec<i64>> {
        let request = self.get(handle)?.clone();
        Ok(seeds.iter().map(|&seed| self.insert(Request { seed, ..request.clone() })).collect())
    }

    /// Forgets requests.
    ///
    /// # Errors
    /// [`Error::Key`] if one is unknown or given twice; then none is forgotten.
    pub fn remove(&mut self, handles: &[i64]) -> Result<()> {
        self.check(handles)?;
        for handle in handles {
            self.requests.remove(handle);
        }
        Ok(())
    }

    /// Adds tokens to the output of a request that it did not draw.
    ///
    /// # Errors
    /// [`Error::Key`] if there is no such request, [`Error::Value`] if a token is not in the vocabulary.
    pub fn append(&mut self, handle: i64, ids: &[u32]) -> Result<()> {
        check_ids("the output", ids, self.vocab)?;
        let history = &mut self.get_mut(handle)?.history;
        for &id in ids {
            history.push(id);
        }
        Ok(())
    }

    /// Takes back the last `n` tokens of the output of a request; the next draw is at the first one's position.
    ///
    /// # Errors
    /// [`Error::Key`] if there is no such request, [`Error::Value`] if its output is shorter.
    pub fn rollback(&mut self, handle: i64, n: usize) -> Result<()> {
        let history = &mut self.get_mut(handle)?.history;
        if n > history.output().len() {
            let len = history.output().len();
            return Err(Error::value(format!(
                "request {handle} has {len} tokens of output, cannot take back {n}"
            )));
        }
        history.rollback(n);
        Ok(())
    }

    /// The output of a request.
    ///
    /// # Errors
    /// [`Error::Key`] if there is no such request.
    pub fn output(&self, handle: i64) -> Result<&[u32]> {
        Ok(self.get(handle)?.history.output())
    }

    /// Draws the next token of each request from its row, and adds it to the output.
    ///
    /// A row's mask has a bit for each token, bit `i % 32` of word `i / 32` for token `i`: 1 if it may be drawn. Words
    /// past the vocabulary are not read.
    ///
    /// # Errors
    /// [`Error::Key`] if a request is unknown or given twice; [`Error::Value`] if the shapes do not fit, or a row is bad
    /// and `on_bad` says so, with the number of the row. Nothing has changed then.
    pub fn step(
        &mut self,
        handles: &[i64],
        rows: &[Row<'_>],
        masks: Option<&[&[i32]]>,
        wanted: Wanted,
        on_bad: OnBad,
    ) -> Result<Draws> {
        self.check(handles)?;
        self.check_rows(rows, handles.len(), masks)?;
        let work: Vec<(usize, &Request)> =
            handles.iter().filter_map(|handle| self.requests.get(handle)).enumerate().collect();
        let draw = |scratch: &mut Scratch, &(i, request): &(usize, &Request)| {
            let mask = masks.map(|masks| masks[i]);
            settle(i, on_bad, scratch.draw(request.query(rows[i], mask), wanted, request.bits(STREAM)))
        };
        let drawn: Vec<Option<Drawn>> = if self.vocab * rows.len() < SERIAL_BELOW || rows.len() == 1 {
            let mut scratch = Scratch::default();
            work.iter().map(|item| draw(&mut scratch, item)).collect::<Result<_>>()?
        } else {
            work.par_iter().map_init(Scratch::default, draw).collect::<Result<_>>()?
        };
        let mut draws = Draws::default();
        for (&handle, drawn) in handles.iter().zip(drawn) {
            if let (Some(drawn), Some(request)) = (&drawn, self.requests.get_mut(&handle)) {
                request.history.push(drawn.id);
            }
            draws.push(drawn, wanted.top_n);
        }
        Ok(draws)
    }

    /// The probabilities from which each request would draw, one row of the vocabulary after the other.
    ///
    /// # Errors
    /// As for [`Sampler::step`].
    pub fn distribution(
        &self,
        handles: &[i64],
        rows: &[Row<'_>],
        masks: Option<&[&[i32]]>,
    ) -> Result<Vec<f32>> {
        self.check(handles)?;
        self.check_rows(rows, handles.len(), masks)?;
        let mut out = vec![0.0; handles.len() * self.vocab];
        out.par_chunks_mut(self.vocab).zip(handles).enumerate().try_for_each_init(
            Scratch::default,
            |scratch, (i, (out, &handle))| {
                let mask = masks.map(|masks| masks[i]);
                let query = self.get(handle)?.query(rows[i], mask);
                settle(i, OnBad::Raise, scratch.each_probability(query, |id, p| out[id] = p)).map(|_| ())
            },
        )?;
        Ok(out)
    }

    fn insert(&mut self, request: Request) -> i64 {
        let handle = self.next;
        self.next += 1;
        self.requests.insert(handle, request);
        handle
    }

    fn get(&self, handle: i64) -> Result<&Request> {
        self.requests.get(&handle).ok_or_else(|| unknown(handle))
    }

    fn get_mut(&mut self, handle: i64) -> Result<&mut Request> {
        self.requests.get_mut(&handle).ok_or_else(|| unknown(handle))
    }

    /// Whether every handle is known and none is given twice.
    pub(super) fn check(&self, handles: &[i64]) -> Result<()> {
        let mut sorted = handles.to_vec();
        sorted.sort_unstable();
        if let Some(&[twice, _]) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Error::Key(format!("request {twice} is given twice")));
        }
        handles.iter().try_for_each(|&handle| self.get(handle).map(|_| ()))
    }

    pub(super) fn check_rows(&self, rows: &[Row<'_>], wanted: usize, masks: Option<&[&[i32]]>) -> Result<()> {
        if rows.len() != wanted {
            return Err(Error::value(format!("{wanted} rows of logits are needed, got {}", rows.len())));
        }
        if let Some(row) = rows.iter().find(|row| row.len() != self.vocab) {
            let (len, vocab) = (row.len(), self.vocab);
            return Err(Error::value(format!(
                "a row has {len} logits, but the vocabulary has {vocab} tokens"
            )));
        }
        let Some(masks) = masks else { return Ok(()) };
        if masks.len() != wanted {
            return Err(Error::value(format!("{wanted} masks are needed, got {}", masks.len())));
        }
        let words = self.vocab.div_ceil(32);
        masks.iter().find(|mask| mask.len() < words).map_or(Ok(()), |mask| {
            let (len, vocab) = (mask.len(), self.vocab);
            Err(Error::value(format!("a mask has {len} words of 32 bits, {vocab} tokens need {words}")))
        })
    }
}

impl Draws {
    pub(super) fn push(&mut self, drawn: Option<Drawn>, top_n: usize) {
        let end = self.top_ids.len() + top_n;
        if let Some(drawn) = drawn {
            self.ids.push(i64::from(drawn.id));
            self.logps.push(drawn.logp);
            self.kept_logps.push(drawn.kept_logp);
            self.top_ids.extend(drawn.top.iter().map(|&(id, _)| i64::from(id)));
            self.top_logps.extend(drawn.top.iter().map(|&(_, logp)| logp));
        } else {
            self.ids.push(-1);
            self.logps.push(f32::NAN);
            self.kept_logps.push(f32::NAN);
        }
        self.top_ids.resize(end, -1);
        self.top_logps.resize(end, f32::NEG_INFINITY);
    }
}

fn unknown(handle: i64) -> Error {
    Error::Key(format!("no request has the handle {handle}"))
}

/// None for a bad row that is to be reported by a sentinel.
pub(super) fn settle<T>(
    row: usize,
    on_bad: OnBad,
    outcome: std::result::Result<T, String>,
) -> Result<Option<T>> {
    match (outcome, on_bad) {
        (Ok(value), _) => Ok(Some(value)),
        (Err(_), OnBad::Sentinel) => Ok(None),
        (Err(reason), OnBad::Raise) => Err(Error::value(format!("row {row}: {reason}"))),
    }
}
