//! URLs that name the same page.

/// One spelling for the URLs of a page; what is no URL comes back without the white space around it.
///
/// - The scheme goes, and `www.` before the host; the host is in lower case, without a final dot, user or default
///   port (80 and 443).
/// - The fragment goes. Parameters that only say where the reader came from go (`utm_*`, `gclid`, `fbclid` and their
///   like, session ids); the others are sorted.
/// - In the path, `%41` is the letter it stands for where it needs no escape, other escapes are in capitals, runs of `/`
///   are one, `.` and `..` are resolved, and `index.html` and a `/` at the end go. Its case counts.
pub fn canonical_url(url: &str) -> String {
    let url = url.trim();
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    if scheme.is_empty() || !scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    {
        return url.to_owned();
    }
    let rest = rest.split('#').next().unwrap_or_default();
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (host, path) = place.split_once('/').unwrap_or((place, ""));
    let mut canonical = canonical_host(host);
    for segment in canonical_segments(path) {
        canonical.push('/');
        canonical.push_str(&segment);
    }
    let mut parameters: Vec<String> =
        query.split('&').filter(|parameter| is_content(parameter)).map(unescape).collect();
    parameters.sort_unstable();
    for (i, parameter) in parameters.iter().enumerate() {
        canonical.push(if i == 0 { '?' } else { '&' });
        canonical.push_str(parameter);
    }
    canonical
}

fn canonical_host(host: &str) -> String {
    let host = host.rsplit('@').next().unwrap_or(host).to_lowercase();
    let mut host = host.trim_start_matches("www.");
    while let Some(shorter) = [":80", ":443", "."].iter().find_map(|end| host.strip_suffix(end)) {
        host = shorter;
    }
    host.to_owned()
}

fn canonical_segments(path: &str) -> Vec<String> {
    let mut segments = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            _ => segments.push(unescape(segment)),
        }
    }
    let is_index = |last: &String| matches!(last.as_str(), "index.html" | "index.htm" | "index.php");
    while segments.last().is_some_and(is_index) {
        segments.pop();
    }
    segments
}

/// Names of parameters that do not change what a page says.
const TRACKING: [&str; 11] = [
    "gclid",
    "dclid",
    "fbclid",
    "msclkid",
    "yclid",
    "mc_cid",
    "mc_eid",
    "igshid",
    "phpsessid",
    "jsessionid",
    "sid",
];

fn is_content(parameter: &str) -> bool {
    let name = parameter.split('=').next().unwrap_or_default().to_ascii_lowercase();
    !name.is_empty() && !name.starts_with("utm_") && !TRACKING.contains(&name.as_str())
}

/// Writes escapes of letters, digits, `-`, `.`, `_` and `~` out, and the digits of others in capitals.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        let digits = after.get(..2).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match (byte, digits) {
            (Some(byte), _) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => {
                out.push(char::from(byte));
            }
            (_, Some(digits)) => {
                out.push('%');
                out.push_str(&digits.to_ascii_uppercase());
            }
            _ => out.push('%'),
        }
        rest = digits.map_or(after, |_| &after[2..]);
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn spellings_of_one_page_are_equal() {
        for (url, expected) in [
            ("HTTPS://www.Example.com:443/a/b/?utm_source=x&b=2&a=1#top", "example.com/a/b?a=1&b=2"),
            ("HTTP://example.com/a//./c/../b/index.html?a=1&b=2&fbclid=9", "example.com/a/b?a=1&b=2"),
            ("HTTP://user@example.com./%7Ejoe/%e4%2f?", "example.com/~joe/%E4%2F"),
            ("HTTP://example.com", "example.com"),
            ("HTTP://example.com/100%?q=%zz%4", "example.com/100%?q=%zz%4"),
            ("HTTPS://example.com/Case?Q=é", "example.com/Case?Q=é"),
            (" no url ", "no url"),
            ("://x", "://x"),
            ("a page://x", "a page://x"),
        ] {
            assert_eq!(canonical_url(url), expected, "{url}");
        }
    }

    proptest! {
        #[test]
        fn any_text_has_a_canonical_form(url in "(http://)?[a-zA-Z.:@/?#&=%0-9é]{0,40}") {
            let canonical = canonical_url(&url);
            // The scheme is put back, as it is needed to tell a URL from other text.
            if url.trim().contains("://") {
                prop_assert_eq!(canonical_url(&format!("http://{canonical}")), canonical);
            }
        }
    }
}
