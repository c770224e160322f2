//! One row, from logits to a token.

use super::cut::{Cut, Kept, Line};
use super::history::History;
use super::mass::{ordered, point};
use super::passes::{self, BLOCK, Level, Limit};
use super::read::{Bad, Query, Reader};
use super::settings::Settings;
use super::{Logps, Wanted};

/// What is left of a probability of 1, in whole numbers: sums of those have no order.
const RESIDUAL_UNITS: f64 = (1u64 << 52) as f64;

/// The token of a row.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Drawn {
    pub(super) id: u32,
    /// Of the wanted kind; NaN if none is.
    pub(super) logp: f32,
    /// Among the tokens that were kept.
    pub(super) kept_logp: f32,
    /// The wanted number of likeliest tokens, as far as there are so many.
    pub(super) top: Vec<(u32, f32)>,
}

/// What a draft drew, from which distribution, and a uniform number that decides.
#[derive(Debug, Clone, Copy)]
pub(super) struct Proposal<'a> {
    pub(super) id: usize,
    pub(super) probs: &'a [f32],
    pub(super) chance: f64,
}

/// Memory that rows reuse.
#[derive(Debug)]
pub(super) struct Scratch {
    processed: Reader,
    raw: Reader,
    masses: Vec<u64>,
    cut: Cut,
}

impl Default for Scratch {
    fn default() -> Self {
        Self::with(Level::widest())
    }
}

impl Scratch {
    pub(super) fn with(level: Level) -> Self {
        Self {
            processed: Reader::new(level),
            raw: Reader::new(level),
            masses: Vec::new(),
            cut: Cut::default(),
        }
    }

    /// Draws with 64 random bits, which temperature 0 does not need.
    pub(super) fn draw(&mut self, query: Query<'_>, wanted: Wanted, bits: u64) -> Result<Drawn, Bad> {
        self.draw_by(query, wanted, |line, cut, kept, masses| Ok(choose(line, cut, kept, masses, bits)))
    }

    /// Draws the token that was proposed if chance accepts it, and another one if not, so that over all proposals
    /// tokens come as [`Scratch::draw`] draws them (Leviathan et al., 2023).
    pub(super) fn draw_against(
        &mut self,
        query: Query<'_>,
        wanted: Wanted,
        proposal: Proposal<'_>,
        bits: u64,
    ) -> Result<Drawn, Bad> {
        let Proposal { id: proposed, probs, chance } = proposal;
        let q = f64::from(probs[proposed]);
        if !(q > 0.0 && q <= f64::MAX) {
            return Err(format!("draft token {proposed} has the probability {q} in draft_probs"));
        }
        self.draw_by(query, wanted, |line, cut, kept, masses| {
            let (mut tokens, mut own) = (Vec::new(), 0);
            let total = each_kept(line, cut, kept, masses, |id, mass| {
                tokens.push((id, mass));
                own = if id == proposed { mass } else { own };
            });
            if chance * q < own as f64 / total as f64 {
                return Ok((proposed, total));
            }
            // What the target has more of than the draft.
            let rest = |id: usize, mass: u64| {
                ((mass as f64 / total as f64 - f64::from(probs[id])).max(0.0) * RESIDUAL_UNITS) as u64
            };
            let residual = || tokens.iter().map(|&(id, mass)| (id, rest(id, mass)));
            let sum: u64 = residual().map(|(_, rest)| rest).sum();
            // Nothing is left only where rounding alone tells the two apart.
            let id = if sum > 0 {
                find(point(bits, sum), residual())
            } else {
                find(point(bits, total), tokens.iter().copied())
            };
            Ok((id, total))
        })
    }

    /// Calls `visit(id, probability)` for each token that may be drawn.
    pub(super) fn each_probability(
        &mut self,
        query: Query<'_>,
        mut visit: impl FnMut(usize, f32),
    ) -> Result<(), Bad> {
        let line = self.processed.read(query)?;
        if query.settings.is_greedy() {
            visit(first_best(line), 1.0);
            return Ok(());
        }
        let kept = self.cut.keep(line, query.settings, &mut self.masses);
        let mut tokens = Vec::new();
        let total = each_kept(line, &self.cut, kept, &mut self.masses, |id, mass| tokens.push((id, mass)));
        for (id, mass) in tokens {
            visit(id, (mass as f64 / total as f64) as f32);
        }
        Ok(())
    }

