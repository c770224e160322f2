//! A row of logits as it is drawn from: masked, edited, and known to be sound.

use super::Row;
use super::cut::Line;
use super::history::{History, edit, edits};
use super::mass::Scale;
use super::passes::{self, Level};
use super::settings::Settings;

/// Why a row cannot be drawn from.
pub(super) type Bad = String;

/// What is drawn from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Query<'a> {
    pub(super) row: Row<'a>,
    pub(super) mask: Option<&'a [i32]>,
    /// Bits of the tokens that the settings allow.
    pub(super) allowed: Option<&'a [i32]>,
    pub(super) settings: &'a Settings,
    pub(super) history: &'a History,
}

/// Memory that rows reuse.
#[derive(Debug)]
pub(super) struct Reader {
    level: Level,
    words: Vec<i32>,
    edited: Vec<f32>,
    maxima: Vec<f32>,
}

impl Reader {
    pub(super) fn new(level: Level) -> Self {
        Self { level, words: Vec::new(), edited: Vec::new(), maxima: Vec::new() }
    }

    /// The row under its masks, penalties and temperature. A float32 row that nothing changes is not copied.
    pub(super) fn read<'a>(&'a mut self, query: Query<'a>) -> Result<Line<'a>, Bad> {
        let Query { row, mask, allowed, settings, history } = query;
        let mask = match (mask, allowed) {
            (Some(mask), Some(allowed)) => {
                self.words.clear();
                self.words.extend(mask.iter().zip(allowed).map(|(a, b)| a & b));
                Some(&self.words[..])
            }
            (one, other) => one.or(other),
        };
        let edits = edits(settings, history);
        let (row, is_valid) = match row {
            Row::F32(row) if mask.is_none() && !edits => (row, true),
            _ => {
                let is_valid = passes::load(self.level, row, mask, &mut self.edited);
                if edits {
                    edit(&mut self.edited, settings, history);
                }
                (&self.edited[..], is_valid)
            }
        };
        let is_valid = passes::block_maxima(self.level, row, &mut self.maxima) && is_valid;
        let max = self.maxima.iter().fold(f32::NEG_INFINITY, |max, &x| if x > max { x } else { max });
        if !is_valid || max == f32::NEG_INFINITY {
            return Err(reason(query.row, is_valid));
        }
        Ok(Line {
            level: self.level,
            row,
            maxima: &self.maxima,
            scale: Scale::new(max, settings.temperature),
        })
    }
}

fn reason(row: Row<'_>, is_valid: bool) -> Bad {
    let logits: Vec<f32> = match row {
        Row::F32(row) => row.to_vec(),
        Row::Bf16(row) => row.iter().map(|&bits| f32::from_bits(u32::from(bits) << 16)).collect(),
    };
    match logits.iter().position(|x| x.is_nan() || *x == f32::INFINITY) {
        Some(id) => format!("the logit of token {id} is {}", logits[id]),
        None if !is_valid => "a logit is infinite after bias and penalties".to_owned(),
        None if logits.iter().all(|&x| x == f32::NEG_INFINITY) => "no logit is finite".to_owned(),
        None => "mask, allowed_ids, bad_ids and min_new_tokens leave no token".to_owned(),
    }
}
