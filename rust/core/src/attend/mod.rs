//! Attention of one new token per sequence to keys and values in a paged cache, in float32 on the CPU.
//!
//! Blocks are read where they are: nothing is gathered first, which is what the time goes into otherwise. Sums have
//! a fixed order without fused multiply-add, so the result depends neither on the machine nor on the batch.

use rayon::prelude::*;

use crate::{Error, Result, exp};

/// Products below which one thread is faster.
const SERIAL_BELOW: usize = 1 << 18;
const LANES: usize = 8;

/// The pool of one layer: `(blocks, block_size, heads, head_dim)`, contiguous.
#[derive(Debug, Clone, Copy)]
pub struct Pool<'a> {
    /// Keys.
    pub keys: &'a [f32],
    /// Values.
    pub values: &'a [f32],
    /// Tokens per block.
    pub block_size: usize,
    /// Key and value heads.
    pub num_heads: usize,
    /// Floats per head.
    pub head_dim: usize,
}

/// The sequences of a batch.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// Block of each sequence at each place: `(n, width)`.
    pub tables: &'a [i32],
    /// Tokens of each sequence, the new one included.
    pub lengths: &'a [i64],
    /// How many tokens back a query sees, itself included.
    pub window: Option<usize>,
}

/// `softmax(q k^T / sqrt(head_dim)) v` for the last token of each sequence.
///
/// `queries` are `(n, query_heads, head_dim)`, and so is the result; query head `h` reads head
/// `h / (query_heads / num_heads)`.
///
/// # Errors
/// [`Error::Value`] if the shapes disagree, a sequence is empty, or a table names a block outside the pool.
pub fn decode(queries: &[f32], pool: Pool<'_>, batch: Batch<'_>) -> Result<Vec<f32>> {
    let n = batch.lengths.len();
    if n == 0 {
        return Ok(Vec::new());
    }
    check(queries, pool, batch)?;
    let (row_len, width) = (queries.len() / n, batch.tables.len() / n);
    let mut out = vec![0.0; queries.len()];
    let work: i64 = batch.lengths.iter().sum::<i64>() * row_len as i64;
    let rows = out.chunks_exact_mut(row_len).zip(queries.chunks_exact(row_len));
    let row = |scores: &mut Vec<f32>, i: usize, out: &mut [f32], query: &[f32]| {
        let table = &batch.tables[i * width..(i + 1) * width];
        let stop = batch.lengths[i] as usize;
        let start = batch.window.map_or(0, |window| stop.saturating_sub(window));
        attend(out, query, pool, table, start..stop, scores);
    };
    if (work as usize) < SERIAL_BELOW {
        let mut scores = Vec::new();
        rows.enumerate().for_each(|(i, (out, query))| row(&mut scores, i, out, query));
    } else {
        let rows: Vec<_> = rows.enumerate().collect();
        rows.into_par_iter().for_each_init(Vec::new, |scores, (i, (out, query))| row(scores, i, out, query));
    }
    Ok(out)
}

fn check(queries: &[f32], pool: Pool<'_>, batch: Batch<'_>) -> Result<()> {
    let n = batch.lengths.len();
    let block = pool.block_size * pool.num_heads * pool.head_dim;
    if block == 0 || pool.keys.len() != pool.values.len() || !pool.keys.len().is_multiple_of(block) {
        return Err(Error::value("keys and values are not whole blocks of the same shape"));
    }
    let heads = pool.num_heads * pool.head_dim;
    if queries.is_empty() || !queries.len().is_multiple_of(n * heads) || !batch.tables.len().is_multiple_of(n)
    {
        let (q, t) = (queries.len(), batch.tables.len());
        return Err(Error::value(format!(
            "{q} query values and {t} table entries do not fit {n} rows of {heads}"
        )));
    }
    let (width, num_blocks) = (batch.tables.len() / n, pool.keys.len() / block);
    for (i, &length) in batch.lengths.iter().enumerate() {
        if length < 1 || length as usize > width * pool.block_size {
            return Err(Error::value(format!(
                "sequence {i} has {length} tokens, its table 1 to {}",
                width * pool.block_size
            )));
        }
        let used = &batch.tables[i * width..][..(length as usize).div_ceil(pool.block_size)];
        if let Some(block) = used.iter().find(|&&block| block < 0 || block as usize >= num_blocks) {
            return Err(Error::value(format!("sequence {i} lists block {block}, the pool has {num_blocks}")));
        }
    }
    Ok(())
}

fn attend(
    out: &mut [f32],
    query: &[f32],
    pool: Pool<'_>,
    table: &[i32],
    seen: std::ops::Range<usize>,
    scores: &mut Vec<f32>,
) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2, which is all the function asks for.
        unsafe { attend_avx2(out, query, pool, table, seen, scores) };
        return;
    }
    attend_any(out, query, pool, table, seen, scores);
}

/// The same code, compiled for wider registers.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn attend_avx2(
    out: &mut [f32],
    query: &[f32],
    pool: Pool<'_>,
    table: &[i32],
    seen: std::ops::Range<usize>,
    scores: &mut Vec<f32>,
) {
    attend_any(out, query, pool, table, seen, scores);
}

