//! Internet addresses, but not those of private networks, of documentation and of the machine itself.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{is_alphanumeric_at, is_alphanumeric_before};

/// If all four parts are below this, it is the number of a section or a version: of 256 addresses one is like that.
const SECTIONS_BELOW: u8 = 64;
/// The longest IPv6 address in text, with an IPv4 address at its end.
const MAX_V6: usize = 45;

/// The IPv4 address whose first digit is at `at`.
pub(super) fn v4(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    let is_part = |byte: &&u8| byte.is_ascii_digit() || **byte == b'.';
    let len = bytes[at..].iter().take(16).take_while(is_part).count();
    // A full stop may follow.
    let len = bytes[at..at + len].iter().rposition(u8::is_ascii_digit)? + 1;
    let end = at + len;
    let touches = is_alphanumeric_before(bytes, at)
        || bytes[..at].ends_with(b".")
        || is_alphanumeric_at(bytes, end)
        || bytes.get(end) == Some(&b'.') && is_alphanumeric_at(bytes, end + 1);
    if touches || is_version(&bytes[..at]) {
        return None;
    }
    let address: Ipv4Addr = std::str::from_utf8(&bytes[at..end]).ok()?.parse().ok()?;
    is_public_v4(address).then_some((at, end))
}

/// Whether a text ends with a word that announces the number of a version.
fn is_version(before: &[u8]) -> bool {
    let word = before.trim_ascii_end();
    let len = word.iter().rev().take_while(|byte| byte.is_ascii_alphabetic()).count();
    let word = &word[word.len() - len..];
    [&b"v"[..], b"version", b"release", b"ver"].iter().any(|known| word.eq_ignore_ascii_case(known))
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    !(address.octets().iter().all(|&part| part < SECTIONS_BELOW)
        || address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation()
        || address.octets()[0] == 0
        || address.octets()[0] >= 224)
}

/// The IPv6 address whose first colon is at `at`.
pub(super) fn v6_from_first_colon(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    let groups = bytes[..at].iter().rev().take(5).take_while(|byte| byte.is_ascii_hexdigit()).count();
    let start = at - groups;
    if is_alphanumeric_before(bytes, start) || bytes[..start].ends_with(b":") {
        return None;
    }
    let is_part = |byte: &&u8| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.');
    let len = bytes[start..].iter().take(MAX_V6 + 1).take_while(is_part).count();
    // A full stop or a colon may follow; an address may end with two colons.
    let shorter = bytes[start..start + len].iter().rposition(u8::is_ascii_hexdigit)? + 1;
    let address_of = |end: usize| std::str::from_utf8(&bytes[start..end]).ok()?.parse::<Ipv6Addr>().ok();
    let end = start + shorter;
    let address = address_of(end)?;
    // Names of code such as a::b have the form too.
    let groups = bytes[start..end].split(|&byte| byte == b':').filter(|group| !group.is_empty()).count();
    let has_digit = bytes[start..end].iter().any(u8::is_ascii_digit);
    let is_code = groups < 3 || !has_digit || is_alphanumeric_at(bytes, end);
    (!is_code && is_public_v6(address)).then_some((start, end))
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let [first, second, ..] = address.segments();
    // Global unicast is 2000::/3; 2001:db8::/32 is for documentation.
    first & 0xe000 == 0x2000 && (first, second) != (0x2001, 0xdb8)
}