    /// Draws by `pick`, which returns a token and the mass of all that are kept.
    fn draw_by(
        &mut self,
        query: Query<'_>,
        wanted: Wanted,
        pick: impl FnOnce(Line<'_>, &Cut, Kept, &mut Vec<u64>) -> Result<(usize, u64), Bad>,
    ) -> Result<Drawn, Bad> {
        let line = self.processed.read(query)?;
        let (cut, masses) = (&mut self.cut, &mut self.masses);
        let (id, kept_logp, total) = if query.settings.is_greedy() {
            (first_best(line), 0.0, None)
        } else {
            let kept = cut.keep(line, query.settings, masses);
            let (id, left) = pick(line, cut, kept, masses)?;
            let total = if kept.is_everything() { Some(left) } else { kept.total };
            (id, line.scale.logp(line.row[id], left), total)
        };
        let mut drawn = Drawn { id: id as u32, logp: f32::NAN, kept_logp, top: Vec::new() };
        let (settings, history) = (&Settings::default(), &History::default());
        let (line, total) = match wanted.logps {
            Logps::None => return Ok(drawn),
            Logps::Processed => (line, total),
            Logps::Raw => {
                let plain = Query { mask: None, allowed: None, settings, history, ..query };
                (self.raw.read(plain)?, None)
            }
        };
        let total = total.unwrap_or_else(|| {
            passes::block_masses(line.level, line.row, line.maxima, line.scale, Limit::NONE, masses)
        });
        drawn.logp = line.scale.logp(line.row[id], total);
        drawn.top = likeliest(line, cut, total, wanted.top_n);
        Ok(drawn)
    }
}

/// The lowest id of the largest logit.
fn first_best(line: Line<'_>) -> usize {
    let max = line.scale.max;
    let block = line.maxima.iter().position(|&x| x >= max).unwrap_or(0);
    let start = block * BLOCK;
    start + line.row[start..].iter().position(|&x| x >= max).unwrap_or(0)
}

/// The first token, by id, at which the masses of those that are kept exceed a random share of their sum; and the sum.
fn choose(line: Line<'_>, cut: &Cut, kept: Kept, masses: &mut Vec<u64>, bits: u64) -> (usize, u64) {
    if kept.is_typical {
        let total = cut.typical.iter().map(|(_, mass)| mass).sum();
        return (find(point(bits, total), cut.typical.iter().copied()), total);
    }
    let Line { level, row, maxima, scale } = line;
    let total = passes::block_masses(level, row, maxima, scale, kept.limit, masses);
    let mut target = point(bits, total);
    let block = masses.iter().position(|&mass| {
        let is_here = target < mass;
        if !is_here {
            target -= mass;
        }
        is_here
    });
    let start = block.unwrap_or(0) * BLOCK;
    let tokens = row[start..].iter().zip(start..);
    let mass = |(&x, id): (&f32, usize)| (id, if kept.limit.keeps(x, id) { scale.mass(x) } else { 0 });
    (find(target, tokens.map(mass)), total)
}

/// Calls `visit(id, mass)` for each token that is kept and has mass, by id; returns the sum.
fn each_kept(
    line: Line<'_>,
    cut: &Cut,
    kept: Kept,
    masses: &mut Vec<u64>,
    mut visit: impl FnMut(usize, u64),
) -> u64 {
    if kept.is_typical {
        cut.typical.iter().for_each(|&(id, mass)| visit(id, mass));
        return cut.typical.iter().map(|(_, mass)| mass).sum();
    }
    let Line { level, row, maxima, scale } = line;
    let lowest = kept.limit.logit.max(scale.lowest_with_mass());
    passes::each_between(level, row, maxima, lowest, f32::INFINITY, |x, id| {
        if kept.limit.keeps(x, id) {
            visit(id, scale.mass(x));
        }
    });
    passes::block_masses(level, row, maxima, scale, kept.limit, masses)
}

/// The first at which the sum of masses exceeds the target; there is one, since the target is below their sum.
fn find(mut target: u64, tokens: impl Iterator<Item = (usize, u64)>) -> usize {
    for (id, mass) in tokens {
        if target < mass {
            return id;
        }
        target -= mass;
    }
    debug_assert!(false, "the target is not below the sum");
    0
}

/// The `n` largest logits by (logit descending, id ascending), with their log-probabilities.
fn likeliest(line: Line<'_>, cut: &mut Cut, total: u64, n: usize) -> Vec<(u32, f32)> {
    if n == 0 {
        return Vec::new();
    }
    let limit = cut.first(line, n.min(line.row.len()));
    let mut top = Vec::with_capacity(n);
    let low = limit.logit.max(f32::MIN);
    passes::each_between(line.level, line.row, line.maxima, low, f32::INFINITY, |x, id| {
        if limit.keeps(x, id) {
            top.push((id as u32, x));
        }
    });
    top.sort_unstable_by_key(|&(id, x)| (!ordered(x), id));
    top.into_iter().map(|(id, x)| (id, line.scale.logp(x, total))).collect()
}
