//! Documents of files: text, JSON lines, the extracted text of web archives (WET) and, with something that extracts text,
//! their pages.
//!
//! What cannot be read is handed over as a problem with its place, and the rest of the file is read.

use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::json::{Fields, Record};
use super::lines::{Line, Lines};
use super::warc;
use crate::{Error, Monitor, Result};

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One document.
    Text,
    /// A JSON object on each line.
    Jsonl,
    /// Records of a web archive, of which those with extracted text are documents.
    Warc,
}

impl Format {
    /// The format that a file's name stands for, apart from `.gz` and `.zst` at its end.
    ///
    /// # Errors
    /// [`Error::Value`] if no reader is known for it.
    pub fn of(path: &Path) -> Result<Self> {
        let packed = path.extension().is_some_and(|ending| ending == "gz" || ending == "zst");
        let stem = if packed { path.file_stem().map(Path::new) } else { Some(path) };
        match stem.and_then(Path::extension).and_then(|ending| ending.to_str()) {
            Some("txt") => Ok(Self::Text),
            Some("jsonl" | "ndjson") => Ok(Self::Jsonl),
            Some("warc" | "wet") => Ok(Self::Warc),
            _ => Err(Error::value(format!("{}: cannot tell its format from its name", path.display()))),
        }
    }
}

/// Makes text of pages of HTML.
pub trait Extract: std::fmt::Debug + Send + Sync {
    /// The text of a page; `encoding` is what the server called it, empty if nothing.
    ///
    /// # Errors
    /// Why there is none.
    fn text(&self, html: &[u8], encoding: &str) -> std::result::Result<String, String>;
}

/// A file, or a stretch of one, and how it is read.
#[derive(Debug, Clone)]
pub struct ReadOptions {
    /// The file.
    pub path: PathBuf,
    /// The first byte: lines that start before it are not read. Only for files that are not compressed.
    pub start: u64,
    /// Lines that start here or later are not read.
    pub end: u64,
    /// Fields of JSON objects.
    pub fields: Fields,
    /// Whether bytes that are not UTF-8 become U+FFFD; else the document is a problem.
    pub is_lossy: bool,
    /// Longer documents are problems; they are never held in memory.
    pub max_document_bytes: usize,
    /// What extracts the text if JSON objects hold HTML and web archives pages as they were fetched.
    pub extract: Option<Arc<dyn Extract>>,
}

/// What a file has next.
#[derive(Debug)]
pub enum Item<'a> {
    /// A document.
    Document {
        /// Its text.
        text: &'a str,
        /// Its URL or id, empty if it has none.
        name: &'a str,
        /// Where it starts in the file, or in what the file unpacks to.
        offset: u64,
    },
    /// Something that can be read and is no document.
    Skipped {
        /// What sorts it out.
        rule: &'static str,
        /// What it is.
        reason: String,
        /// Where, as for a document.
        offset: u64,
        /// How long it is.
        num_bytes: u64,
    },
    /// Something that cannot be read.
    Problem {
        /// What is wrong.
        reason: String,
        /// Where, as for a document.
        offset: u64,
        /// How long it is, if that is known.
        num_bytes: u64,
    },
}

/// Where documents and problems go.
pub type Sink<'s> = dyn FnMut(Item<'_>) -> Result<()> + 's;

/// Reads the documents of a file in their order. The monitor counts bytes of the file.
///
/// # Errors
/// Those of the sink, and [`Error::Interrupted`] if the monitor is cancelled. What is wrong with the file goes to the sink.
pub fn read(options: &ReadOptions, monitor: &Monitor, sink: &mut Sink<'_>) -> Result<()> {
    let format = Format::of(&options.path)?;
    let mut lines = match Lines::open(&options.path, options.start, options.max_document_bytes, monitor) {
        Ok(lines) => lines,
        Err(error) => return sink(problem(format!("cannot be read: {error}"), options.start, 0)),
    };
    loop {
        let read = match format {
            Format::Text => read_text(options, &mut lines, sink),
            Format::Jsonl => read_lines(options, &mut lines, monitor, sink),
            Format::Warc => warc::read_records(options, &mut lines, monitor, sink),
        };
        match read {
            Ok(()) => return Ok(()),
            Err(Stop::Sink(error)) => return Err(error),
            Err(Stop::Read(error)) => {
                let (at, offset) = (lines.member_start(), lines.offset());
                sink(problem(format!("damaged or cut off in what starts at byte {at}: {error}"), offset, 0))?;
                if format == Format::Text || !lines.recover().unwrap_or(false) {
                    return Ok(());
                }
            }
        }
    }
}

