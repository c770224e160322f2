use super::super::draw::{Proposal, Scratch};
use super::super::history::History;
use super::super::read::Query;
use super::super::*;
use super::{chi_square, counted, distribution, logits};
use crate::{Ragged, rng};

/// Draws a draft from `q`, verifies it against `p` in many ways, and counts the first tokens that come out.
fn speculate(p: &[Vec<f32>], q: &[Vec<f32>], settings: &Settings, n: u64) -> Vec<f64> {
    let (vocab, depth) = (p[0].len(), q.len());
    let mut sampler = Sampler::new(vocab).unwrap();
    let handles: Vec<i64> = (0..n).map(|seed| sampler.add(settings.clone(), seed, &[]).unwrap()).collect();
    let drawn = |q: &[f32], u: f64| {
        let mut below = 0.0;
        let found = q.iter().position(|&q| {
            below += f64::from(q);
            u < below
        });
        found.unwrap_or(vocab - 1) as u32
    };
    let mut tokens = Ragged::default();
    for seed in 0..n {
        tokens.values.extend((0..depth).map(|j| drawn(&q[j], rng::uniform(seed, 77, j as u64))));
        tokens.end_row();
    }
    let probs: Vec<f32> = (0..n).flat_map(|_| q.concat()).collect();
    let rows: Vec<Row<'_>> = (0..n).flat_map(|_| p.iter().map(|row| Row::F32(row))).collect();
    let draft = Draft { tokens: &tokens, probs: Some(&probs) };
    let verified = sampler.verify(&handles, draft, &rows, None, Wanted::default(), OnBad::Raise).unwrap();
    let mut pairs = vec![0.0; vocab * vocab];
    for (i, &handle) in handles.iter().enumerate() {
        let output = sampler.output(handle).unwrap();
        assert_eq!(output.len() as i64, verified.num_accepted[i] + 1);
        assert_eq!(i64::from(output[output.len() - 1]), verified.next[i]);
        if output.len() >= 2 {
            pairs[output[0] as usize * vocab + output[1] as usize] += 1.0;
        }
    }
    let firsts = handles.iter().map(|&handle| i64::from(sampler.output(handle).unwrap()[0]));
    let counts = counted(firsts, vocab);
    // Given the first token, the second follows the target too; only those after an accepted one are here.
    let second: Vec<f64> = (0..vocab).map(|b| (0..vocab).map(|a| pairs[a * vocab + b]).sum()).collect();
    let target: Vec<f64> = distribution(&p[1], settings).iter().map(|&p| f64::from(p)).collect();
    assert!(chi_square(&second, &target).abs() < 4.5, "the second token is off");
    counts
}

#[test]
fn verified_drafts_have_the_distribution_of_the_target() {
    let p = [logits(5, 1, 1.0), logits(5, 2, 1.0), logits(5, 3, 1.0)];
    let close: Vec<Vec<f32>> = p[..2].iter().map(|row| distribution(row, &Settings::default())).collect();
    let far = vec![vec![0.1, 0.6, 0.1, 0.1, 0.1], vec![0.02, 0.02, 0.02, 0.9, 0.04]];
    let cut = Settings { top_k: 3, temperature: 0.7, ..Settings::default() };
    for (q, settings) in [(&close, Settings::default()), (&far, Settings::default()), (&far, cut)] {
        let target: Vec<f64> = distribution(&p[0], &settings).iter().map(|&p| f64::from(p)).collect();
        let deviation = chi_square(&speculate(&p, q, &settings, 60_000), &target);
        assert!(deviation.abs() < 4.5, "chi-square is {deviation} standard deviations off");
    }
}

