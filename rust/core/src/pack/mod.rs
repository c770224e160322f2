//! Packing of documents into rows, the order of rows, and the mixture of several sources.

mod best_fit;
mod loader;
mod mixture;
mod order;
mod rows;

pub use best_fit::{Span, plan_rows};
pub use loader::{Batch, Loader};
pub use mixture::{Drawn, Mixture};
pub use order::permute;
pub use rows::{Mode, Rows};