/// Why reading ends before the end of the file.
pub(super) enum Stop {
    /// The sink, or whoever cancelled.
    Sink(Error),
    /// The file.
    Read(io::Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Sink(error)
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Read(error)
    }
}

pub(super) fn problem(reason: impl Into<String>, offset: u64, num_bytes: u64) -> Item<'static> {
    Item::Problem { reason: reason.into(), offset, num_bytes }
}

pub(super) fn too_long(options: &ReadOptions, len: u64, offset: u64) -> Item<'static> {
    let most = options.max_document_bytes;
    problem(format!("{len} bytes are more than max_document_bytes, {most}"), offset, len)
}

/// Hands over the text of a page.
pub(super) fn read_page(
    extract: &dyn Extract,
    (html, encoding): (&[u8], &str),
    name: &str,
    offset: u64,
    sink: &mut Sink<'_>,
) -> Result<()> {
    match extract.text(html, encoding) {
        Ok(text) => sink(Item::Document { text: &text, name, offset }),
        Err(reason) => sink(problem(reason, offset, html.len() as u64)),
    }
}

/// The bytes as text, or what is wrong with them.
pub(super) fn decoded<'a>(
    bytes: &'a [u8],
    options: &ReadOptions,
    offset: u64,
) -> std::result::Result<Cow<'a, str>, Item<'static>> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(Cow::Borrowed(text)),
        Err(_) if options.is_lossy => Ok(String::from_utf8_lossy(bytes)),
        Err(error) => {
            let at = error.valid_up_to();
            let reason = format!("byte {} is not UTF-8 (0x{:02x})", offset + at as u64, bytes[at]);
            Err(problem(reason, offset, bytes.len() as u64))
        }
    }
}

fn read_text(
    options: &ReadOptions,
    lines: &mut Lines<'_>,
    sink: &mut Sink<'_>,
) -> std::result::Result<(), Stop> {
    let item = match lines.rest()? {
        Err(len) => too_long(options, len, 0),
        Ok(bytes) => match decoded(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes), options, 0) {
            Ok(text) => return Ok(sink(Item::Document { text: &text, name: "", offset: 0 })?),
            Err(problem) => problem,
        },
    };
    Ok(sink(item)?)
}

fn read_lines(
    options: &ReadOptions,
    lines: &mut Lines<'_>,
    monitor: &Monitor,
    sink: &mut Sink<'_>,
) -> std::result::Result<(), Stop> {
    let mut record = Record::default();
    while lines.offset() < options.end {
        monitor.advance(0)?;
        let (line, offset) = match lines.next()? {
            None => break,
            Some(Line::TooLong(len, offset)) => {
                sink(too_long(options, len, offset))?;
                continue;
            }
            Some(Line::Whole(line, offset)) => (line, offset),
        };
        let line = if offset == 0 { line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line) } else { line };
        if line.trim_ascii().is_empty() {
            continue;
        }
        let item = match decoded(line, options, offset) {
            Err(problem) => problem,
            Ok(text) => match record.read(&text, &options.fields) {
                Ok(()) => match options.extract.as_deref() {
                    Some(extract) => {
                        read_page(extract, (record.text.as_bytes(), "utf-8"), &record.name, offset, sink)?;
                        continue;
                    }
                    None => Item::Document { text: &record.text, name: &record.name, offset },
                },
                Err(reason) => problem(reason, offset, line.len() as u64),
            },
        };
        sink(item)?;
    }
    Ok(())
}
