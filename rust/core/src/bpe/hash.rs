//! One multiply-fold hash for the tables of this module: they hold small keys and need no protection
//! against chosen keys beyond staying bounded or exact.

const SEEDS: [u64; 2] = [0x9E37_79B9_7F4A_7C15, 0xD6E8_FEB8_6659_FD93];

/// Hashes two words; all bits of the result are usable.
#[inline]
pub(super) fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a ^ SEEDS[0]) * u128::from(b ^ SEEDS[1]);
    (product as u64) ^ (product >> 64) as u64
}

/// Hashes a byte string.
#[inline]
pub(super) fn bytes(bytes: &[u8]) -> u64 {
    let len = bytes.len();
    let byte = |at: usize| u64::from(bytes[at]);
    // The last word overlaps the one before it, so that no length needs a copy.
    let last = match (bytes.first_chunk::<4>(), bytes.last_chunk::<4>(), bytes.last_chunk::<8>()) {
        (_, _, Some(last)) => u64::from_le_bytes(*last),
        (Some(first), Some(last), _) => {
            u64::from(u32::from_le_bytes(*first)) | u64::from(u32::from_le_bytes(*last)) << 32
        }
        _ if len > 0 => byte(0) | byte(len / 2) << 8 | byte(len - 1) << 16,
        _ => 0,
    };
    let words = bytes[..len.saturating_sub(1) / 8 * 8].as_chunks::<8>().0;
    let hash = words.iter().fold(len as u64, |hash, word| fold(hash, u64::from_le_bytes(*word)));
    fold(hash, last)
}
