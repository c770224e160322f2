//! Near duplicates: signatures, bands, then exact comparison.
//!
//! 1. Each text gets a signature of its shingles. Texts with the same shingles are one from here on.
//! 2. Two texts are candidates if their signatures are equal in all rows of a band. Candidates whose signatures are
//!    similar as a whole are compared exactly; they are linked if their similarity reaches the threshold.
//! 3. Texts are taken in the order of [`Keep`]. Each is kept unless it is linked to one that was kept before.
//!
//! So a dropped text always has a kept one at or above the threshold, compared exactly: chains of texts that are
//! each similar to the next do not pull in the unlike. All that counts is the set of links and the order of
//! [`Keep`], so the result is the same for any number of threads, and with [`Keep::Longest`] and [`Keep::Best`]
//! for any order of the texts. Pairs at similarity `s` are found with the probability [`Bands::probability`].

use std::cmp::Ordering;

use rayon::prelude::*;
use rustc_hash::{FxHashMap, FxHashSet};

use super::bands::Bands;
use super::compare::Comparer;
use super::shingle::{Shingler, Unit};
use super::signatures::{Groups, Signatures};
use super::sketch::{MAX_HASHES, agreement};
use super::union_find::UnionFind;
use crate::{Error, Monitor, Result};

/// How near duplicates are found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NearOptions {
    /// Smallest Jaccard similarity of duplicates.
    pub threshold: f64,
    /// What is compared.
    pub shingler: Shingler,
    /// Which pairs are looked at.
    pub bands: Bands,
    /// Whether candidates are compared exactly; else the share of equal signature entries decides.
    pub is_exact: bool,
}

impl Default for NearOptions {
    fn default() -> Self {
        Self {
            threshold: 0.8,
            shingler: Shingler { unit: Unit::Words, ngram: 5, seed: 0 },
            bands: Bands { bands: 16, rows: 8 },
            is_exact: true,
        }
    }
}

impl NearOptions {
    pub(super) fn check(&self) -> Result<()> {
        if !(self.threshold > 0.0 && self.threshold <= 1.0) {
            return Err(Error::value(format!("threshold must be in (0, 1], got {}", self.threshold)));
        }
        let Bands { bands, rows } = self.bands;
        for (name, value, most) in [
            ("ngram", self.shingler.ngram, 1 << 10),
            ("bands", bands, MAX_HASHES),
            ("rows", rows, MAX_HASHES),
        ] {
            if value == 0 || value > most {
                return Err(Error::value(format!("{name} must be in 1..={most}, got {value}")));
            }
        }
        if bands * rows > MAX_HASHES {
            return Err(Error::value(format!(
                "{bands} bands of {rows} rows are more than {MAX_HASHES} hashes"
            )));
        }
        Ok(())
    }

    /// Agreement of two signatures below which a pair is not compared: four standard errors under the threshold,
    /// where 3 in 100,000 pairs of exactly that similarity fall.
    fn least_agreement(&self) -> f64 {
        if !self.is_exact {
            return self.threshold;
        }
        let variance = self.threshold * (1.0 - self.threshold) / self.bands.num_hashes() as f64;
        self.threshold - 4.0 * variance.sqrt()
    }
}

/// Which of several duplicates is kept.
#[derive(Debug, Clone, Copy)]
pub enum Keep<'a> {
    /// The one that comes first.
    First,
    /// The one of most bytes; of several, the smallest text.
    Longest,
    /// The one with the greatest score; of several, the smallest text.
    Best(&'a [f64]),
}

impl Keep<'_> {
    pub(super) fn check(&self, num_texts: usize) -> Result<()> {
        match self {
            Self::Best(scores) if scores.len() != num_texts => {
                Err(Error::value(format!("{} scores for {num_texts} texts", scores.len())))
            }
            Self::Best(scores) if scores.iter().any(|score| score.is_nan()) => {
                Err(Error::value("a score is not a number"))
            }
            _ => Ok(()),
        }
    }

    /// Whether text `a` is preferred to text `b`.
    pub(super) fn order<T: AsRef<str>>(&self, texts: &[T], a: u32, b: u32) -> Ordering {
        let text = |at: u32| texts[at as usize].as_ref();
        let by_text = || text(a).cmp(text(b));
        let order = match self {
            Self::First => Ordering::Equal,
            Self::Longest => text(b).len().cmp(&text(a).len()).then_with(by_text),
            Self::Best(scores) => scores[b as usize].total_cmp(&scores[a as usize]).then_with(by_text),
        };
        order.then(a.cmp(&b))
    }
}

/// What [`near_duplicates`] finds.
#[derive(Debug, PartialEq, Eq)]
pub struct Duplicates {
    /// For each text the place of the kept one that it duplicates, or its own if it is kept.
    pub kept: Vec<usize>,
    /// For each text the first place of its cluster: all texts that links connect, also over others.
    pub cluster: Vec<usize>,
}

