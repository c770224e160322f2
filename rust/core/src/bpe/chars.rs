//! What merging starts from: whole characters where that is the same as starting from their bytes.
//!
//! The bytes of a character usually become one or two tokens before anything else happens to them. Starting from
//! these tokens saves most of the merges of text beyond ASCII. It gives the same ids under two conditions, which
//! are checked. Rules are ordered: each comes after those that make its two sides, so the rules that apply to a text
//! apply in the order of their ranks. And the character is closed: no rule joins a part of it to its neighbour
//! before the character's own rules have used that part, or all of them have applied.

use bytemuck::{Pod, Zeroable};
use rustc_hash::FxHashMap;

use super::merges::Merges;
use super::tokenizer::NO_TOKEN;
use super::vocab::Vocab;
use crate::pages::Pages;

/// Code points with an entry: all but the rarest planes.
const NUM_CHARS: usize = 0x1_0000;

/// What is beside a character, as far as it decides which rules could join the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Beside {
    Blank,
    OtherAscii,
    Wide,
}

impl Beside {
    const COUNT: usize = 3;

    #[inline]
    fn of(byte: u8) -> Self {
        match byte {
            b' ' => Self::Blank,
            0..0x80 => Self::OtherAscii,
            _ => Self::Wide,
        }
    }
}

/// The lowest ranks at which a part of a character is joined to what is before or after the character.
#[derive(Debug, Clone, Copy)]
struct Reach {
    before: [u32; Beside::COUNT],
    after: [u32; Beside::COUNT],
}

const NEVER: Reach = Reach { before: [u32::MAX; Beside::COUNT], after: [u32::MAX; Beside::COUNT] };

/// What the rules of a tokenizer do across the boundaries of characters.
#[derive(Debug, Default)]
pub(super) struct Boundaries {
    /// Of tokens that are not whole characters; absent if no rule joins them across a boundary.
    reach: FxHashMap<u32, Reach>,
    is_ordered: bool,
}

impl Boundaries {
    pub(super) fn new(vocab: &Vocab, merges: &Merges) -> Self {
        let mut made = vec![None; vocab.len()];
        for (rank, rule) in merges.list().iter().enumerate() {
            made[rule.new as usize] = Some(rank);
        }
        let mut boundaries = Self { reach: FxHashMap::default(), is_ordered: true };
        for (rank, rule) in merges.list().iter().enumerate() {
            boundaries.is_ordered &= [rule.left, rule.right].iter().all(|&id| made[id as usize] < Some(rank));
            let (Some(left), Some(right)) = (vocab.get(rule.left), vocab.get(rule.right)) else { continue };
            let (Some(&last), Some(&first)) = (left.last(), right.first()) else { continue };
            // A rule whose right side goes on with a character joins parts of one.
            if first & 0xc0 == 0x80 {
                continue;
            }
            let is_part = |token| std::str::from_utf8(token).is_err();
            if is_part(left) {
                let reach = &mut boundaries.reach.entry(rule.left).or_insert(NEVER).after;
                let lowest = &mut reach[Beside::of(first) as usize];
                *lowest = (*lowest).min(rank as u32);
            }
            if is_part(right) {
                let reach = &mut boundaries.reach.entry(rule.right).or_insert(NEVER).before;
                let lowest = &mut reach[Beside::of(last) as usize];
                *lowest = (*lowest).min(rank as u32);
            }
        }
        boundaries
    }

    /// The tokens that a character becomes on its own, given its bytes as tokens, and beside what it is open.
    fn close(&self, merges: &Merges, mut tokens: Vec<u32>) -> (Vec<u32>, Open) {
        let mut open = if self.is_ordered { Open::default() } else { Open { before: EVERY, after: EVERY } };
        let mut last_rank = 0;
        while let Some((rank, at)) = merges.first(&tokens) {
            if at == 0 {
                open.before |= self.reached(tokens[0], rank).before;
            }
            if at + 2 == tokens.len() {
                open.after |= self.reached(tokens[at + 1], rank).after;
            }
            tokens.splice(at..at + 2, [merges.list()[rank as usize].new]);
            last_rank = rank;
        }
        // What is joined to a neighbour early could also draw in what is between.
        if let [first, .., last] = tokens[..] {
            open.before |= self.reached(first, last_rank).before;
            open.after |= self.reached(last, last_rank).after;
        }
        (tokens, open)
    }

    /// Beside what a part of a character is joined to its neighbour before `rank`.
    fn reached(&self, token: u32, rank: u32) -> Open {
        let Reach { before, after } = self.reach.get(&token).copied().unwrap_or(NEVER);
        let bits = |ranks: [u32; Beside::COUNT]| {
            (0..Beside::COUNT)
                .filter(|&beside| ranks[beside] < rank)
                .fold(0, |bits, beside| bits | 1 << beside)
        };
        Open { before: bits(before), after: bits(after) }
    }
}

/// The neighbours beside which a character is not closed: one bit for each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Pod, Zeroable)]
#[repr(C)]
struct Open {
    before: u8,
    after: u8,
}

