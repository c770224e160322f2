//! Pages as servers sent them: the HTTP responses that web archives hold.

use std::borrow::Cow;
use std::io::Read;

use flate2::bufread::MultiGzDecoder;
use memchr::memchr;

use super::read::{Item, problem};

/// What a page of HTML is sent as.
const HTML: [&str; 2] = ["text/html", "application/xhtml+xml"];
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// A page of HTML.
#[derive(Debug)]
pub(super) struct Page<'a> {
    pub(super) html: Cow<'a, [u8]>,
    /// What the server said, empty if nothing.
    pub(super) encoding: String,
}

/// What the header of a response says.
#[derive(Debug, Default)]
struct Header {
    status: String,
    content_type: String,
    content_encoding: String,
    is_chunked: bool,
}

/// The page that a response is, or what else it is. Pages of more than `max_bytes` are not unpacked.
pub(super) fn page(response: &[u8], max_bytes: usize, offset: u64) -> Result<Page<'_>, Item<'static>> {
    let num_bytes = response.len() as u64;
    let Some((header, body)) = read_header(response) else {
        return Err(problem("not an HTTP response", offset, num_bytes));
    };
    let skipped = |rule, reason| Err(Item::Skipped { rule, reason, offset, num_bytes });
    if header.status != "200" {
        return skipped("http_status", format!("status {:?}, not 200", header.status));
    }
    let mut parameters = header.content_type.split(';').map(str::trim);
    let kind = parameters.next().unwrap_or_default().to_ascii_lowercase();
    if !HTML.contains(&kind.as_str()) {
        return skipped("content_type", format!("{kind:?}, not HTML"));
    }
    let encoding = parameters.filter_map(|parameter| parameter.split_once('=')).find_map(|(name, value)| {
        name.trim().eq_ignore_ascii_case("charset").then(|| value.trim().trim_matches(['"', '\'']).to_owned())
    });
    // Most archives keep the header and store what the body unpacks to.
    let body = match header.is_chunked.then(|| unchunked(body)).flatten() {
        Some(joined) => Cow::Owned(joined),
        None => Cow::Borrowed(body),
    };
    let html = match header.content_encoding.as_str() {
        "gzip" | "x-gzip" if body.starts_with(&GZIP_MAGIC) => match unzipped(&body, max_bytes) {
            Ok(html) => Cow::Owned(html),
            Err(reason) => return Err(problem(reason, offset, num_bytes)),
        },
        "" | "identity" | "gzip" | "x-gzip" => body,
        _ if body.trim_ascii_start().starts_with(b"<") => body,
        other => {
            return Err(problem(format!("a page packed as {other:?}; only gzip is read"), offset, num_bytes));
        }
    };
    Ok(Page { html, encoding: encoding.unwrap_or_default() })
}

/// The header and what follows it; none if it does not begin as one.
fn read_header(response: &[u8]) -> Option<(Header, &[u8])> {
    let mut rest = response;
    let mut next_line = || {
        let end = memchr(b'\n', rest).unwrap_or(rest.len());
        let (line, after) = rest.split_at(end);
        rest = after.get(1..).unwrap_or_default();
        String::from_utf8_lossy(line.trim_ascii())
    };
    let first = next_line();
    let mut words = first.split_ascii_whitespace();
    if !words.next()?.starts_with("HTTP/") {
        return None;
    }
    let mut header = Header { status: words.next()?.to_owned(), ..Header::default() };
    loop {
        let line = next_line();
        if line.is_empty() {
            return Some((header, rest));
        }
        let Some((name, value)) = line.split_once(':') else { continue };
        let value = value.trim();
        match name.trim().to_ascii_lowercase().as_str() {
            "content-type" => value.clone_into(&mut header.content_type),
            "content-encoding" => header.content_encoding = value.to_ascii_lowercase(),
            "transfer-encoding" => header.is_chunked = value.eq_ignore_ascii_case("chunked"),
            _ => {}
        }
    }
}

