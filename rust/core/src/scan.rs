//! Segmented reverse scans: reward-to-go and generalised advantage estimation.
//!
//! A row is one response; nothing crosses from one row into another. Sums run in `f64` and are rounded once
//! per value, so the result does not depend on how rows are shared among threads.

use rayon::prelude::*;

use crate::ragged::check_offsets;
use crate::{Error, Result};

/// Values below which one thread is faster: starting a task costs about as much as scanning 8 Ki values.
const SERIAL_BELOW_VALUES: usize = 8 << 10;

/// Discounted sum of the rewards from each position to the end of its row.
///
/// `out[t] = rewards[t] + gamma * out[t + 1]`, with 0 after the last position.
///
/// # Errors
/// [`Error::Value`] if the offsets do not cut the rewards into rows.
pub fn reward_to_go(rewards: &[f32], offsets: &[i64], gamma: f64) -> Result<Vec<f32>> {
    check_offsets(offsets, rewards.len())?;
    let mut out = vec![0.0; rewards.len()];
    for_each_row(offsets, [&mut out], |row, [out]| {
        let mut sum = 0.0;
        for (out, &reward) in out.iter_mut().zip(&rewards[row.start..row.end]).rev() {
            sum = f64::from(reward) + gamma * sum;
            *out = sum as f32;
        }
    });
    Ok(out)
}

/// Generalised advantage estimation (Schulman et al., 2016): advantages, and returns for the value loss.
///
/// `delta[t] = rewards[t] + gamma * values[t + 1] - values[t]`, `advantages[t] = delta[t] + gamma * lambda *
/// advantages[t + 1]`, `returns[t] = advantages[t] + values[t]`. The value after the last position of row `i`
/// is `last_values[i]`: 0 for a row that ended by itself, a bootstrap value for one that was cut.
///
/// # Errors
/// [`Error::Value`] if the lengths do not agree.
pub fn gae(
    rewards: &[f32],
    values: &[f32],
    offsets: &[i64],
    gamma: f64,
    lambda: f64,
    last_values: &[f32],
) -> Result<(Vec<f32>, Vec<f32>)> {
    check_offsets(offsets, rewards.len())?;
    if values.len() != rewards.len() {
        return Err(Error::value(format!("{} values for {} rewards", values.len(), rewards.len())));
    }
    if last_values.len() + 1 != offsets.len() {
        return Err(Error::value(format!(
            "{} last values for {} rows",
            last_values.len(),
            offsets.len() - 1
        )));
    }
    let mut advantages = vec![0.0; rewards.len()];
    let mut returns = vec![0.0; rewards.len()];
    for_each_row(offsets, [&mut advantages, &mut returns], |row, [advantages, returns]| {
        let mut next_value = f64::from(last_values[row.index]);
        let mut advantage = 0.0;
        for t in (0..row.end - row.start).rev() {
            let value = f64::from(values[row.start + t]);
            let delta = f64::from(rewards[row.start + t]) + gamma * next_value - value;
            advantage = delta + gamma * lambda * advantage;
            next_value = value;
            advantages[t] = advantage as f32;
            returns[t] = (advantage + value) as f32;
        }
    });
    Ok((advantages, returns))
}

struct Row {
    index: usize,
    start: usize,
    end: usize,
}

