//! Next-token sampling from rows of logits.
