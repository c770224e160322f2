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
    keep.check(texts.len())?;
    let count =
        u32::try_from(texts.len()).map_err(|_| Error::value("at most 2^32 - 1 texts can be compared"))?;
    let signatures = Signatures::of(texts, options.shingler, options.bands, monitor)?;
    let same = same_shingles(texts, &signatures, keep);
    let distinct: Vec<u32> =
        (0..count).filter(|&text| same[text as usize] == text && signatures.sum(text).is_some()).collect();
    let groups = signatures.groups(&distinct);
    let groups_of = groups.transposed(count);
    let decider =
        Decider { texts, options, keep, signatures: &signatures, groups: &groups, groups_of: &groups_of };
    let decided = components(&groups, count)
        .par_iter()
        .map_init(Comparer::default, |comparer, component| decider.decide(component, comparer, monitor))
        .collect::<Result<Vec<_>>>()?;

    let mut kept: Vec<u32> = (0..count).collect();
    let mut clusters = UnionFind::new(count);
    for (text, by, linked) in decided.into_iter().flatten() {
        kept[text as usize] = by;
        clusters.join(text, linked);
    }
    for text in 0..count {
        clusters.join(text, same[text as usize]);
    }
    Ok(Duplicates {
        kept: same.iter().map(|&text| kept[text as usize] as usize).collect(),
        cluster: (0..count).map(|text| clusters.find(text) as usize).collect(),
    })
}