/// Finds the texts to keep. The monitor counts bytes of text while they are signed.
///
/// # Errors
/// [`Error::Value`] if an option is out of range or there are 2^32 texts or more, [`Error::Interrupted`] if the
/// monitor is cancelled.
pub fn near_duplicates<T: AsRef<str> + Sync>(
    texts: &[T],
    options: &NearOptions,
    keep: Keep<'_>,
    monitor: &Monitor,
) -> Result<Duplicates> {
    options.check()?;
    let count =
        u32::try_from(texts.len()).map_err(|_| Error::value("at most 2^32 - 1 texts can be compared"))?;
    let signatures = Signatures::of(texts, options.shingler, options.bands, monitor)?;
    let among: Vec<u32> = (0..count).collect();
    near_duplicates_among(texts, &signatures, &among, options, keep, monitor)
}

/// [`near_duplicates`] among some of the texts, given by their places in increasing order, from signatures that were made
/// before with the same options. The others stand for themselves. The monitor is asked whether to go on.
///
/// # Errors
/// As [`near_duplicates`], and [`Error::Value`] if signatures are not one for each text.
pub fn near_duplicates_among<T: AsRef<str> + Sync>(
    texts: &[T],
    signatures: &Signatures<'_>,
    among: &[u32],
    options: &NearOptions,
    keep: Keep<'_>,
    monitor: &Monitor,
) -> Result<Duplicates> {
    options.check()?;
    keep.check(texts.len())?;
    let count = signatures.len();
    if count as usize != texts.len() {
        return Err(Error::value(format!("{count} signatures for {} texts", texts.len())));
    }
    let (same, distinct) = distinct_texts(texts, signatures, among, keep);
    let by_band: Vec<Groups> = (0..options.bands.bands)
        .into_par_iter()
        .map(|band| signatures.groups_of_band(band, &distinct))
        .collect();
    let groups = Groups::joined(by_band)?;
    let decisions = decide(texts, signatures, &groups, (0, 1), options, keep, monitor)?;
    Ok(Duplicates::new(&same, &decisions))
}

/// The first of three steps of [`near_duplicates_among`], which may be done by different machines: for each text the
/// preferred one of those with the same shingles, and those that have shingles and stand for themselves.
pub fn distinct_texts<T: AsRef<str>>(
    texts: &[T],
    signatures: &Signatures<'_>,
    among: &[u32],
    keep: Keep<'_>,
) -> (Vec<u32>, Vec<u32>) {
    let same = same_shingles(texts, signatures, among, keep);
    let is_distinct = |&text: &u32| same[text as usize] == text && signatures.sum(text).is_some();
    let distinct = among.iter().copied().filter(is_distinct).collect();
    (same, distinct)
}

/// What was decided about a text that shares a band with another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// The text.
    pub text: u32,
    /// The kept text that it duplicates, or itself.
    pub by: u32,
    /// A text of its cluster.
    pub linked: u32,
}

/// The third step, after the groups of all bands: part `part.0` of `part.1` of the texts that share bands. Texts that bands
/// connect are decided together, so parts are independent.
///
/// # Errors
/// [`Error::Value`] if a group has a text that is not there, [`Error::Interrupted`] if the monitor is cancelled.
pub fn decide<T: AsRef<str> + Sync>(
    texts: &[T],
    signatures: &Signatures<'_>,
    groups: &Groups,
    part: (usize, usize),
    options: &NearOptions,
    keep: Keep<'_>,
    monitor: &Monitor,
) -> Result<Vec<Decision>> {
    let count = signatures.len();
    groups.check(count)?;
    let groups_of = groups.transposed(count);
    let decider = Decider { texts, options, keep, signatures, groups, groups_of: &groups_of };
    let components: Vec<Vec<u32>> =
        components(groups, count).into_iter().skip(part.0).step_by(part.1.max(1)).collect();
    let decided = components
        .par_iter()
        .map_init(Comparer::default, |comparer, component| decider.decide(component, comparer, monitor))
        .collect::<Result<Vec<_>>>()?;
    Ok(decided.concat())
}

impl Duplicates {
    /// What all decisions together say; `same` comes from [`distinct_texts`].
    pub fn new(same: &[u32], decisions: &[Decision]) -> Self {
        let count = same.len() as u32;
        let mut kept: Vec<u32> = (0..count).collect();
        let mut clusters = UnionFind::new(count);
        for decision in decisions {
            kept[decision.text as usize] = decision.by;
            clusters.join(decision.text, decision.linked);
        }
        for text in 0..count {
            clusters.join(text, same[text as usize]);
        }
        Self {
            kept: same.iter().map(|&text| kept[text as usize] as usize).collect(),
            cluster: (0..count).map(|text| clusters.find(text) as usize).collect(),
        }
    }
}

