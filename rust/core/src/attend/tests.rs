use super::*;
use crate::rng;

fn noise(n: usize, stream: u64) -> Vec<f32> {
    (0..n).map(|i| rng::uniform(1, stream, i as u64) as f32 * 4.0 - 2.0).collect()
}

const NUM_BLOCKS: usize = 30;
const WIDTH: usize = 20;

struct Case {
    shape: Shape,
    group: usize,
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    tables: Vec<i32>,
    lengths: Vec<i64>,
    starts: Vec<i64>,
}

impl Case {
    /// Sequences of different lengths; some have one new token, some more than a unit takes.
    fn new(block_size: usize, num_heads: usize, group: usize, head_dim: usize) -> Self {
        let shape = Shape { block_size, num_heads, head_dim };
        let size = NUM_BLOCKS * f32::block_len(shape);
        let most = WIDTH * block_size;
        let lengths: Vec<i64> = [1, 2, 5, 31, 32, 33, 40, 64, 100].map(|n| n.min(most) as i64).to_vec();
        let mut starts = vec![0];
        for (i, length) in lengths.iter().enumerate() {
            starts.push(starts[i] + if i % 2 == 0 { 1 } else { length - length / 3 });
        }
        let rows = *starts.last().unwrap() as usize;
        Self {
            shape,
            group,
            queries: noise(rows * num_heads * group * head_dim, 2),
            keys: noise(size, 0),
            values: noise(size, 1),
            tables: (0..lengths.len() * WIDTH).map(|i| (i * 7 % NUM_BLOCKS) as i32).collect(),
            lengths,
            starts,
        }
    }

    fn sequences(&self) -> Sequences<'_> {
        Sequences { tables: &self.tables, lengths: &self.lengths, starts: &self.starts }
    }

    /// Keys or values as another kind keeps them.
    fn kept<T: Kept>(&self, rows: &[f32]) -> Vec<T> {
        let (shape, len) = (self.shape, T::block_len(self.shape));
        let mut blocks = vec![T::zeroed(); NUM_BLOCKS * len];
        let in_block = shape.block_size * shape.num_heads;
        for (i, row) in rows.chunks(shape.head_dim).enumerate() {
            T::write(&mut blocks[i / in_block * len..][..len], shape, i % in_block, row);
        }
        blocks
    }

    fn run<T: Kept>(
        &self,
        sequences: Sequences<'_>,
        queries: &[f32],
        rules: Rules<'_>,
        level: Level,
    ) -> Vec<f32> {
        let (keys, values) = (self.kept::<T>(&self.keys), self.kept::<T>(&self.values));
        let blocks = Blocks { keys: &keys, values: &values, shape: self.shape };
        attend(queries, blocks, sequences, rules, level).unwrap()
    }

    /// In double precision, straight from the formula.
    fn naive(&self, rules: Rules<'_>) -> Vec<f64> {
        let Shape { block_size, num_heads, head_dim } = self.shape;
        let (heads, mut out) = (num_heads * self.group, Vec::new());
        for i in 0..self.lengths.len() {
            let (tokens, place) = self.sequences().new_tokens(i);
            for token in tokens.clone() {
                let position = place + token - tokens.start;
                for head in 0..heads {
                    let query = &self.queries[(token * heads + head) * head_dim..][..head_dim];
                    let at = |t: usize, d: usize| {
                        let block = self.tables[i * WIDTH + t / block_size] as usize;
                        ((block * num_heads + head / self.group) * block_size + t % block_size) * head_dim + d
                    };
                    let is_seen = |t: &usize| {
                        *t < rules.sinks || rules.window.is_none_or(|window| position < t + window)
                    };
                    let seen: Vec<usize> = (0..=position).filter(is_seen).collect();
                    let score = |&t: &usize| {
                        let dot: f64 =
                            (0..head_dim).map(|d| f64::from(query[d]) * f64::from(self.keys[at(t, d)])).sum();
                        let score = dot / (head_dim as f64).sqrt();
                        let score =
                            rules.softcap.map_or(score, |c| f64::from(c) * (score / f64::from(c)).tanh());
                        let slope = rules.slopes.map_or(0.0, |slopes| f64::from(slopes[head]));
                        (score - slope * (position - t) as f64).exp()
                    };
                    let weights: Vec<f64> = seen.iter().map(score).collect();
                    let total: f64 = weights.iter().sum();
                    out.extend((0..head_dim).map(|d| {
                        let parts = seen.iter().zip(&weights);
                        parts.map(|(&t, w)| w * f64::from(self.values[at(t, d)])).sum::<f64>() / total
                    }));
                }
            }
        }
        out
    }
}

fn assert_close(ours: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(ours.len(), expected.len());
    for (i, (a, b)) in ours.iter().zip(expected).enumerate() {
        assert!((f64::from(*a) - b).abs() < tolerance, "{a} at {i} is not {b}");
    }
}

