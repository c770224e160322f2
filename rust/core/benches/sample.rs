//! Sampling beside the plainest way to do the same.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tempa_core::rng;
use tempa_core::sample::{Request, sample};

const CUT: Request = Request { temperature: 0.8, top_k: 50, top_p: 0.9, seed: 1, position: 0 };

/// Sorts the whole row, then cuts and draws in order of probability.
fn by_sorting(row: &[f32]) -> usize {
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.sort_unstable_by(|&a, &b| row[b].total_cmp(&row[a]).then(a.cmp(&b)));
    order.truncate(CUT.top_k as usize);
    let mass: Vec<f32> = order.iter().map(|&i| ((row[i] - row[order[0]]) / CUT.temperature).exp()).collect();
    let target = f64::from(CUT.top_p) * mass.iter().map(|&m| f64::from(m)).sum::<f64>();
    let (mut kept, mut total) = (0, 0.0);
    while total < target && kept < mass.len() {
        total += f64::from(mass[kept]);
        kept += 1;
    }
    let mut left = rng::uniform(CUT.seed, 0, CUT.position) * total;
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
            b.iter(|| sample(row, &[CUT]));
        });
        group.bench_with_input(BenchmarkId::new("sort", vocab), &row, |b, row| {
            b.iter(|| by_sorting(black_box(row)));
        });
    }
    group.finish();
}

criterion_group!(benches, one_row);
criterion_main!(benches);
