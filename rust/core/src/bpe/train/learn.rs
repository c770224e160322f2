//! The fast learner of merges; it gives what `reference::Learner` gives.
//!
//! Every token is made by one pair only. Tokens only grow, so while a string turns into one token nothing
//! reaches across its ends, and the merges inside it are the same wherever it stands. A merged pair therefore
//! never comes back, and the count of a pair only falls after the step in which it appears. Hence:
//!
//! - A merge visits the places of its pair, not the words they are in, and sums what changes over the distinct
//!   neighbours before it touches the table of pairs.
//! - Only *followed* pairs are in that table and have a list of places: those that occurred at least
//!   `threshold` times when they appeared. Of the others, which are most, only that first count is noted, and
//!   not even that if it is below the least frequency. When the best pair falls below the threshold, the
//!   threshold falls and more pairs are followed.
//! - The queue is lazy: it is enough to correct the count of the entry on top.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

use rustc_hash::{FxHashMap, FxHashSet};

use super::super::merges::Merge;
use super::words::{BOUNDARY, Counts, Words};

type Pair = (u32, u32);

/// By how much the threshold falls: a higher factor follows more pairs than needed, a lower one looks more
/// often for those to follow. The result does not depend on it.
const THRESHOLD_FACTOR: u64 = 8;

#[derive(Debug)]
pub(super) struct Learner {
    pub(super) tokens: Vec<Box<[u8]>>,
    pub(super) merges: Vec<Merge>,
    lens: Vec<u32>,
    limits: Limits,
    /// Tokens at the start that no word has and learning may make.
    unmade: FxHashMap<Box<[u8]>, u32>,
    /// Names of special tokens, which no merge may make.
    names: FxHashSet<Box<[u8]>>,
    words: Words,
    /// Counts of the followed pairs.
    pairs: FxHashMap<Pair, u64>,
    queue: BinaryHeap<Candidate>,
    /// Places of the pairs in the queue, each list ascending within a word.
    places: Vec<Box<[u32]>>,
    /// Pairs that occur less often when they appear are not followed.
    threshold: u64,
    /// The merges that made pairs which are not followed.
    steps: Vec<Step>,
    beside: [Neighbours; 2],
}

/// Which pairs may be merged.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Pairs that occur less often are not merged; at least 1.
    pub(super) min_frequency: u64,
    /// No longer token is made, in bytes.
    pub(super) max_len: u32,
}

/// A pair that may be merged next: ordered by count, then smaller ids first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    /// At least the true count: counts only fall while a candidate waits.
    count: u64,
    pair: Reverse<Pair>,
    /// Which list has its places.
    list: u32,
}

#[derive(Debug)]
struct Step {
    new: u32,
    /// Where the new token came to be; some of them have been merged since.
    positions: Vec<u32>,
    /// The pairs not followed, by the side on which the other token is.
    rare: [Vec<Rare>; 2],
}

#[derive(Debug, Clone, Copy)]
struct Rare {
    other: u32,
    /// How often the pair occurred when it appeared.
    count: u32,
}

/// The sides of a merged pair.
const LEFT: usize = 0;
const RIGHT: usize = 1;

/// Sums over the distinct tokens on one side of a pair while it is merged.
#[derive(Debug, Default)]
struct Neighbours {
    /// By token; all zero between steps.
    sums: Vec<Sum>,
    /// The tokens with a sum.
    touched: Vec<u32>,
    /// Each neighbour with the place of its pair with the new token.
    places: Vec<(u32, u32)>,
}

#[derive(Debug, Clone, Copy)]
struct Sum {
    weight: u64,
    num_places: u32,
    /// Which list collects the places.
    list: u32,
}

const NO_LIST: u32 = u32::MAX;
const ZERO: Sum = Sum { weight: 0, num_places: 0, list: NO_LIST };

