use proptest::prelude::*;
use rayon::prelude::*;

use super::draw::{Drawn, Scratch};
use super::history::History;
use super::passes::Level;
use super::read::Query;
use super::*;
use crate::{Result, rng};

mod verify;

fn logits(vocab: usize, seed: u64, spread: f64) -> Vec<f32> {
    let normal = |i: u64| (0..12).map(|j| rng::uniform(seed, 9, 12 * i + j)).sum::<f64>() - 6.0;
    (0..vocab as u64).map(|i| (normal(i) * spread) as f32).collect()
}

/// Draws from one row with each of `n` seeds.
fn draws(row: &[f32], settings: &Settings, n: u64) -> Vec<i64> {
    let mut sampler = Sampler::new(row.len()).unwrap();
    let handles: Vec<i64> = (0..n).map(|seed| sampler.add(settings.clone(), seed, &[]).unwrap()).collect();
    let rows = vec![Row::F32(row); n as usize];
    sampler.step(&handles, &rows, None, Wanted::default(), OnBad::Raise).unwrap().ids
}

fn step(row: &[f32], settings: Settings) -> Result<Draws> {
    let mut sampler = Sampler::new(row.len())?;
    let handle = sampler.add(settings, 7, &[])?;
    sampler.step(&[handle], &[Row::F32(row)], None, Wanted::default(), OnBad::Raise)
}

fn distribution(row: &[f32], settings: &Settings) -> Vec<f32> {
    let mut sampler = Sampler::new(row.len()).unwrap();
    let handle = sampler.add(settings.clone(), 0, &[]).unwrap();
    sampler.distribution(&[handle], &[Row::F32(row)], None).unwrap()
}

/// Pearson's statistic in standard deviations above its mean, for counts of tokens of known probability.
fn chi_square(counts: &[f64], p: &[f64]) -> f64 {
    let n: f64 = counts.iter().sum();
    assert!(counts.iter().zip(p).all(|(&count, &p)| p > 0.0 || count == 0.0), "a token of no probability");
    // Rare tokens share a cell, as the statistic needs some draws in each.
    let (mut statistic, mut cells, mut rare) = (0.0, 0.0, (0.0, 0.0));
    let mut cell = |count: f64, expected: f64| {
        statistic += (count - expected).powi(2) / expected;
        cells += 1.0;
    };
    for (&count, &p) in counts.iter().zip(p) {
        if p * n >= 8.0 {
            cell(count, p * n);
        } else {
            rare = (rare.0 + count, rare.1 + p * n);
        }
    }
    if rare.1 >= 8.0 {
        cell(rare.0, rare.1);
    }
    let degrees = f64::max(cells - 1.0, 1.0);
    (statistic - degrees) / (2.0 * degrees).sqrt()
}

fn counted(ids: impl IntoIterator<Item = i64>, vocab: usize) -> Vec<f64> {
    let mut counts = vec![0.0; vocab];
    ids.into_iter().for_each(|id| counts[id as usize] += 1.0);
    counts
}

/// Every kind of setting, alone and together.
fn all_settings() -> Vec<Settings> {
    let plain = Settings::default();
    vec![
        plain.clone(),
        Settings { temperature: 0.0, ..plain.clone() },
        Settings { temperature: 0.7, top_k: 50, top_p: 0.9, ..plain.clone() },
        Settings { top_k: 900, ..plain.clone() },
        Settings { top_p: 0.9, ..plain.clone() },
        Settings { top_k: 900, top_p: 0.8, ..plain.clone() },
        Settings { min_p: 0.02, ..plain.clone() },
        Settings { top_n_sigma: 1.5, top_p: 0.7, ..plain.clone() },
        Settings { typical_p: 0.5, ..plain.clone() },
        Settings { temperature: 1.7, top_k: 300, typical_p: 0.5, bias: vec![(3, 2.0)], ..plain },
    ]
}

