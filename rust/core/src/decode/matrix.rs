//! A weight matrix in the order in which a product reads it, and the product.
//!
//! A panel is 32 rows of the matrix, for each column one after the other, so that a product with one row of
//! activations reads memory from end to end, and lanes are rows: nothing is added across a vector. The sum of a
//! product has one order, whatever the number of rows: columns one by one within a segment, then segments.

use std::ops::Range;

use rayon::prelude::*;

use super::finish::Finish;
use super::rows::SharedRows;
use crate::attend::{Brief, largest_scale, to_bytes_by};
use crate::lanes::{Lanes, Level, Line, Plainly, WIDTH, Work};
use crate::pages::prefetch_line;

/// Rows of a panel.
pub(crate) const PANEL: usize = 2 * WIDTH;
/// Columns that are summed before the sum is added to the total: a panel of float32 then fits the nearest cache, and
/// rounding errors grow by segments.
const SEGMENT: usize = 128;
/// Columns of bytes that share a scale.
pub(crate) const GROUP: usize = 64;
/// Rows of activations that stay in the second cache while a panel is read.
pub(crate) const ROWS_AT_ONCE: usize = 128;
/// How far ahead memory is asked for: about what arrives while a request travels.
const AHEAD: usize = 6 << 10;

/// How weights are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// As they are.
    Float32,
    /// Rounded to bfloat16, and so are the activations that they are multiplied with; sums are float32.
    Bfloat16,
    /// As bytes with a scale for each [`GROUP`] columns of a row; activations become bytes likewise.
    Int8,
}

/// A matrix of weights. All matrices of a model share one piece of memory, since only large pieces get large pages.
#[derive(Debug)]
pub(crate) struct Matrix {
    /// Where it is.
    pub(crate) place: Range<usize>,
    precision: Precision,
    /// Of the product, panel by panel.
    pub(crate) num_panels: usize,
    pub(crate) num_rows: usize,
    pub(crate) num_columns: usize,
    /// Whether the first half of the rows are gates of the second: a panel then has 16 of either.
    is_gated: bool,
}

impl Matrix {
    /// A matrix of `num_rows` by `num_columns` whose place starts at `start`.
    pub(crate) fn new(
        start: usize,
        num_rows: usize,
        num_columns: usize,
        precision: Precision,
        is_gated: bool,
    ) -> Self {
        let num_panels = if is_gated { (num_rows / 2).div_ceil(WIDTH) } else { num_rows.div_ceil(PANEL) };
        let place = start..start + num_panels * panel_len(num_columns, precision);
        Self { place, precision, num_panels, num_rows, num_columns, is_gated }
    }

    /// The lines of some panels.
    pub(crate) fn lines<'a>(&self, all: &'a [Line], panels: &Range<usize>) -> &'a [Line] {
        let len = panel_len(self.num_columns, self.precision);
        &all[self.place.clone()][panels.start * len..panels.end * len]
    }

    /// Writes the weights, `(num_rows, num_columns)`, to their place.
    pub(crate) fn pack(&self, all: &mut [Line], weights: &[f32], level: Level) {
        let (precision, columns, rows, is_gated) =
            (self.precision, self.num_columns, self.num_rows, self.is_gated);
        let panel_len = panel_len(columns, precision);
        all[self.place.clone()].par_chunks_exact_mut(panel_len).enumerate().for_each(|(panel, lines)| {
            let row = |i: usize| {
                let row = match (is_gated, i < WIDTH) {
                    (false, _) => panel * PANEL + i,
                    (true, true) => panel * WIDTH + i,
                    (true, false) => rows / 2 + panel * WIDTH + i - WIDTH,
                };
                let end = if is_gated && i < WIDTH { rows / 2 } else { rows };
                if row < end { &weights[row * columns..][..columns] } else { &[][..] }
            };
            let sources: [&[f32]; PANEL] = std::array::from_fn(row);
            level.run(Plainly(|| match precision {
                Precision::Float32 => pack_floats(lines, &sources),
                Precision::Bfloat16 => pack_briefs(lines, &sources),
                Precision::Int8 => pack_bytes(lines, &sources),
            }));
        });
    }
}

