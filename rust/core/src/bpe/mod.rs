//! Byte-level BPE: pretokenization, training, encoding, decoding, vocabulary formats.
