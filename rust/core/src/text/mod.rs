//! Text normalisation and quality rules.
