//! Training of tokenizers on the sources of this crate: counting pieces and learning merges, one thread.

mod sources;

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use tempa_core::bpe::{CountOptions, Pattern, PieceCounts, TrainOptions, train};
use tempa_core::{Monitor, Result};

use sources::sources;

fn count(texts: &[String]) -> Result<PieceCounts> {
    let options = CountOptions { num_threads: Some(1), ..CountOptions::default() };
    let mut counts = PieceCounts::new(Pattern::Gpt2, &options)?;
    counts.add(texts, &Monitor::default())?;
    Ok(counts)
}

fn run(c: &mut Criterion) -> Result<()> {
    let texts = sources()?;
    let num_bytes: usize = texts.iter().map(String::len).sum();
    count(&texts)?;
    let mut group = c.benchmark_group("train");
    group.throughput(Throughput::Bytes(num_bytes as u64)).measurement_time(Duration::from_secs(3));
    group.bench_function("count pieces", |b| b.iter(|| count(black_box(&texts))));
    for vocab_size in [512, 2048, 8192] {
        let options = TrainOptions { vocab_size, ..TrainOptions::default() };
        group.bench_function(format!("learn {vocab_size}"), |b| {
            b.iter_batched(
                || count(&texts),
                |counts| counts.and_then(|counts| train(counts, &options, None, &Monitor::default())),
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
    Ok(())
}

fn bpe_train(c: &mut Criterion) {
    run(c).unwrap_or_else(|error| panic!("{error}"));
}

criterion_group!(benches, bpe_train);
criterion_main!(benches);
