//! The kinds of character that pretokenizers tell apart.

use std::sync::LazyLock;

use regex_syntax::hir::{Class as HirClass, HirKind};

/// What a pretokenizer needs to know about a character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Class {
    /// Everything else: punctuation, symbols, controls, unassigned.
    Other,
    /// `\p{M}`
    Mark,
    /// `\p{Lu}` and `\p{Lt}`
    Upper,
    /// `\p{Ll}`
    Lower,
    /// `\p{Lm}` and `\p{Lo}`
    Caseless,
    /// `\p{N}`
    Number,
    /// `\s`, the White_Space property.
    Space,
}

/// Some of the classes, as one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Set(u8);

impl Set {
    /// `\p{L}`
    pub(crate) const LETTER: Self = Self::of(&[Class::Upper, Class::Lower, Class::Caseless]);
    /// What may start a word that has capitals: `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`.
    pub(crate) const HEAD: Self = Self::of(&[Class::Upper, Class::Caseless, Class::Mark]);
    /// What a word goes on with: `[\p{Ll}\p{Lm}\p{Lo}\p{M}]`.
    pub(crate) const BODY: Self = Self::of(&[Class::Lower, Class::Caseless, Class::Mark]);
    /// `\p{N}`
    pub(crate) const NUMBER: Self = Self::of(&[Class::Number]);
    /// `[^\s\p{L}\p{N}]`
    pub(crate) const OTHER: Self = Self::of(&[Class::Other, Class::Mark]);

    const fn of(classes: &[Class]) -> Self {
        let (mut bits, mut i) = (0, 0);
        while i < classes.len() {
            bits |= 1 << classes[i] as u8;
            i += 1;
        }
        Self(bits)
    }

    /// Whether the class is one of these.
    #[inline(always)]
    pub(crate) const fn has(self, class: Class) -> bool {
        self.0 >> class as u8 & 1 != 0
    }
}

impl Class {
    /// Number of classes.
    pub(crate) const COUNT: usize = 7;
}

const PAGE: usize = 256;
const NUM_PAGES: usize = 0x11_0000 / PAGE;

/// Classes of all characters: a page number for each 256 code points, and the distinct pages.
///
/// The tables of `regex-syntax` fill it on first use, so classes mean what they mean to the regex engine
/// behind tiktoken. The distinct pages take about 20 KB.
pub(crate) struct Classes {
    page_of: Box<[u8]>,
    pages: Vec<[Class; PAGE]>,
}

static CLASSES: LazyLock<Classes> = LazyLock::new(Classes::build);

impl Classes {
    pub(crate) fn get() -> &'static Self {
        &CLASSES
    }

    /// The class of a code point up to `char::MAX`.
    #[inline]
    pub(crate) fn of(&self, code: u32) -> Class {
        let page = self.page_of[code as usize / PAGE];
        self.pages[page as usize][code as usize % PAGE]
    }

    fn build() -> Self {
        let mut all = vec![Class::Other; NUM_PAGES * PAGE];
        let patterns = [
            (r"\p{M}", Class::Mark),
            (r"[\p{Lu}\p{Lt}]", Class::Upper),
            (r"\p{Ll}", Class::Lower),
            (r"[\p{Lm}\p{Lo}]", Class::Caseless),
            (r"\p{N}", Class::Number),
            (r"\s", Class::Space),
        ];
        for (pattern, class) in patterns {
            let Ok(HirKind::Class(HirClass::Unicode(ranges))) =
                regex_syntax::parse(pattern).map(regex_syntax::hir::Hir::into_kind)
            else {
                unreachable!("{pattern} is a class when regex-syntax has its Unicode tables");
            };
            for range in ranges.iter() {
                all[range.start() as usize..=range.end() as usize].fill(class);
            }
        }
        let mut pages: Vec<[Class; PAGE]> = Vec::new();
        let page_of = all
            .as_chunks::<PAGE>()
            .0
            .iter()
            .map(|page| {
                let known = pages.iter().position(|other| other == page);
                known.unwrap_or_else(|| {
                    pages.push(*page);
                    pages.len() - 1
                }) as u8
            })
            .collect();
        debug_assert!(pages.len() <= PAGE, "page numbers fit a byte");
        Self { page_of, pages }
    }
}

/// Classes of the ASCII characters, known at compile time.
pub(crate) const ASCII: [Class; 128] = {
    let mut table = [Class::Other; 128];
    let mut byte = 0;
    while byte < 128 {
        table[byte as usize] = match byte {
            b'A'..=b'Z' => Class::Upper,
            b'a'..=b'z' => Class::Lower,
            b'0'..=b'9' => Class::Number,
            b' ' | 0x09..=0x0d => Class::Space,
            _ => Class::Other,
        };
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ascii_agrees_with_the_full_table() {
        assert!((0..128).all(|code| ASCII[code as usize] == Classes::get().of(code)));
    }

    #[test]
    fn distinct_pages_fit_a_byte() {
        assert!(Classes::get().pages.len() <= 256, "{}", Classes::get().pages.len());
    }

    #[test]
    fn rare_characters_have_their_class() {
        let class = |c: char| Classes::get().of(c as u32);
        assert!("éßжאकक中ªʰ".chars().all(|c| Set::LETTER.has(class(c))));
        assert!("²½Ⅷ٣〇".chars().all(|c| class(c) == Class::Number));
        assert!("\u{85}\u{a0}\u{1680}\u{2028}\u{3000}".chars().all(|c| class(c) == Class::Space));
        assert!("\u{200b}\u{180e}\u{feff}🙂\u{10ffff}".chars().all(|c| class(c) == Class::Other));
        assert!("\u{301}\u{93f}".chars().all(|c| class(c) == Class::Mark));
        assert!("Aǅ".chars().all(|c| class(c) == Class::Upper));
        assert!("中ªʰא".chars().all(|c| class(c) == Class::Caseless));
    }
}
