//! One number for what many pieces of memory hold.

use rayon::prelude::*;
use xxhash_rust::xxh3::xxh3_128;

/// Bytes that one thread hashes at a time.
const PIECE: usize = 1 << 22;

/// A hash of the bytes of all parts, of their lengths and of their order; the same for any number of threads.
pub fn checksum(parts: &[&[u8]]) -> u128 {
    let pieces: Vec<&[u8]> = parts.iter().flat_map(|part| part.chunks(PIECE)).collect();
    let hashes: Vec<u8> = pieces.par_iter().flat_map_iter(|piece| xxh3_128(piece).to_le_bytes()).collect();
    let lengths = parts.iter().flat_map(|part| (part.len() as u64).to_le_bytes());
    xxh3_128(&hashes.into_iter().chain(lengths).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_a_place_and_a_length_count() {
        let long: Vec<u8> = (0..PIECE * 2 + 5).map(|i| ((i * 7) >> 3) as u8).collect();
        let mut changed = long.clone();
        changed[PIECE + 3] ^= 1;
        let all: [&[&[u8]]; 6] =
            [&[&long], &[&changed], &[&long, b"a"], &[b"a", &long], &[&long[..9], &long[9..]], &[]];
        for (i, parts) in all.iter().enumerate() {
            for (j, others) in all.iter().enumerate() {
                assert_eq!(checksum(parts) == checksum(others), i == j);
            }
        }
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(pool.install(|| checksum(&[&long])), checksum(&[&long]));
    }
}