/// All outcomes of accepting or not, and of what is drawn instead, on a fine grid of both random numbers.
#[test]
fn one_verified_token_has_exactly_the_target_distribution() {
    let row = [0.3f32, -0.5, 1.1];
    let (settings, history) = (Settings::default(), History::default());
    let query =
        Query { row: Row::F32(&row), mask: None, allowed: None, settings: &settings, history: &history };
    let q = [0.5f32, 0.25, 0.25];
    let grid = 400u64;
    let mut out = [0.0; 3];
    let mut scratch = Scratch::default();
    for (id, &q_of_id) in q.iter().enumerate() {
        for a in 0..grid {
            for b in 0..grid {
                let chance = (a as f64 + 0.5) / grid as f64;
                let bits = (2 * b + 1) * (u64::MAX / (2 * grid));
                let proposal = Proposal { id, probs: &q, chance };
                let drawn = scratch.draw_against(query, Wanted::default(), proposal, bits).unwrap();
                out[drawn.id as usize] += f64::from(q_of_id) / (grid * grid) as f64;
            }
        }
    }
    for (got, want) in out.iter().zip(distribution(&row, &settings)) {
        assert!((got - f64::from(want)).abs() < 2.0 / grid as f64, "{got} is not {want}");
    }
    let certain = Proposal { id: 0, probs: &[1.0, 0.0, 0.0], chance: 1.0 };
    assert!(scratch.draw_against(query, Wanted::default(), certain, u64::MAX).is_ok(), "u = 1 is no trap");
    let same = distribution(&row, &settings);
    let equal = Proposal { id: 1, probs: &same, chance: 1.0 };
    assert!(
        scratch.draw_against(query, Wanted::default(), equal, u64::MAX).is_ok(),
        "nothing is left to draw"
    );
    let wrong = Proposal { id: 1, probs: &[1.0, 0.0, 0.0], chance: 0.5 };
    let reason = scratch.draw_against(query, Wanted::default(), wrong, 0).unwrap_err();
    assert_eq!(reason, "draft token 1 has the probability 0 in draft_probs");
}

#[test]
fn drafts_without_probabilities_change_no_token() {
    let vocab = 40;
    let rows: Vec<Vec<f32>> = (0..6).map(|i| logits(vocab, i, 1.0)).collect();
    for temperature in [0.0, 0.8] {
        let settings = Settings { temperature, frequency_penalty: 0.5, ..Settings::default() };
        let mut sampler = Sampler::new(vocab).unwrap();
        let plain = sampler.add(settings, 3, &[4]).unwrap();
        let drafted = sampler.fork(plain, &[3]).unwrap();
        for row in &rows {
            sampler.step(&[plain], &[Row::F32(row)], None, Wanted::default(), OnBad::Raise).unwrap();
        }
        let expected = sampler.output(plain).unwrap().to_vec();
        // Right up to its third token.
        let mut draft = expected[..5].to_vec();
        draft[3] = (draft[3] + 1) % vocab as u32;
        let tokens = Ragged::new(draft, vec![0, 5]).unwrap();
        let rows: Vec<Row<'_>> = rows.iter().map(|row| Row::F32(row)).collect();
        let draft = Draft { tokens: &tokens, probs: None };
        let verified = sampler.verify(&drafted, draft, &rows, None, Wanted::default(), OnBad::Raise).unwrap();
        assert_eq!(verified.num_accepted, [3]);
        assert_eq!(sampler.output(drafted[0]).unwrap(), &expected[..4]);
        assert_eq!(verified.draws.ids[4..], [-1, -1]);
    }
}

#[test]
fn a_bad_row_in_a_draft_changes_nothing_or_ends_it() {
    let good = [0.0f32; 4];
    let rows = [Row::F32(&good), Row::F32(&[f32::NAN; 4])];
    for on_bad in [OnBad::Raise, OnBad::Sentinel] {
        let mut sampler = Sampler::new(4).unwrap();
        let handle = sampler.add(Settings { temperature: 0.0, ..Settings::default() }, 0, &[]).unwrap();
        let tokens = Ragged::new(vec![0], vec![0, 1]).unwrap();
        let draft = Draft { tokens: &tokens, probs: None };
        let verified = sampler.verify(&[handle], draft, &rows, None, Wanted::default(), on_bad);
        if on_bad == OnBad::Raise {
            assert_eq!(verified.unwrap_err().to_string(), "row 1: the logit of token 0 is NaN");
            assert_eq!(sampler.output(handle).unwrap(), &[] as &[u32]);
        } else {
            let verified = verified.unwrap();
            assert_eq!((verified.num_accepted, verified.next), (vec![1], vec![-1]));
            assert_eq!(sampler.output(handle).unwrap(), &[0]);
        }
    }
}
