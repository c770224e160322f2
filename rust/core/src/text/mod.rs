//! Text normalisation and words.

mod fold;
mod kinds;
mod normalize;
mod survey;
pub(crate) mod table;
pub(crate) mod traits;
mod words;

pub(crate) use fold::Folder;
pub use fold::fold;
pub use normalize::normalize;
pub(crate) use words::{KEYS, mix};
pub use words::{Word, for_each_run, for_each_word, is_unspaced, spell_word, spell_words, word_ranges};
