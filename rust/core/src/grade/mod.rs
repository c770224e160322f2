//! Answer extraction and numeric equality: verifiable rewards.
