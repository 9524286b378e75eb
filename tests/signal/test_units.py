"""Units as files spell them, and amplitudes that can be EEG."""

from __future__ import annotations

import numpy as np
import pytest

from openclef.errors import OpenclefError
from openclef.signal.units import checked_unit, implausible, known_unit, typical_amplitude_uv
from openclef.types import Recording

SFREQ_HZ = 100


def recording(
    sd_uv: float | list[float],
    *,
    duration_s: float = 20,
    offset_uv: float = 0.0,
    gaps: tuple[tuple[float, float], ...] = (),
) -> Recording:
    sds = np.atleast_1d(sd_uv)
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((len(sds), round(duration_s * SFREQ_HZ)))
    signal_uv = (sds[:, np.newaxis] * noise + offset_uv).astype(np.float32)
    for start_s, stop_s in gaps:
        signal_uv[:, round(start_s * SFREQ_HZ) : round(stop_s * SFREQ_HZ)] = 0
    names = tuple(f"C{i}" for i in range(len(sds)))
    return Recording(signal_uv, SFREQ_HZ, names, np.zeros(len(sds), np.bool_), gaps=gaps)


@pytest.mark.parametrize(
    ("text", "unit"),
    [("uV", "uV"), ("µV", "uV"), ("μV", "uV"), ("\xc2\xb5V", "uV"), (" UV ", "uV"),
     ("mV", "mV"), ("MV", "mV"), ("V", "V"), ("Volts", "V"), ("nV", "nV"), ("microV", "uV"),
     ("", None), ("  ", None), ("n/a", None), ("degC", None), ("%", None), ("uV/Hz", None)],
)  # fmt: skip
def test_spellings(text: str, unit: str | None) -> None:
    assert known_unit(text) == unit


def test_what_overrides_is_one_of_four() -> None:
    assert checked_unit(None) is None
    assert checked_unit("uV") == checked_unit("µV") == "uV"
    with pytest.raises(OpenclefError, match="unknown unit 'kV'; allowed: V, mV, nV, uV"):
        checked_unit("kV")


def test_amplitude_knows_no_offset_and_few_artefacts() -> None:
    given = recording([5, 50, 0], duration_s=500, offset_uv=3e4)
    given.signal_uv[:, :: 50_000 // 7] += 1e5
    found = typical_amplitude_uv(given.signal_uv, sfreq_hz=SFREQ_HZ)
    np.testing.assert_allclose(found[:2], [5, 50], rtol=0.05)
    assert typical_amplitude_uv(np.full((1, 900), 0.1, np.float32), sfreq_hz=SFREQ_HZ) == [0]


@pytest.mark.parametrize("n_times", [0, 1, 2, 50])
def test_less_than_a_second_has_an_amplitude_too(n_times: int) -> None:
    ramp = np.arange(n_times, dtype=np.float32)[np.newaxis]
    found = typical_amplitude_uv(ramp, sfreq_hz=SFREQ_HZ)
    assert found == pytest.approx([ramp.std() if n_times > 1 else 0])


@pytest.mark.parametrize("sd_uv", [0.2, 20, 4000])
def test_stated_microvolts_are_believed_where_they_can_be(sd_uv: float) -> None:
    assert implausible(recording(sd_uv), declared="uV") is None


@pytest.mark.parametrize(
    ("declared", "sd_uv", "hint"),
    [
        ("uV", 0.02, "; it would be 20 uV if the numbers were mV"),
        ("uV", 2e-5, "; it would be 20 uV if the numbers were V"),
        ("mV", 2e4, "; it would be 20 uV if the numbers were uV"),
        ("V, as the format has it", 2e7, "; it would be 20 uV if the numbers were uV"),
        ("assumed uV (none stated that is known)", 2e4, "if the numbers were nV"),
        ("mV, uV", 2e4, "uV): correct"),
        ("uV", 1e12, "uV): correct"),
    ],
)  # fmt: skip
def test_what_is_no_eeg_says_which_unit_would_make_it_one(
    declared: str, sd_uv: float, hint: str
) -> None:
    # The typical SD is rounded to 3 digits in the message: exactly 20 needs a known signal.
    given = recording(1.0)
    given.signal_uv[0] = np.tile([-sd_uv, sd_uv], given.signal_uv.shape[1] // 2)
    told = implausible(given, declared=declared)
    assert told is not None
    assert hint in told
    assert f"unit {declared}" in told


def test_without_a_stated_unit_only_what_can_be_nothing_else() -> None:
    assumed = "assumed uV (none stated that is known)"
    assert implausible(recording(20), declared=assumed) is None
    for sd_uv in (1, 2000):
        told = implausible(recording(sd_uv), declared=assumed)
        assert "not that of EEG (2 to 1000 uV)" in str(told)


def test_flat_channels_and_gaps_do_not_count() -> None:
    assert implausible(recording([0, 0, 20]), declared="uV") is None
    assert implausible(recording([0, 0]), declared="uV") == "all 2 EEG channels are flat"
    assert implausible(recording(20, gaps=((1.0, 19.0),)), declared="uV") is None
    assert implausible(recording(20, gaps=((0.0, 20.0),)), declared="uV") is not None