/// Lines of a panel.
fn panel_len(num_columns: usize, precision: Precision) -> usize {
    match precision {
        Precision::Float32 => 2 * num_columns,
        Precision::Bfloat16 => 2 * num_columns.div_ceil(2),
        Precision::Int8 => GROUP_LINES * num_columns.div_ceil(GROUP),
    }
}

/// Scales, then four columns in each two lines.
const GROUP_LINES: usize = 1 + GROUP / 2;

/// Columns that are moved at once: their rows stay in the nearest cache.
const MOVED: usize = 64;

/// The columns from `first` on of a row, at most `count`; fewer or none where the matrix ends.
#[inline(always)]
fn columns(source: &[f32], first: usize, count: usize) -> &[f32] {
    let source = source.get(first..).unwrap_or(&[]);
    &source[..source.len().min(count)]
}

#[inline(always)]
fn pack_floats(lines: &mut [Line], sources: &[&[f32]; PANEL]) {
    for (i, lines) in lines.chunks_mut(2 * MOVED).enumerate() {
        let panel = bytemuck::cast_slice_mut::<_, f32>(lines).as_chunks_mut::<PANEL>().0;
        for (row, source) in sources.iter().enumerate() {
            for (column, &value) in panel.iter_mut().zip(columns(source, i * MOVED, MOVED)) {
                column[row] = value;
            }
        }
    }
}

#[inline(always)]
fn pack_briefs(lines: &mut [Line], sources: &[&[f32]; PANEL]) {
    for (i, lines) in lines.chunks_mut(MOVED).enumerate() {
        let panel = bytemuck::cast_slice_mut::<_, u32>(lines).as_chunks_mut::<PANEL>().0;
        for (row, source) in sources.iter().enumerate() {
            for (pair, values) in panel.iter_mut().zip(columns(source, i * MOVED, MOVED).chunks(2)) {
                let second = values.get(1).map_or(0, |&value| Brief::new(value).0);
                pair[row] = (u32::from(Brief::new(values[0]).0) | u32::from(second) << 16).to_le();
            }
        }
    }
}

#[inline(always)]
fn pack_bytes(lines: &mut [Line], sources: &[&[f32]; PANEL]) {
    for (group, lines) in lines.chunks_exact_mut(GROUP_LINES).enumerate() {
        let (scales, steps) = lines.split_at_mut(1);
        let scales: &mut [u16] = bytemuck::cast_slice_mut(scales);
        let panel = bytemuck::cast_slice_mut::<_, [u8; 4]>(steps).as_chunks_mut::<PANEL>().0;
        for (row, source) in sources.iter().enumerate() {
            let mut values = [0.0; GROUP];
            let own = columns(source, group * GROUP, GROUP);
            values[..own.len()].copy_from_slice(own);
            let mut bytes = [0; GROUP];
            // Rounded up, so that the largest weight stays within 127.
            let scale = Brief::new(largest_scale(&values) * (1.0 + 1.0 / 256.0));
            to_bytes_by(&values, scale.value(), &mut bytes);
            scales[row] = scale.0;
            for (four, bytes) in panel.iter_mut().zip(bytes.as_chunks::<4>().0) {
                four[row] = bytes.map(|byte| (byte as u8).wrapping_add(128));
            }
        }
    }
}

/// The product of some rows with some panels of a matrix.
pub(crate) struct Product<'a> {
    /// Of all matrices.
    pub(crate) lines: &'a [Line],
    pub(crate) matrix: &'a Matrix,
    pub(crate) panels: Range<usize>,
    pub(crate) input: &'a SharedRows<'a>,
    pub(crate) rows: Range<usize>,
    /// Memory that a thread keeps between products.
    pub(crate) totals: &'a mut Vec<[f32; PANEL]>,
    pub(crate) finish: Finish<'a>,
}

