use proptest::prelude::*;

use super::*;

/// Sorts everything: the distribution after temperature, `top_k` and `top_p`, in double precision.
fn distribution(row: &[f32], request: &Request) -> Vec<f64> {
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.sort_by(|&a, &b| row[b].total_cmp(&row[a]).then(a.cmp(&b)));
    let mut p: Vec<f64> =
        row.iter().map(|&x| (f64::from(x - row[order[0]]) / f64::from(request.temperature)).exp()).collect();
    if request.top_k > 0 {
        order.iter().skip(request.top_k as usize).for_each(|&i| p[i] = 0.0);
    }
    let target = p.iter().sum::<f64>() * f64::from(request.top_p);
    let mut taken = 0.0;
    for &i in &order {
        let full = request.top_p < 1.0 && taken >= target;
        taken += p[i];
        if full {
            p[i] = 0.0;
        }
    }
    let total: f64 = p.iter().sum();
    p.iter().map(|x| x / total).collect()
}

fn request(temperature: f32, top_k: u32, top_p: f32, position: u64) -> Request {
    Request { temperature, top_k, top_p, seed: 7, position }
}

fn logits(vocab: usize, seed: u64, levels: f64) -> Vec<f32> {
    (0..vocab)
        .map(|i| ((rng::uniform(seed, 9, i as u64) * levels).floor() * 8.0 / levels - 4.0) as f32)
        .collect()
}

proptest! {
    /// Few levels make ties, many make a smooth row.
    #[test]
    fn a_draw_is_the_inverse_of_the_cumulative_distribution(
        vocab in 1usize..600, seed in any::<u64>(), levels in prop::sample::select(vec![2.0, 9.0, 1e6]),
        temperature in 0.2f32..3.0, top_k in 0u32..40, top_p in 0.05f32..1.2, position in 0u64..1000,
    ) {
        let row = logits(vocab, seed, levels);
        let request = request(temperature, top_k, top_p.min(1.0), position);
        let (ids, logps) = sample(&row, &[request]).unwrap();
        let (token, p) = (ids[0] as usize, distribution(&row, &request));
        let u = rng::uniform(7, STREAM, position);
        let below: f64 = p[..token].iter().sum();
        // Single-precision masses move the borders by about 1e-7; ties in `top_p` may then fall either way.
        prop_assert!(below <= u + 1e-5 && u <= below + p[token] + 1e-5, "{u} is not in token {token}: {below} + {}", p[token]);
        let full = distribution(&row, &Request { top_k: 0, top_p: 1.0, ..request });
        prop_assert!((f64::from(logps[0]) - full[token].ln()).abs() < 1e-5);
    }
}

#[test]
fn frequencies_follow_the_truncated_distribution() {
    let row = logits(50, 3, 1e6);
    let n = 50_000;
    let requests: Vec<Request> = (0..n).map(|i| request(0.8, 20, 0.9, i)).collect();
    let (ids, _) = sample(&row.repeat(n as usize), &requests).unwrap();
    let p = distribution(&row, &requests[0]);
    let mut counts = vec![0.0; 50];
    for id in ids {
        counts[id as usize] += 1.0;
    }
    let chi2: f64 = (0..50)
        .filter(|&i| p[i] > 0.0)
        .map(|i| (counts[i] - p[i] * n as f64).powi(2) / (p[i] * n as f64))
        .sum();
    let degrees = p.iter().filter(|&&x| x > 0.0).count() as f64 - 1.0;
    assert!((0..50).all(|i| p[i] > 0.0 || counts[i] == 0.0), "a cut token was drawn");
    assert!(
        chi2 < degrees + 4.0 * (2.0 * degrees).sqrt(),
        "chi-square {chi2} with {degrees} degrees of freedom"
    );
}

#[test]
fn temperature_zero_and_top_k_one_take_the_lowest_id_of_the_best() {
    let row = [0.0, 2.0, -0.0, 2.0];
    for request in [request(0.0, 0, 1.0, 5), request(1.0, 1, 1.0, 5), request(1.0, 0, 1e-9, 5)] {
        assert_eq!(sample(&row, &[request]).unwrap().0, [1]);
    }
    let ties = [0.0, -0.0, 0.0, -1.0];
    let firsts: Vec<i64> = (0..50).map(|i| sample(&ties, &[request(1.0, 2, 1.0, i)]).unwrap().0[0]).collect();
    assert!(firsts.contains(&0) && firsts.contains(&1) && !firsts.contains(&2), "-0 and 0 are a tie");
}

#[test]
fn a_draw_does_not_depend_on_the_batch() {
    let vocab = 3000;
    let rows = logits(vocab * 64, 1, 1e6); // enough rows for several threads
    let requests: Vec<Request> =
        (0..64).map(|i| request(1.0, (i % 3) as u32 * 10, 1.0 - 0.01 * i as f32, i)).collect();
    let (together, together_logps) = sample(&rows, &requests).unwrap();
    for i in 0..64 {
        let (alone, logp) = sample(&rows[i * vocab..(i + 1) * vocab], &requests[i..=i]).unwrap();
        assert_eq!((alone[0], logp[0].to_bits()), (together[i], together_logps[i].to_bits()));
    }
}

#[test]
fn rows_that_cannot_be_drawn_from_are_named() {
    let message = |row: &[f32], r: Request| {
        let rows = [&vec![0.0; row.len()][..], row].concat();
        sample(&rows, &[request(1.0, 0, 1.0, 0), r]).unwrap_err().to_string()
    };
    let plain = request(1.0, 0, 1.0, 0);
    assert_eq!(message(&[0.0, f32::NAN], plain), "row 1: the logit of token 1 is NaN");
    assert_eq!(message(&[f32::INFINITY, 0.0], plain), "row 1: the logit of token 0 is inf");
    assert_eq!(message(&[f32::NEG_INFINITY; 2], plain), "row 1: no logit is finite");
    assert!(message(&[0.0; 2], request(-1.0, 0, 1.0, 0)).contains("temperature"));
    assert!(message(&[0.0; 2], request(f32::NAN, 0, 1.0, 0)).contains("temperature"));
    assert!(
        message(&[0.0; 2], request(1.0, 0, 0.0, 0)).contains("top_p must be above 0 and at most 1, got 0")
    );
    assert_eq!(sample(&[0.0; 3], &[plain; 2]).unwrap_err().to_string(), "3 logits are not 2 rows");
    assert_eq!(sample(&[], &[]).unwrap(), (vec![], vec![]));
}

#[test]
fn masked_tokens_are_never_drawn() {
    let row = [f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY, 0.0];
    for i in 0..100 {
        let (ids, logps) = sample(&row, &[request(1.0, 3, 0.99, i)]).unwrap();
        assert!(ids[0] % 2 == 1);
        assert!((logps[0] - 0.5f32.ln()).abs() < 1e-6);
    }
}
