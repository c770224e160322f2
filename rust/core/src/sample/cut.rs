//! Where `top_k` and `top_p` cut a row, from a histogram over the leading bits of the logits.
//!
//! A token is ordered by its key, (logit descending, id ascending). The bins count tokens and mass, so the bin that
//! holds the cut is known after one pass, and only its tokens are sorted.

const BITS: u32 = 12;

/// Bins, and the tokens of one bin; kept between rows.
#[derive(Debug)]
pub(super) struct Cut {
    counts: Vec<u32>,
    masses: Vec<f64>,
    members: Vec<u64>,
}

impl Default for Cut {
    fn default() -> Self {
        Self { counts: vec![0; 1 << BITS], masses: vec![0.0; 1 << BITS], members: Vec::new() }
    }
}

impl Cut {
    /// Sets the mass of every token that is cut to 0 and returns the mass that is left, at least one token's.
    pub(super) fn apply(&mut self, row: &[f32], mass: &mut [f32], top_k: usize, top_p: f64) -> f64 {
        self.counts.fill(0);
        self.masses.fill(0.0);
        for (&logit, &m) in row.iter().zip(&*mass) {
            let bin = bin(logit);
            self.counts[bin] += 1;
            self.masses[bin] += f64::from(m);
        }
        let mut limit = 0; // the smallest key that stays
        let mut kept: f64 = self.masses.iter().rev().sum();
        if top_k > 0 && top_k < row.len() {
            (limit, kept) = self.walk(row, mass, limit, |count, _| count >= top_k);
        }
        if top_p < 1.0 {
            let target = top_p * kept;
            (limit, kept) = self.walk(row, mass, limit, |_, mass| mass >= target);
        }
        let mut left = 0.0;
        for (id, (&logit, m)) in row.iter().zip(&mut *mass).enumerate() {
            if key(logit, id) < limit {
                *m = 0.0;
            } else {
                left += f64::from(*m);
            }
        }
        debug_assert!((left - kept).abs() <= 1e-9 * kept);
        left
    }

    /// Takes tokens in order until `enough(count, mass)`; returns the key of the last and the mass taken. Stops at
    /// `limit` in any case.
    fn walk(
        &mut self,
        row: &[f32],
        mass: &[f32],
        limit: u64,
        enough: impl Fn(usize, f64) -> bool,
    ) -> (u64, f64) {
        let last_bin = (limit >> (64 - BITS)) as usize;
        let (mut count, mut taken) = (0, 0.0);
        for here in (last_bin..1 << BITS).rev() {
            if self.counts[here] == 0 {
                continue;
            }
            let (count_after, taken_after) = (count + self.counts[here] as usize, taken + self.masses[here]);
            if here != last_bin && !enough(count_after, taken_after) {
                (count, taken) = (count_after, taken_after);
                continue;
            }
            self.members.clear();
            let keys = row.iter().enumerate().filter(|(_, x)| bin(**x) == here).map(|(id, &x)| key(x, id));
            self.members.extend(keys.filter(|&key| key >= limit));
            self.members.sort_unstable_by(|a, b| b.cmp(a));
            for &key in &self.members {
                count += 1;
                taken += f64::from(mass[id(key)]);
                if enough(count, taken) {
                    return (key, taken);
                }
            }
            // Sums by bin and one by one may differ in the last bit: go on with the next bin.
        }
        (limit, taken)
    }
}

/// Bits that order like the logit: negative numbers reversed below positive ones, -0 as 0.
fn ordered(logit: f32) -> u32 {
    let bits = (logit + 0.0).to_bits();
    bits ^ if bits >> 31 == 1 { u32::MAX } else { 1 << 31 }
}

fn bin(logit: f32) -> usize {
    (ordered(logit) >> (32 - BITS)) as usize
}

fn key(logit: f32, id: usize) -> u64 {
    u64::from(ordered(logit)) << 32 | u64::from(u32::MAX - id as u32)
}

fn id(key: u64) -> usize {
    (u32::MAX - key as u32) as usize
}
