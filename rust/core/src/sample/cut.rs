//! Which tokens of a row may be drawn.
//!
//! The cuts come in this order, each on what the one before left: top-n-sigma, top-k, top-p, min-p, typical-p. All but
//! the last leave the first tokens in the order of (logit descending, id ascending), so together they are one
//! [`Limit`]. The token at a limit is found by its count or mass: a histogram gives its bin, and only the tokens of
//! that bin are looked at one by one.

use super::mass::{Scale, ordered, share};
use super::passes::{self, Histogram, Level, Limit};
use super::select::{self, Member, key, reach};
use super::settings::Settings;

/// A row with what the passes need to know about it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line<'a> {
    pub(super) level: Level,
    pub(super) row: &'a [f32],
    pub(super) maxima: &'a [f32],
    pub(super) scale: Scale,
}

/// Memory that rows reuse.
#[derive(Debug, Default)]
pub(super) struct Cut {
    histogram: Histogram,
    members: Vec<Member>,
    largest: Vec<u32>,
    /// The most typical tokens with their masses, by id, if `typical_p` cut.
    pub(super) typical: Vec<(usize, u64)>,
}

/// What the cuts left.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kept {
    pub(super) limit: Limit,
    /// Whether [`Cut::typical`] holds it.
    pub(super) is_typical: bool,
    /// The mass before all cuts, if it came up.
    pub(super) total: Option<u64>,
}

impl Kept {
    pub(super) fn is_everything(self) -> bool {
        self.limit == Limit::NONE && !self.is_typical
    }
}

impl Cut {
    /// Applies the cuts; `masses` is overwritten.
    pub(super) fn keep(&mut self, line: Line<'_>, settings: &Settings, masses: &mut Vec<u64>) -> Kept {
        let (scale, level) = (line.scale, line.level);
        let mut kept = Kept { limit: Limit::NONE, is_typical: false, total: None };
        if settings.top_n_sigma > 0.0 {
            kept.limit = Limit::logit(passes::sigma_limit(level, line.row, scale.max, settings.top_n_sigma));
        }
        if settings.cuts_to(line.row.len()) {
            kept.limit = kept.limit.tighter(self.first(line, settings.top_k as usize));
        }
        if settings.top_p < 1.0 {
            let top_p = self.top_p(line, settings.top_p, &mut kept, masses);
            kept.limit = kept.limit.tighter(top_p);
        }
        if settings.min_p > 0.0 {
            let least = settings.min_p.log2() as f32;
            kept.limit = kept.limit.tighter(Limit::logit(scale.lowest(|x| scale.level(x) >= least)));
        }
        if settings.typical_p < 1.0 {
            self.typical_p(line, settings.typical_p, kept.limit);
            kept.is_typical = true;
        }
        kept
    }

    /// The limit that leaves `k` tokens, or all that are above -inf; `k` is positive.
    pub(super) fn first(&mut self, line: Line<'_>, k: usize) -> Limit {
        let blocks = line.maxima.len();
        let (low, high, before) = if k <= blocks / 2 {
            // At least k tokens reach the k-th largest of the blocks' maxima.
            self.largest.clear();
            self.largest.extend(line.maxima.iter().map(|&max| !ordered(max)));
            let (_, &mut kth, _) = self.largest.select_nth_unstable(k - 1);
            let low =
                line.maxima.iter().copied().find(|&max| !ordered(max) == kth).unwrap_or(f32::NEG_INFINITY);
            (low, f32::INFINITY, 0)
        } else {
            if passes::count_histogram(line.level, line.row, line.maxima, line.scale, &mut self.histogram)
                <= k as u64
            {
                return Limit::NONE;
            }
            let (bin, before) = self.histogram.reach(k as u64);
            let (low, high) = edges(line.scale, bin);
            (low, high, before)
        };
        let low = if low > f32::NEG_INFINITY { low } else { f32::MIN };
        let rest = k - before as usize;
        self.members.clear();
        let mut ties = 0;
        passes::each_between(line.level, line.row, line.maxima, low, high, |x, id| {
            // Of those at the lowest logit no more than the first can be among the k.
            ties += usize::from(x <= low);
            if x > low || ties <= rest {
                self.members.push(Member { key: key(ordered(x), id), weight: 1 });
            }
        });
        if self.members.len() < rest {
            return Limit::NONE;
        }
        at(line.row, reach(&mut self.members, rest as u64))
    }

    /// The limit that leaves the share `p` of what `kept.limit` leaves.
    fn top_p(&mut self, line: Line<'_>, p: f64, kept: &mut Kept, masses: &mut Vec<u64>) -> Limit {
        let Line { level, row, maxima, scale } = line;
        let limit = kept.limit;
        let (low, high, target) =
            if maxima.iter().filter(|&&max| max >= limit.logit).count() <= maxima.len() / 8 {
                let total = passes::block_masses(level, row, maxima, scale, limit, masses);
                (limit.logit, f32::INFINITY, share(p, total))
            } else {
                let all = passes::mass_histogram(level, row, maxima, scale, &mut self.histogram);
                kept.total = Some(all);
                let total = if limit == Limit::NONE {
                    all
                } else {
                    passes::block_masses(level, row, maxima, scale, limit, masses)
                };
                let target = share(p, total);
                let (bin, before) = self.histogram.reach(target);
                let (low, high) = edges(scale, bin);
                (low, high, target - before)
            };
        self.members.clear();
        passes::each_between(level, row, maxima, low, high, |x, id| {
            if limit.keeps(x, id) {
                self.members.push(Member { key: key(ordered(x), id), weight: scale.mass(x) });
            }
        });
        at(row, reach(&mut self.members, target))
    }

    /// Fills in the tokens whose level is nearest to its mean, until they hold the share `p`; ties by id. The distance
    /// to the mean level is that of a token's surprisal to the entropy.
    fn typical_p(&mut self, line: Line<'_>, p: f64, limit: Limit) {
        /// Units of a level: sums of whole numbers have no order.
        const UNITS: f32 = 65_536.0;
        let Line { level, row, maxima, scale } = line;
        let (mut total, mut moment) = (0u64, 0u128);
        self.typical.clear();
        passes::each_between(
            level,
            row,
            maxima,
            limit.logit.max(scale.lowest_with_mass()),
            f32::INFINITY,
            |x, id| {
                let mass = scale.mass(x);
                if mass > 0 && limit.keeps(x, id) {
                    total += mass;
                    moment += u128::from(mass) * u128::from((-scale.level(x) * UNITS) as u32);
                    self.typical.push((id, mass));
                }
            },
        );
        let mean = (moment / u128::from(total.max(1))) as f32 / -UNITS;
        let distance = |id: usize| u32::MAX - (scale.level(row[id]) - mean).abs().to_bits();
        self.members.clear();
        self.members
            .extend(self.typical.iter().map(|&(id, weight)| Member { key: key(distance(id), id), weight }));
        let last = reach(&mut self.members, share(p, total));
        self.typical.retain(|&(id, _)| key(distance(id), id) >= last);
    }
}

/// The logits of a bin: from the first up to below the second.
fn edges(scale: Scale, bin: u32) -> (f32, f32) {
    let low = scale.lowest(|x| scale.bin(x) <= bin);
    let high = if bin == 0 { f32::INFINITY } else { scale.lowest(|x| scale.bin(x) < bin) };
    (low, high)
}

fn at(row: &[f32], key: u64) -> Limit {
    let id = select::id(key);
    row.get(id).map_or(Limit::NONE, |&logit| Limit { logit, id })
}
