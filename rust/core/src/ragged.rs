//! Variable-length rows as one flat vector plus offsets.

use crate::{Error, Result};

/// Rows of different lengths: row `i` is `values[offsets[i]..offsets[i + 1]]`.
///
/// Invariant: `offsets` starts at 0, never decreases and ends at `values.len()`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ragged<T> {
    /// All rows, one after the other.
    pub values: Vec<T>,
    /// Row boundaries, one more than there are rows.
    pub offsets: Vec<i64>,
}

impl<T> Default for Ragged<T> {
    fn default() -> Self {
        Self { values: Vec::new(), offsets: vec![0] }
    }
}

impl<T> Ragged<T> {
    /// Checks the invariant of data that came from outside.
    ///
    /// # Errors
    /// [`Error::Value`] if the offsets do not describe rows of `values`.
    pub fn new(values: Vec<T>, offsets: Vec<i64>) -> Result<Self> {
        check_offsets(&offsets, values.len())?;
        Ok(Self { values, offsets })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Row `i`.
    ///
    /// # Panics
    /// If `i` is not below [`Ragged::len`].
    pub fn row(&self, i: usize) -> &[T] {
        &self.values[self.offsets[i] as usize..self.offsets[i + 1] as usize]
    }

    /// The rows in order.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[T]> {
        (0..self.len()).map(|i| self.row(i))
    }

    /// Ends the current row: everything pushed to `values` since the last call belongs to it.
    pub fn end_row(&mut self) {
        self.offsets.push(self.values.len() as i64);
    }
}

/// Checks that `offsets` cuts `len` values into rows.
///
/// # Errors
/// [`Error::Value`] naming the first offset that is wrong.
pub fn check_offsets(offsets: &[i64], len: usize) -> Result<()> {
    if offsets.first() != Some(&0) {
        return Err(Error::value("offsets must start at 0"));
    }
    if let Some(i) = offsets.windows(2).position(|pair| pair[0] > pair[1]) {
        return Err(Error::value(format!(
            "offsets decrease at row {i}: {} to {}",
            offsets[i],
            offsets[i + 1]
        )));
    }
    let last = offsets[offsets.len() - 1];
    if last != len as i64 {
        return Err(Error::value(format!("offsets end at {last}, expected the number of values, {len}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_the_slices_between_offsets() {
        let ragged = Ragged::new(vec![1, 2, 3], vec![0, 2, 2, 3]).unwrap();
        assert_eq!(ragged.rows().collect::<Vec<_>>(), [&[1, 2][..], &[], &[3]]);
    }

    #[test]
    fn wrong_offsets_are_refused() {
        for offsets in [vec![], vec![1, 3], vec![0, 2, 1, 3], vec![0, 2]] {
            assert!(Ragged::new(vec![1, 2, 3], offsets).is_err());
        }
    }
}