/// Calls `scan` with each row and its slice of every output; `offsets` has been checked.
fn for_each_row<const N: usize>(
    offsets: &[i64],
    outputs: [&mut [f32]; N],
    scan: impl Fn(Row, [&mut [f32]; N]) + Sync,
) {
    let num_values = outputs.first().map_or(0, |out| out.len());
    let mut rest = outputs;
    let rows = offsets.windows(2).enumerate().map(|(index, pair)| {
        let row = Row { index, start: pair[0] as usize, end: pair[1] as usize };
        let slices = rest.each_mut().map(|out| {
            let (slice, tail) = std::mem::take(out).split_at_mut(row.end - row.start);
            *out = tail;
            slice
        });
        (row, slices)
    });
    if num_values < SERIAL_BELOW_VALUES {
        rows.for_each(|(row, slices)| scan(row, slices));
    } else {
        rows.collect::<Vec<_>>().into_par_iter().for_each(|(row, slices)| scan(row, slices));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn close(actual: &[f32], expected: &[f64]) {
        assert_eq!(actual.len(), expected.len());
        for (a, e) in actual.iter().zip(expected) {
            assert!((f64::from(*a) - e).abs() < 1e-6, "{actual:?} is not {expected:?}");
        }
    }

    /// ch4 §7: the worked GAE rows.
    #[test]
    fn gae_matches_the_worked_numbers() {
        let (rewards, values) = ([0.0, 0.0, 0.0, 1.0], [0.2, 0.4, 0.1, 0.5]);
        let run = |lambda| gae(&rewards, &values, &[0, 4], 1.0, lambda, &[0.0]).unwrap();
        close(&run(0.0).0, &[0.2, -0.3, 0.4, 0.5]);
        close(&run(0.95).0, &[0.704_687, 0.531_250, 0.875, 0.5]);
        close(&run(0.95).1, &[0.904_687, 0.931_250, 0.975, 1.0]);
        close(&run(1.0).0, &[0.8, 0.6, 0.9, 0.5]);
        close(&run(1.0).1, &[1.0; 4]);
    }

    #[test]
    fn a_cut_row_continues_with_its_last_value() {
        let (advantages, _) = gae(&[0.0], &[0.25], &[0, 1], 0.5, 0.9, &[2.0]).unwrap();
        close(&advantages, &[0.75]);
    }

    #[test]
    fn lengths_that_disagree_are_refused() {
        assert!(reward_to_go(&[1.0], &[0, 2], 1.0).is_err());
        assert!(gae(&[1.0], &[], &[0, 1], 1.0, 1.0, &[0.0]).is_err());
        assert!(gae(&[1.0], &[1.0], &[0, 1], 1.0, 1.0, &[]).is_err());
    }

    proptest! {
        #[test]
        fn rows_do_not_see_each_other(
            rows in prop::collection::vec(prop::collection::vec((-1f32..1.0, -1f32..1.0), 0..50), 0..40),
            copies in 1usize..20,
            gamma in 0f64..1.0,
            lambda in 0f64..1.0,
        ) {
            let mut offsets = vec![0];
            let (mut rewards, mut values, mut expected) = (vec![], vec![], (vec![], vec![]));
            for row in rows.iter().cycle().take(rows.len() * copies) {
                let (r, v): (Vec<f32>, Vec<f32>) = row.iter().copied().unzip();
                let alone = gae(&r, &v, &[0, r.len() as i64], gamma, lambda, &[0.5]).unwrap();
                expected.0.extend(alone.0);
                expected.1.extend(alone.1);
                rewards.extend(r);
                values.extend(v);
                offsets.push(rewards.len() as i64);
            }
            let last = vec![0.5; offsets.len() - 1];
            prop_assert_eq!(gae(&rewards, &values, &offsets, gamma, lambda, &last).unwrap(), expected);
        }

        #[test]
        fn full_lambda_is_reward_to_go_minus_the_value(
            row in prop::collection::vec((-1f32..1.0, -1f32..1.0), 1..50),
            gamma in 0f64..1.0,
        ) {
            let (r, v): (Vec<f32>, Vec<f32>) = row.into_iter().unzip();
            let offsets = [0, r.len() as i64];
            let togo = reward_to_go(&r, &offsets, gamma).unwrap();
            let (_, returns) = gae(&r, &v, &offsets, gamma, 1.0, &[0.0]).unwrap();
            for (a, b) in togo.iter().zip(&returns) {
                prop_assert!((a - b).abs() < 1e-4);
            }
        }
    }
}
