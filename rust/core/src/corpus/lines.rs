//! Lines of a file that may be longer than memory.

use std::io;
use std::path::Path;

use memchr::memchr;

use super::input::Input;
use crate::Monitor;

const CHUNK_BYTES: usize = 256 << 10;

/// What comes next.
pub(super) enum Line<'a> {
    /// A line without its line feed, and where it starts in what is decompressed.
    Whole(&'a [u8], u64),
    /// A line that is longer than allowed, how long it is, and where it starts.
    TooLong(u64, u64),
}

/// Reads lines; none is held in memory beyond `max_bytes`.
pub(super) struct Lines<'m> {
    input: Input<'m>,
    max_bytes: usize,
    buffer: Vec<u8>,
    /// The bytes of the buffer that are not given out yet.
    start: usize,
    end: usize,
    /// Where in what is decompressed the buffer starts.
    offset: u64,
    is_done: bool,
}

impl<'m> Lines<'m> {
    /// The lines of a file from the first that starts at `start` or after it.
    pub(super) fn open(path: &Path, start: u64, max_bytes: usize, monitor: &'m Monitor) -> io::Result<Self> {
        let from = start.saturating_sub(1);
        let mut lines = Self {
            input: Input::open(path, from, monitor)?,
            max_bytes,
            buffer: vec![0; CHUNK_BYTES],
            start: 0,
            end: 0,
            offset: from,
            is_done: false,
        };
        if start > 0 {
            lines.next()?;
        }
        Ok(lines)
    }

    /// Where in the file the member begins that is read.
    pub(super) fn member_start(&self) -> u64 {
        self.input.member_start()
    }

    /// After an error: drops the line that was begun and goes on with the next member, if there is one.
    pub(super) fn recover(&mut self) -> io::Result<bool> {
        self.offset += self.end as u64;
        (self.start, self.end) = (0, 0);
        self.input.recover()
    }

    /// The next line, none at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<Line<'_>>> {
        // Bytes of the line that are known to have no line feed.
        let mut searched = 0;
        loop {
            let unseen = &self.buffer[self.start + searched..self.end];
            if let Some(at) = memchr(b'\n', unseen) {
                let line = self.start..self.start + searched + at;
                self.start = line.end + 1;
                let at = self.offset + line.start as u64;
                return Ok(Some(self.checked(line, at)));
            }
            searched = self.end - self.start;
            if searched > self.max_bytes {
                return self.skip().map(Some);
            }
            if self.is_done {
                let line = self.start..self.end;
                self.start = self.end;
                let at = self.offset + line.start as u64;
                return Ok((!line.is_empty()).then(|| self.checked(line, at)));
            }
            self.fill()?;
        }
    }

    fn checked(&self, line: std::ops::Range<usize>, at: u64) -> Line<'_> {
        if line.len() > self.max_bytes {
            Line::TooLong(line.len() as u64, at)
        } else {
            Line::Whole(&self.buffer[line], at)
        }
    }

    /// Reads on to the end of a line without keeping it.
    fn skip(&mut self) -> io::Result<Line<'_>> {
        let at = self.offset + self.start as u64;
        let mut len = 0;
        loop {
            let found = memchr(b'\n', &self.buffer[self.start..self.end]);
            let taken = found.unwrap_or(self.end - self.start);
            len += taken as u64;
            self.start += taken + usize::from(found.is_some());
            if found.is_some() || self.is_done {
                return Ok(Line::TooLong(len, at));
            }
            self.fill()?;
        }
    }

    /// The next `len` bytes, which may be fewer at the end of the file; none if they are longer than allowed and so were
    /// passed over.
    pub(super) fn bytes(&mut self, len: u64) -> io::Result<Option<&[u8]>> {
        if len > self.max_bytes as u64 {
            let mut left = len;
            while left > 0 {
                let taken = ((self.end - self.start) as u64).min(left);
                self.start += taken as usize;
                left -= taken;
                if left > 0 && self.is_done {
                    break;
                }
                if left > 0 {
                    self.fill()?;
                }
            }
            return Ok(None);
        }
        while self.end - self.start < len as usize && !self.is_done {
            self.fill()?;
        }
        let bytes = self.start..(self.start + len as usize).min(self.end);
        self.start = bytes.end;
        Ok(Some(&self.buffer[bytes]))
    }

    /// All that is left, or its length if that is more than allowed.
    pub(super) fn rest(&mut self) -> io::Result<Result<&[u8], u64>> {
        while !self.is_done && self.end - self.start <= self.max_bytes {
            self.fill()?;
        }
        let mut len = (self.end - self.start) as u64;
        if len <= self.max_bytes as u64 {
            return Ok(Ok(&self.buffer[self.start..self.end]));
        }
        while !self.is_done {
            self.start = self.end;
            self.fill()?;
            len += (self.end - self.start) as u64;
        }
        Ok(Err(len))
    }

    /// Where what comes next starts in what is decompressed.
    pub(super) fn offset(&self) -> u64 {
        self.offset + self.start as u64
    }

    /// Makes room and reads once.
    fn fill(&mut self) -> io::Result<()> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.offset += self.start as u64;
        self.end -= self.start;
        self.start = 0;
        if self.end + CHUNK_BYTES > self.buffer.len() {
            self.buffer.resize((self.buffer.len() * 2).max(self.end + CHUNK_BYTES), 0);
        }
        let count = self.input.read(&mut self.buffer[self.end..])?;
        self.end += count;
        self.is_done = count == 0;
        Ok(())
    }
}