#[test]
fn two_million_draws_follow_the_exact_distribution() {
    // By definition, in double precision; no border of a cut is near a token here.
    let row = logits(200, 3, 1.5);
    let settings = Settings { temperature: 0.9, top_k: 90, top_p: 0.97, min_p: 0.002, ..Settings::default() };
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
    let mut p: Vec<f64> = row.iter().map(|&x| (f64::from(x - row[order[0]]) / 0.9).exp()).collect();
    order[90..].iter().for_each(|&i| p[i] = 0.0);
    let (target, mut taken) = (0.97 * p.iter().sum::<f64>(), 0.0);
    for &i in &order {
        let is_full = taken >= target;
        taken += p[i];
        if is_full || p[i] < 0.002 {
            p[i] = 0.0;
        }
    }
    let total: f64 = p.iter().sum();
    for p in &mut p {
        *p /= total;
    }
    let history = History::default();
    let query =
        Query { row: Row::F32(&row), mask: None, allowed: None, settings: &settings, history: &history };
    let wanted = Wanted { logps: Logps::None, top_n: 0 };
    let id = |scratch: &mut Scratch, position| {
        i64::from(scratch.draw(query, wanted, rng::bits64(1, STREAM, position)).unwrap().id)
    };
    let ids: Vec<i64> = (0..2_000_000).into_par_iter().map_init(Scratch::default, id).collect();
    let deviation = chi_square(&counted(ids, row.len()), &p);
    assert!(deviation.abs() < 4.0, "chi-square is {deviation} standard deviations off");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Few levels make ties, many make a smooth row.
    #[test]
    fn every_instruction_set_gives_the_same_bits(
        vocab in 1usize..5000, seed in any::<u64>(), spread in prop::sample::select(vec![0.0, 1.0, 5.0, 300.0]),
        steps in prop::sample::select(vec![1.0f32, 1024.0]), is_half in any::<bool>(),
    ) {
        let mut row = logits(vocab, seed, spread);
        for x in &mut row {
            *x = (*x * steps).round() / steps;
        }
        let half: Vec<u16> = row.iter().map(|x| (x.to_bits() >> 16) as u16).collect();
        let row = if is_half { Row::Bf16(&half) } else { Row::F32(&row) };
        let words: Vec<i32> = (0..vocab.div_ceil(32)).map(|i| rng::bits(seed, 5, i as u64)[0] as i32 | 1).collect();
        let history = History::default();
        for settings in all_settings() {
            if settings.check_ids(vocab).is_err() {
                continue;
            }
            for (mask, logps) in [(None, Logps::Processed), (Some(&words[..]), Logps::Raw)] {
                let query = Query { row, mask, allowed: None, settings: &settings, history: &history };
                let run = |&level: &Level| {
                    let mut scratch = Scratch::with(level);
                    (0..3).map(|i| scratch.draw(query, Wanted { logps, top_n: 4 }, rng::bits64(seed, STREAM, i)).unwrap()).collect()
                };
                let drawn: Vec<Vec<Drawn>> = Level::all().iter().map(run).collect();
                prop_assert!(drawn.windows(2).all(|pair| pair[0] == pair[1]), "{settings:?}");
            }
        }
    }
}

