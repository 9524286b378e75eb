"""The tokenizer: 19 x 128 x 1,280 decibels of one window to 8 x 256 discrete tokens and back."""
