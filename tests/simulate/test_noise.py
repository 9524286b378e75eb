"""Noise has the asked density, size and memory, at any length."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import hilbert, welch

from openclef.simulate.eeg.noise import (
    arched_noise,
    band_noise,
    each_sample,
    poisson_onsets,
    shaped_noise,
    waxing,
)

SFREQ_HZ = 200.0


# 1279 is prime: the noise is then drawn at a longer length and cut.
@pytest.mark.parametrize("n_times", [1280 * 200, 1279 * 200])
def test_shaped_noise_has_the_asked_density(n_times: int) -> None:
    freqs_hz = np.arange(n_times // 2 + 1) * SFREQ_HZ / n_times
    asked_F = 50 / (1 + freqs_hz**2)
    noise = shaped_noise(
        np.random.default_rng(0), psd_F=asked_F, n_times=n_times, sfreq_hz=SFREQ_HZ
    )
    assert noise.shape == (n_times,)
    assert noise.dtype == np.float32
    found_hz, found_F = welch(noise, SFREQ_HZ, nperseg=800)
    for low_hz, high_hz in ((2, 4), (8, 12), (30, 40), (70, 90)):
        asked = asked_F[(freqs_hz >= low_hz) & (freqs_hz <= high_hz)].mean()
        found = found_F[(found_hz >= low_hz) & (found_hz <= high_hz)].mean()
        assert found == pytest.approx(asked, rel=0.1)


def test_shaped_noise_is_silent_where_no_density_is_given() -> None:
    flat = shaped_noise(
        np.random.default_rng(0), psd_F=np.ones(4001), n_times=40_000, sfreq_hz=SFREQ_HZ
    )
    freqs_hz, psd_F = welch(flat, SFREQ_HZ, nperseg=800)
    assert psd_F[freqs_hz > 22].max() < 1e-4 * psd_F[(freqs_hz > 2) & (freqs_hz < 18)].min()


@pytest.mark.parametrize("n_times", [40_000, 200 * 197])
def test_band_noise_has_unit_rms_about_its_frequency(n_times: int) -> None:
    rhythm = band_noise(
        np.random.default_rng(1), center_hz=10, width_hz=1, n_times=n_times, sfreq_hz=SFREQ_HZ
    )
    assert rhythm.shape == (n_times,)
    assert rhythm.dtype == np.float32
    assert rhythm.std() == pytest.approx(1, rel=0.1)
    freqs_hz, psd_F = welch(rhythm, SFREQ_HZ, nperseg=400)
    assert np.average(freqs_hz, weights=psd_F) == pytest.approx(10, abs=0.2)
    spread_hz = np.sqrt(np.average((freqs_hz - 10) ** 2, weights=psd_F))
    # The amplitude spectrum is as wide as asked, the power narrower by the root of 2.
    assert spread_hz == pytest.approx(1 / np.sqrt(2), rel=0.25)


def test_arched_noise_has_a_harmonic_locked_to_its_phase() -> None:
    mu = arched_noise(
        np.random.default_rng(2), center_hz=10, width_hz=0.5, arch=0.4, n_times=60_000,
        sfreq_hz=SFREQ_HZ,
    )  # fmt: skip
    freqs_hz, psd_F = welch(mu, SFREQ_HZ, nperseg=800)

    def power(low_hz: float, high_hz: float) -> float:
        return float(psd_F[(freqs_hz >= low_hz) & (freqs_hz <= high_hz)].sum())

    assert power(17, 23) / power(7, 13) == pytest.approx(0.4**2, rel=0.2)
    # Locked: it lifts peaks and fills troughs, so that peaks are higher than troughs are deep.
    assert np.percentile(mu, 99.5) > 1.2 * -np.percentile(mu, 0.5)
    band = band_noise(
        np.random.default_rng(2), center_hz=10, width_hz=0.5, n_times=60_000, sfreq_hz=SFREQ_HZ
    )
    assert np.percentile(band, 99.5) < 1.1 * -np.percentile(band, 0.5)


def test_waxing_has_mean_square_one_and_forgets_after_its_time_constant() -> None:
    factors = waxing(np.random.default_rng(3), n_seconds=200_000, time_constant_s=5.0, depth=0.3)
    assert (factors**2).mean() == pytest.approx(1, rel=0.03)
    walk = np.log(factors) - np.log(factors).mean()
    assert walk.std() == pytest.approx(0.3, rel=0.05)
    assert (walk[5:] * walk[:-5]).mean() / walk.var() == pytest.approx(np.exp(-1), abs=0.05)


def test_envelope_of_noise_follows_a_curve_given_each_second() -> None:
    curve_T = np.array([1.0] * 50 + [3.0] * 51)
    rhythm = band_noise(
        np.random.default_rng(4), center_hz=10, width_hz=2, n_times=20_000, sfreq_hz=SFREQ_HZ
    )
    rhythm *= each_sample(curve_T, n_times=20_000, sfreq_hz=SFREQ_HZ)
    envelope = np.abs(hilbert(rhythm))
    assert envelope[11_000:].mean() == pytest.approx(3 * envelope[:9_000].mean(), rel=0.1)


def test_curves_are_interpolated_to_samples() -> None:
    samples = each_sample(np.array([0.0, 1.0, 0.0]), n_times=8, sfreq_hz=4)
    np.testing.assert_allclose(samples, [0, 0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25])


def test_onsets_come_at_the_rate_of_their_second() -> None:
    rate_T = np.array([0.0, 5.0] * 500)
    onsets = poisson_onsets(np.random.default_rng(5), rate_hz_T=rate_T, sfreq_hz=SFREQ_HZ)
    assert np.all(np.diff(onsets) >= 0)
    assert np.all((onsets // 200) % 2 == 1)
    assert len(onsets) == pytest.approx(2500, rel=0.1)
