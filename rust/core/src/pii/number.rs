//! Telephone numbers, payment cards and bank accounts. Each function is given the place of the first digit of a run.

use super::{is_alphanumeric_at, is_alphanumeric_before};

/// Digits of an international telephone number (E.164).
const PHONE_DIGITS: std::ops::RangeInclusive<usize> = 8..=15;

/// The telephone number whose first digits are at `at`.
pub(super) fn phone(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    let (start, end) =
        if bytes[..at].ends_with(b"+") { international(bytes, at)? } else { north_american(bytes, at)? };
    (!is_alphanumeric_before(bytes, start) && !is_alphanumeric_at(bytes, end)).then_some((start, end))
}

/// A plus sign, then digits in groups with spaces, points, hyphens or brackets between.
fn international(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    if bytes[at] == b'0' {
        return None;
    }
    let (mut digits, mut place) = (0, at);
    let end = loop {
        let group = run_of_digits(bytes, place);
        digits += group;
        let end = place + group;
        // A point after many digits and any comma are those of a decimal number.
        let is_point = match bytes.get(end) {
            Some(b'.') => group > 5,
            next => next == Some(&b','),
        };
        if is_point && bytes.get(end + 1).is_some_and(u8::is_ascii_digit) {
            return None;
        }
        let is_separator = |byte: &&u8| matches!(byte, b' ' | b'-' | b'.' | b'(' | b')');
        let separators = bytes[end..].iter().take(2).take_while(is_separator).count();
        let next = run_of_digits(bytes, end + separators);
        if separators == 0 || next == 0 || digits + next > *PHONE_DIGITS.end() {
            break end;
        }
        place = end + separators;
    };
    PHONE_DIGITS.contains(&digits).then_some((at - 1, end))
}

/// `(212) 555-0147`, `212-555-0147` or `212.555.0147`, with or without a 1 before.
fn north_american(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    let is_in_brackets = bytes[..at].ends_with(b"(");
    let mut start = at - usize::from(is_in_brackets);
    if start > 0 && matches!(bytes[start - 1], b'-' | b'.' | b'/' | b'+') {
        return None;
    }
    let mut place = at;
    if bytes[at] == b'1' && run_of_digits(bytes, at) == 1 {
        let is_separated = matches!(bytes.get(at + 1), Some(b'-' | b'.' | b' '));
        place = at + 2;
        // "1 (212) ..." is found from its bracket.
        if !is_separated {
            return None;
        }
    } else if is_in_brackets && bytes[..start].ends_with(b"1 ") && !is_alphanumeric_before(bytes, start - 2) {
        start -= 2;
    }
    let is_code = |place: usize| {
        run_of_digits(bytes, place) == 3 && bytes.get(place).is_some_and(|byte| matches!(byte, b'2'..=b'9'))
    };
    if !is_code(place) {
        return None;
    }
    let separator = *bytes.get(place + 3)?;
    let exchange = match (is_in_brackets, separator) {
        (true, b')') => place + 4 + usize::from(bytes.get(place + 4) == Some(&b' ')),
        (false, b'-' | b'.') => place + 4,
        _ => return None,
    };
    let second = *bytes.get(exchange + 3)?;
    let is_line = run_of_digits(bytes, exchange + 4) == 4;
    let is_joined = if is_in_brackets { matches!(second, b'-' | b'.' | b' ') } else { second == separator };
    (is_code(exchange) && is_joined && is_line).then_some((start, exchange + 8))
}

/// Digits from `at` on, at most 20.
fn run_of_digits(bytes: &[u8], at: usize) -> usize {
    bytes.iter().skip(at).take(20).take_while(|byte| byte.is_ascii_digit()).count()
}

/// Digits of the groups that cards are printed in. Longer numbers than 16 digits count in groups only: in one piece they
/// are mostly hashes.
const CARD_LAYOUTS: [&[usize]; 8] =
    [&[4, 4, 4, 4, 3], &[4, 4, 4, 4], &[4, 6, 5], &[4, 6, 4], &[6, 13], &[16], &[15], &[14]];
const MAX_CARD_GROUPS: usize = 6;