/// The chunks of a body joined, none if it does not consist of chunks.
fn unchunked(body: &[u8]) -> Option<Vec<u8>> {
    let (mut rest, mut joined) = (body, Vec::with_capacity(body.len()));
    loop {
        let end = memchr(b'\n', rest)?;
        let size = std::str::from_utf8(&rest[..end]).ok()?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        if size == 0 {
            return Some(joined);
        }
        rest = &rest[end + 1..];
        joined.extend_from_slice(rest.get(..size)?);
        rest = rest[size..].strip_prefix(b"\r\n")?;
    }
}

fn unzipped(body: &[u8], max_bytes: usize) -> Result<Vec<u8>, String> {
    let mut html = Vec::new();
    let read = MultiGzDecoder::new(body).take(max_bytes as u64 + 1).read_to_end(&mut html);
    match read {
        Err(error) => Err(format!("a page whose gzip is damaged: {error}")),
        Ok(_) if html.len() > max_bytes => {
            Err(format!("a page unpacks to more than max_document_bytes, {max_bytes}"))
        }
        Ok(_) => Ok(html),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn html(response: &[u8]) -> (String, String) {
        let page = page(response, 100, 0).unwrap();
        (String::from_utf8(page.html.into_owned()).unwrap(), page.encoding)
    }

    fn fate(response: &[u8]) -> String {
        match page(response, 100, 7).unwrap_err() {
            Item::Skipped { rule, offset: 7, .. } => rule.to_owned(),
            Item::Problem { reason, offset: 7, .. } => reason,
            other => panic!("{other:?}"),
        }
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn pages_are_unpacked_whether_or_not_the_archive_did() {
        let plain =
            b"HTTP/1.1 200 OK\r\ncontent-type: Text/HTML; a=b; charset=\"Latin1\"\r\n\r\n<p>x".as_slice();
        assert_eq!(html(plain), ("<p>x".into(), "Latin1".into()));
        assert_eq!(html(b"HTTP/2 200\nContent-Type: application/xhtml+xml\n\n<p>x").0, "<p>x");
        let header = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Encoding: gzip\r\n";
        let chunked = format!("{header}Transfer-Encoding: chunked\r\n\r\n");
        let packed = gzip(b"<p>packed");
        let (one, two) = packed.split_at(5);
        let mut chunks = format!("{chunked}5;x\r\n").into_bytes();
        chunks.extend_from_slice(one);
        chunks.extend_from_slice(format!("\r\n{:x}\r\n", two.len()).as_bytes());
        chunks.extend_from_slice(two);
        chunks.extend_from_slice(b"\r\n0\r\n\r\n");
        assert_eq!(html(&chunks).0, "<p>packed");
        assert_eq!(html(format!("{chunked}<p>plain").as_bytes()).0, "<p>plain");
        assert_eq!(html(format!("{}\r\n<p>plain", header.replace("gzip", "br")).as_bytes()).0, "<p>plain");
        assert_eq!(html(header.as_bytes()).0, "");
    }

    #[test]
    fn what_is_no_page_says_why() {
        assert_eq!(fate(b"HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\n\r\n<p>x"), "http_status");
        assert_eq!(fate(b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n\r\n\x89PNG"), "content_type");
        assert_eq!(fate(b"HTTP/1.1 200 OK\r\n\r\n"), "content_type");
        for broken in [b"".as_slice(), b"\n\n", b"HTTP/1.1", b"<html>", b"\xff\xfe\x00"] {
            assert_eq!(fate(broken), "not an HTTP response");
        }
        let packed = |packing: &str, body: &[u8]| {
            let header =
                format!("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Encoding: {packing}\r\n\r\n");
            fate(&[header.as_bytes(), body].concat())
        };
        assert!(packed("br", b"\x0b\x02").contains("packed as \"br\""));
        assert!(packed("gzip", &gzip(b"<p>x")[..12]).contains("gzip is damaged"));
        assert!(packed("gzip", &gzip(&[b'x'; 101])).contains("more than max_document_bytes, 100"));
    }
}