/// All neighbours.
const EVERY: u8 = (1 << Beside::COUNT) - 1;

/// What is known of a character, in one word, as many are in use: the tokens, and beside what it is open. Zero until
/// it is known.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(transparent)]
struct Entry(u64);

impl Entry {
    /// The lowest bits: the number of tokens, at most two, or this for characters that are taken as bytes.
    const COUNT: u64 = 3;
    const AS_BYTES: u64 = 3;
    const BEFORE: u32 = 8;
    const AFTER: u32 = 12;
    const FIRST: u32 = 20;
    const SECOND: u32 = 42;
    const ID: u64 = (1 << 22) - 1;

    fn new(tokens: &[u32], open: Open) -> Self {
        if tokens.len() > 2 || tokens.contains(&NO_TOKEN) {
            return Self(Self::AS_BYTES);
        }
        let id = |at: usize| tokens.get(at).map_or(0, |&id| u64::from(id));
        let open = u64::from(open.before) << Self::BEFORE | u64::from(open.after) << Self::AFTER;
        Self(tokens.len() as u64 | open | id(0) << Self::FIRST | id(1) << Self::SECOND)
    }

    fn is_known(self) -> bool {
        self.0 != 0
    }

    /// The tokens and their number, unless they may not stand for the character between such neighbours.
    #[inline]
    fn tokens(self, before: u8, after: u8) -> Option<([u32; 2], usize)> {
        let beside = u64::from(before) << Self::BEFORE | u64::from(after) << Self::AFTER;
        let count = self.0 & Self::COUNT;
        let id = |shift: u32| (self.0 >> shift & Self::ID) as u32;
        (self.0 & beside == 0 && count != Self::AS_BYTES)
            .then(|| ([id(Self::FIRST), id(Self::SECOND)], count as usize))
    }
}

/// The tokens of characters, found when first asked for.
#[derive(Debug)]
pub(super) struct CharTokens {
    entries: Pages<Entry>,
}

impl CharTokens {
    pub(super) fn new() -> Self {
        Self { entries: Pages::zeroed(NUM_CHARS) }
    }

    /// Appends what the merging of `piece` starts from.
    pub(super) fn start(
        &mut self,
        piece: &[u8],
        byte_tokens: &[u32; 256],
        boundaries: &Boundaries,
        merges: &Merges,
        ids: &mut Vec<u32>,
    ) {
        if piece.is_ascii() {
            ids.extend(piece.iter().map(|&byte| byte_tokens[byte as usize]));
            return;
        }
        ids.reserve(piece.len());
        let mut rest = piece;
        let mut before = 0;
        while let [first, after @ ..] = rest {
            let Some((code, len)) = char_at(rest) else {
                ids.push(byte_tokens[*first as usize]);
                before = 1 << Beside::of(*first) as u8;
                rest = after;
                continue;
            };
            let (bytes, after) = rest.split_at(len);
            let as_bytes = || bytes.iter().map(|&byte| byte_tokens[byte as usize]);
            let entry = &mut self.entries[code];
            if !entry.is_known() {
                let (tokens, open) = boundaries.close(merges, as_bytes().collect());
                *entry = Entry::new(&tokens, open);
            }
            let next = after.first().map_or(0, |&byte| 1 << Beside::of(byte) as u8);
            match entry.tokens(before, next) {
                Some((tokens, count)) => {
                    // A copy of fixed length and a cut are cheaper than a copy of either length.
                    ids.extend(tokens);
                    ids.truncate(ids.len() + count - tokens.len());
                }
                None => ids.extend(as_bytes()),
            }
            before = 1 << Beside::Wide as u8;
            rest = after;
        }
    }
}

/// Code point and length of the character of two or three bytes that `bytes` start with, if they do.
#[inline]
fn char_at(bytes: &[u8]) -> Option<(usize, usize)> {
    let tail = |byte: u8| usize::from(byte & 0x3f);
    let is_tail = |byte: u8| byte & 0xc0 == 0x80;
    match *bytes {
        [first @ 0xe0..=0xef, second, third, ..] if is_tail(second) & is_tail(third) => {
            let code = usize::from(first & 0x0f) << 12 | tail(second) << 6 | tail(third);
            // Shorter forms and halves of surrogate pairs are no characters.
            (code >= 0x800 && code & 0xf800 != 0xd800).then_some((code, 3))
        }
        [first @ 0xc2..=0xdf, second, ..] if is_tail(second) => {
            Some((usize::from(first & 0x1f) << 6 | tail(second), 2))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_recognised_as_utf8_defines_them() {
        for c in '\0'..=char::MAX {
            let mut bytes = [0; 4];
            let bytes = c.encode_utf8(&mut bytes).as_bytes();
            let expected = (2..4).contains(&bytes.len()).then_some((c as usize, bytes.len()));
            assert_eq!(char_at(bytes), expected);
        }
        for bytes in
            [&b"\xc0\x80"[..], b"\xe0\x80\x80", b"\xed\xa0\x80", b"\xe4\xb8", b"\xe4a\x80", b"\x80", b""]
        {
            assert_eq!(char_at(bytes), None);
        }
    }
}
