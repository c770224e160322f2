//! The signatures of many texts, and the groups of texts that agree in a band.

use std::borrow::Cow;

use rayon::prelude::*;

use super::bands::Bands;
use super::shingle::{Shingler, Shingles};
use super::sketch::Sketcher;
use crate::text::mix;
use crate::unique::drop_unique;
use crate::{Error, Monitor, Result};

/// The signatures of all texts, in parts that follow one another.
#[derive(Debug)]
pub struct Signatures<'a> {
    bands: Bands,
    parts: Vec<Part<'a>>,
    /// The first text of each part, then the number of texts.
    starts: Vec<u32>,
}

/// The signatures of some texts.
#[derive(Debug)]
struct Part<'a> {
    values: Cow<'a, [u16]>,
    /// The sum of each text's shingles; zero if it has none. Texts of equal shingles have equal sums, and others
    /// differ but for one pair in 2^64.
    sums: Cow<'a, [u64]>,
}

impl<'a> Signatures<'a> {
    /// The monitor counts bytes of text.
    pub(super) fn of<T: AsRef<str> + Sync>(
        texts: &[T],
        shingler: Shingler,
        bands: Bands,
        monitor: &Monitor,
    ) -> Result<Self> {
        let sketcher = Sketcher::new(bands.num_hashes(), shingler.seed);
        let (mut values, mut sums) = (vec![0; texts.len() * bands.num_hashes()], vec![0; texts.len()]);
        let rows = values.par_chunks_mut(bands.num_hashes()).zip(&mut sums);
        rows.zip(texts).try_for_each_init(
            || (Shingles::default(), Vec::new()),
            |(shingles, minima), ((signature, sum), text)| {
                let shingles = shingles.of(text.as_ref(), shingler);
                *sum = sum_of(shingles);
                sketcher.sign(shingles, minima, signature);
                monitor.advance(text.as_ref().len() as u64)
            },
        )?;
        Self::from_parts(bands, [(Cow::Owned(values), Cow::Owned(sums))])
    }

    /// Signatures that were made before: the entries of each part's texts, and the sums of their shingles.
    ///
    /// # Errors
    /// [`Error::Value`] if a part has not one signature for each sum, or there are 2^32 texts or more.
    pub fn from_parts(
        bands: Bands,
        parts: impl IntoIterator<Item = (Cow<'a, [u16]>, Cow<'a, [u64]>)>,
    ) -> Result<Self> {
        let mut signatures = Self { bands, parts: Vec::new(), starts: vec![0] };
        let mut end = 0u32;
        for (values, sums) in parts {
            if values.len() != sums.len() * bands.num_hashes() {
                let message = format!("{} entries for {} signatures", values.len(), sums.len());
                return Err(Error::value(format!("{message} of {}", bands.num_hashes())));
            }
            end = u32::try_from(sums.len())
                .ok()
                .and_then(|len| end.checked_add(len))
                .ok_or_else(|| Error::value("at most 2^32 - 1 texts can be compared"))?;
            signatures.starts.push(end);
            signatures.parts.push(Part { values, sums });
        }
        Ok(signatures)
    }

    /// Number of texts.
    pub fn len(&self) -> u32 {
        self.starts[self.parts.len()]
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn get(&self, text: u32) -> &[u16] {
        let (part, at) = self.place(text);
        &part.values[at * self.bands.num_hashes()..][..self.bands.num_hashes()]
    }

    fn place(&self, text: u32) -> (&Part<'a>, usize) {
        let part = match self.parts.len() {
            1 => 0,
            _ => self.starts.partition_point(|&start| start <= text) - 1,
        };
        (&self.parts[part], (text - self.starts[part]) as usize)
    }

    /// Equal for texts of equal shingles; none for a text without any.
    pub(super) fn sum(&self, text: u32) -> Option<u64> {
        let (part, at) = self.place(text);
        Some(part.sums[at]).filter(|&sum| sum != 0)
    }

    /// The texts of each two or more that agree in a band, in increasing order, among `texts`.
    pub fn groups_of_band(&self, band: usize, texts: &[u32]) -> Groups {
        let key = |text: u32| band_key(band_of(self.get(text), self.bands, band));
        let mut keys: Vec<(u64, u32)> = texts.iter().map(|&text| (key(text), text)).collect();
        drop_unique(&mut keys);
        keys.sort_unstable();
        let mut groups = Groups::default();
        for group in keys.chunk_by(|a, b| a.0 == b.0).filter(|group| group.len() > 1) {
            groups.members.extend(group.iter().map(|&(_, text)| text));
            groups.ends.push(groups.members.len() as u64);
        }
        groups
    }
}

/// What [`Signatures`] know of a text's shingles besides its signature.
pub fn sum_of(shingles: &[u64]) -> u64 {
    shingles.iter().fold(0, |sum, shingle| sum.wrapping_add(*shingle))
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
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Groups {
    members: Vec<u32>,
    ends: Vec<u64>,
}

impl Groups {
    /// The groups that end at these places of the members.
    ///
    /// # Errors
    /// [`Error::Value`] if the places do not increase to the number of members.
    pub fn from_parts(members: Vec<u32>, ends: Vec<u64>) -> Result<Self> {
        if !ends.is_sorted() || ends.last().copied().unwrap_or(0) != members.len() as u64 {
            return Err(Error::value(format!("groups do not end where their {} members do", members.len())));
        }
        Ok(Self { members, ends })
    }

    /// Fails unless all members are below `count`.
    pub(super) fn check(&self, count: u32) -> Result<()> {
        match self.members.iter().find(|&&member| member >= count) {
            None => Ok(()),
            Some(member) => Err(Error::value(format!("a group has text {member} of {count}"))),
        }
    }

    /// Members and ends.
    pub fn into_parts(self) -> (Vec<u32>, Vec<u64>) {
        (self.members, self.ends)
    }

    /// All groups of several bands.
    ///
    /// # Errors
    /// [`Error::Value`] if there are 2^32 or more.
    pub fn joined(parts: impl IntoIterator<Item = Self>) -> Result<Self> {
        let mut all = Self::default();
        for groups in parts {
            let start = all.members.len() as u64;
            all.members.extend(groups.members);
            all.ends.extend(groups.ends.iter().map(|end| start + end));
        }
        match u32::try_from(all.ends.len()) {
            Ok(_) => Ok(all),
            Err(_) => Err(Error::value("at most 2^32 - 1 groups of texts can be compared")),
        }
    }

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
        let mut ends = vec![0u64; count as usize + 1];
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
