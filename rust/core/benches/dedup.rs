//! Cleaning and dedup micro-benchmarks on the sources of this crate: real text that is always there.

mod sources;

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tempa_core::dedup::{
    EvalItems, Keep, NearOptions, Overlap, Shingler, Shingles, Sketcher, Unit, content_hash, jaccard,
    near_duplicates, shingle_set,
};
use tempa_core::quality::{Judge, RULES};
use tempa_core::text::{for_each_word, normalize};
use tempa_core::{Monitor, Result};

use sources::sources;

fn run(c: &mut Criterion) -> Result<()> {
    let texts = sources()?;
    let all = texts.concat();
    let mut group = c.benchmark_group("text and dedup");
    group.throughput(Throughput::Bytes(all.len() as u64)).measurement_time(Duration::from_secs(3));

    group.bench_function("normalize", |b| b.iter(|| normalize(black_box(&all)).len()));
    group.bench_function("words", |b| {
        b.iter(|| {
            let mut sum = 0u64;
            for_each_word(black_box(&all), |word| sum = sum.wrapping_add(word.hash));
            sum
        });
    });
    // The greatest number is not infinity, so the rules with an upper bound are measured.
    let accept_all = RULES.map(|rule| rule.off().min(f64::MAX));
    group.bench_function("all rules", |b| {
        let mut judge = Judge::default();
        b.iter(|| texts.iter().filter(|text| judge.verdict(black_box(text), &accept_all).is_some()).count());
    });
    group.bench_function("content hash", |b| b.iter(|| content_hash(black_box(&all))));
    let shingler = NearOptions::default().shingler;
    let mut shingles = Shingles::default();
    for unit in Unit::ALL {
        let shingler = Shingler { unit, ..shingler };
        group.bench_function(format!("shingles of {}", unit.name()), |b| {
            b.iter(|| shingles.of(black_box(&all), shingler).len());
        });
    }
    let (sketcher, mut minima, mut signature) = (Sketcher::new(128, 0), Vec::new(), vec![0; 128]);
    let hashed = shingles.of(&all, shingler).to_vec();
    group.bench_function("sign 128", |b| {
        b.iter(|| sketcher.sign(black_box(&hashed), &mut minima, &mut signature));
    });
    group.bench_function("near duplicates", |b| {
        b.iter(|| {
            near_duplicates(black_box(&texts), &NearOptions::default(), Keep::First, &Monitor::default())
        });
    });
    let items: Vec<String> =
        (0..100_000).map(|i| format!("where do {i} trains meet after {} hours", i + 7)).collect();
    let items = EvalItems::new(&items, Overlap::default())?;
    group.bench_function("decontaminate, 100,000 items", |b| {
        b.iter(|| items.find(black_box(&texts), 0, &Monitor::default()).map(|found| found.len()));
    });
    let (first, second) = (shingle_set(&all, shingler), shingle_set(&all[all.len() / 3..], shingler));
    group.throughput(Throughput::Elements((first.len() + second.len()) as u64));
    group.bench_function("jaccard", |b| b.iter(|| jaccard(black_box(&first), black_box(&second))));
    group.finish();
    Ok(())
}

fn dedup(c: &mut Criterion) {
    run(c).unwrap_or_else(|error| panic!("{error}"));
}

criterion_group!(benches, dedup);
criterion_main!(benches);