impl Work for Product<'_> {
    type Output = ();
    const HAS_PAIRS: bool = true;

    /// The input's rows are not written meanwhile, and no other thread has these panels and rows.
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let matrix = self.matrix;
        let (columns, panel_len) = (matrix.num_columns, panel_len(matrix.num_columns, matrix.precision));
        let panels = matrix.lines(self.lines, &self.panels);
        let end = panels.as_ptr_range().end;
        for (panel, lines) in self.panels.zip(panels.chunks_exact(panel_len)) {
            self.totals.clear();
            self.totals.resize(self.rows.len(), [0.0; PANEL]);
            for first in (0..columns).step_by(SEGMENT) {
                let segment = first..columns.min(first + SEGMENT);
                let mut row = 0;
                while row < self.rows.len() {
                    let from = self.rows.start + row;
                    // SAFETY: the caller's.
                    row += unsafe {
                        let totals = &mut self.totals[row..];
                        match totals.len() {
                            8.. if L::ROWS >= 8 => segment_of::<L, 8>(
                                matrix.precision,
                                (lines, end),
                                &segment,
                                self.input,
                                from,
                                totals,
                            ),
                            4.. if L::ROWS >= 4 => segment_of::<L, 4>(
                                matrix.precision,
                                (lines, end),
                                &segment,
                                self.input,
                                from,
                                totals,
                            ),
                            2.. => segment_of::<L, 2>(
                                matrix.precision,
                                (lines, end),
                                &segment,
                                self.input,
                                from,
                                totals,
                            ),
                            _ => segment_of::<L, 1>(
                                matrix.precision,
                                (lines, end),
                                &segment,
                                self.input,
                                from,
                                totals,
                            ),
                        }
                    };
                }
            }
            for (row, totals) in self.rows.clone().zip(self.totals.iter_mut()) {
                // SAFETY: the caller's.
                unsafe { self.finish.run(matrix, panel, row, totals) };
            }
        }
    }
}

/// Adds the products of `B` rows with a segment of a panel to their totals, and gives `B`.
#[inline(always)]
unsafe fn segment_of<L: Lanes, const B: usize>(
    precision: Precision,
    (panel, end): (&[Line], *const Line),
    columns: &Range<usize>,
    input: &SharedRows<'_>,
    row: usize,
    totals: &mut [[f32; PANEL]],
) -> usize {
    let start = |b: usize| (row + b) * input.stride + columns.start;
    // SAFETY: the caller's: nothing writes to the rows in this stage, and the processor has the instructions.
    unsafe {
        let mut sums = [[L::splat(0.0); 2]; B];
        match precision {
            Precision::Float32 => {
                let lines = &panel[2 * columns.start..2 * columns.end];
                let mut rows = [&[][..]; B];
                for (b, row) in rows.iter_mut().enumerate() {
                    *row = input.floats.read(start(b)..start(b) + columns.len());
                }
                floats::<L, B>(lines, end, rows, &mut sums);
            }
            Precision::Bfloat16 => {
                // A stride is even, so an odd last column has a zero beside it.
                let len = columns.len().next_multiple_of(2);
                let lines = &panel[columns.start..columns.start + len];
                let mut rows = [&[][..]; B];
                for (b, row) in rows.iter_mut().enumerate() {
                    *row = input.briefs.read(start(b)..start(b) + len).as_chunks().0;
                }
                briefs::<L, B>(lines, end, rows, &mut sums);
            }
            Precision::Int8 => {
                let groups = columns.start / GROUP..columns.end.div_ceil(GROUP);
                let lines = &panel[GROUP_LINES * groups.start..GROUP_LINES * groups.end];
                let first = |b: usize| start(b) / GROUP;
                let mut rows = [ByteRow::default(); B];
                for (b, row) in rows.iter_mut().enumerate() {
                    *row = ByteRow {
                        bytes: input.bytes.read(start(b)..start(b) + groups.len() * GROUP),
                        scales: input.scales.read(first(b)..first(b) + groups.len()),
                        totals: input.totals.read(first(b)..first(b) + groups.len()),
                    };
                }
                bytes::<L, B>(lines, end, rows, &mut sums);
            }
        }
        for b in 0..B {
            let halves = totals[b].as_chunks_mut::<WIDTH>().0;
            for t in 0..2 {
                let total = L::add(L::load(&halves[t]), sums[b][t]);
                L::store(&mut halves[t], total);
            }
        }
    }
    B
}

