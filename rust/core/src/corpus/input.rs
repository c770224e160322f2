//! The bytes of a file, decompressed if its name says so, with a way on after damage.
//!
//! A compressed file is a row of members (frames, for Zstandard), each with a checksum at its end. A member is unpacked to
//! its end before any of it is handed out, twice if it is long: text of a damaged one is never taken for good. Of a
//! file that was cut off, what there is of the last member is handed out before the error.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use flate2::bufread::GzDecoder;

use crate::Monitor;

/// Bytes of the file that are read at a time.
const READ_BYTES: usize = 256 << 10;
/// Unpacked bytes up to which a member is held in memory; longer ones are unpacked twice.
const HELD_BYTES: usize = 4 << 20;
/// Unpacked bytes of a longer member that are checked at a time.
const CHECKED_BYTES: usize = 8 << 10;

/// How the bytes of a file are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packing {
    Plain,
    Gzip,
    Zstd,
}

impl Packing {
    fn of(path: &Path) -> Self {
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("gz") => Self::Gzip,
            Some("zst") => Self::Zstd,
            _ => Self::Plain,
        }
    }

    /// What a member begins with.
    fn magic(self) -> &'static [u8] {
        match self {
            Self::Plain => b"",
            Self::Gzip => &[0x1f, 0x8b, 8],
            Self::Zstd => &[0x28, 0xb5, 0x2f, 0xfd],
        }
    }
}

/// An open file and how much of it has been used.
struct Tracked<'m> {
    file: BufReader<File>,
    position: u64,
    /// The greatest position so far: what is read again does not count again.
    counted: u64,
    monitor: &'m Monitor,
}

impl Tracked<'_> {
    fn seek(&mut self, position: u64) -> io::Result<()> {
        self.position = position;
        self.file.seek(SeekFrom::Start(position)).map(|_| ())
    }
}

impl Read for Tracked<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Tracked<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.file.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        self.file.consume(count);
        self.position += count as u64;
        let more = self.position.saturating_sub(self.counted);
        self.counted += more;
        // Whoever reads asks on its own whether it was cancelled.
        let _ = self.monitor.advance(more);
    }
}

/// What unpacks a member.
enum Decoder<'m> {
    Gzip(Box<GzDecoder<Tracked<'m>>>),
    Zstd(zstd::stream::read::Decoder<'static, Tracked<'m>>),
}

impl<'m> Decoder<'m> {
    fn begin(packing: Packing, file: Tracked<'m>) -> io::Result<Self> {
        Ok(match packing {
            Packing::Zstd => Self::Zstd(zstd::stream::read::Decoder::with_buffer(file)?.single_frame()),
            _ => Self::Gzip(Box::new(GzDecoder::new(file))),
        })
    }

    fn into_file(self) -> Tracked<'m> {
        match self {
            Self::Gzip(decoder) => decoder.into_inner(),
            Self::Zstd(decoder) => decoder.finish(),
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer),
        }
    }

    /// Fills the buffer, or reads to the end of the member.
    fn fill(&mut self, buffer: &mut [u8]) -> (usize, io::Result<()>) {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) => return (filled, Err(error)),
            }
        }
        (filled, Ok(()))
    }
}