#[inline(always)]
fn attend_any(
    out: &mut [f32],
    query: &[f32],
    pool: Pool<'_>,
    table: &[i32],
    seen: std::ops::Range<usize>,
    scores: &mut Vec<f32>,
) {
    let (dim, token) = (pool.head_dim, pool.num_heads * pool.head_dim);
    let group = query.len() / token;
    let (start, count) = (seen.start, seen.len());
    let scale = 1.0 / (dim as f32).sqrt();
    scores.clear();
    scores.resize(query.len() / dim * count, 0.0); // (query head, token)
    let place = |t: usize| {
        let block = table[t / pool.block_size] as usize;
        (block * pool.block_size + t % pool.block_size) * token
    };
    for t in seen.clone() {
        let keys = &pool.keys[place(t)..][..token];
        for (head, q) in query.chunks_exact(dim).enumerate() {
            scores[head * count + t - start] = dot(q, &keys[head / group * dim..][..dim]) * scale;
        }
    }
    for row in scores.chunks_exact_mut(count) {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        for x in row.iter_mut() {
            *x = exp::exp(*x - max);
        }
        let total: f32 = row.iter().sum();
        for x in row.iter_mut() {
            *x /= total;
        }
    }
    out.fill(0.0);
    for t in seen {
        let values = &pool.values[place(t)..][..token];
        for (head, o) in out.chunks_exact_mut(dim).enumerate() {
            let p = scores[head * count + t - start];
            for (o, v) in o.iter_mut().zip(&values[head / group * dim..][..dim]) {
                *o += p * v;
            }
        }
    }
}

#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for i in 0..LANES {
            lanes[i] += a[i] * b[i];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    lanes.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng;

    fn noise(n: usize, stream: u64) -> Vec<f32> {
        (0..n).map(|i| rng::uniform(1, stream, i as u64) as f32 * 4.0 - 2.0).collect()
    }

    /// One row in double precision, straight from the formula.
    fn naive(query: &[f32], pool: Pool<'_>, table: &[i32], seen: std::ops::Range<usize>) -> Vec<f64> {
        let (dim, token) = (pool.head_dim, pool.num_heads * pool.head_dim);
        let group = query.len() / token;
        let mut out = Vec::new();
        for (head, q) in query.chunks(dim).enumerate() {
            let at = |t: usize, d: usize| {
                (table[t / pool.block_size] as usize * pool.block_size + t % pool.block_size) * token
                    + head / group * dim
                    + d
            };
            let score = |t| (0..dim).map(|d| f64::from(q[d]) * f64::from(pool.keys[at(t, d)])).sum::<f64>();
            let p: Vec<f64> = seen.clone().map(|t| (score(t) / (dim as f64).sqrt()).exp()).collect();
            let total: f64 = p.iter().sum();
            out.extend((0..dim).map(|d| {
                seen.clone().zip(&p).map(|(t, p)| p * f64::from(pool.values[at(t, d)])).sum::<f64>() / total
            }));
        }
        out
    }

    #[test]
    fn decode_equals_the_formula_for_any_shape_and_number_of_threads() {
        for (block_size, num_heads, group, head_dim) in [(4, 2, 1, 8), (3, 1, 4, 5), (16, 2, 2, 32)] {
            let (keys, values) = (
                noise(30 * block_size * num_heads * head_dim, 0),
                noise(30 * block_size * num_heads * head_dim, 1),
            );
            let pool = Pool { keys: &keys, values: &values, block_size, num_heads, head_dim };
            let lengths: Vec<i64> = (0..64).map(|i| 1 + i % (5 * block_size as i64)).collect();
            let tables: Vec<i32> = (0..64 * 5).map(|i| i * 7 % 30).collect();
            let row = num_heads * group * head_dim;
            let queries = noise(64 * row, 2);
            for window in [None, Some(1), Some(6)] {
                let out =
                    decode(&queries, pool, Batch { tables: &tables, lengths: &lengths, window }).unwrap();
                for i in 0..64 {
                    let stop = lengths[i] as usize;
                    let start = window.map_or(0, |w| stop.saturating_sub(w));
                    let table = &tables[i * 5..i * 5 + 5];
                    let expected = naive(&queries[i * row..(i + 1) * row], pool, table, start..stop);
                    for (a, b) in out[i * row..].iter().zip(expected) {
                        assert!((f64::from(*a) - b).abs() < 1e-5, "{a} is not {b}");
                    }
                    let alone = Batch { tables: table, lengths: &lengths[i..=i], window };
                    let alone = decode(&queries[i * row..(i + 1) * row], pool, alone).unwrap();
                    assert_eq!(alone, out[i * row..(i + 1) * row], "row {i} depends on the batch");
                }
            }
        }
    }

    #[test]
    fn shapes_that_disagree_are_refused() {
        let data = [0.0; 16];
        let pool = Pool { keys: &data, values: &data, block_size: 2, num_heads: 1, head_dim: 4 };
        let message = |q: &[f32], tables: &[i32], lengths: &[i64]| {
            decode(q, pool, Batch { tables, lengths, window: None }).unwrap_err().to_string()
        };
        assert!(message(&[0.0; 3], &[0], &[1]).contains("3 query values"));
        assert_eq!(message(&[0.0; 4], &[0], &[3]), "sequence 0 has 3 tokens, its table 1 to 2");
        assert_eq!(message(&[0.0; 4], &[0], &[0]), "sequence 0 has 0 tokens, its table 1 to 2");
        assert_eq!(message(&[0.0; 4], &[2], &[1]), "sequence 0 lists block 2, the pool has 2");
        assert_eq!(message(&[0.0; 4], &[-1], &[1]), "sequence 0 lists block -1, the pool has 2");
        let odd = Pool { keys: &data[..7], ..pool };
        assert!(decode(&[0.0; 4], odd, Batch { tables: &[0], lengths: &[1], window: None }).is_err());
        assert!(decode(&[], pool, Batch { tables: &[], lengths: &[], window: None }).unwrap().is_empty());
    }
}