/// For each text the preferred one among those with the same shingles.
fn same_shingles<T: AsRef<str>>(
    texts: &[T],
    signatures: &Signatures<'_>,
    among: &[u32],
    keep: Keep<'_>,
) -> Vec<u32> {
    let mut preferred: FxHashMap<u64, u32> = FxHashMap::default();
    preferred.reserve(among.len());
    for &text in among {
        if let Some(sum) = signatures.sum(text) {
            let best = preferred.entry(sum).or_insert(text);
            if keep.order(texts, text, *best).is_lt() {
                *best = text;
            }
        }
    }
    let mut same: Vec<u32> = (0..signatures.len()).collect();
    for &text in among {
        if let Some(&best) = signatures.sum(text).and_then(|sum| preferred.get(&sum)) {
            same[text as usize] = best;
        }
    }
    same
}

/// The texts of two and more that groups connect, each in increasing order.
fn components(groups: &Groups, count: u32) -> Vec<Vec<u32>> {
    let mut sets = UnionFind::new(count);
    for group in 0..groups.len() {
        groups.get(group).windows(2).for_each(|pair| sets.join(pair[0], pair[1]));
    }
    let mut members: Vec<(u32, u32)> = Vec::new();
    for text in 0..count {
        let root = sets.find(text);
        if root != text {
            members.push((root, text));
        }
    }
    members.sort_unstable();
    let component =
        |of: &[(u32, u32)]| std::iter::once(of[0].0).chain(of.iter().map(|&(_, text)| text)).collect();
    members.chunk_by(|a, b| a.0 == b.0).map(component).collect()
}

/// Everything that is the same for all components.
struct Decider<'a, T> {
    texts: &'a [T],
    options: &'a NearOptions,
    keep: Keep<'a>,
    signatures: &'a Signatures<'a>,
    groups: &'a Groups,
    groups_of: &'a Groups,
}

/// A text of a component.
struct Member {
    /// Its place in the order of [`Keep`].
    rank: u32,
    /// The kept text that it duplicates.
    kept_by: Option<u32>,
    /// The rank of the last text that it was looked at for.
    looked_at: u32,
}

impl<T: AsRef<str>> Decider<'_, T> {
    /// What becomes of the texts of one component.
    fn decide(&self, component: &[u32], comparer: &mut Comparer, monitor: &Monitor) -> Result<Vec<Decision>> {
        let mut order: Vec<u32> = (0..component.len() as u32).collect();
        let text_of = |member: u32| component[member as usize];
        order.sort_unstable_by(|&a, &b| self.keep.order(self.texts, text_of(a), text_of(b)));
        let unseen = |_| Member { rank: 0, kept_by: None, looked_at: u32::MAX };
        let mut members: Vec<Member> = component.iter().map(unseen).collect();
        for (rank, &member) in order.iter().enumerate() {
            members[member as usize].rank = rank as u32;
        }
        let mut linked = UnionFind::new(component.len() as u32);
        // Groups without anything left to find: large ones of similar texts are done after the first.
        let mut settled = FxHashSet::default();
        for (rank, &member) in order.iter().enumerate() {
            monitor.advance(0)?;
            let rank = rank as u32;
            let (text, is_kept) = (text_of(member), members[member as usize].kept_by.is_none());
            let mut is_set = false;
            for &group in self.groups_of.get(text as usize) {
                if settled.contains(&group) {
                    continue;
                }
                let mut is_settled = true;
                for &other_text in self.groups.get(group as usize) {
                    let Ok(other) = component.binary_search(&other_text) else { continue };
                    let other_member = &mut members[other];
                    if other_member.rank <= rank {
                        continue;
                    }
                    let mut is_linked = linked.find(member) == linked.find(other as u32);
                    let may_drop = is_kept && other_member.kept_by.is_none();
                    if other_member.looked_at != rank && (may_drop || !is_linked) {
                        other_member.looked_at = rank;
                        if self.is_similar(text, other_text, comparer, &mut is_set) {
                            linked.join(member, other as u32);
                            is_linked = true;
                            if may_drop {
                                other_member.kept_by = Some(text);
                            }
                        }
                    }
                    is_settled &= is_linked && other_member.kept_by.is_some();
                }
                if is_settled {
                    settled.insert(group);
                }
            }
        }
        let decided = component.iter().zip(&members).enumerate();
        Ok(decided
            .map(|(i, (&text, member))| {
                let linked = text_of(linked.find(i as u32));
                Decision { text, by: member.kept_by.unwrap_or(text), linked }
            })
            .collect())
    }

    /// Whether two candidates are similar enough. `is_set` says whether the comparer holds `text`.
    fn is_similar(&self, text: u32, other: u32, comparer: &mut Comparer, is_set: &mut bool) -> bool {
        let agreement = agreement(self.signatures.get(text), self.signatures.get(other));
        if agreement < self.options.least_agreement() {
            return false;
        }
        if !self.options.is_exact {
            return true;
        }
        if !*is_set {
            comparer.set(self.texts[text as usize].as_ref(), self.options.shingler);
            *is_set = true;
        }
        comparer.similarity(self.texts[other as usize].as_ref(), self.options.shingler)
            >= self.options.threshold
    }
}

#[cfg(test)]
mod tests;
