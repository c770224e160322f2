//! The patterns as plain scanners, one piece at a time.
//!
//! Each is the alternatives of its regular expression, in their order, as loops over character classes. They cut
//! whatever does not fit a window, and are the definition that windows are tested against. Every scanner looks at
//! a character a bounded number of times, so time is linear on every input.

use crate::bpe::unicode::{ASCII, Class, Classes, Set};

/// A text with the tables to read it. Positions are byte offsets at character boundaries.
pub(super) struct Scan<'t> {
    pub(super) text: &'t str,
    classes: &'static Classes,
}

impl<'t> Scan<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, classes: Classes::get() }
    }

    /// The bytes from `pos` on; none if it is past the end.
    #[inline(always)]
    pub(super) fn rest(&self, pos: usize) -> &'t [u8] {
        self.text.as_bytes().get(pos..).unwrap_or_default()
    }

    /// Class and byte length of the character at `pos`, or nothing at the end.
    #[inline(always)]
    pub(super) fn at(&self, pos: usize) -> Option<(Class, usize)> {
        let first = *self.text.as_bytes().get(pos)?;
        Some(if first < 0x80 { (ASCII[first as usize], 1) } else { self.wide_at(pos) })
    }

    /// [`Scan::at`] for the first byte of a character beyond ASCII.
    #[inline(always)]
    pub(super) fn wide_at(&self, pos: usize) -> (Class, usize) {
        // The text is valid UTF-8, so the lead byte tells the length and the tail is there.
        let bytes = self.text.as_bytes();
        let tail = |i: usize| u32::from(bytes[pos + i] & 0x3f);
        let first = bytes[pos];
        let (code, len) = if first < 0xe0 {
            (u32::from(first & 0x1f) << 6 | tail(1), 2)
        } else if first < 0xf0 {
            (u32::from(first & 0x0f) << 12 | tail(1) << 6 | tail(2), 3)
        } else {
            (u32::from(first & 0x07) << 18 | tail(1) << 12 | tail(2) << 6 | tail(3), 4)
        };
        (self.classes.of(code), len)
    }

    #[inline]
    fn is(&self, pos: usize, set: Set) -> bool {
        self.at(pos).is_some_and(|(found, _)| set.has(found))
    }

    /// End of the characters of `set` that start at `pos`.
    #[inline]
    fn run(&self, mut pos: usize, set: Set) -> usize {
        let bytes = self.text.as_bytes();
        loop {
            while let Some(&byte) = bytes.get(pos)
                && byte < 0x80
                && set.has(ASCII[byte as usize])
            {
                pos += 1;
            }
            match self.at(pos) {
                Some((found, len)) if set.has(found) => pos += len,
                _ => return pos,
            }
        }
    }

    /// End of the bytes from `pos` on that are among `some`.
    fn run_of(&self, pos: usize, some: &[u8]) -> usize {
        pos + self.rest(pos).iter().take_while(|byte| some.contains(byte)).count()
    }

    /// Start of the character before `pos`.
    fn before(&self, pos: usize) -> usize {
        let head = &self.text.as_bytes()[..pos];
        head.iter().rposition(|byte| byte & 0xc0 != 0x80).unwrap_or_default()
    }

    pub(super) fn gpt2(&self, pos: usize) -> usize {
        let bytes = self.text.as_bytes();
        if bytes[pos] == b'\''
            && let Some(len) = contraction(self.rest(pos + 1))
        {
            return pos + 1 + len;
        }
        // One space joins the run after it, whatever its class.
        let start = pos + usize::from(bytes[pos] == b' ');
        let run_of = |set: Set| self.is(start, set).then(|| self.run(start, set));
        let run = [Set::LETTER, Set::NUMBER, Set::OTHER].into_iter().find_map(run_of);
        run.unwrap_or_else(|| self.space(pos).0)
    }

    pub(super) fn cl100k(&self, pos: usize, most_numbers: usize) -> usize {
        let first = self.text.as_bytes()[pos];
        if first == b'\''
            && let Some(len) = contraction_any_case(self.rest(pos + 1))
        {
            return pos + 1 + len;
        }
        let word = self.after_prefix(pos);
        if self.is(word, Set::LETTER) {
            return self.run(word, Set::LETTER);
        }
        self.not_a_word(pos, most_numbers, b"\r\n")
    }

    pub(super) fn o200k(&self, pos: usize) -> usize {
        let word = self.after_prefix(pos);
        // Both alternatives are tried with the character before the word, then without, before the next one.
        let end = self
            .mixed_word(word)
            .or_else(|| (word > pos).then(|| self.mixed_word(pos)).flatten())
            .or_else(|| self.capitals(word))
            .or_else(|| self.capitals(pos));
        let Some(end) = end else { return self.not_a_word(pos, 3, b"\r\n/") };
        match self.rest(end) {
            [b'\'', rest @ ..] => end + contraction_any_case(rest).map_or(0, |len| 1 + len),
            _ => end,
        }
    }

    /// `[^\r\n\p{L}\p{N}]?` at `pos`.
    #[inline]
    fn after_prefix(&self, pos: usize) -> usize {
        match self.at(pos) {
            Some((class, len))
                if !Set::LETTER.has(class)
                    && class != Class::Number
                    && !is_line_end(self.text.as_bytes()[pos]) =>
            {
                pos + len
            }
            _ => pos,
        }
    }

    /// `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+`
    fn mixed_word(&self, pos: usize) -> Option<usize> {
        let mut end = self.run(pos, Set::HEAD);
        // The second part needs a character: the next one, or the last of the first part that can be given up.
        while !self.is(end, Set::BODY) {
            if end == pos {
                return None;
            }
            end = self.before(end);
        }
        Some(self.run(end, Set::BODY))
    }

    /// `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+` where no [`Scan::mixed_word`] is.
    fn capitals(&self, pos: usize) -> Option<usize> {
        Some(self.run(pos, Set::HEAD)).filter(|&end| end > pos)
    }

    /// The alternatives after those for words; `glued` are the bytes that stay with the punctuation before them.
    fn not_a_word(&self, pos: usize, most_numbers: usize, glued: &[u8]) -> usize {
        if self.is(pos, Set::NUMBER) {
            return self.numbers(pos, most_numbers);
        }
        let start = pos + usize::from(self.text.as_bytes()[pos] == b' ');
        if self.is(start, Set::OTHER) {
            return self.run_of(self.run(start, Set::OTHER), glued);
        }
        match self.space(pos) {
            (_, Some(line_end)) => line_end,
            (end, None) => end,
        }
    }

    fn numbers(&self, mut pos: usize, most: usize) -> usize {
        for _ in 0..most {
            match self.at(pos) {
                Some((Class::Number, len)) => pos += len,
                _ => break,
            }
        }
        pos
    }

    /// White space at `pos`: where `\s+(?!\S)|\s+` ends, and the end of the last `\r` or `\n` in the run.
    fn space(&self, pos: usize) -> (usize, Option<usize>) {
        let bytes = self.text.as_bytes();
        let (mut end, mut last, mut line_end) = (pos, pos, None);
        while let Some((Class::Space, len)) = self.at(end) {
            last = end;
            end += len;
            if is_line_end(bytes[last]) {
                line_end = Some(end);
            }
        }
        // The last character stays with the word after it, unless it is the only one or nothing follows.
        let cut = if end == bytes.len() || last == pos { end } else { last };
        (cut, line_end)
    }
}

fn is_line_end(byte: u8) -> bool {
    matches!(byte, b'\r' | b'\n')
}

/// Length of `s`, `d`, `m`, `t`, `ll`, `ve` or `re` at the start of what follows an apostrophe.
pub(super) fn contraction(rest: &[u8]) -> Option<usize> {
    match rest {
        [b's' | b'd' | b'm' | b't', ..] => Some(1),
        [b'l', b'l', ..] | [b'v' | b'r', b'e', ..] => Some(2),
        _ => None,
    }
}

/// [`contraction`] in any case; `ſ` (U+017F) is a lower-case form of `S`.
pub(super) fn contraction_any_case(rest: &[u8]) -> Option<usize> {
    if rest.starts_with("ſ".as_bytes()) {
        return Some(2);
    }
    let mut lower = [0; 2];
    for (to, from) in lower.iter_mut().zip(rest) {
        *to = from.to_ascii_lowercase();
    }
    contraction(&lower)
}
