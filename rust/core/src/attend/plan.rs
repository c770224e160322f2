//! Which block of a launch on a device attends to which keys: a pure function of the lengths of a batch.
//!
//! The arithmetic of tiles, windows and rows is that of `cuda/paged.cu`.

use crate::{Error, Result};

/// Keys of a tile and rows of a warp, the same in the kernel.
const TILE: i64 = 64;
const WARP_ROWS: i64 = 16;

/// Costs in sixteenths of the time of one tile, not yet measured on a GPU: a tile; filling the ring and writing the
/// result; adding up one split more.
const TILE_COST: i64 = 16;
const START_COST: i64 = 32;
const SPLIT_COST: i64 = 1;
const MAX_SPLITS: i64 = 128;

/// The heads of a model, the room on a device, and which keys a query sees.
#[derive(Debug, Clone, Copy)]
pub struct PlanOptions {
    /// Query heads to a key head.
    pub group: i64,
    /// Key heads.
    pub num_kv_heads: i64,
    /// Blocks that the device runs at once.
    pub resident: i64,
    /// Warps of a block that may have rows of their own: 1, 2 or 4.
    pub max_row_warps: i64,
    /// How many tokens back a query sees, itself included; all when `None`.
    pub window: Option<i64>,
    /// How many of the first tokens every query sees, whatever the window.
    pub sinks: i64,
}

/// Which block of which launch does what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Sequence, tile of its rows, split, number of splits, first part; one launch after the other.
    pub items: Vec<[i32; 5]>,
    /// Warps with rows of their own, items, and parts of each launch: a part keeps what one split has found.
    pub launches: Vec<(i64, usize, i64)>,
}

/// Rows that share a block, and the tiles of keys that they see.
struct Job {
    sequence: i32,
    tile: i32,
    keys: u32,
}

/// Cuts the keys that the new tokens of each sequence see, so that all blocks end at about the same time.
///
/// `lengths` are the tokens of each sequence, the new ones included, and `starts` says where its new tokens start among
/// those of the batch.
///
/// # Errors
///
/// Options that are not positive, starts that do not fit the lengths, and numbers beyond 32 bits.
pub fn plan(lengths: &[i64], starts: &[i64], options: PlanOptions) -> Result<Plan> {
    check(lengths, starts, options)?;
    let mut plan = Plan::default();
    let mut jobs = Vec::with_capacity(lengths.len());
    for row_warps in [1, 2, 4] {
        jobs.clear();
        for (sequence, (&length, new)) in lengths.iter().zip(starts.windows(2)).enumerate() {
            let count = new[1] - new[0];
            let rows = count * options.group;
            if count > 0 && warps_of(rows, options.max_row_warps) == row_warps {
                // Most sequences have one tile, and division is slow.
                let per_tile = WARP_ROWS * row_warps;
                let num_tiles = if rows <= per_tile { 1 } else { ceil(rows, per_tile) };
                jobs.extend((0..num_tiles).map(|tile| {
                    let first = if tile == 0 { 0 } else { tile * per_tile / options.group };
                    let last = if tile + 1 == num_tiles {
                        count - 1
                    } else {
                        ((tile + 1) * per_tile - 1) / options.group
                    };
                    let keys = tiles_seen(length - count, first, last, options);
                    Job { sequence: sequence as i32, tile: tile as i32, keys: keys as u32 }
                }));
            }
        }
        if !jobs.is_empty() {
            plan.add_launch(row_warps, &jobs, options)?;
        }
    }
    Ok(plan)
}

fn check(lengths: &[i64], starts: &[i64], options: PlanOptions) -> Result<()> {
    const MAX: i64 = i32::MAX as i64;
    let PlanOptions { group, num_kv_heads, resident, max_row_warps, window, sinks } = options;
    for (name, number, least) in [
        ("group", group, 1),
        ("num_kv_heads", num_kv_heads, 1),
        ("resident", resident, 1),
        ("window", window.unwrap_or(1), 1),
        ("sinks", sinks, 0),
    ] {
        if !(least..=MAX).contains(&number) {
            return Err(Error::value(format!("{name} must be {least} to {MAX}, got {number}")));
        }
    }
    if ![1, 2, 4].contains(&max_row_warps) {
        return Err(Error::value(format!("max_row_warps must be 1, 2 or 4, got {max_row_warps}")));
    }
    if starts.len() != lengths.len() + 1 {
        return Err(Error::value(format!(
            "{} sequences need one start more than there are, got {}",
            lengths.len(),
            starts.len()
        )));
    }
    for (sequence, (&length, new)) in lengths.iter().zip(starts.windows(2)).enumerate() {
        let in_order = 0 <= new[0] && new[0] <= new[1];
        if !in_order || new[1].saturating_mul(group) > MAX || !(new[1] - new[0]..=MAX).contains(&length) {
            return Err(Error::value(format!(
                "sequence {sequence} of {length} tokens cannot have the new tokens {} to {}",
                new[0], new[1]
            )));
        }
    }
    Ok(())
}

/// Few rows share a tile of 16 with the keys shared out, so that no warp is idle.
fn warps_of(rows: i64, max_row_warps: i64) -> i64 {
    let warps = if rows <= WARP_ROWS {
        1
    } else if rows <= 2 * WARP_ROWS {
        2
    } else {
        4
    };
    warps.min(max_row_warps)
}

/// Tiles of keys that new tokens see, from the first to the last of them, behind `before` others.
fn tiles_seen(before: i64, first: i64, last: i64, options: PlanOptions) -> i64 {
    let end = before + last + 1;
    let low = options.window.map_or(0, |window| (before + first - window + 1).max(0)) / TILE;
    ceil(options.sinks, TILE).min(low) + ceil(end, TILE) - low
}

