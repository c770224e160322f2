//! The signatures of many texts, and the groups of texts that agree in a band.

use rayon::prelude::*;

use super::bands::Bands;
use super::shingle::{Shingler, Shingles};
use super::sketch::Sketcher;
use crate::text::mix;
use crate::unique::drop_unique;
use crate::{Monitor, Result};

/// The signatures of all texts, one after the other.
#[derive(Debug)]
pub(super) struct Signatures {
    bands: Bands,
    values: Vec<u16>,
    /// The sum of each text's shingles; zero if it has none. Texts of equal shingles have equal sums, and others
    /// differ but for one pair in 2^64.
    sums: Vec<u64>,
}

impl Signatures {
    /// The monitor counts bytes of text.
    pub(super) fn of<T: AsRef<str> + Sync>(
        texts: &[T],
        shingler: Shingler,
        bands: Bands,
        monitor: &Monitor,
    ) -> Result<Self> {
        let sketcher = Sketcher::new(bands.num_hashes(), shingler.seed);
        let mut signatures =
            Self { bands, values: vec![0; texts.len() * bands.num_hashes()], sums: vec![0; texts.len()] };
        let rows = signatures.values.par_chunks_mut(bands.num_hashes()).zip(&mut signatures.sums);
        rows.zip(texts).try_for_each_init(
            || (Shingles::default(), Vec::new()),
            |(shingles, minima), ((signature, sum), text)| {
                let shingles = shingles.of(text.as_ref(), shingler);
                *sum = shingles.iter().fold(0, |sum, shingle| sum.wrapping_add(*shingle));
                sketcher.sign(shingles, minima, signature);
                monitor.advance(text.as_ref().len() as u64)
            },
        )?;
        Ok(signatures)
    }

    pub(super) fn len(&self) -> u32 {
        self.sums.len() as u32
    }

    pub(super) fn get(&self, text: u32) -> &[u16] {
        &self.values[text as usize * self.bands.num_hashes()..][..self.bands.num_hashes()]
    }

    /// Equal for texts of equal shingles; none for a text without any.
    pub(super) fn sum(&self, text: u32) -> Option<u64> {
        Some(self.sums[text as usize]).filter(|&sum| sum != 0)
    }

    /// The texts of each two or more that agree in a band, in increasing order, among `texts`.
    pub(super) fn groups(&self, texts: &[u32]) -> Groups {
        let by_band: Vec<Groups> =
            (0..self.bands.bands).into_par_iter().map(|band| self.groups_of_band(band, texts)).collect();
        let mut all = Groups::default();
        for groups in by_band {
            let start = all.members.len() as u32;
            all.members.extend(groups.members);
            all.ends.extend(groups.ends.iter().map(|end| start + end));
        }
        all
    }

    fn groups_of_band(&self, band: usize, texts: &[u32]) -> Groups {
        let key = |text: u32| band_key(band_of(self.get(text), self.bands, band));
        let mut keys: Vec<(u64, u32)> = texts.iter().map(|&text| (key(text), text)).collect();
        drop_unique(&mut keys);
        keys.sort_unstable();
        let mut groups = Groups::default();
        for group in keys.chunk_by(|a, b| a.0 == b.0).filter(|group| group.len() > 1) {
            groups.members.extend(group.iter().map(|&(_, text)| text));
            groups.ends.push(groups.members.len() as u32);
        }
        groups
    }
}

/// The entries of a band.
pub(super) fn band_of(signature: &[u16], bands: Bands, band: usize) -> &[u16] {
    &signature[band * bands.rows..][..bands.rows]
}

/// A hash of the entries of a band.
pub(super) fn band_key(rows: &[u16]) -> u64 {
    let four = |rows: &[u16]| rows.iter().fold(0, |four, &row| four << 16 | u64::from(row));
    let step = |key: u64, rows: &[u16]| mix(key ^ four(rows), 0x1405_7b7e_f767_814f);
    rows.chunks(4).fold(0x5851_f42d_4c95_7f2d, step)
}

/// Groups of texts, one after the other.
#[derive(Debug, Default)]
pub(super) struct Groups {
    members: Vec<u32>,
    ends: Vec<u32>,
}

impl Groups {
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The members of a group.
    pub(super) fn get(&self, group: usize) -> &[u32] {
        let start = group.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.members[start as usize..self.ends[group] as usize]
    }

    /// For each of `count` members, the groups it is in.
    pub(super) fn transposed(&self, count: u32) -> Self {
        // Each start is moved on while its member's groups are written, and so becomes the end.
        let mut ends = vec![0; count as usize + 1];
        for &member in &self.members {
            ends[member as usize + 1] += 1;
        }
        for i in 1..ends.len() {
            ends[i] += ends[i - 1];
        }
        let mut members = vec![0; self.members.len()];
        for group in 0..self.len() {
            for &member in self.get(group) {
                members[ends[member as usize] as usize] = group as u32;
                ends[member as usize] += 1;
            }
        }
        ends.pop();
        Self { members, ends }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng;

    #[test]
    fn transposed_groups_name_the_groups_of_each_member() {
        let groups = Groups { members: vec![0, 3, 1, 3, 4], ends: vec![2, 5] };
        let transposed = groups.transposed(6);
        let of: Vec<&[u32]> = (0..6).map(|member| transposed.get(member)).collect();
        assert_eq!(of, [&[0][..], &[1], &[], &[0, 1], &[1], &[]]);
    }

    #[test]
    fn unique_keys_are_few_after_dropping_and_others_stay() {
        let mut keys: Vec<(u64, u32)> = (0..1000).map(|i| (rng::bits64(0, 0, i % 900), i as u32)).collect();
        drop_unique(&mut keys);
        assert!(keys.len() < 400, "{}", keys.len());
        assert_eq!(keys.iter().filter(|(_, i)| *i < 100 || *i >= 900).count(), 200);
    }
}
