"""The Transformer and its heads."""
