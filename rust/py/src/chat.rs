//! Messages to ids and loss mask.

use numpy::{IntoPyArray, PyArray1};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use tempa_core::Ragged;
use tempa_core::chat::{Chat, Role, Turn};

use crate::border::Offload;
use crate::bpe::{Flat, Tokenizer, flat};
use crate::error::to_python;
use crate::texts::Text;

/// render_chats(tokenizer, conversations, add_generation_prompt, num_threads) -> ((ids, offsets), mask)
///
/// A message is data, so whatever is wrong with one is a `ValueError` that says which.
#[pyfunction]
#[pyo3(signature = (tokenizer, conversations, add_generation_prompt=false, num_threads=None))]
pub(crate) fn render_chats<'py>(
    py: Python<'py>,
    tokenizer: &Tokenizer,
    conversations: Vec<Vec<Bound<'py, PyAny>>>,
    add_generation_prompt: bool,
    num_threads: Option<usize>,
) -> PyResult<(Flat<'py>, Bound<'py, PyArray1<u8>>)> {
    let mut messages: Vec<(Role, Text)> = Vec::new();
    let mut offsets = vec![0];
    for (i, conversation) in conversations.iter().enumerate() {
        for (at, message) in conversation.iter().enumerate() {
            let named = |error: PyErr| {
                PyValueError::new_err(format!("conversation {i}, message {at}: {}", error.value(py)))
            };
            messages.push(read(message).map_err(named)?);
        }
        offsets.push(messages.len() as i64);
    }
    let turns =
        messages.iter().map(|(role, content)| Turn { role: *role, content: content.as_ref() }).collect();
    let rendered = py.offload(|| {
        let turns = Ragged::new(turns, offsets)?;
        Chat::new(&tokenizer.inner)?.render(&turns, add_generation_prompt, num_threads)
    })?;
    Ok((flat(py, rendered.ids), rendered.mask.into_pyarray(py)))
}

fn read(message: &Bound<'_, PyAny>) -> PyResult<(Role, Text)> {
    let Ok(message) = message.cast::<PyDict>() else {
        return Err(PyValueError::new_err(format!(
            "expected a dict with role and content, got {}",
            message.get_type().name()?
        )));
    };
    let field = |name: &str| {
        let value =
            message.get_item(name)?.ok_or_else(|| PyValueError::new_err(format!("{name} is missing")))?;
        let kind = value.get_type().name()?;
        value.extract::<Text>().map_err(|error| {
            if error.is_instance_of::<PyValueError>(message.py()) {
                return error;
            }
            PyValueError::new_err(format!("{name} must be a str, got {kind}"))
        })
    };
    let role = Role::from_name(field("role")?.as_ref()).map_err(to_python)?;
    Ok((role, field("content")?))
}
