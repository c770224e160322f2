//! Chat turns to token ids and loss mask.
