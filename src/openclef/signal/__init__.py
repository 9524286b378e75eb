"""EEG files -> recordings in microvolts -> 200 Hz, 19 channels -> multitaper spectrograms."""

from openclef.signal.filters import preprocess
from openclef.signal.formats import (
    RecordingFile,
    open_recording,
    read_recording,
    window_bounds_s,
)
from openclef.signal.labels import canonical_name, shown_label
from openclef.signal.line import detect_line_hz
from openclef.signal.montage import Montage, match_channels, order_channels
from openclef.signal.multitaper import multitaper_psd
from openclef.signal.quality import assess_window, summarise
from openclef.signal.spectrogram import fit_to_window, spectrogram, window_spectrogram
from openclef.signal.units import UNITS, implausible, typical_amplitude_uv

__all__ = [
    "UNITS",
    "Montage",
    "RecordingFile",
    "assess_window",
    "canonical_name",
    "detect_line_hz",
    "fit_to_window",
    "implausible",
    "match_channels",
    "multitaper_psd",
    "open_recording",
    "order_channels",
    "preprocess",
    "read_recording",
    "shown_label",
    "spectrogram",
    "summarise",
    "typical_amplitude_uv",
    "window_bounds_s",
    "window_spectrogram",
]
