//! E-mail addresses.

use super::is_alphanumeric_at;

/// The longest local part and domain (RFC 5321).
const MAX_LOCAL: usize = 64;
const MAX_DOMAIN: usize = 255;

/// Ends of names of files and of units of systemd that look like domains, as in `icon@2x.png` and `getty@tty1.service`.
const FILE_ENDS: [&[u8]; 12] =
    [b"png", b"jpg", b"jpeg", b"gif", b"svg", b"webp", b"css", b"js", b"ts", b"service", b"socket", b"timer"];

/// The address around the sign at `at`.
pub(super) fn around(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    let is_local = |byte: &&u8| byte.is_ascii_alphanumeric() || b"._%+-".contains(*byte);
    let local = bytes[..at].iter().rev().take(MAX_LOCAL + 1).take_while(is_local).count();
    // Signs before the first letter or digit belong to the sentence.
    let trimmed = bytes[at - local..at].iter().take_while(|byte| !byte.is_ascii_alphanumeric()).count();
    let start = at - local + trimmed;
    if start == at || local > MAX_LOCAL || bytes[at - 1] == b'.' {
        return None;
    }
    let domain = &bytes[at + 1..bytes.len().min(at + 1 + MAX_DOMAIN)];
    let len = domain.iter().take_while(|byte| byte.is_ascii_alphanumeric() || b".-".contains(byte)).count();
    let len = domain[..len].iter().rposition(u8::is_ascii_alphanumeric)? + 1;
    let end = at + 1 + len;
    let mut labels = domain[..len].split(|&byte| byte == b'.');
    let last = labels.next_back()?;
    let is_name = |label: &[u8]| {
        label.first().is_some_and(u8::is_ascii_alphanumeric)
            && label.last().is_some_and(u8::is_ascii_alphanumeric)
    };
    let has_names = domain[..len].contains(&b'.') && labels.all(is_name);
    let is_top = last.len() >= 2 && last.iter().all(u8::is_ascii_alphabetic);
    let is_file = FILE_ENDS.iter().any(|end| last.eq_ignore_ascii_case(end));
    // As in `git@host.org:path`.
    let is_remote = bytes.get(end) == Some(&b':') && is_alphanumeric_at(bytes, end + 1);
    (has_names && is_top && !is_file && !is_remote && !is_alphanumeric_at(bytes, end)).then_some((start, end))
}
