//! Tokenizer micro-benchmarks on the sources of this crate: real text that is always there.

mod sources;

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tempa_core::bpe::{Allowed, CountOptions, Pattern, PieceCounts, Tokenizer, TrainOptions, train};
use tempa_core::{Monitor, Result};

use sources::sources;

fn learn(texts: &[String], vocab_size: usize) -> Result<Tokenizer> {
    let mut counts =
        PieceCounts::new(Pattern::Gpt2, &CountOptions { num_threads: Some(1), ..Default::default() })?;
    counts.add(texts, &Monitor::default())?;
    train(counts, &TrainOptions { vocab_size, ..Default::default() }, None, &Monitor::default())
}

fn run(c: &mut Criterion) -> Result<()> {
    let texts = sources()?;
    let all = texts.concat();
    let mut group = c.benchmark_group("bpe");
    group.throughput(Throughput::Bytes(all.len() as u64)).measurement_time(Duration::from_secs(3));

    for pattern in [Pattern::Gpt2, Pattern::Cl100k] {
        let name = format!("pretokenize {}", pattern.name());
        group.bench_function(name, |b| b.iter(|| pattern.pieces(black_box(&all)).count()));
    }
    // A vocabulary from half of the text, so that the other half has words it has not seen.
    let tokenizer = learn(&texts[..texts.len() / 2], 2048)?;
    let mut ids = Vec::new();
    tokenizer.encoder().encode_ordinary(&all, &mut ids)?;
    let mut again = Vec::with_capacity(ids.len());
    group.bench_function("encode", |b| {
        let mut encoder = tokenizer.encoder();
        b.iter(|| {
            again.clear();
            encoder.encode_ordinary(black_box(&all), &mut again)
        });
    });
    group.bench_function("decode", |b| b.iter(|| tokenizer.decode(black_box(&ids), false)));
    let letters: String = all.chars().filter(char::is_ascii_lowercase).collect();
    group.throughput(Throughput::Bytes(letters.len() as u64));
    let nothing = Allowed::default();
    group.bench_function("encode one long word", |b| {
        b.iter(|| tokenizer.encode(black_box(&letters), &nothing));
    });
    group.finish();
    Ok(())
}

fn bpe(c: &mut Criterion) {
    run(c).unwrap_or_else(|error| panic!("{error}"));
}

criterion_group!(benches, bpe);
criterion_main!(benches);
