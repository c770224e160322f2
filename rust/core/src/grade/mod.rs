//! Answer extraction, numeric equality and safe arithmetic: verifiable rewards.
//!
//! Numbers are exact rationals, so `1,000` equals `1000.0` and `1/3` equals no decimal.

mod answer;
mod arithmetic;
mod number;

pub use answer::{Extract, answers_equal, extract_answer, grade};
pub use arithmetic::{MAX_DEPTH, MAX_LEN, evaluate};
pub use number::{Rational, parse_number};