#[test]
fn tokens_depend_neither_on_batch_nor_order_nor_threads() {
    let (vocab, n) = (3000, 60);
    let rows: Vec<Vec<f32>> = (0..n).map(|i| logits(vocab, i, 2.0)).collect();
    let rows: Vec<Row<'_>> = rows.iter().map(|row| Row::F32(row)).collect();
    let kinds = all_settings();
    let wanted = Wanted { logps: Logps::Processed, top_n: 2 };
    // The order of the batch, and the requests that are in it.
    let run = |order: &[usize]| {
        let mut sampler = Sampler::new(vocab).unwrap();
        let handles: Vec<i64> = (0..n as usize)
            .map(|i| sampler.add(kinds[i % kinds.len()].clone(), i as u64, &[1; 5]).unwrap())
            .collect();
        let (handles, rows): (Vec<i64>, Vec<Row<'_>>) = order.iter().map(|&i| (handles[i], rows[i])).unzip();
        let draws = sampler.step(&handles, &rows, None, wanted, OnBad::Raise).unwrap();
        let mut by_request: Vec<_> =
            order.iter().enumerate().map(|(at, &i)| (i, draws.ids[at], draws.logps[at].to_bits())).collect();
        by_request.sort_unstable();
        by_request
    };
    let order: Vec<usize> = (0..n as usize).collect();
    let expected = run(&order);
    for threads in [1, 2, 8] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        assert_eq!(pool.install(|| run(&order)), expected);
        let mut shuffled = order.clone();
        shuffled.sort_by_key(|&i| rng::bits64(threads as u64, 0, i as u64));
        assert_eq!(pool.install(|| run(&shuffled)), expected);
    }
    let alone: Vec<_> = order.iter().flat_map(|&i| run(&[i])).collect();
    assert_eq!(alone, expected);
}

#[test]
fn temperature_zero_and_top_k_one_are_argmax_with_the_lowest_id() {
    let row = [0.0, 2.0, -0.0, 2.0];
    let plain = Settings::default();
    for settings in [
        Settings { temperature: 0.0, ..plain.clone() },
        Settings { top_k: 1, ..plain.clone() },
        Settings { top_p: 1e-9, ..plain.clone() },
        Settings { temperature: f64::MIN_POSITIVE, top_k: 1, ..plain.clone() },
        Settings { temperature: 0.0, top_k: 3, top_p: 0.9, min_p: 0.5, typical_p: 0.2, ..plain },
    ] {
        assert!(draws(&row, &settings, 20).iter().all(|&id| id == 1), "{settings:?}");
    }
}

#[test]
fn negative_zero_ties_with_zero() {
    let ids = draws(&[0.0, -0.0, 0.0, -1.0], &Settings { top_k: 2, ..Settings::default() }, 60);
    assert!(ids.contains(&0) && ids.contains(&1) && ids.iter().all(|&id| id < 2));
}

#[test]
fn ties_at_a_cut_go_to_the_lowest_ids() {
    for vocab in [10, 1000, 20_000] {
        let mut row = vec![1.0; vocab];
        row[vocab / 2] = 2.0;
        for settings in [
            Settings { top_k: 4, ..Settings::default() },
            Settings { top_k: vocab as u32 - 2, top_n_sigma: 100.0, ..Settings::default() },
            Settings { top_p: 0.1, ..Settings::default() },
        ] {
            let p = distribution(&row, &settings);
            let kept = p.iter().filter(|&&p| p > 0.0).count();
            let last = p.iter().rposition(|&p| p > 0.0).unwrap();
            // The one above the others, and the first of those.
            let first = if last == vocab / 2 { kept - 1 } else { kept };
            assert!(p[..first].iter().all(|&p| p > 0.0), "{settings:?} keeps {kept} of {vocab}");
        }
    }
}

#[test]
fn top_p_of_one_and_k_above_the_vocabulary_keep_all() {
    let row = logits(500, 1, 8.0);
    let all = distribution(&row, &Settings::default());
    for settings in [
        Settings { top_k: 500, ..Settings::default() },
        Settings { top_k: u32::MAX, ..Settings::default() },
        Settings { top_p: 1.0, typical_p: 1.0, min_p: 0.0, ..Settings::default() },
        Settings { top_p: 1.0 - f64::EPSILON / 2.0, ..Settings::default() },
    ] {
        assert_eq!(distribution(&row, &settings), all, "{settings:?}");
    }
}