impl Neighbours {
    #[inline]
    fn add(&mut self, token: u32, place: u32, weight: u64) {
        let sum = &mut self.sums[token as usize];
        if sum.num_places == 0 {
            self.touched.push(token);
        }
        sum.weight += weight;
        sum.num_places += 1;
        self.places.push((token, place));
    }

    fn clear(&mut self) {
        for &token in &self.touched {
            self.sums[token as usize] = ZERO;
        }
        self.touched.clear();
        self.places.clear();
    }
}

impl Learner {
    /// Starts from words over `tokens`, of which `unmade` are in no word.
    pub(super) fn new(
        words: Words,
        tokens: Vec<Box<[u8]>>,
        limits: Limits,
        unmade: FxHashMap<Box<[u8]>, u32>,
        names: &[String],
    ) -> Self {
        let mut learner = Self {
            lens: tokens.iter().map(|token| token.len() as u32).collect(),
            tokens,
            merges: Vec::new(),
            limits,
            unmade,
            names: names.iter().map(|name| name.as_bytes().into()).collect(),
            words,
            pairs: FxHashMap::default(),
            queue: BinaryHeap::new(),
            places: Vec::new(),
            threshold: 1,
            steps: Vec::new(),
            beside: Default::default(),
        };
        learner.follow_all();
        learner
    }

    /// Merges the best pair; false if none is frequent enough.
    pub(super) fn step(&mut self) -> bool {
        let (pair, list, bytes) = loop {
            let Some(Candidate { pair: Reverse(pair), list, .. }) = self.best() else {
                return false;
            };
            self.pairs.remove(&pair);
            let bytes = [&*self.tokens[pair.0 as usize], &*self.tokens[pair.1 as usize]].concat();
            if !self.names.contains(bytes.as_slice()) {
                break (pair, list, bytes.into_boxed_slice());
            }
        };
        let new = self.unmade.remove(&bytes).unwrap_or(self.tokens.len() as u32);
        if new as usize == self.tokens.len() {
            self.lens.push(bytes.len() as u32);
            self.tokens.push(bytes);
        }
        self.merges.push(Merge { left: pair.0, right: pair.1, new });
        let mut positions = std::mem::take(&mut self.places[list as usize]).into_vec();
        self.replace(&mut positions, pair, new);
        let rare = self.settle(pair, new);
        if rare.iter().any(|rare| !rare.is_empty()) {
            positions.shrink_to_fit();
            self.steps.push(Step { new, positions, rare });
        }
        true
    }

    /// Takes the best candidate from the queue.
    fn best(&mut self) -> Option<Candidate> {
        loop {
            if self.queue.peek().is_none_or(|top| top.count < self.threshold) {
                if self.threshold == self.limits.min_frequency {
                    return None;
                }
                self.lower_threshold();
                continue;
            }
            let mut top = self.queue.peek_mut()?;
            let count = self.pairs.get(&top.pair.0).copied().unwrap_or_default();
            if top.count == count {
                return Some(PeekMut::pop(top));
            }
            top.count = count;
        }
    }

    /// Merges the pair where it still is, keeps those positions, and sums what is beside them.
    fn replace(&mut self, positions: &mut Vec<u32>, (left, right): Pair, new: u32) {
        let [before, after] = &mut self.beside;
        before.sums.resize(self.tokens.len(), ZERO);
        after.sums.resize(self.tokens.len(), ZERO);
        let (left_len, len) = (self.lens[left as usize], self.lens[new as usize]);
        let mut counts = Counts::default();
        retain(positions, |position, soon| {
            self.words.prefetch(soon, len);
            let second = position + left_len;
            if self.words.at(position) != left || self.words.at(second) != right {
                return false;
            }
            let count = self.words.count(position, &mut counts);
            let end = position + len;
            self.words.join(position, second, end, new);
            let (previous, next) = (self.words.before(position), self.words.at(end));
            if previous != BOUNDARY {
                before.add(previous, position - self.lens[previous as usize], count);
            }
            if next != BOUNDARY {
                after.add(next, position, count);
            }
            true
        });
    }

