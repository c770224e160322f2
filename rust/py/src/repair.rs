//! Text as it was before it was damaged.

use pyo3::prelude::*;
use rayon::prelude::*;
use tempa_core::repair::{Scratch, repair};

use crate::border::Offload;
use crate::texts::Text;

/// repair_texts(texts) -> (text, entities decoded, characters that had been read as several) of each, None where there are none
#[pyfunction]
pub(crate) fn repair_texts(
    py: Python<'_>,
    texts: Vec<Text>,
) -> PyResult<Vec<Option<(String, usize, usize)>>> {
    let repair = |scratch: &mut Scratch, text: &Text| {
        let (text, repairs) = repair(text, scratch)?;
        Some((text.to_owned(), repairs.entities, repairs.characters))
    };
    py.offload(|| Ok(texts.par_iter().map_init(Scratch::default, repair).collect()))
}
