//! Packing and batch micro-benchmarks on documents of log-uniform lengths.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tempa_core::pack::{Loader, Mixture, Mode, Rows, permute, plan_rows};
use tempa_core::shard::{Fingerprint, ShardSet, ShardWriter, WriterOptions};
use tempa_core::{Error, Monitor, Result, rng};

const NUM_DOCUMENTS: u64 = 20_000;
const ROW_LEN: usize = 1024;
const BATCH_ROWS: usize = 32;
const WEIGHTS: [f64; 8] = [1.0, 0.5, 0.25, 0.125, 0.06, 0.03, 0.02, 0.01];

/// Boundaries of documents of 4 to 4,096 tokens.
fn offsets() -> Vec<i64> {
    let length = |i| 2f64.powf(2.0 + 10.0 * rng::uniform(0, 0, i)) as i64;
    let ends = (0..NUM_DOCUMENTS).scan(0, |end, i| {
        *end += length(i);
        Some(*end)
    });
    std::iter::once(0).chain(ends).collect()
}

fn run(c: &mut Criterion) -> Result<()> {
    let offsets = offsets();
    let num_tokens = offsets[offsets.len() - 1];
    let mut group = c.benchmark_group("pack");
    group.measurement_time(Duration::from_secs(3));

    group.throughput(Throughput::Elements(NUM_DOCUMENTS));
    group.bench_function("plan rows", |b| b.iter(|| plan_rows(black_box(&offsets), ROW_LEN)));
    group.bench_function("permute", |b| {
        b.iter(|| (0..NUM_DOCUMENTS).map(|i| permute(i, black_box(NUM_DOCUMENTS), 0, 0)).sum::<u64>());
    });
    let mixture = Mixture::new(WEIGHTS.len(), &[0], &WEIGHTS, 0)?;
    group.bench_function("mixture", |b| {
        b.iter(|| (0..NUM_DOCUMENTS).map(|i| mixture.row(black_box(i << 20)).row).sum::<u64>());
    });

    let parent = tempfile::tempdir().map_err(Error::io(&std::env::temp_dir()))?;
    let directory = parent.path().join("shards");
    let ids: Vec<u32> = (0..num_tokens as u32).map(|id| id % 50_000).collect();
    let options = WriterOptions {
        fingerprint: Fingerprint([0; 32]),
        vocab_size: 50_000,
        max_shard_tokens: num_tokens as u64 / 4 + 1,
        overwrite: false,
    };
    let mut writer = ShardWriter::create(&directory, options)?;
    writer.add(&ids, &offsets)?;
    writer.finish()?;
    let shards = Arc::new(ShardSet::open(&directory)?);
    group.throughput(Throughput::Elements((ROW_LEN * BATCH_ROWS) as u64));
    for (name, mode) in [("packed batch", Mode::Packed), ("windows batch", Mode::Windows)] {
        let rows = Arc::new(Rows::new(shards.clone(), ROW_LEN, mode)?);
        let loader = Loader::new(vec![rows], &[0], &[1.0], BATCH_ROWS, 0)?;
        let mut index = 0;
        group.bench_function(name, |b| {
            b.iter(|| {
                index += 1;
                loader.batch(black_box(index))
            });
        });
    }
    group.throughput(Throughput::Bytes(2 * num_tokens as u64));
    group.bench_function("verify", |b| b.iter(|| shards.verify(&Monitor::default())));
    group.finish();
    Ok(())
}

fn pack(c: &mut Criterion) {
    run(c).unwrap_or_else(|error| panic!("{error}"));
}

criterion_group!(benches, pack);
criterion_main!(benches);
