//! What the user does not want: words and phrases in texts, and pages of domains and URLs.

mod phrases;
mod urls;

pub use phrases::{Phrases, Scratch};
pub use urls::Urls;

#[cfg(test)]
mod tests;
