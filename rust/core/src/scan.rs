//! Segmented reverse scans: reward-to-go and generalised advantage estimation.
