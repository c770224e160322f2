//! Personal data in text: where it stands, and the text with it replaced.
//!
//! A place counts when its form and, where there is one, its checksum are right, and when no letter or digit of ASCII
//! touches it. So a number in a table is left alone, and a name is not found at all.

mod email;
mod ip;
mod key;
mod number;

use crate::masks::{Bits, Classify, WIDTH, Work, best, firsts};

/// What is personal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// An e-mail address.
    Email,
    /// A telephone number: international with a plus sign, or North American with separators.
    Phone,
    /// A public IPv4 or IPv6 address.
    Ip,
    /// A payment card number of a known issuer, with a right check digit (Luhn).
    Card,
    /// A bank account: an IBAN of a known country, with right check digits.
    Iban,
    /// A secret: an API key of a known form, a JSON web token, a private key block.
    Key,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 6] = [Self::Email, Self::Phone, Self::Ip, Self::Card, Self::Iban, Self::Key];

    /// Its name in settings and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Email => "email",
            Self::Phone => "phone",
            Self::Ip => "ip",
            Self::Card => "card",
            Self::Iban => "iban",
            Self::Key => "key",
        }
    }

    /// What stands in the text instead.
    pub fn placeholder(self) -> &'static str {
        match self {
            Self::Email => "<EMAIL>",
            Self::Phone => "<PHONE>",
            Self::Ip => "<IP>",
            Self::Card => "<CARD>",
            Self::Iban => "<IBAN>",
            Self::Key => "<KEY>",
        }
    }
}

/// Where something personal stands, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// Its first byte.
    pub start: usize,
    /// The byte behind it.
    pub end: usize,
    /// What it is.
    pub kind: Kind,
}

/// Finds the range of something whose first digits are at a place in the text.
type FromDigit = fn(&[u8], usize) -> Option<(usize, usize)>;

/// Finds what is of these kinds, in order, instead of what `found` had. Of places that overlap, the one that starts
/// first is taken, then the longest.
pub fn find(text: &str, kinds: &[Kind], found: &mut Vec<Span>) {
    let bytes = text.as_bytes();
    found.clear();
    let mut add = |kind: Kind, range: Option<(usize, usize)>| {
        found.extend(range.map(|(start, end)| Span { start, end, kind }));
    };
    let wants = |kind: Kind| kinds.contains(&kind);
    if wants(Kind::Email) {
        memchr::memchr_iter(b'@', bytes).for_each(|at| add(Kind::Email, email::around(bytes, at)));
    }
    if wants(Kind::Ip) {
        memchr::memchr_iter(b':', bytes).for_each(|at| add(Kind::Ip, ip::v6_from_first_colon(bytes, at)));
    }
    if wants(Kind::Key) {
        key::find(bytes, |start, end| add(Kind::Key, Some((start, end))));
    }
    let of_numbers: [(Kind, FromDigit); 4] = [
        (Kind::Phone, number::phone),
        (Kind::Ip, ip::v4),
        (Kind::Card, number::card),
        (Kind::Iban, number::iban),
    ];
    if of_numbers.iter().any(|&(kind, _)| wants(kind)) {
        best(Numbers {
            bytes,
            visit: |at: usize| {
                for (kind, find) in of_numbers {
                    if wants(kind) {
                        add(kind, find(bytes, at));
                    }
                }
            },
        });
    }
    found.sort_unstable_by_key(|span| (span.start, std::cmp::Reverse(span.end), span.kind));
    let mut end = 0;
    found.retain(|span| {
        let is_free = span.start >= end;
        end = if is_free { span.end } else { end };
        is_free
    });
}

/// Writes the text to `masked` with a placeholder for everything of these kinds, and says in `found` what was replaced.
/// If there is nothing, `masked` stays as it was and the result is false.
pub fn mask(text: &str, kinds: &[Kind], found: &mut Vec<Span>, masked: &mut String) -> bool {
    find(text, kinds, found);
    if found.is_empty() {
        return false;
    }
    masked.clear();
    let mut done = 0;
    for span in found.iter() {
        masked.push_str(&text[done..span.start]);
        masked.push_str(span.kind.placeholder());
        done = span.end;
    }
    masked.push_str(&text[done..]);
    true
}

/// Visits the place of the first digit of each run of digits.
struct Numbers<'t, V> {
    bytes: &'t [u8],
    visit: V,
}

impl<V: FnMut(usize)> Work for Numbers<'_, V> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<C: Classify>(mut self) {
        let mut before = 0;
        for start in (0..self.bytes.len()).step_by(WIDTH) {
            let mut padded = [b' '; WIDTH];
            let rest = &self.bytes[start..];
            let window = rest.first_chunk::<WIDTH>().unwrap_or_else(|| {
                padded[..rest.len()].copy_from_slice(rest);
                &padded
            });
            // SAFETY: the caller's.
            let number = unsafe { C::classify(window) }.number;
            for at in Bits(firsts(number) & !before) {
                (self.visit)(start + at);
            }
            before = number >> (WIDTH - 1);
        }
    }
}

/// Whether a letter or digit of ASCII stands at `at`.
fn is_alphanumeric_at(bytes: &[u8], at: usize) -> bool {
    bytes.get(at).is_some_and(u8::is_ascii_alphanumeric)
}

/// Whether a letter or digit of ASCII stands before `at`.
fn is_alphanumeric_before(bytes: &[u8], at: usize) -> bool {
    at.checked_sub(1).is_some_and(|before| is_alphanumeric_at(bytes, before))
}

#[cfg(test)]
mod tests;