    /// Brings the counts up to date after a merge and queues the pairs it made; returns those not followed.
    fn settle(&mut self, (left, right): Pair, new: u32) -> [Vec<Rare>; 2] {
        let [mut before, mut after] = std::mem::take(&mut self.beside);
        for &token in &before.touched {
            self.lose((token, left), before.sums[token as usize].weight);
        }
        for &token in &after.touched {
            self.lose((right, token), after.sums[token as usize].weight);
        }
        // In a run of the pair the new token is followed by a left half that is merged next: such a pair
        // came and went within this step.
        let runs = before.sums[new as usize].weight;
        after.sums[left as usize].weight -= runs;
        let rare = [
            self.meet(&mut before, new, |other| (other, new)),
            self.meet(&mut after, new, |other| (new, other)),
        ];
        self.beside = [before, after];
        rare
    }

    /// Follows or notes the pairs of the new token with the neighbours on one side.
    fn meet(&mut self, beside: &mut Neighbours, new: u32, pair: impl Fn(u32) -> Pair) -> Vec<Rare> {
        let mut rare = Vec::new();
        let first_list = self.places.len();
        let mut lists: Vec<Vec<u32>> = Vec::new();
        for &token in &beside.touched {
            let sum = &mut beside.sums[token as usize];
            if sum.weight < self.limits.min_frequency || !self.may_join(token, new) {
                continue;
            }
            if sum.weight < self.threshold
                && let Ok(count) = u32::try_from(sum.weight)
            {
                rare.push(Rare { other: token, count });
                continue;
            }
            sum.list = lists.len() as u32;
            lists.push(Vec::with_capacity(sum.num_places as usize));
            self.pairs.insert(pair(token), sum.weight);
            let list = (first_list + lists.len() - 1) as u32;
            self.queue.push(Candidate { count: sum.weight, pair: Reverse(pair(token)), list });
        }
        if !lists.is_empty() {
            for &(token, place) in &beside.places {
                if let Some(list) = lists.get_mut(beside.sums[token as usize].list as usize) {
                    list.push(place);
                }
            }
            self.places.extend(lists.into_iter().map(Vec::into_boxed_slice));
        }
        beside.clear();
        rare.shrink_to_fit();
        rare
    }

    fn may_join(&self, one: u32, other: u32) -> bool {
        self.lens[one as usize] + self.lens[other as usize] <= self.limits.max_len
    }

    /// Takes places from a pair, if it is followed.
    #[inline]
    fn lose(&mut self, pair: Pair, weight: u64) {
        if let Some(count) = self.pairs.get_mut(&pair) {
            *count -= weight;
        }
    }

    /// Follows all pairs of the words as they are.
    fn follow_all(&mut self) {
        let mut lists_of = PairIndex::new();
        let mut found: Vec<(Pair, u64, usize)> = Vec::new();
        self.words.for_each_pair(&self.lens, |_, left, right, count| {
            if !self.may_join(left, right) {
                return;
            }
            let list = lists_of.entry((left, right));
            if *list == NO_LIST {
                *list = found.len() as u32;
                found.push(((left, right), 0, 0));
            }
            let (_, sum, num_places) = &mut found[*list as usize];
            *sum += count;
            *num_places += 1;
        });
        let mut lists: Vec<_> = found.iter().map(|&(_, _, places)| Vec::with_capacity(places)).collect();
        self.words.for_each_pair(&self.lens, |position, left, right, _| {
            if let Some(list) = lists.get_mut(*lists_of.entry((left, right)) as usize) {
                list.push(position);
            }
        });
        for (pair, count, _) in found {
            self.pairs.insert(pair, count);
            self.queue.push(Candidate { count, pair: Reverse(pair), list: self.queue.len() as u32 });
        }
        self.places = lists.into_iter().map(Vec::into_boxed_slice).collect();
        // The pairs of bytes are followed in any case, and of the others few have counts near those.
        let most = self.queue.peek().map_or(1, |top| top.count);
        self.threshold = (most / THRESHOLD_FACTOR.pow(4)).max(self.limits.min_frequency);
    }

