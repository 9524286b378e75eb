"""The encoder: one masked-reconstruction Transformer over the 2,048 tokens of a window."""