const SHAPES: [(usize, usize, usize, usize); 6] =
    [(4, 2, 1, 8), (5, 1, 4, 5), (16, 2, 2, 32), (16, 1, 9, 64), (8, 2, 1, 128), (7, 3, 3, 20)];

#[test]
fn every_level_and_kind_equals_the_formula_under_every_rule() {
    for (block_size, num_heads, group, head_dim) in SHAPES {
        let case = Case::new(block_size, num_heads, group, head_dim);
        let slopes: Vec<f32> = (0..num_heads * group).map(|head| 0.5 / (head + 1) as f32).collect();
        let free = Rules::default();
        for rules in [
            free,
            Rules { window: Some(1), ..free },
            Rules { window: Some(6), sinks: 3, ..free },
            Rules { window: Some(40), sinks: 34, softcap: Some(1.5), slopes: Some(&slopes) },
            Rules { softcap: Some(0.7), ..free },
        ] {
            let expected = case.naive(rules);
            for level in Level::available() {
                let run = case.run::<f32>(case.sequences(), &case.queries, rules, level);
                assert_close(&run, &expected, 2e-6);
                // Eight bits of mantissa in keys and in values of up to 2; then 1/254 of the largest of a row.
                assert_close(
                    &case.run::<Brief>(case.sequences(), &case.queries, rules, level),
                    &expected,
                    4e-2,
                );
                assert_close(&case.run::<i8>(case.sequences(), &case.queries, rules, level), &expected, 8e-2);
            }
        }
    }
}

#[test]
fn a_token_gets_the_same_alone_in_a_chunk_and_in_a_batch() {
    for (block_size, num_heads, group, head_dim) in SHAPES {
        let case = Case::new(block_size, num_heads, group, head_dim);
        let rules = Rules { window: Some(50), sinks: 2, ..Rules::default() };
        let stride = num_heads * group * head_dim;
        let level = Level::best();
        let together = case.run::<f32>(case.sequences(), &case.queries, rules, level);
        for i in 0..case.lengths.len() {
            let (tokens, place) = case.sequences().new_tokens(i);
            for token in tokens.clone() {
                let length = [(place + token - tokens.start + 1) as i64];
                let table = &case.tables[i * WIDTH..][..WIDTH];
                let alone = Sequences { tables: table, lengths: &length, starts: &[0, 1] };
                let query = &case.queries[token * stride..][..stride];
                let out = case.run::<f32>(alone, query, rules, level);
                assert_eq!(out, together[token * stride..][..stride], "token {token} of sequence {i}");
            }
        }
    }
}

