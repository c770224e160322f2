//! Secrets of known form.

use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, MatchKind};

use super::{is_alphanumeric_at, is_alphanumeric_before};

/// How a kind of key goes on after its prefix.
struct Form {
    prefix: &'static str,
    /// Other characters than letters and digits.
    others: &'static [u8],
    min: usize,
    max: usize,
}

const fn form(prefix: &'static str, others: &'static [u8], min: usize, max: usize) -> Form {
    Form { prefix, others, min, max }
}

/// Forms that the issuers publish for secret scanners.
const FORMS: [Form; 25] = [
    form("AKIA", b"", 16, 16),
    form("ASIA", b"", 16, 16),
    form("AIza", b"_-", 35, 35),
    form("ghp_", b"", 36, 36),
    form("gho_", b"", 36, 36),
    form("ghr_", b"", 36, 36),
    form("ghs_", b"", 36, 36),
    form("ghu_", b"", 36, 36),
    form("github_pat_", b"_", 82, 82),
    form("glpat-", b"_-", 20, 64),
    form("hf_", b"", 34, 40),
    form("npm_", b"", 36, 36),
    form("pypi-", b"_-", 85, 512),
    form("sk-", b"_-", 32, 256),
    form("sk_live_", b"", 24, 128),
    form("rk_live_", b"", 24, 128),
    form("xoxa-", b"-", 24, 256),
    form("xoxb-", b"-", 24, 256),
    form("xoxp-", b"-", 24, 256),
    form("xoxr-", b"-", 24, 256),
    form("xoxs-", b"-", 24, 256),
    form("SG.", b"._-", 64, 68),
    form("GOCSPX-", b"_-", 28, 28),
    form("dop_v1_", b"", 64, 64),
    form("eyJ", b"_-.", 40, 4096),
];
const BLOCK_START: &[u8] = b"-----BEGIN ";
const BLOCK_END: &[u8] = b"-----END ";
/// What the label ends with; that of PGP goes on with " BLOCK".
const BLOCK_LABEL: &[u8] = b"PRIVATE KEY";
const BLOCK_RULE: &[u8] = b"-----";
/// Bytes of the longest label: "ENCRYPTED ", "OPENSSH " and the like stand before, five hyphens behind.
const MAX_LABEL: usize = 40;
/// Bytes of the longest block: no key of 16,384 bits has more. So time is linear in blocks that do not end.
const MAX_BLOCK: usize = 32 << 10;

/// Finds the start of every form, and after them that of a private key block.
static STARTS: LazyLock<Option<AhoCorasick>> = LazyLock::new(|| {
    let starts = FORMS.iter().map(|form| form.prefix.as_bytes()).chain([BLOCK_START]);
    AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(starts).ok()
});

/// Calls `visit` with the first byte of every secret and the byte behind it.
pub(super) fn find(bytes: &[u8], mut visit: impl FnMut(usize, usize)) {
    let Some(starts) = &*STARTS else { return };
    for found in starts.find_iter(bytes) {
        let end = match FORMS.get(found.pattern().as_usize()) {
            Some(form) if !is_alphanumeric_before(bytes, found.start()) => tail_end(bytes, form, found.end()),
            Some(_) => None,
            None => block_end(bytes, found.end()),
        };
        end.inspect(|&end| visit(found.start(), end));
    }
}

fn tail_end(bytes: &[u8], form: &Form, at: usize) -> Option<usize> {
    let is_part = |byte: &&u8| byte.is_ascii_alphanumeric() || form.others.contains(byte);
    let len = bytes[at..].iter().take(form.max + 1).take_while(is_part).count();
    // A hyphen or full stop at the end belongs to the sentence.
    let len = bytes[at..at + len].iter().rposition(u8::is_ascii_alphanumeric)? + 1;
    let tail = &bytes[at..at + len];
    let has = |is: fn(&u8) -> bool| tail.iter().any(is);
    // Words joined by hyphens have no digits or no capitals.
    let is_random = has(u8::is_ascii_digit) && has(u8::is_ascii_uppercase)
        || form.prefix.len() > 3 && has(u8::is_ascii_digit);
    let is_token = form.prefix != "eyJ" || tail.split(|&byte| byte == b'.').count() == 3 && has_json(tail);
    let is_whole = (form.min..=form.max).contains(&len) && !is_alphanumeric_at(bytes, at + len);
    (is_random && is_token && is_whole).then_some(at + len)
}

/// Whether the second part of a token is the base64 of a JSON object.
fn has_json(tail: &[u8]) -> bool {
    tail.split(|&byte| byte == b'.').nth(1).is_some_and(|payload| payload.starts_with(b"eyJ"))
}

/// The end of the block whose label begins at `at`.
fn block_end(bytes: &[u8], at: usize) -> Option<usize> {
    let body = label_end(bytes, at)?;
    let block = &bytes[body..bytes.len().min(body + MAX_BLOCK)];
    label_end(bytes, body + memchr::memmem::find(block, BLOCK_END)? + BLOCK_END.len())
}

/// The end of the label of a private key that begins at `at`.
fn label_end(bytes: &[u8], at: usize) -> Option<usize> {
    let label = &bytes[at..bytes.len().min(at + MAX_LABEL)];
    let len = memchr::memmem::find(label, BLOCK_RULE)?;
    let name = label[..len].strip_suffix(b" BLOCK").unwrap_or(&label[..len]);
    name.ends_with(BLOCK_LABEL).then_some(at + len + BLOCK_RULE.len())
}
