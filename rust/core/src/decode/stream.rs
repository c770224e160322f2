//! The rate at which threads can read memory, which bounds a step of a decoder.

use super::team::Team;
use crate::lanes::{Level, Plainly};
use crate::pages::{Pages, prefetch_line};
use crate::split::Split;

/// Values that are added side by side: eight vectors.
const AT_ONCE: usize = 64;
/// How far ahead memory is asked for.
const AHEAD: usize = 6 << 10;

/// Memory to read, and the threads that do it.
pub struct Stream {
    values: Pages<u64>,
    team: Team,
    level: Level,
}

impl Stream {
    /// At least `num_bytes`, each page of them written once.
    pub fn new(num_bytes: usize, num_threads: usize) -> Self {
        let team = Team::new(num_threads);
        let mut values = Pages::zeroed(num_bytes.div_ceil(8).next_multiple_of(AT_ONCE * team.size()));
        values.fill(1);
        Self { values, team, level: Level::best() }
    }

    /// How many bytes a reading reads.
    pub fn num_bytes(&self) -> usize {
        self.values.len() * 8
    }

    /// Reads all once, each thread its part from end to end, and gives the sum.
    pub fn read(&mut self) -> u64 {
        let mut sums = vec![0; self.team.size()];
        let (values, level) = (&self.values[..], self.level);
        let (parts, len) = (Split::new(&mut sums), values.len() / self.team.size());
        self.team.run(|member| {
            let own = &values[member.index * len..][..len];
            // SAFETY: each member has its own.
            let sum = unsafe { parts.part(member.index..member.index + 1) };
            level.run(Plainly(|| sum[0] = add(own)));
        });
        sums.iter().sum()
    }
}

#[inline(always)]
fn add(values: &[u64]) -> u64 {
    let mut lanes = [0u64; AT_ONCE];
    for chunk in values.as_chunks::<AT_ONCE>().0 {
        let ahead = chunk.as_ptr().wrapping_byte_add(AHEAD).cast::<u8>();
        for line in 0..AT_ONCE * 8 / 64 {
            prefetch_line(ahead.wrapping_add(64 * line));
        }
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = lane.wrapping_add(value);
        }
    }
    lanes.iter().fold(0, |sum, &lane| sum.wrapping_add(lane))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_read_once() {
        for num_threads in [1, 3] {
            let mut stream = Stream::new(100_000, num_threads);
            assert!(stream.num_bytes() >= 100_000);
            assert_eq!(stream.read(), stream.num_bytes() as u64 / 8);
        }
    }
}
