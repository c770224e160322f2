//! Packing of documents into rows and the order of batches.

mod best_fit;
mod loader;
mod order;

pub use best_fit::{Span, plan_rows};
pub use loader::{Batch, Loader, Mode};
pub use order::permute;