/// Where the next bytes come from.
enum State<'m> {
    /// The file as it is, or a place between two members.
    File(Tracked<'m>),
    /// A member that is held in memory: how much of it is left, and what was wrong behind it.
    Held { start: usize, end: usize, then: Option<io::Error>, file: Tracked<'m> },
    /// A long member.
    Member(Decoder<'m>),
    /// Nothing is left; the file could not be read on.
    Over,
}

/// A file that is read from start to end.
pub(super) struct Input<'m> {
    packing: Packing,
    state: State<'m>,
    held: Vec<u8>,
    /// Where in the file the member begins.
    member_start: u64,
}

impl<'m> Input<'m> {
    /// Opens a file; the monitor counts its bytes. Bytes before `start` are left out, for files that are not compressed.
    pub(super) fn open(path: &Path, start: u64, monitor: &'m Monitor) -> io::Result<Self> {
        let packing = Packing::of(path);
        let file = File::open(path)?;
        if packing != Packing::Plain && file.metadata()?.len() == 0 {
            return Err(damage("an empty file is no compressed one: truncated"));
        }
        let file = BufReader::with_capacity(READ_BYTES, file);
        let mut file = Tracked { file, position: 0, counted: start, monitor };
        if start > 0 {
            file.seek(start)?;
        }
        Ok(Self { packing, state: State::File(file), held: Vec::new(), member_start: start })
    }

    /// Where in the file the member that is read begins.
    pub(super) fn member_start(&self) -> u64 {
        self.member_start
    }

    /// Some more bytes, none at the end of the file.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match std::mem::replace(&mut self.state, State::Over) {
                State::Over => return Ok(0),
                State::File(mut file) => {
                    if self.packing == Packing::Plain {
                        let count = file.read(buffer);
                        self.state = State::File(file);
                        return count;
                    }
                    if file.fill_buf()?.is_empty() {
                        return Ok(0);
                    }
                    self.begin(file)?;
                }
                State::Held { start, end, then, file } if start == end => {
                    self.state = State::File(file);
                    if let Some(error) = then {
                        return Err(error);
                    }
                }
                State::Held { start, end, then, file } => {
                    let count = buffer.len().min(end - start);
                    buffer[..count].copy_from_slice(&self.held[start..start + count]);
                    self.state = State::Held { start: start + count, end, then, file };
                    return Ok(count);
                }
                State::Member(mut decoder) => {
                    let count = decoder.read(buffer);
                    let is_over = matches!(count, Ok(0) | Err(_));
                    self.state =
                        if is_over { State::File(decoder.into_file()) } else { State::Member(decoder) };
                    if !matches!(count, Ok(0)) {
                        return count;
                    }
                }
            }
        }
    }

    /// Unpacks the member that begins here to its end.
    fn begin(&mut self, file: Tracked<'m>) -> io::Result<()> {
        let start = file.position;
        self.member_start = start;
        self.held.resize(HELD_BYTES, 0);
        let mut decoder = Decoder::begin(self.packing, file)?;
        let (end, result) = decoder.fill(&mut self.held);
        let is_held = end < self.held.len();
        let then = match result {
            Err(error) if !is_truncated(&error) => {
                self.state = State::File(decoder.into_file());
                return Err(error);
            }
            result => result.err(),
        };
        if is_held {
            self.state = State::Held { start: 0, end, then, file: decoder.into_file() };
            return Ok(());
        }
        let mut scratch = [0; CHECKED_BYTES];
        let result = loop {
            match decoder.fill(&mut scratch) {
                (_, Err(error)) => break Err(error),
                (count, Ok(())) if count < scratch.len() => break Ok(()),
                _ => {}
            }
        };
        let mut file = decoder.into_file();
        if let Err(error) = result
            && !is_truncated(&error)
        {
            self.state = State::File(file);
            return Err(error);
        }
        file.seek(start)?;
        self.state = State::Member(Decoder::begin(self.packing, file)?);
        Ok(())
    }

    /// Goes on with the next member that can be read, after an error; false if there is none.
    pub(super) fn recover(&mut self) -> io::Result<bool> {
        let State::File(mut file) = std::mem::replace(&mut self.state, State::Over) else { return Ok(false) };
        if self.packing == Packing::Plain {
            return Ok(false);
        }
        let mut from = self.member_start + 1;
        loop {
            file.seek(from)?;
            let Some(start) = find(&mut file, self.packing.magic())? else { return Ok(false) };
            file.seek(start)?;
            if self.begin(file).is_ok() {
                return Ok(true);
            }
            from = start + 1;
            match std::mem::replace(&mut self.state, State::Over) {
                State::File(after) => file = after,
                _ => return Ok(false),
            }
        }
    }
}

fn is_truncated(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::UnexpectedEof
}

pub(super) fn damage(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

/// Where the next `magic` is.
fn find(file: &mut Tracked<'_>, magic: &[u8]) -> io::Result<Option<u64>> {
    let mut matched = 0;
    loop {
        let start = file.position;
        let buffer = file.fill_buf()?;
        if buffer.is_empty() {
            return Ok(None);
        }
        for (at, &byte) in buffer.iter().enumerate() {
            // No magic has its first byte twice.
            matched = if byte == magic[matched] { matched + 1 } else { usize::from(byte == magic[0]) };
            if matched == magic.len() {
                return Ok(Some(start + at as u64 + 1 - magic.len() as u64));
            }
        }
        let count = buffer.len();
        file.consume(count);
    }
}
