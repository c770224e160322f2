//! Packing of documents into rows and the order of batches.