/// The card number whose first digit is at `at`.
pub(super) fn card(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    let touches = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'/' | b'_' | b'+');
    if !matches!(bytes[at], b'2'..=b'6') || bytes[..at].last().is_some_and(|&byte| touches(byte)) {
        return None;
    }
    // A row of a table has more numbers.
    if bytes[..at].last() == Some(&b' ') && bytes[..at - 1].last().is_some_and(u8::is_ascii_digit) {
        return None;
    }
    let (mut digits, mut len) = ([0; 20], 0);
    let (mut groups, mut ends, mut count) = ([0; MAX_CARD_GROUPS], [0; MAX_CARD_GROUPS], 0);
    let (mut place, mut separator) = (at, None);
    while count < MAX_CARD_GROUPS {
        let group = run_of_digits(bytes, place);
        if group == 0 || count == 0 && !CARD_LAYOUTS.iter().any(|layout| layout[0] == group) {
            break;
        }
        for (digit, byte) in digits.iter_mut().skip(len).zip(&bytes[place..place + group]) {
            *digit = byte - b'0';
        }
        len += group;
        place += group;
        (groups[count], ends[count]) = (group, place);
        count += 1;
        match bytes.get(place) {
            Some(&next @ (b' ' | b'-')) if separator.is_none_or(|known| known == next) => {
                separator = Some(next);
            }
            _ => break,
        }
        place += 1;
    }
    let found = CARD_LAYOUTS.iter().find(|layout| {
        let after = groups[..count].strip_prefix(**layout);
        after.is_some_and(|after| after.first() != Some(&4)) && is_card(&digits[..layout.iter().sum()])
    })?;
    let end = ends[found.len() - 1];
    let next = bytes.get(end).copied().filter(|&next| touches(next));
    // A full stop may follow.
    let is_whole = next.is_none_or(|next| next == b'.' && !is_alphanumeric_at(bytes, end + 1));
    is_whole.then_some((at, end))
}

/// Whether the issuer is known, the length is theirs and the check digit is right.
fn is_card(digits: &[u8]) -> bool {
    let first = |len: usize| digits.iter().take(len).fold(0, |number, &digit| number * 10 + u32::from(digit));
    let is_issued = matches!(
        (digits.len(), first(2), first(4)),
        (16 | 19, 40..=49 | 62 | 65, _)
            | (16 | 19, _, 6011 | 6440..=6499)
            | (16, 51..=55, _)
            | (16, _, 2221..=2720 | 3528..=3589)
            | (15, 34 | 37, _)
            | (14, 36 | 38 | 39, _)
            | (14, _, 3000..=3059)
    );
    let luhn = |(i, &digit): (usize, &u8)| {
        let digit = u32::from(digit);
        if i % 2 == 0 { digit } else { digit * 2 / 10 + digit * 2 % 10 }
    };
    is_issued && digits.iter().rev().enumerate().map(luhn).sum::<u32>().is_multiple_of(10)
}

/// Countries with IBANs, and how long theirs are (SWIFT's registry).
const IBAN_COUNTRIES: &[u8] = b"AD24AE23AL28AT20AZ28BA20BE16BG22BH22BR29BY28CH21CR22CY28CZ24DE22DK18DO28EE20EG29ES24\
FI18FO18FR27GB22GE22GI23GL18GR27GT28HR21HU28IE22IL23IQ23IS26IT27JO30KW30KZ20LB28LC32LI21LT20LU20LV21LY25MC27MD24\
ME22MK19MR27MT31MU30NL18NO15PK24PL28PS29PT25QA29RO24RS22SA24SC31SE24SI19SK24SM27ST25SV28TL23TN24TR26UA29VA22VG24XK20";

/// The account whose check digits are at `at`, in one piece or in groups of four.
pub(super) fn iban(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    let start = at.checked_sub(2)?;
    let country = &bytes[start..at];
    if !country.iter().all(u8::is_ascii_uppercase) {
        return None;
    }
    let entry = IBAN_COUNTRIES.as_chunks::<4>().0.iter().find(|entry| entry.starts_with(country))?;
    let len = usize::from(entry[2] - b'0') * 10 + usize::from(entry[3] - b'0');
    if is_alphanumeric_before(bytes, start) {
        return None;
    }
    let is_grouped = bytes.get(start + 4) == Some(&b' ');
    let (mut chars, mut end) = (Vec::with_capacity(len), start);
    while chars.len() < len {
        if is_grouped && !chars.is_empty() && chars.len() % 4 == 0 {
            (bytes.get(end) == Some(&b' ')).then_some(())?;
            end += 1;
        }
        chars
            .push(bytes.get(end).copied().filter(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase())?);
        end += 1;
    }
    chars.rotate_left(4);
    let rest = chars.iter().fold(0, |rest, &byte| match byte {
        b'0'..=b'9' => (rest * 10 + u32::from(byte - b'0')) % 97,
        _ => (rest * 100 + u32::from(byte - b'A') + 10) % 97,
    });
    (rest == 1 && !is_alphanumeric_at(bytes, end)).then_some((start, end))
}
