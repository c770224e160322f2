//! Text as it was before it was damaged: entities of HTML that nobody decoded, and UTF-8 that was read as Windows-1252 or
//! Latin-1, once or more.
//!
//! Good text stays as it is, and a repaired text stays as it is when it is repaired again.

mod entities;
mod mojibake;

/// Buffers that are used again from text to text.
#[derive(Debug, Default)]
pub struct Scratch {
    candidates: Vec<mojibake::Candidate>,
    before: String,
    after: String,
}

/// What was repaired in a text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Repairs {
    /// Entities that were decoded.
    pub entities: usize,
    /// Characters that had been read as several.
    pub characters: usize,
}

/// The text without damage and what was repaired; none if there is nothing to repair, as a glance at most texts says.
///
/// Entities are left alone in texts with a `<`, which may be about HTML.
pub fn repair<'s>(text: &str, scratch: &'s mut Scratch) -> Option<(&'s str, Repairs)> {
    let Scratch { candidates, before, after } = scratch;
    let entities = entities::decode(text, after);
    let mut characters = 0;
    // Each time over makes the text shorter, and what was read wrongly n times has 2^n characters or more.
    loop {
        let (text, is_changed) =
            if entities + characters > 0 { (after.as_str(), true) } else { (text, false) };
        let found = mojibake::find(text, candidates);
        if found == 0 {
            return is_changed.then_some((after, Repairs { entities, characters }));
        }
        before.clear();
        before.push_str(text);
        mojibake::decode(before, candidates, after);
        characters += found;
    }
}

#[cfg(test)]
mod tests;
