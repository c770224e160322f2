//! UTF-8 that was read as Windows-1252 or Latin-1, so that each byte of a character became one of its own.
//!
//! A candidate is a run of such characters that spells one character in UTF-8. A few also occur in good text, as "É»" at the end
//! of a quotation; they count when something near them cannot be good.

/// Characters of the bytes 0x80 to 0x9f in Windows-1252; bytes without one are the control characters of Latin-1.
pub(super) const WINDOWS: [char; 32] = [
    '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}', '\u{90}',
    '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
];

/// Characters of bytes within a character of UTF-8 that may follow a word in good text.
const AFTER_WORDS: &str = "\u{a0}\u{ad}¡«»¿§¶©®°¹²³ªº´·‚„…†‡‹›‘’“”•–—™";
/// Those of them that may stand before a word too.
const BEFORE_WORDS: &str = "\u{a0}\u{ad}¡«¿´·„…‹‘’“•–—";
/// Those of them that may stand between two words, with nothing else.
const BETWEEN_WORDS: &str = "…–—’";
const OPENING: &str = "«»„“‘‚‹›\"'(";
const CLOSING: &str = "«»”“’‘‹›";

/// A character that was read as several.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    start: usize,
    end: usize,
    char: char,
    /// Whether good text does not have it.
    is_sure: bool,
}

/// Finds what is to be decoded, and says how much. A candidate that is not sure counts if it touches another or shares a line
/// with one that is sure.
pub(super) fn find(text: &str, candidates: &mut Vec<Candidate>) -> usize {
    candidates.clear();
    let bytes = text.as_bytes();
    let mut behind = 0;
    // The first bytes of characters, 0xc2 to 0xf4, were read as characters of which 0xc3 is the first byte.
    for at in memchr::memchr_iter(0xc3, bytes) {
        if at >= behind && matches!(bytes.get(at + 2), Some(0xc2 | 0xc5 | 0xc6 | 0xcb | 0xe2)) {
            let found = candidate(text, at);
            behind = found.map_or(behind, |found| found.end);
            candidates.extend(found);
        }
    }
    if candidates.is_empty() {
        return 0;
    }
    let touches = |i: usize| candidates.get(i..i + 2).is_some_and(|pair| pair[0].end == pair[1].start);
    let is_sure: Vec<bool> = (0..candidates.len())
        .map(|i| candidates[i].is_sure || touches(i) || i > 0 && touches(i - 1))
        .collect();
    for (candidate, is_sure) in candidates.iter_mut().zip(is_sure) {
        candidate.is_sure = is_sure;
    }
    let is_same_line = |a: &Candidate, b: &Candidate| memchr::memchr(b'\n', &bytes[a.end..b.start]).is_none();
    for line in candidates.chunk_by_mut(is_same_line) {
        let is_damaged = line.iter().any(|candidate| candidate.is_sure);
        for candidate in line {
            candidate.is_sure = is_damaged;
        }
    }
    candidates.retain(|candidate| candidate.is_sure);
    candidates.len()
}

/// Writes the text with each candidate as the character that it is.
pub(super) fn decode(text: &str, candidates: &[Candidate], out: &mut String) {
    out.clear();
    let mut done = 0;
    for candidate in candidates {
        out.push_str(&text[done..candidate.start]);
        out.push(candidate.char);
        done = candidate.end;
    }
    out.push_str(&text[done..]);
}

/// The character that the characters from `start` on spell, which is where one of U+00C0 to U+00FF is.
fn candidate(text: &str, start: usize) -> Option<Candidate> {
    let mut chars = text[start..].chars();
    let lead = chars.next()?;
    let len = match lead {
        '\u{c2}'..='\u{df}' => 2,
        '\u{e0}'..='\u{ef}' => 3,
        '\u{f0}'..='\u{f4}' => 4,
        _ => return None,
    };
    let mut read = [lead; 4];
    let mut spelled = [lead as u8; 4];
    for (read, byte) in read.iter_mut().zip(&mut spelled).take(len).skip(1) {
        *read = chars.next()?;
        *byte = byte_of(*read)?;
    }
    let (read, spelled) = (&read[..len], &spelled[..len]);
    let char = std::str::from_utf8(spelled).ok()?.chars().next()?;
    let has_control = read.iter().any(|char| char.is_control());
    // Nobody reads a control character as the symbols of Windows-1252.
    if char.is_control() && !has_control {
        return None;
    }
    let end = start + read.iter().map(|char| char.len_utf8()).sum::<usize>();
    let is_sure = has_control || is_sure(text[..start].chars().next_back(), read, text[end..].chars().next());
    Some(Candidate { start, end, char, is_sure })
}

/// Whether good text does not have these characters in a row.
fn is_sure(before: Option<char>, read: &[char], after: Option<char>) -> bool {
    let (lead, rest) = (read[0], &read[1..]);
    let is_letter = |char: Option<char>| char.is_some_and(char::is_alphabetic);
    let is_quoted = before.is_some_and(|char| OPENING.contains(char)) && CLOSING.contains(rest[0]);
    match lead {
        // A capital within a word whose last letter was small.
        'Â'..='Þ' if before.is_some_and(char::is_lowercase) => return true,
        // No word ends with the first or consists of one of them, but quotations of letters do.
        'Â' if !is_quoted && ('\u{a0}'..='¿').contains(&rest[0]) => return true,
        'Â' | 'Ã' | 'â' if !is_quoted && !is_letter(before) => return true,
        'Ã' if is_letter(after) && !(is_letter(before) && BETWEEN_WORDS.contains(rest[0])) => return true,
        'Â'..='ß' if is_letter(after) && !BEFORE_WORDS.contains(rest[0]) => return true,
        // A mark of byte order.
        'ï' if rest == ['»', '¿'] => return true,
        _ => {}
    }
    rest[0] != '\u{a0}' && !rest.iter().all(|char| AFTER_WORDS.contains(*char))
}

/// The byte from 0x80 to 0xbf that a character was read from.
fn byte_of(char: char) -> Option<u8> {
    match char {
        '\u{80}'..='\u{bf}' => Some(char as u8),
        _ => WINDOWS.iter().position(|&own| own == char).map(|at| 0x80 + at as u8),
    }
}