#[inline(always)]
unsafe fn floats<L: Lanes, const B: usize>(
    lines: &[Line],
    end: *const Line,
    rows: [&[f32]; B],
    sums: &mut [[L::Floats; 2]; B],
) {
    for (column, pair) in lines.as_chunks::<2>().0.iter().enumerate() {
        ask_ahead(pair, end);
        // SAFETY: the caller's, and each row has a value for each two lines.
        unsafe {
            let weights = [L::load(bytemuck::cast_ref(&pair[0])), L::load(bytemuck::cast_ref(&pair[1]))];
            for b in 0..B {
                let x = L::splat(*rows[b].get_unchecked(column));
                sums[b][0] = L::mul_add(weights[0], x, sums[b][0]);
                sums[b][1] = L::mul_add(weights[1], x, sums[b][1]);
            }
        }
    }
}

#[inline(always)]
unsafe fn briefs<L: Lanes, const B: usize>(
    lines: &[Line],
    end: *const Line,
    rows: [&[[Brief; 2]]; B],
    sums: &mut [[L::Floats; 2]; B],
) {
    for (i, pair) in lines.as_chunks::<2>().0.iter().enumerate() {
        ask_ahead(pair, end);
        // SAFETY: the caller's, and each row has a pair for each two lines.
        unsafe {
            for b in 0..B {
                let activations = bytemuck::cast(*rows[b].get_unchecked(i));
                sums[b][0] = L::dot_pairs(sums[b][0], &pair[0], activations);
                sums[b][1] = L::dot_pairs(sums[b][1], &pair[1], activations);
            }
        }
    }
}

/// A row of activations as bytes.
#[derive(Clone, Copy, Default)]
struct ByteRow<'a> {
    bytes: &'a [i8],
    scales: &'a [f32],
    totals: &'a [i32],
}

#[inline(always)]
unsafe fn bytes<L: Lanes, const B: usize>(
    lines: &[Line],
    end: *const Line,
    rows: [ByteRow<'_>; B],
    sums: &mut [[L::Floats; 2]; B],
) {
    for (group, lines) in lines.as_chunks::<GROUP_LINES>().0.iter().enumerate() {
        let scales: &[u16; PANEL] = bytemuck::cast_ref(&lines[0]);
        // The steps ask for what lies a multiple of two lines behind them: one of a group's lines is left.
        ask_line_ahead(&lines[0], end);
        let scales = scales.as_chunks::<WIDTH>().0;
        // SAFETY: the caller's, and each row has a group for each group of lines.
        unsafe {
            let mut dots = [[L::dot_start(0); 2]; B];
            for b in 0..B {
                dots[b] = [L::dot_start(*rows[b].totals.get_unchecked(group)); 2];
            }
            // An opaque count keeps the loop rolled: unrolled, all weights are loaded first and spilled.
            let steps = &lines[1..].as_chunks::<2>().0[..std::hint::black_box(GROUP / 4)];
            for (step, pair) in steps.iter().enumerate() {
                ask_ahead(pair, end);
                for b in 0..B {
                    let four = rows[b].bytes.as_chunks::<4>().0.get_unchecked(group * GROUP / 4 + step);
                    dots[b][0] = L::dot(dots[b][0], &pair[0], *four);
                    dots[b][1] = L::dot(dots[b][1], &pair[1], *four);
                }
            }
            let scales = [L::load_brief(&scales[0]), L::load_brief(&scales[1])];
            for b in 0..B {
                let own = L::splat(*rows[b].scales.get_unchecked(group));
                for t in 0..2 {
                    let dots = L::to_floats(dots[b][t]);
                    sums[b][t] = L::mul_add(dots, L::mul(scales[t], own), sums[b][t]);
                }
            }
        }
    }
}

/// Asks for memory that is read soon, before `end`: what lies behind is another thread's.
#[inline(always)]
fn ask_ahead(pair: &[Line; 2], end: *const Line) {
    ask_line_ahead(&pair[0], end);
    ask_line_ahead(&pair[1], end);
}

#[inline(always)]
fn ask_line_ahead(line: &Line, end: *const Line) {
    let ahead = std::ptr::from_ref(line).wrapping_byte_add(AHEAD);
    if ahead < end {
        prefetch_line(ahead.cast());
    }
}