#[test]
fn vector_levels_agree_bit_for_bit() {
    let case = Case::new(16, 2, 3, 64);
    let levels: Vec<Level> = Level::available().into_iter().filter(|&level| level != Level::Plain).collect();
    let all = levels.iter().map(|&level| {
        let run = case.run::<Brief>(case.sequences(), &case.queries, Rules::default(), level);
        run.into_iter().map(f32::to_bits).collect::<Vec<_>>()
    });
    let all: Vec<_> = all.collect();
    assert!(all.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn blocks_that_no_query_sees_are_not_read() {
    let mut case = Case::new(4, 1, 1, 8);
    case.lengths = vec![40];
    case.starts = vec![0, 2];
    case.queries.truncate(16);
    case.tables.truncate(WIDTH);
    let rules = Rules { window: Some(5), sinks: 4, ..Rules::default() };
    let expected = case.run::<f32>(case.sequences(), &case.queries, rules, Level::best());
    case.tables[1..8].fill(-1);
    case.tables[10..].fill(-1);
    assert_eq!(case.run::<f32>(case.sequences(), &case.queries, rules, Level::best()), expected);
}

#[test]
fn what_is_not_a_number_stays_so() {
    let mut case = Case::new(4, 1, 1, 8);
    case.queries[3] = f32::NAN;
    let out = case.run::<f32>(case.sequences(), &case.queries, Rules::default(), Level::best());
    assert!(out[..8].iter().all(|x| x.is_nan()));
    assert!(out[8..].iter().all(|x| x.is_finite()));
    case.keys.fill(f32::INFINITY);
    let out = case.run::<i8>(case.sequences(), &case.queries, Rules::default(), Level::best());
    assert!(out.iter().all(|x| x.is_nan()));
}

#[test]
fn shapes_that_disagree_are_refused() {
    let data = [0.0f32; 16];
    let shape = Shape { block_size: 2, num_heads: 1, head_dim: 4 };
    let blocks = Blocks { keys: &data, values: &data, shape };
    let run = |queries: &[f32], tables: &[i32], lengths: &[i64], starts: &[i64]| {
        let sequences = Sequences { tables, lengths, starts };
        attend(queries, blocks, sequences, Rules::default(), Level::best()).map_err(|e| e.to_string())
    };
    assert!(run(&[0.0; 3], &[0], &[1], &[0, 1]).unwrap_err().contains("3 query values"));
    let message = |length| format!("sequence 0 has {length} tokens, its table 1 to 2, and 1 of them are new");
    assert_eq!(run(&[0.0; 4], &[0], &[3], &[0, 1]).unwrap_err(), message(3));
    assert_eq!(run(&[0.0; 4], &[0], &[0], &[0, 1]).unwrap_err(), message(0));
    assert!(run(&[0.0; 4], &[0], &[1], &[0, 0]).is_err());
    assert!(run(&[0.0; 4], &[0], &[1], &[0]).is_err());
    for block in [2, -1] {
        let expected = format!("sequence 0 lists block {block}, the cache has 2");
        assert_eq!(run(&[0.0; 4], &[block], &[1], &[0, 1]).unwrap_err(), expected);
    }
    assert_eq!(run(&[], &[], &[], &[0]), Ok(Vec::new()));
    let slopes = Rules { slopes: Some(&[1.0, 2.0]), ..Rules::default() };
    let one = Sequences { tables: &[0], lengths: &[1], starts: &[0, 1] };
    assert!(attend(&[0.0; 4], blocks, one, slopes, Level::best()).is_err());
    let odd = Blocks { keys: &data[..7], ..blocks };
    assert!(attend(&[0.0; 4], odd, one, Rules::default(), Level::best()).is_err());
}

/// Samples of two prompts and a stranger, of one new token each.
#[test]
fn sequences_that_begin_alike_get_what_they_get_alone() {
    let slopes = [0.1, 0.2, 0.3, 0.4];
    let plain = Rules::default();
    let all_rules = [
        plain,
        Rules { softcap: Some(3.0), slopes: Some(&slopes), ..plain },
        Rules { window: Some(40), sinks: 3, ..plain },
    ];
    for (block_size, shared, lengths) in [
        (4, 66, [70, 81, 67, 70, 100, 69]),
        (16, 96, [97, 113, 111, 97, 100, 98]),
        (7, 0, [1, 2, 3, 70, 71, 72]),
    ] {
        let mut case = Case::new(block_size, 2, 2, 8);
        case.lengths = lengths.to_vec();
        case.starts = (0..=6).collect();
        let width = 26;
        // The first three share blocks, the next two others; ends are of different blocks.
        case.tables = (0..6)
            .flat_map(|i| (0..width).map(move |place| (i, place)))
            .map(|(i, place)| {
                let owner = [0, 0, 0, 1, 1, 2][i];
                let is_shared = (place + 1) * block_size <= shared;
                (if is_shared { owner * 9 + place * 5 } else { i * 11 + place * 7 }) % NUM_BLOCKS
            })
            .map(|block| block as i32)
            .collect();
        let heads = 2 * 2 * 8;
        for rules in all_rules {
            for level in Level::available() {
                let together = case.run::<f32>(case.sequences(), &case.queries[..6 * heads], rules, level);
                for i in 0..6 {
                    let alone = Sequences {
                        tables: &case.tables[i * width..(i + 1) * width],
                        lengths: &case.lengths[i..=i],
                        starts: &[0, 1],
                    };
                    let queries = &case.queries[i * heads..(i + 1) * heads];
                    let expected = case.run::<f32>(alone, queries, rules, level);
                    assert_eq!(together[i * heads..(i + 1) * heads], expected, "{i} {level:?} {rules:?}");
                }
            }
        }
    }
}

#[test]
fn runs_are_neighbours_with_one_new_token_and_enough_in_common() {
    let tables: Vec<i32> =
        [[0, 1, 2, 3, 4, 9], [0, 1, 2, 3, 5, 8], [0, 1, 2, 3, 4, 7], [0, 6, 2, 3, 4, 7]].concat();
    let runs = |lengths: &[i64], starts: &[i64], rules| {
        Sequences { tables: &tables, lengths, starts }.runs(16, rules)
    };
    let plain = Rules::default();
    assert_eq!(runs(&[90, 90, 90, 90], &[0, 1, 2, 3, 4], plain), [(0..3, 64), (3..4, 0)]);
    // The last token of a sequence is its own; whole tiles are shared.
    assert_eq!(
        runs(&[90, 64, 65, 90], &[0, 1, 2, 3, 4], plain),
        [(0..1, 0), (1..2, 0), (2..3, 0), (3..4, 0)]
    );
    assert_eq!(
        runs(&[90, 90, 90, 90], &[0, 1, 3, 4, 5], plain),
        [(0..1, 0), (1..2, 0), (2..3, 0), (3..4, 0)]
    );
    let windowed = Rules { window: Some(80), ..plain };
    assert_eq!(runs(&[90, 90, 90, 90], &[0, 1, 2, 3, 4], windowed).len(), 4);
}
