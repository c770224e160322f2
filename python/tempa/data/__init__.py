"""Documents to batches: cleaning, dedup, shards, packing, order."""
