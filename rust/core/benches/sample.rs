//! Sampling beside the plainest way to do the same.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tempa_core::sample::{OnBad, Row, STREAM, Sampler, Settings, Wanted};
use tempa_core::{Result, rng};

const TEMPERATURE: f64 = 0.8;
const TOP_K: u32 = 50;
const TOP_P: f64 = 0.9;
const SEED: u64 = 1;

/// Sorts the whole row, then cuts and draws in order of probability.
fn by_sorting(row: &[f32]) -> usize {
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.sort_unstable_by(|&a, &b| row[b].total_cmp(&row[a]).then(a.cmp(&b)));
    order.truncate(TOP_K as usize);
    let mass: Vec<f32> =
        order.iter().map(|&i| ((row[i] - row[order[0]]) / TEMPERATURE as f32).exp()).collect();
    let target = TOP_P * mass.iter().map(|&m| f64::from(m)).sum::<f64>();
    let (mut kept, mut total) = (0, 0.0);
    while total < target && kept < mass.len() {
        total += f64::from(mass[kept]);
        kept += 1;
    }
    let mut left = rng::uniform(SEED, STREAM, 0) * total;
    let chosen = mass[..kept].iter().position(|&m| {
        left -= f64::from(m);
        left < 0.0
    });
    order[chosen.unwrap_or(kept - 1)]
}

fn one_row(c: &mut Criterion) {
    let mut group = c.benchmark_group("one row, top-k 50, top-p 0.9");
    for vocab in [4096, 50_304, 151_936] {
        let row: Vec<f32> = (0..vocab).map(|i| 6.0 * rng::uniform(7, 0, i) as f32).collect();
        group.throughput(Throughput::Elements(vocab));
        group.bench_with_input(BenchmarkId::new("histogram", vocab), &row, |b, row| {
            let settings =
                Settings { temperature: TEMPERATURE, top_k: TOP_K, top_p: TOP_P, ..Settings::default() };
            let draw = |sampler: &mut Sampler, handle| -> Result<()> {
                sampler.step(&[handle], &[Row::F32(row)], None, Wanted::default(), OnBad::Raise)?;
                sampler.rollback(handle, 1)
            };
            if let Ok(mut sampler) = Sampler::new(row.len())
                && let Ok(handle) = sampler.add(settings, SEED, &[])
            {
                b.iter(|| draw(&mut sampler, handle));
            }
        });
        group.bench_with_input(BenchmarkId::new("sort", vocab), &row, |b, row| {
            b.iter(|| by_sorting(black_box(row)));
        });
    }
    group.finish();
}

criterion_group!(benches, one_row);
criterion_main!(benches);
