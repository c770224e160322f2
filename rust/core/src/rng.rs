//! Counter-based random numbers: bits are a pure function of `(seed, stream, index)`.
//!
//! Nothing is drawn "next": the same question has the same answer for any number of threads,
//! workers and restarts. The generator is Philox4x32-10 (Salmon et al., "Parallel random numbers: as
//! easy as 1, 2, 3", SC 2011), which GPUs compute as cheaply as CPUs.

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const KEY_STEPS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: u32 = 10;

/// 128 random bits for one `(seed, stream, index)`.
pub fn bits(seed: u64, stream: u64, index: u64) -> [u32; 4] {
    philox(
        [index as u32, (index >> 32) as u32, stream as u32, (stream >> 32) as u32],
        [seed as u32, (seed >> 32) as u32],
    )
}

/// A number in `[0, 1)` with 53 random bits.
pub fn uniform(seed: u64, stream: u64, index: u64) -> f64 {
    let word = bits64(seed, stream, index);
    (word >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

/// 64 random bits.
pub fn bits64(seed: u64, stream: u64, index: u64) -> u64 {
    let [low, high, ..] = bits(seed, stream, index);
    u64::from(high) << 32 | u64::from(low)
}

/// A whole number in `0..n`, without modulo bias beyond `n / 2^64`; `n` must be positive.
pub fn below(n: u64, seed: u64, stream: u64, index: u64) -> u64 {
    debug_assert!(n > 0);
    ((u128::from(bits64(seed, stream, index)) * u128::from(n)) >> 64) as u64
}

fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        let a = u64::from(MULTIPLIERS[0]) * u64::from(counter[0]);
        let b = u64::from(MULTIPLIERS[1]) * u64::from(counter[2]);
        counter = [
            (b >> 32) as u32 ^ counter[1] ^ key[0],
            b as u32,
            (a >> 32) as u32 ^ counter[3] ^ key[1],
            a as u32,
        ];
        key = [key[0].wrapping_add(KEY_STEPS[0]), key[1].wrapping_add(KEY_STEPS[1])];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known-answer vectors that Random123 ships for philox4x32-10.
    #[test]
    fn philox_matches_the_published_vectors() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn streams_differ_and_numbers_are_in_range() {
        assert_ne!(bits(1, 0, 7), bits(1, 1, 7));
        let mean = (0..10_000).map(|i| uniform(3, 0, i)).sum::<f64>() / 10_000.0;
        assert!((mean - 0.5).abs() < 0.01, "mean {mean}");
        assert!((0..1000).all(|i| below(7, 3, 0, i) < 7));
    }
}