#[test]
fn min_p_is_relative_to_the_best_after_the_temperature() {
    let row = [0.0, 0.3f32.ln(), 0.05f32.ln()];
    let count = |temperature, min_p| {
        let settings = Settings { temperature, min_p, ..Settings::default() };
        distribution(&row, &settings).iter().filter(|&&p| p > 0.0).count()
    };
    assert_eq!([count(1.0, 0.1), count(2.0, 0.1), count(0.5, 0.1), count(1.0, 1.0)], [2, 3, 1, 1]);
}

#[test]
fn tokens_of_no_mass_do_not_fill_top_k() {
    let mut row = vec![f32::NEG_INFINITY; 700];
    (row[5], row[600]) = (0.0, 1.0);
    for top_k in [1, 2, 3, 690] {
        let p = distribution(&row, &Settings { top_k, ..Settings::default() });
        assert_eq!(p.iter().filter(|&&p| p > 0.0).count(), 2.min(top_k as usize));
    }
}

#[test]
fn typical_p_can_leave_out_the_best() {
    // Entropy is near the surprisal of the many.
    let row = [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
    let p = distribution(&row, &Settings { typical_p: 0.3, ..Settings::default() });
    assert!(p[0] == 0.0 && p[1] > 0.0 && p[9] == 0.0);
}

#[test]
fn a_spread_of_no_width_keeps_the_ties_of_top_n_sigma() {
    let p = distribution(&[3.0; 70], &Settings { top_n_sigma: 0.5, ..Settings::default() });
    assert_eq!(p, [1.0 / 70.0; 70]);
    let wide = [f32::MAX, f32::MIN, 0.0, f32::NEG_INFINITY];
    assert_eq!(
        distribution(&wide, &Settings { top_n_sigma: 1.0, ..Settings::default() }),
        [1.0, 0.0, 0.0, 0.0]
    );
}

#[test]
fn rows_that_cannot_be_drawn_from_are_named_and_change_nothing() {
    let mut sampler = Sampler::new(2).unwrap();
    let handles = [0, 1].map(|seed| sampler.add(Settings::default(), seed, &[]).unwrap());
    for (bad, reason) in [
        ([0.0, f32::NAN], "row 1: the logit of token 1 is NaN"),
        ([f32::INFINITY, 0.0], "row 1: the logit of token 0 is inf"),
        ([f32::NEG_INFINITY; 2], "row 1: no logit is finite"),
    ] {
        let rows = [Row::F32(&[0.0, 0.0]), Row::F32(&bad)];
        let mut step = |on_bad| sampler.step(&handles, &rows, None, Wanted::default(), on_bad);
        assert_eq!(step(OnBad::Raise).unwrap_err().to_string(), reason);
        let draws = step(OnBad::Sentinel).unwrap();
        assert!(draws.ids[0] >= 0 && draws.ids[1] == -1 && draws.logps[1].is_nan());
        assert_eq!(handles.map(|handle| sampler.output(handle).unwrap().len()), [1, 0]);
        sampler.rollback(handles[0], 1).unwrap();
    }
    let none_left = Settings { bad_ids: vec![0, 1], ..Settings::default() };
    assert!(step(&[0.0; 2], none_left).unwrap_err().to_string().contains("leave no token"));
    let too_large = Settings { bias: vec![(0, f32::MAX)], ..Settings::default() };
    assert!(step(&[f32::MAX, 0.0], too_large).unwrap_err().to_string().contains("infinite after bias"));
    let masked = Settings { bad_ids: vec![1], ..Settings::default() };
    assert!(step(&[0.0, f32::NAN], masked).is_err(), "NaN is an error even where it is masked");
}

#[test]
fn settings_out_of_range_are_named() {
    let plain = Settings::default();
    let message = |settings: Settings| step(&[0.0; 2], settings).unwrap_err().to_string();
    assert!(message(Settings { temperature: -1.0, ..plain.clone() }).contains("temperature must be 0 or"));
    assert!(message(Settings { temperature: f64::NAN, ..plain.clone() }).contains("temperature"));
    assert!(
        message(Settings { top_p: 0.0, ..plain.clone() })
            .contains("top_p must be above 0 and at most 1, got 0")
    );
    assert!(message(Settings { typical_p: 1.1, ..plain.clone() }).contains("typical_p"));
    assert!(message(Settings { min_p: 1.5, ..plain.clone() }).contains("min_p must be from 0 to 1"));
    assert!(message(Settings { top_n_sigma: -1.0, ..plain.clone() }).contains("top_n_sigma"));
    assert!(message(Settings { repetition_penalty: 0.0, ..plain.clone() }).contains("repetition_penalty"));
    assert!(message(Settings { presence_penalty: f32::NAN, ..plain.clone() }).contains("presence_penalty"));
    assert!(
        message(Settings { bias: vec![(0, f32::NEG_INFINITY)], ..plain.clone() }).contains("use bad_ids")
    );
    assert!(
        message(Settings { allowed_ids: Some(vec![]), ..plain.clone() }).contains("allowed_ids must name")
    );
    assert!(message(Settings { stop_ids: vec![2], ..plain.clone() }).contains("stop_ids has token 2"));
    let mut sampler = Sampler::new(2).unwrap();
    assert!(sampler.add(plain.clone(), 0, &[5]).unwrap_err().to_string().contains("the prompt has token 5"));
    let handle = sampler.add(plain, 0, &[]).unwrap();
    let mut step = |handles: &[i64], rows: &[Row<'_>], masks: Option<&[&[i32]]>| {
        sampler.step(handles, rows, masks, Wanted::default(), OnBad::Raise).unwrap_err().to_string()
    };
    let row = Row::F32(&[0.0; 2]);
    assert_eq!(step(&[9], &[row], None), "no request has the handle 9");
    assert_eq!(step(&[handle, handle], &[row; 2], None), "request 0 is given twice");
    assert_eq!(step(&[handle], &[row; 2], None), "1 rows of logits are needed, got 2");
    assert!(step(&[handle], &[Row::F32(&[0.0; 3])], None).contains("a row has 3 logits"));
    assert!(step(&[handle], &[row], Some(&[&[]])).contains("a mask has 0 words"));
    assert!(sampler.rollback(handle, 1).unwrap_err().to_string().contains("0 tokens of output"));
    assert!(Sampler::new(0).is_err() && Sampler::new(MAX_VOCAB + 1).is_err());
}

#[test]
fn rollback_and_fork_restore_and_copy_the_counts() {
    let settings = Settings {
        repetition_penalty: 1.3,
        frequency_penalty: 0.4,
        presence_penalty: 0.2,
        min_new_tokens: 3,
        stop_ids: vec![6],
        stop_ramp: 0.1,
        ..Settings::default()
    };
    let row = logits(50, 4, 1.0);
    let mut sampler = Sampler::new(50).unwrap();
    let one = sampler.add(settings, 5, &[1, 2, 2]).unwrap();
    sampler.append(one, &[7, 7, 3]).unwrap();
    let p = |sampler: &Sampler, handle| sampler.distribution(&[handle], &[Row::F32(&row)], None).unwrap();
    let before = p(&sampler, one);
    let forks = sampler.fork(one, &[5, 6]).unwrap();
    sampler.append(one, &[3, 9, 7]).unwrap();
    assert_ne!(p(&sampler, one), before);
    assert_eq!(p(&sampler, forks[1]), before);
    sampler.rollback(one, 3).unwrap();
    assert_eq!(p(&sampler, one), before);
    let rows = [Row::F32(&row); 3];
    let handles = [one, forks[0], forks[1]];
    let draws = sampler.step(&handles, &rows, None, Wanted::default(), OnBad::Raise).unwrap();
    assert_eq!(draws.ids[0], draws.ids[1], "the same seed, output and position");
    sampler.remove(&[one]).unwrap();
    assert!(sampler.len() == 2 && sampler.remove(&[one]).is_err());
}
