"""The signal of a simulated session: its course, its events, and the waveforms made of them."""
