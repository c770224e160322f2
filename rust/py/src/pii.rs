//! Personal data in texts.

use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use rayon::prelude::*;
use tempa_core::pii::{self, Kind, Span};
use tempa_core::{Error, Result};

use crate::border::Offload;
use crate::texts::Text;

/// find_pii(text, kinds) -> (kind, first character, character behind the last) of each place
#[pyfunction]
pub(crate) fn find_pii(
    py: Python<'_>,
    text: Text,
    kinds: Vec<PyBackedStr>,
) -> PyResult<Vec<(&'static str, usize, usize)>> {
    py.offload(|| {
        let (mut bytes, mut chars) = (0, 0);
        let mut char_at = |place: usize| {
            chars += text.get(bytes..place).map_or(0, |part| part.chars().count());
            bytes = place;
            chars
        };
        let mut found = Vec::new();
        pii::find(&text, &parse_kinds(&kinds)?, &mut found);
        Ok(found.iter().map(|span| (span.kind.name(), char_at(span.start), char_at(span.end))).collect())
    })
}

type Masked = (Vec<Option<String>>, Vec<(&'static str, usize)>);

/// mask_pii(texts, kinds) -> (text with placeholders or None where nothing was found, places of each kind)
#[pyfunction]
pub(crate) fn mask_pii(py: Python<'_>, texts: Vec<Text>, kinds: Vec<PyBackedStr>) -> PyResult<Masked> {
    py.offload(|| {
        let kinds = parse_kinds(&kinds)?;
        let mask = |(found, masked): &mut (Vec<Span>, String), text: &Text| {
            let is_changed = pii::mask(text, &kinds, found, masked);
            let count = |kind| found.iter().filter(|span| span.kind == kind).count();
            (
                is_changed.then(|| std::mem::take(masked)),
                kinds.iter().map(|&kind| count(kind)).collect::<Vec<_>>(),
            )
        };
        let (masked, counts): (Vec<_>, Vec<_>) = texts.par_iter().map_init(Default::default, mask).unzip();
        let total = |i: usize| counts.iter().map(|counts| counts[i]).sum();
        Ok((masked, kinds.iter().enumerate().map(|(i, kind)| (kind.name(), total(i))).collect()))
    })
}

/// The kinds of these names.
pub(crate) fn parse_kinds<T: AsRef<str>>(names: &[T]) -> Result<Vec<Kind>> {
    let kind_of = |name: &T| {
        let known = Kind::ALL.into_iter().find(|kind| kind.name() == name.as_ref());
        known.ok_or_else(|| {
            let names = Kind::ALL.map(Kind::name).join(", ");
            Error::value(format!("kinds must be of {names}, got {:?}", name.as_ref()))
        })
    };
    names.iter().map(kind_of).collect()
}
