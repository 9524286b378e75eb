"""Units: what the numbers of a file mean, and whether they can be EEG in microvolts.

Units are converted once, where a recording is read. A unit that is missing or wrong shows as an
amplitude that no scalp gives; nothing but the user may then say what it was.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from openclef.errors import choose
from openclef.types import FloatArray, Recording

# Microvolts in one of each; what `unit=` may say.
UNITS = {"nV": 1e-3, "uV": 1.0, "mV": 1e3, "V": 1e6}
_SPELLED = {
    **{name.lower(): name for name in UNITS},
    "µv": "uV", "μv": "uV", "microv": "uV", "uvolt": "uV", "uvolts": "uV", "microvolt": "uV",
    "microvolts": "uV", "mvolt": "mV", "millivolt": "mV", "millivolts": "mV", "volt": "V",
    "volts": "V", "nanovolt": "nV", "nanovolts": "nV",
}  # fmt: skip

# Median over channels of the typical 1-s SD. Scalp EEG has 1 to 100 uV, an unfiltered consumer
# headset some 200 uV; microvolts taken for volts or millivolts miss this range by far.
PLAUSIBLE_UV = (0.1, 5000.0)
# Where no unit is stated, only what could be nothing but microvolts: no other unit's range of
# plausible amplitudes comes near.
ASSUMED_UV = (2.0, 1000.0)
_N_STRETCHES = 60


def known_unit(text: str) -> str | None:
    """One of `UNITS` for a unit as a file spells it; None if it is blank or unknown.

    Latin-1 and UTF-8 micro signs both occur, and "mv" for millivolts; "MV" is not read as mega.
    """
    return _SPELLED.get(text.replace("\xc2", "").strip().lower())


def checked_unit(unit: str | None) -> str | None:
    """`unit` if it may override a file's own; raises OpenclefError naming the nearest allowed."""
    return None if unit is None else choose(known_unit(unit) or unit, UNITS, "unit")


def typical_amplitude_uv(signal_uv: FloatArray, *, sfreq_hz: float) -> NDArray[np.float64]:
    """Robust amplitude of each channel `[C]` in microvolts, free of offset and drift.

    The median over 1-s stretches of the standard deviation; exactly 0 for a flat channel. Of a
    long signal 60 stretches, evenly spread, are looked at.
    """
    n_chunk = min(max(2, round(sfreq_hz)), signal_uv.shape[1])
    if n_chunk < 2:
        return np.zeros(len(signal_uv))
    n_chunks = signal_uv.shape[1] // n_chunk
    chunks = signal_uv[:, : n_chunks * n_chunk].reshape(len(signal_uv), n_chunks, n_chunk)
    if n_chunks > _N_STRETCHES:
        chunks = chunks[:, np.linspace(0, n_chunks - 1, _N_STRETCHES).astype(int)]
    # From the first sample of each: a large constant offset then leaves no rounding residue.
    sd = np.std(chunks - chunks[..., :1], axis=-1, dtype=np.float64)
    amplitude: NDArray[np.float64] = np.median(sd, axis=-1)
    return amplitude


def implausible(recording: Recording, *, declared: str = "as the format has it") -> str | None:
    """Why this is not EEG in microvolts, or None if it may be.

    declared: how the unit was found, for the message; "assumed" narrows what is plausible.
    """
    signal_uv = _outside_gaps(recording)
    amplitude_uv = typical_amplitude_uv(signal_uv, sfreq_hz=recording.sfreq_hz)
    live = amplitude_uv > 0
    if not live.any():
        return f"all {len(amplitude_uv)} EEG channels are flat"
    typical_uv = float(np.median(amplitude_uv[live]))
    low, high = ASSUMED_UV if declared.startswith("assumed") else PLAUSIBLE_UV
    if low <= typical_uv <= high:
        return None
    return (
        f"typical amplitude {typical_uv:.3g} uV (unit {declared}) is not that of EEG ({low:g} to "
        f"{high:g} uV){_other_unit(typical_uv, declared)}: correct the unit in the file, or say "
        "it (unit=, --unit)"
    )


def _other_unit(typical_uv: float, declared: str) -> str:
    """The unit that would make the amplitude that of EEG, if one does."""
    words = declared.partition("(")[0].replace(",", " ").split()
    stated = [name for name in UNITS if name in words]
    if len(stated) != 1:
        return ""
    own = stated[0]
    for name, factor in UNITS.items():
        amplitude_uv = typical_uv * factor / UNITS[own]
        if ASSUMED_UV[0] <= amplitude_uv <= ASSUMED_UV[1]:
            return f"; it would be {amplitude_uv:.3g} uV if the numbers were {name}"
    return ""


def _outside_gaps(recording: Recording) -> FloatArray:
    """The samples that were recorded, side by side."""
    if not recording.gaps:
        return recording.signal_uv
    keep = np.ones(recording.signal_uv.shape[1], np.bool_)
    for start_s, stop_s in recording.gaps:
        keep[round(start_s * recording.sfreq_hz) : round(stop_s * recording.sfreq_hz)] = False
    return recording.signal_uv[:, keep]
