//! Finding the few hashes that occur more than once among many.

/// Drops most of the hashes that occur once, so that few are left to sort: those alone in their slot of a table.
pub(crate) fn drop_unique<T>(hashes: &mut Vec<(u64, T)>) {
    let bits = (hashes.len() * 8).next_power_of_two().max(64);
    let slot = |hash: u64| ((hash >> 32) as usize) & (bits - 1);
    let (mut once, mut twice) = (vec![0u64; bits / 64], vec![0u64; bits / 64]);
    for (hash, _) in &*hashes {
        let (word, bit) = (slot(*hash) / 64, 1 << (slot(*hash) % 64));
        twice[word] |= once[word] & bit;
        once[word] |= bit;
    }
    hashes.retain(|(hash, _)| twice[slot(*hash) / 64] >> (slot(*hash) % 64) & 1 == 1);
}
