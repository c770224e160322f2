//! Speculative decoding: how many tokens of a draft the target would have drawn, and the one after them.

use rayon::prelude::*;

use super::draw::{Proposal, Scratch};
use super::sampler::{Draws, Request, Sampler, settle};
use super::settings::check_ids;
use super::{OnBad, Row, STREAM, Wanted};
use crate::{Error, Ragged, Result};

/// The streams of random numbers that accept a token of a draft, and that draw instead of it.
const ACCEPT: u64 = STREAM + 1;
const INSTEAD: u64 = STREAM + 2;

/// Tokens that a draft proposes, in order.
#[derive(Debug, Clone, Copy)]
pub struct Draft<'a> {
    /// Those of each request.
    pub tokens: &'a Ragged<u32>,
    /// The distribution that each was drawn from, one row of the vocabulary after the other; None if tokens were not
    /// drawn by chance.
    pub probs: Option<&'a [f32]>,
}

/// What became of a draft.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Verified {
    /// How many tokens of each draft were accepted.
    pub num_accepted: Vec<i64>,
    /// The token after them, of each request: -1 for a bad row.
    pub next: Vec<i64>,
    /// As of a step, one for each row of logits; rows that were not reached have the token -1.
    pub draws: Draws,
}

impl Sampler {
    /// Draws along the drafts. A request with `k` tokens of draft has `k + 1` rows: after its output, and after each
    /// token. Accepted tokens and the one after them join the output.
    ///
    /// Without `probs`, or at temperature 0, every row is drawn from as [`Sampler::step`] draws, and the draft is right as
    /// long as it has the same tokens: the output is what it would have been without a draft. With `probs`, a token is
    /// accepted with the probability `min(1, p / q)`, and another one is drawn from what `p` has more of: the output
    /// has the same distribution.
    ///
    /// # Errors
    /// As for [`Sampler::step`].
    pub fn verify(
        &mut self,
        handles: &[i64],
        draft: Draft<'_>,
        rows: &[Row<'_>],
        masks: Option<&[&[i32]]>,
        wanted: Wanted,
        on_bad: OnBad,
    ) -> Result<Verified> {
        let (vocab, num_tokens) = (self.vocab(), draft.tokens.values.len());
        self.check(handles)?;
        if draft.tokens.len() != handles.len() {
            let (drafts, requests) = (draft.tokens.len(), handles.len());
            return Err(Error::value(format!("{drafts} drafts do not fit {requests} requests")));
        }
        self.check_rows(rows, num_tokens + handles.len(), masks)?;
        check_ids("the draft", &draft.tokens.values, vocab)?;
        if let Some(probs) = draft.probs.filter(|probs| probs.len() != num_tokens * vocab) {
            let (got, needed) = (probs.len(), num_tokens * vocab);
            return Err(Error::value(format!("draft_probs has {got} numbers, {needed} are needed")));
        }
        // Requests change as their draft is accepted; they are taken out, and put back whatever happens.
        let mut taken: Vec<(i64, Request)> =
            handles.iter().filter_map(|handle| self.requests.remove_entry(handle)).collect();
        let lengths: Vec<usize> = taken.iter().map(|(_, request)| request.history.output().len()).collect();
        let follow = |scratch: &mut Scratch, i: usize, request: &mut Request| {
            let start = draft.tokens.offsets[i] as usize;
            let tokens = draft.tokens.row(i);
            let mut steps = Vec::with_capacity(tokens.len() + 1);
            for j in 0..=tokens.len() {
                let row = start + i + j;
                let mask = masks.map(|masks| masks[row]);
                let query = request.query(rows[row], mask);
                let probs = draft.probs.filter(|_| j < tokens.len() && !request.settings.is_greedy());
                let outcome = match probs {
                    None => scratch.draw(query, wanted, request.bits(STREAM)),
                    Some(probs) => {
                        let probs = &probs[(start + j) * vocab..(start + j + 1) * vocab];
                        let chance = (request.bits(ACCEPT) >> 11) as f64 / (1u64 << 53) as f64;
                        let proposal = Proposal { id: tokens[j] as usize, probs, chance };
                        scratch.draw_against(query, wanted, proposal, request.bits(INSTEAD))
                    }
                };
                let drawn = settle(row, on_bad, outcome)?;
                let id = drawn.as_ref().map(|drawn| drawn.id);
                if let Some(id) = id {
                    request.history.push(id);
                }
                steps.push(drawn);
                if id.is_none() || id != tokens.get(j).copied() {
                    break;
                }
            }
            Ok(steps)
        };
        let followed: Result<Vec<_>> = taken
            .par_iter_mut()
            .enumerate()
            .map_init(Scratch::default, |scratch, (i, (_, request))| follow(scratch, i, request))
            .collect();
        if followed.is_err() {
            for ((_, request), len) in taken.iter_mut().zip(lengths) {
                request.history.rollback(request.history.output().len() - len);
            }
        }
        self.requests.extend(taken);
        let mut verified = Verified::default();
        for (i, steps) in followed?.into_iter().enumerate() {
            let unreached = draft.tokens.row(i).len() + 1 - steps.len();
            verified.num_accepted.push(steps.len() as i64 - 1);
            verified.next.push(steps.last().and_then(Option::as_ref).map_or(-1, |drawn| i64::from(drawn.id)));
            for drawn in steps.into_iter().chain(std::iter::repeat_n(None, unreached)) {
                verified.draws.push(drawn, wanted.top_n);
            }
        }
        Ok(verified)
    }
}