    fn lower_threshold(&mut self) {
        self.threshold = (self.threshold / THRESHOLD_FACTOR).max(self.limits.min_frequency);
        let mut steps = std::mem::take(&mut self.steps);
        for step in &mut steps {
            self.follow(step);
        }
        steps.retain(|step| step.rare.iter().any(|rare| !rare.is_empty()));
        self.steps = steps;
    }

    /// Follows the pairs noted by a step that reach the threshold now.
    ///
    /// A pair never gains places after it appeared, so all it has are where the step made its token.
    fn follow(&mut self, Step { new, positions, rare }: &mut Step) {
        let (new, threshold) = (*new, self.threshold);
        let mut lists: Vec<(Pair, u64, Vec<u32>)> = Vec::new();
        for (side, rare) in rare.iter_mut().enumerate() {
            let sums = &mut self.beside[side].sums;
            rare.retain(|&Rare { other, count }| {
                let is_followed = u64::from(count) >= threshold;
                if is_followed {
                    sums[other as usize].list = lists.len() as u32;
                    lists.push((if side == LEFT { (other, new) } else { (new, other) }, 0, Vec::new()));
                }
                !is_followed
            });
            if rare.is_empty() {
                rare.shrink_to_fit();
            }
        }
        if lists.is_empty() {
            return;
        }
        let (len, mut counts) = (self.lens[new as usize], Counts::default());
        let [before, after] = &self.beside;
        retain(positions, |position, soon| {
            self.words.prefetch(soon, len);
            if self.words.at(position) != new {
                return false;
            }
            let mut add = |list: u32, place: u32| {
                if let Some((_, weight, places)) = lists.get_mut(list as usize) {
                    *weight += self.words.count(position, &mut counts);
                    places.push(place);
                }
            };
            let (previous, next) = (self.words.before(position), self.words.at(position + len));
            if previous != BOUNDARY {
                add(before.sums[previous as usize].list, position - self.lens[previous as usize]);
            }
            if next != BOUNDARY {
                add(after.sums[next as usize].list, position);
            }
            true
        });
        for (pair, count, places) in lists {
            let (side, other) = if pair.1 == new { (LEFT, pair.0) } else { (RIGHT, pair.1) };
            self.beside[side].sums[other as usize].list = NO_LIST;
            self.pairs.insert(pair, count);
            self.queue.push(Candidate { count, pair: Reverse(pair), list: self.places.len() as u32 });
            self.places.push(places.into_boxed_slice());
        }
    }
}

/// A list for each pair, by a plain table for the pairs of single bytes, which have the first ids.
struct PairIndex {
    bytes: Vec<u32>,
    others: FxHashMap<Pair, u32>,
}

impl PairIndex {
    fn new() -> Self {
        Self { bytes: vec![NO_LIST; 1 << 16], others: FxHashMap::default() }
    }

    /// [`NO_LIST`] at first.
    #[inline]
    fn entry(&mut self, (left, right): Pair) -> &mut u32 {
        if left < 256 && right < 256 {
            &mut self.bytes[(left << 8 | right) as usize]
        } else {
            self.others.entry((left, right)).or_insert(NO_LIST)
        }
    }
}

/// How many places ahead memory is asked for: enough to cover a read from main memory.
const LOOK_AHEAD: usize = 16;

/// Keeps the places for which `keep(place, a later place)` holds.
fn retain(places: &mut Vec<u32>, mut keep: impl FnMut(u32, u32) -> bool) {
    let mut num_kept = 0;
    for i in 0..places.len() {
        let place = places[i];
        let soon = places.get(i + LOOK_AHEAD).copied().unwrap_or(place);
        places[num_kept] = place;
        num_kept += usize::from(keep(place, soon));
    }
    places.truncate(num_kept);
}
