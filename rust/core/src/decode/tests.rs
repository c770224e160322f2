use super::finish::{Finish, Kind, Out};
use super::matrix::{Product, ROWS_AT_ONCE};
use super::*;
use crate::attend::Brief;
use crate::rng;
use crate::split::Split;

fn noise(n: usize, stream: u64) -> Vec<f32> {
    (0..n).map(|i| rng::uniform(1, stream, i as u64) as f32 * 2.0 - 1.0).collect()
}

/// The product of all rows, at most [`ROWS_AT_ONCE`], with all panels.
fn multiply(
    (lines, matrix): (&[Line], &Matrix),
    input: &[f32],
    columns: usize,
    precision: Precision,
    level: Level,
) -> Vec<f32> {
    let num_rows = input.len() / columns;
    let mut rows = Rows::default();
    rows.resize(num_rows, columns, precision);
    let shared = rows.share();
    for (i, row) in input.chunks(columns).enumerate() {
        // SAFETY: there is one thread.
        unsafe {
            shared.row(i).copy_from_slice(row);
            shared.convert(i);
        }
    }
    let mut out = vec![f32::NAN; num_rows * matrix.num_rows];
    let split = Split::new(&mut out);
    level.run(Product {
        lines,
        matrix,
        panels: 0..matrix.num_panels,
        input: &shared,
        rows: 0..num_rows,
        totals: &mut Vec::new(),
        finish: Finish { kind: Kind::Store, bias: None, out: Out::Floats(&split, matrix.num_rows) },
    });
    out
}

const SIZES: [(usize, usize); 6] = [(1, 1), (31, 64), (33, 65), (64, 129), (100, 300), (96, 576)];

#[test]
fn products_equal_the_formula_at_every_level_and_precision() {
    for (num_rows, columns) in SIZES {
        let (weights, input) = (noise(num_rows * columns, 0), noise(13 * columns, 1));
        for precision in [Precision::Float32, Precision::Bfloat16, Precision::Int8] {
            let matrix = Matrix::new(0, num_rows, columns, precision, false);
            let mut lines = vec![Line([0; 64]); matrix.place.end];
            for level in Level::available() {
                matrix.pack(&mut lines, &weights, level);
                let out = multiply((&lines, &matrix), &input, columns, precision, level);
                for (i, &ours) in out.iter().enumerate() {
                    let x = &input[i / num_rows * columns..][..columns];
                    let w = &weights[i % num_rows * columns..][..columns];
                    let value = |w: f32| match precision {
                        Precision::Bfloat16 => Brief::new(w).value(),
                        _ => w,
                    };
                    let exact: f64 =
                        x.iter().zip(w).map(|(&x, &w)| f64::from(value(x)) * f64::from(value(w))).sum();
                    // Each of the products is off by up to 1/127 of the largest, and the errors add like noise.
                    let bound = match precision {
                        Precision::Int8 => 0.03 * (columns as f64).sqrt(),
                        _ => 4e-7 * columns as f64 + 1e-7,
                    };
                    assert!(
                        (f64::from(ours) - exact).abs() < bound,
                        "{precision:?} {level:?}: {ours}, {exact}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_row_gets_the_same_alone_and_with_others_on_all_vector_levels() {
    for precision in [Precision::Float32, Precision::Bfloat16, Precision::Int8] {
        let (num_rows, columns) = (70, 300);
        let (weights, input) = (noise(num_rows * columns, 0), noise(ROWS_AT_ONCE * columns, 1));
        let matrix = Matrix::new(0, num_rows, columns, precision, false);
        let mut lines = vec![Line([0; 64]); matrix.place.end];
        matrix.pack(&mut lines, &weights, Level::best());
        let together = multiply((&lines, &matrix), &input, columns, precision, Level::best());
        for level in Level::available() {
            if level != Level::Plain {
                assert_eq!(
                    multiply((&lines, &matrix), &input, columns, precision, level),
                    together,
                    "{level:?}"
                );
            }
        }
        for count in [1, 2, 3, 5, 7, 8, 9, 15] {
            let some =
                multiply((&lines, &matrix), &input[..count * columns], columns, precision, Level::best());
            assert_eq!(some, together[..count * num_rows], "{count} rows");
        }
    }
}

#[test]
fn gates_and_what_they_gate_share_a_panel() {
    let (inner, columns) = (35, 20);
    let (weights, input, bias) = (noise(2 * inner * columns, 0), noise(columns, 1), noise(2 * inner, 2));
    let matrix = Matrix::new(0, 2 * inner, columns, Precision::Float32, true);
    let mut lines = vec![Line([0; 64]); matrix.place.end];
    matrix.pack(&mut lines, &weights, Level::best());
    let mut rows = Rows::default();
    rows.resize(1, columns, Precision::Float32);
    let shared = rows.share();
    // SAFETY: there is one thread.
    unsafe { shared.row(0) }.copy_from_slice(&input);
    let mut out = vec![f32::NAN; inner];
    let split = Split::new(&mut out);
    Level::best().run(Product {
        lines: &lines,
        matrix: &matrix,
        panels: 0..matrix.num_panels,
        input: &shared,
        rows: 0..1,
        totals: &mut Vec::new(),
        finish: Finish { kind: Kind::Swiglu, bias: Some(&bias), out: Out::Floats(&split, inner) },
    });
    let sum = |row: usize| -> f64 {
        let products = input.iter().zip(&weights[row * columns..]);
        products.map(|(&x, &w)| f64::from(x) * f64::from(w)).sum::<f64>() + f64::from(bias[row])
    };
    for (i, &ours) in out.iter().enumerate() {
        let gate = sum(i);
        let exact = gate / (1.0 + (-gate).exp()) * sum(inner + i);
        assert!((f64::from(ours) - exact).abs() < 2e-6, "{ours} is not {exact}");
    }
}

#[test]
fn weights_that_do_not_fit_are_refused() {
    let config = Config {
        vocab_size: 10,
        depth: 1,
        width: 8,
        num_heads: 2,
        num_kv_heads: 1,
        head_dim: 4,
        mlp: Mlp::Relu2,
        mlp_width: 16,
        norm: Norm::Rms,
        norm_eps: 1e-6,
        max_positions: 8,
        window: None,
        qk_norm: true,
        embedding_norm: true,
        softcap: None,
    };
    let new = |config: &Config, turns| {
        Decoder::new(config.clone(), turns, Precision::Float32, 1, Level::best()).map_err(|e| e.to_string())
    };
    let message = |config: &Config, turns| new(config, turns).err().unwrap();
    assert_eq!(message(&config, vec![0.0; 7]), "7 turns do not fit 8 positions of 4");
    assert_eq!(message(&Config { depth: 0, ..config.clone() }, vec![]), "depth must be at least 1, got 0");
    let odd = Config { num_heads: 3, num_kv_heads: 2, ..config.clone() };
    assert_eq!(message(&odd, vec![]), "num_heads 3 is not a multiple of num_kv_heads 2");
    let mut decoder = new(&config, vec![0.0; 32]).unwrap();
    let ones = [1.0; 8];
    let mut tensors = Tensors::new();
    assert!(decoder.pack(&tensors).unwrap_err().to_string().contains("no blocks.0.attention_norm.weight"));
    tensors.insert("blocks.0.attention_norm.weight".to_owned(), &ones[..5]);
    let message = decoder.pack(&tensors).unwrap_err().to_string();
    assert_eq!(message, "blocks.0.attention_norm.weight must have 8 values, got 5");
}