/// For each text the preferred one among those with the same shingles.
fn same_shingles<T: AsRef<str>>(texts: &[T], signatures: &Signatures, keep: Keep<'_>) -> Vec<u32> {
    let mut preferred: FxHashMap<u64, u32> = FxHashMap::default();
    preferred.reserve(texts.len());
    for text in 0..signatures.len() {
        if let Some(sum) = signatures.sum(text) {
            let best = preferred.entry(sum).or_insert(text);
            if keep.order(texts, text, *best).is_lt() {
                *best = text;
            }
        }
    }
    let of = |text| signatures.sum(text).and_then(|sum| preferred.get(&sum)).map_or(text, |&text| text);
    (0..signatures.len()).map(of).collect()
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
    signatures: &'a Signatures,
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
    /// (text, the kept text for it or itself, a text it is linked to or itself) for the texts of one component.
    fn decide(
        &self,
        component: &[u32],
        comparer: &mut Comparer,
        monitor: &Monitor,
    ) -> Result<Vec<(u32, u32, u32)>> {
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
                (text, member.kept_by.unwrap_or(text), text_of(linked.find(i as u32)))
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
mod tests {
    use super::*;
    use crate::dedup::{jaccard, shingle_set};
    use crate::rng;

    fn found<T: AsRef<str> + Sync>(texts: &[T], options: &NearOptions) -> Vec<usize> {
        near_duplicates(texts, options, Keep::First, &Monitor::default()).unwrap().kept
    }

    /// Texts of random words, each followed by copies with more and more words replaced.
    fn corpus(num_texts: u64, copies: u64) -> Vec<String> {
        let word = |stream: u64, i: u64| format!("w{}", rng::below(5000, 1, stream, i));
        let mut texts = Vec::new();
        for text in 0..num_texts {
            let len = 40 + rng::below(200, 2, 0, text);
            for copy in 0..=copies {
                let changed = |i: u64| rng::uniform(3, text * 100 + copy, i) < 0.02 * copy as f64;
                let words: Vec<_> = (0..len)
                    .map(|i| if changed(i) { word(1 << 40 | text << 8 | copy, i) } else { word(text, i) })
                    .collect();
                texts.push(words.join(" "));
            }
        }
        texts
    }

    /// The definition of the result with every pair compared exactly.
    fn brute_force(texts: &[String], options: &NearOptions) -> Vec<usize> {
        let sets: Vec<Vec<u64>> = texts.iter().map(|text| shingle_set(text, options.shingler)).collect();
        let mut first: Vec<usize> = Vec::new();
        for (i, set) in sets.iter().enumerate() {
            let original = (0..i).find(|&j| first[j] == j && jaccard(set, &sets[j]) >= options.threshold);
            first.push(original.unwrap_or(i));
        }
        first
    }

    #[test]
    fn enough_bands_give_the_brute_force_result() {
        let (texts, options) =
            (corpus(60, 4), NearOptions { bands: Bands { bands: 64, rows: 3 }, ..NearOptions::default() });
        let expected = brute_force(&texts, &options);
        assert_eq!(found(&texts, &options), expected);
        assert!(expected.iter().enumerate().filter(|&(i, &first)| i != first).count() > 50);
    }

    #[test]
    fn one_and_four_threads_agree() {
        let (texts, options) = (corpus(100, 5), NearOptions::default());
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| near_duplicates(&texts, &options, Keep::Longest, &Monitor::default()).unwrap())
        };
        assert_eq!(run(1), run(4));
    }

    #[test]
    fn the_kept_texts_do_not_depend_on_their_order() {
        let (mut texts, options) = (corpus(60, 4), NearOptions::default());
        texts.extend_from_within(10..20);
        let run = |texts: &[String], keep: Keep<'_>| {
            let found = near_duplicates(texts, &options, keep, &Monitor::default()).unwrap();
            let mut kept: Vec<String> = (0..texts.len()).map(|i| texts[found.kept[i]].clone()).collect();
            kept.sort_unstable();
            let mut clusters: Vec<Vec<&str>> = vec![Vec::new(); texts.len()];
            (0..texts.len()).for_each(|i| clusters[found.cluster[i]].push(&texts[i]));
            for cluster in &mut clusters {
                cluster.sort_unstable();
            }
            clusters.sort_unstable();
            (kept, clusters.concat().join("|"))
        };
        let scores = |texts: &[String]| texts.iter().map(|text| (text.len() % 7) as f64).collect::<Vec<_>>();
        let first = [run(&texts, Keep::Longest), run(&texts, Keep::Best(&scores(&texts)))];
        texts.reverse();
        texts.rotate_left(33);
        assert_eq!([run(&texts, Keep::Longest), run(&texts, Keep::Best(&scores(&texts)))], first);
    }

    #[test]
    fn clusters_are_what_links_connect() {
        let (texts, options) =
            (corpus(40, 6), NearOptions { bands: Bands { bands: 64, rows: 3 }, ..NearOptions::default() });
        let sets: Vec<_> = texts.iter().map(|text| shingle_set(text, options.shingler)).collect();
        let mut clusters = UnionFind::new(texts.len() as u32);
        for i in 0..texts.len() {
            (0..i)
                .filter(|&j| jaccard(&sets[i], &sets[j]) >= options.threshold)
                .for_each(|j| clusters.join(i as u32, j as u32));
        }
        let found = near_duplicates(&texts, &options, Keep::Longest, &Monitor::default()).unwrap();
        let expected: Vec<usize> = (0..texts.len() as u32).map(|text| clusters.find(text) as usize).collect();
        assert_eq!(found.cluster, expected);
    }

    #[test]
    fn many_copies_of_one_page_take_linear_time() {
        let page = corpus(1, 0).remove(0);
        let texts: Vec<String> = (0..20_000).map(|i| format!("{page} {page} {page} {i}")).collect();
        let found = found(&texts, &NearOptions::default());
        assert!(found.iter().all(|&kept| kept == 0));
    }

    #[test]
    fn a_chain_keeps_the_texts_that_are_unlike_the_first() {
        let words: Vec<String> = (0..60).map(|i| format!("w{i}")).collect();
        let texts: Vec<String> = (0..6).map(|step| words[step * 4..40 + step * 4 - step].join(" ")).collect();
        let options =
            NearOptions { threshold: 0.7, bands: Bands { bands: 64, rows: 2 }, ..NearOptions::default() };
        let found = found(&texts, &options);
        assert_eq!(found, brute_force(&texts, &options));
        assert!(found.iter().enumerate().filter(|&(i, &first)| i == first).count() > 1);
    }

    #[test]
    fn texts_without_words_are_all_kept() {
        let found = found(&["--", "--", "", "!"], &NearOptions::default());
        assert_eq!(found, [0, 1, 2, 3]);
    }

    #[test]
    fn options_out_of_range_are_refused() {
        let good = NearOptions::default();
        for options in [
            NearOptions { threshold: 0.0, ..good },
            NearOptions { threshold: f64::NAN, ..good },
            NearOptions { shingler: Shingler { ngram: 0, ..good.shingler }, ..good },
            NearOptions { bands: Bands { bands: 0, rows: 8 }, ..good },
            NearOptions { bands: Bands { bands: 100, rows: 100 }, ..good },
        ] {
            assert!(near_duplicates(&[""], &options, Keep::First, &Monitor::default()).is_err());
        }
        for scores in [&[][..], &[f64::NAN]] {
            assert!(near_duplicates(&[""], &good, Keep::Best(scores), &Monitor::default()).is_err());
        }
    }
}
