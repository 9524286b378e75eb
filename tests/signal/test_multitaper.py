"""Multitaper power, held to MNE's `psd_array_multitaper` window by window."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mne.time_frequency import psd_array_multitaper

from openclef.errors import OpenclefError
from openclef.signal import multitaper_psd, preprocess, read_recording

SFREQ_HZ = 200.0


def mne_psd(signal: np.ndarray, *, sfreq_hz: float = SFREQ_HZ) -> np.ndarray:
    """`[.., F, T]` below 32 Hz, from the reference implementation."""
    n_window, n_step = round(4 * sfreq_hz), round(sfreq_hz)
    windows = np.lib.stride_tricks.sliding_window_view(signal.astype(np.float64), n_window, axis=-1)
    psd, _ = psd_array_multitaper(
        np.ascontiguousarray(windows[..., ::n_step, :]),
        sfreq_hz,
        bandwidth=1,
        low_bias=False,
        adaptive=False,
        normalization="full",
        remove_dc=True,
        verbose="ERROR",
    )
    return np.moveaxis(psd[..., :128], -1, -2)


def assert_as_mne(signal: np.ndarray, *, sfreq_hz: float = SFREQ_HZ) -> None:
    ours, _ = multitaper_psd(signal, sfreq_hz=sfreq_hz)
    np.testing.assert_allclose(ours, mne_psd(signal, sfreq_hz=sfreq_hz), rtol=1e-5, atol=0)


@pytest.mark.parametrize("sfreq_hz", [128.0, 200.0, 256.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_noise(sfreq_hz: float, dtype: type) -> None:
    rng = np.random.default_rng(0)
    assert_as_mne(rng.standard_normal((3, 50 * round(sfreq_hz))).astype(dtype), sfreq_hz=sfreq_hz)


def test_bins_60_db_below_the_strongest() -> None:
    """They are as exact as it: a burst well inside the window, on an offset, over a weak floor."""
    rng = np.random.default_rng(0)
    times_s = np.arange(4 * 200) / SFREQ_HZ
    burst = 1000 * np.exp(-(((times_s - 2) / 0.4) ** 2)) * np.sin(2 * np.pi * 3.1 * times_s)
    signal = burst + 0.01 * rng.standard_normal(len(times_s)) + 300
    psd, _ = multitaper_psd(signal, sfreq_hz=SFREQ_HZ)
    assert np.median(psd) < 1e-6 * psd.max()
    assert_as_mne(signal)


def test_a_sine() -> None:
    times_s = np.arange(40 * 200) / SFREQ_HZ
    assert_as_mne(50 * np.sin(2 * np.pi * 3.1 * times_s))


@pytest.mark.real_data
def test_real_eeg(real_data: Path) -> None:
    recording = read_recording(real_data / "eegmat" / "edf_200hz" / "Subject00_2.edf")
    assert_as_mne(preprocess(recording).signal_uv)


def test_shapes_and_frequencies() -> None:
    psd, freqs_hz = multitaper_psd(np.ones((2, 3, 10 * 200 + 199)), sfreq_hz=SFREQ_HZ)
    assert psd.shape == (2, 3, 128, 7)
    np.testing.assert_array_equal(freqs_hz, np.arange(128) / 4)


def test_white_noise_has_its_variance_spread_over_the_band() -> None:
    """Parseval: a one-sided PSD of white noise is 2 variance / sfreq."""
    signal = 10 * np.random.default_rng(0).standard_normal(1280 * 200)
    psd, _ = multitaper_psd(signal, sfreq_hz=SFREQ_HZ)
    assert psd[4:].mean() == pytest.approx(2 * 100 / 200, rel=0.01)


def test_a_sine_has_half_its_squared_amplitude() -> None:
    times_s = np.arange(10 * 200) / SFREQ_HZ
    psd, freqs_hz = multitaper_psd(30 * np.sin(2 * np.pi * 10 * times_s), sfreq_hz=SFREQ_HZ)
    band = np.abs(freqs_hz - 10) < 3
    np.testing.assert_allclose(psd[band].sum(axis=0) / 4, 30**2 / 2, rtol=0.01)
    assert set(psd.argmax(axis=0) / 4) <= set(np.arange(9.5, 10.75, 0.25))


def test_a_constant_has_no_power() -> None:
    psd, _ = multitaper_psd(np.full(1000, 123.0, np.float32), sfreq_hz=SFREQ_HZ)
    assert psd.max() < 1e-20


def test_bad_inputs_are_refused() -> None:
    with pytest.raises(OpenclefError, match="799 samples at 200 Hz are shorter than a window"):
        multitaper_psd(np.zeros(799), sfreq_hz=SFREQ_HZ)
    for wrong_hz in (64.0, 250.5):
        with pytest.raises(OpenclefError, match=f"sfreq_hz {wrong_hz:g} is not a whole number"):
            multitaper_psd(np.zeros(4000), sfreq_hz=wrong_hz)