/// What ends first by the costs above, over all sizes of a split of the longest; the largest of equals.
fn tiles_per_split(jobs: &[Job], options: PlanOptions) -> i64 {
    let longest = jobs.iter().map(|job| job.keys).max().unwrap_or(1);
    let total: i64 = jobs.iter().map(|job| i64::from(job.keys)).sum();
    let cost = |size: i64, splits: i64| {
        ceil(splits * options.num_kv_heads, options.resident) * (size * TILE_COST + START_COST)
            + ceil(longest.into(), size) * SPLIT_COST
    };
    // Splits are at least as many as if keys were cut without regard to rows: most sizes cost too much even so.
    let mut sizes: Vec<_> = (1..=i64::from(longest).min(MAX_SPLITS))
        .map(|splits| ceil(longest.into(), splits))
        .map(|size| (cost(size, ceil(total, size).max(jobs.len() as i64)), -size))
        .collect();
    sizes.sort_unstable();
    sizes.dedup();
    let mut best = (i64::MAX, 0);
    for (least_cost, minus_size) in sizes {
        if least_cost > best.0 {
            break;
        }
        let by = Divisor::new(-minus_size);
        let splits = jobs.iter().map(|job| i64::from(by.ceil(job.keys))).sum();
        best = best.min((cost(-minus_size, splits), minus_size));
    }
    -best.1
}

impl Plan {
    fn add_launch(&mut self, row_warps: i64, jobs: &[Job], options: PlanOptions) -> Result<()> {
        let by = Divisor::new(tiles_per_split(jobs, options));
        // The longest splits come first, of equals those of the first job: as one number, of the length, whose order is
        // that of its bits, the place, and the number of splits.
        let mut order: Vec<u128> = jobs
            .iter()
            .zip(0u32..)
            .map(|(job, place)| {
                let splits = by.ceil(job.keys);
                let length = !(f64::from(job.keys) / f64::from(splits)).to_bits();
                u128::from(length) << 64 | u128::from(place) << 32 | u128::from(splits)
            })
            .collect();
        order.sort_unstable();
        let num_items: i64 = order.iter().map(|&key| i64::from(key as u32)).sum();
        if num_items > i32::MAX.into() {
            return Err(Error::value(format!("{num_items} splits of keys in one launch")));
        }
        self.items.reserve(num_items as usize);
        let mut part = 0;
        for key in order {
            let (place, splits) = ((key >> 32) as u32, key as u32 as i32);
            let Job { sequence, tile, .. } = jobs[place as usize];
            self.items.extend((0..splits).map(|split| [sequence, tile, split, splits, part]));
            part += if splits > 1 { splits } else { 0 };
        }
        self.launches.push((row_warps, num_items as usize, part.into()));
        Ok(())
    }
}

/// Divides by the same number many times, by multiplication.
struct Divisor {
    minus_one: u64,
    /// 2^64 by the number, rounded up: exact for numbers of 32 bits. 0 for 1, by which nothing changes.
    reciprocal: u64,
}

impl Divisor {
    fn new(number: i64) -> Self {
        let number = number as u64;
        Self { minus_one: number - 1, reciprocal: if number == 1 { 0 } else { u64::MAX / number + 1 } }
    }

    fn ceil(&self, number: u32) -> u32 {
        if self.reciprocal == 0 {
            return number;
        }
        ((u128::from(u64::from(number) + self.minus_one) * u128::from(self.reciprocal)) >> 64) as u32
    }
}

fn ceil(number: i64, by: i64) -> i64 {
    (number + by - 1) / by
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: PlanOptions =
        PlanOptions { group: 4, num_kv_heads: 8, resident: 264, max_row_warps: 4, window: None, sinks: 0 };

    #[test]
    fn one_long_sequence_is_split_over_the_device() {
        let plan = plan(&[4096], &[0, 1], OPTIONS).unwrap();
        assert_eq!(plan.launches, [(1, 32, 32)]);
        assert_eq!(plan.items[31], [0, 0, 31, 32, 0]);
    }

    #[test]
    fn a_divisor_divides() {
        for by in [1, 2, 3, 5, 7, 64, 65, 1000, (1 << 25) - 1, 1 << 25] {
            let divisor = Divisor::new(by);
            for number in [1, 2, 3, 63, 64, 65, 999, 1000, 1001, (1 << 25) - 1, 1 << 25, u32::MAX] {
                assert_eq!(i64::from(divisor.ceil(number)), ceil(number.into(), by), "{number} by {by}");
            }
        }
    }

    #[test]
    fn nothing_new_needs_no_launch() {
        assert_eq!(plan(&[5], &[0, 0], OPTIONS).unwrap(), Plan::default());
        assert_eq!(plan(&[], &[0], OPTIONS).unwrap(), Plan::default());
    }

    #[test]
    fn lengths_and_starts_that_do_not_fit_are_refused() {
        for (lengths, starts) in
            [(&[5][..], &[0][..]), (&[5], &[1, 0]), (&[5], &[0, 6]), (&[1 << 40], &[0, 1]), (&[5], &[-1, 1])]
        {
            assert!(plan(lengths, starts, OPTIONS).is_err(), "{lengths:?} {starts:?}");
        }
        for wrong in [
            PlanOptions { group: 0, ..OPTIONS },
            PlanOptions { resident: 0, ..OPTIONS },
            PlanOptions { max_row_warps: 3, ..OPTIONS },
            PlanOptions { window: Some(0), ..OPTIONS },
            PlanOptions { sinks: -1, ..OPTIONS },
        ] {
            assert!(plan(&[5], &[0, 1], wrong).is_err(), "{wrong:?}");
        }
    }
}
