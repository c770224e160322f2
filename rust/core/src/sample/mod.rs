//! Next-token sampling from rows of logits.
//!
//! A row goes through these steps, in this order:
//!
//! 1. the grammar mask and `allowed_ids`: other tokens get -inf;
//! 2. bias, then the end-of-text ramp, are added;
//! 3. penalties: repetition, then frequency, then presence;
//! 4. `bad_ids`, and `stop_ids` before `min_new_tokens`, get -inf;
//! 5. temperature; 0 takes the lowest id of the largest logit, and nothing below applies;
//! 6. cuts, each on what the one before left: top-n-sigma, top-k, top-p, min-p, typical-p;
//! 7. one random number picks a token by the inverse of the cumulative distribution in the order of ids.
//!
//! # The arithmetic
//!
//! Another processor makes the same choices if it repeats this. Nothing else has to be the same: not the order of
//! sums, not how tokens are found.
//!
//! - Steps 1 to 4 are single operations on float32 numbers, none fused (`history`).
//! - The probability of a token is a whole number, its mass (`mass`).
//! - Tokens are ordered by (logit descending, id ascending), with -0 equal to 0. top-k keeps the first k. top-p keeps
//!   the fewest of the first whose masses sum to at least `ceil(top_p * total)`, the product in double precision.
//! - top-n-sigma keeps logits of at least `max - n * sigma`, in double precision and then rounded to single, where
//!   `sigma` comes from sums of whole numbers (`passes`). min-p keeps levels of at least `log2(min_p)`.
//! - typical-p orders what is left by (distance of the level to its mean, id), and cuts like top-p (`cut`).
//! - The random number is 64 bits of Philox under (seed, stream, position). The token is the first, by id, at which the
//!   masses of what is kept exceed the upper 64 bits of the product of those bits and their sum.
//!
//! Log-probabilities are computed in double precision from a logit and a sum of masses; only they use a logarithm, whose
//! last bit may differ between processors.

mod cut;
mod draw;
mod history;
mod mass;
mod passes;
mod read;
mod sampler;
mod select;
mod settings;
mod verify;

pub use mass::MAX_VOCAB;
pub use sampler::{Draws, Sampler};
pub use settings::Settings;
pub use verify::{Draft, Verified};

/// The stream of random numbers that draws use.
pub const STREAM: u64 = 0x73_61_6d_70_6c_65;

/// One row of logits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Row<'a> {
    /// Single precision.
    F32(&'a [f32]),
    /// The upper halves of single precision.
    Bf16(&'a [u16]),
}

impl Row<'_> {
    /// Number of tokens.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(row) => row.len(),
            Self::Bf16(row) => row.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Which log-probabilities are computed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Logps {
    /// None: cheapest.
    None,
    /// Those after temperature, before the cuts; at temperature 0, those of temperature 1.
    #[default]
    Processed,
    /// The model's: nothing applied.
    Raw,
}

/// What a step reports beside the tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Log-probabilities.
    pub logps: Logps,
    /// How many of the likeliest tokens of each row are listed.
    pub top_n: usize,
}

/// What happens to a row with NaN or +inf, or without a token that may be drawn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnBad {
    /// The call fails, and nothing has changed.
    #[default]
    Raise,
    /// The row's token is -1, and its request has not changed.
    Sentinel,
}

#[cfg(test)]
mod tests;
