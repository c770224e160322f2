//! Records of web archives (WARC 1.0 and 1.1, ISO 28500).

use std::result::Result;

use super::http;
use super::lines::{Line, Lines};
use super::read::{Item, ReadOptions, Sink, Stop, decoded, problem, read_page, too_long};
use crate::Monitor;

/// What a record's header says.
#[derive(Debug, Default)]
struct Header {
    kind: String,
    uri: String,
    num_bytes: Option<u64>,
}

/// Hands over the text of `conversion` records, as WET files have them, and that of pages as they were fetched (`response`),
/// which are problems if nothing extracts it. Other records are passed over.
pub(super) fn read_records(
    options: &ReadOptions,
    lines: &mut Lines<'_>,
    monitor: &Monitor,
    sink: &mut Sink<'_>,
) -> Result<(), Stop> {
    loop {
        monitor.advance(0)?;
        let offset = lines.offset();
        match lines.next()? {
            None => return Ok(()),
            Some(Line::Whole(line, _)) if line.trim_ascii().is_empty() => continue,
            Some(Line::Whole(line, _)) if line.starts_with(b"WARC/1.") => {}
            Some(_) => {
                sink(problem("not the start of a WARC record", offset, 0))?;
                if !find_record(lines)? {
                    return Ok(());
                }
            }
        }
        let header = read_header(lines)?;
        let Some(num_bytes) = header.num_bytes else {
            sink(problem("a WARC record without Content-Length", offset, 0))?;
            continue;
        };
        let start = lines.offset();
        let item = match (header.kind.as_str(), lines.bytes(num_bytes)?) {
            (_, Some(body)) if (body.len() as u64) < num_bytes => {
                problem(format!("a WARC record of {num_bytes} bytes ends after {}", body.len()), offset, 0)
            }
            ("conversion", Some(body)) => match decoded(body, options, start) {
                Ok(text) => {
                    sink(Item::Document { text: &text, name: &header.uri, offset })?;
                    continue;
                }
                Err(problem) => problem,
            },
            ("response", body) => match (options.extract.as_deref(), body) {
                (None, _) => {
                    problem("a page as it was fetched: extract its text with html = true", offset, num_bytes)
                }
                // What a name server said, for one.
                (Some(_), _) if !header.uri.starts_with("http") => continue,
                (Some(_), None) => too_long(options, num_bytes, offset),
                (Some(extract), Some(body)) => match http::page(body, options.max_document_bytes, offset) {
                    Ok(page) => {
                        let html = (&*page.html, page.encoding.as_str());
                        read_page(extract, html, &header.uri, offset, sink)?;
                        continue;
                    }
                    Err(item) => item,
                },
            },
            ("conversion", None) => too_long(options, num_bytes, offset),
            _ => continue,
        };
        sink(item)?;
    }
}

/// Passes over lines up to the first of a record, whether there is one.
fn find_record(lines: &mut Lines<'_>) -> std::io::Result<bool> {
    loop {
        match lines.next()? {
            None => return Ok(false),
            Some(Line::Whole(line, _)) if line.starts_with(b"WARC/1.") => return Ok(true),
            Some(_) => {}
        }
    }
}

fn read_header(lines: &mut Lines<'_>) -> std::io::Result<Header> {
    let mut header = Header::default();
    while let Some(line) = lines.next()? {
        let Line::Whole(line, _) = line else { continue };
        let line = String::from_utf8_lossy(line);
        if line.trim().is_empty() {
            break;
        }
        let Some((name, value)) = line.split_once(':') else { continue };
        let value = value.trim();
        match name.trim().to_ascii_lowercase().as_str() {
            "warc-type" => header.kind = value.to_ascii_lowercase(),
            "warc-target-uri" => value.trim_matches(['<', '>']).clone_into(&mut header.uri),
            "content-length" => header.num_bytes = value.parse().ok(),
            _ => {}
        }
    }
    Ok(header)
}
