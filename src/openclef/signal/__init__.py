"""EEG files -> recordings in microvolts -> 200 Hz, 19 channels -> multitaper spectrograms."""

from openclef.signal.filters import detect_line_hz, preprocess
from openclef.signal.formats import (
    RecordingFile,
    crop,
    implausible,
    open_recording,
    read_recording,
    typical_amplitude_uv,
    window_bounds_s,
)
from openclef.signal.montage import ChannelMatch, canonical_name, match_channels, order_channels
from openclef.signal.multitaper import multitaper_psd
from openclef.signal.spectrogram import fit_to_window, spectrogram, window_spectrogram

__all__ = [
    "ChannelMatch",
    "RecordingFile",
    "canonical_name",
    "crop",
    "detect_line_hz",
    "fit_to_window",
    "implausible",
    "match_channels",
    "multitaper_psd",
    "open_recording",
    "order_channels",
    "preprocess",
    "read_recording",
    "spectrogram",
    "typical_amplitude_uv",
    "window_bounds_s",
    "window_spectrogram",
]
