"""Known traces of states, findings and drugs in the simulated signal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from scipy.signal import welch

from openclef.simulate.eeg import simulate_signal
from openclef.simulate.patients import Patient, Sign, SimulationConfig, draw_patient
from openclef.simulate.scene import Scene
from openclef.simulate.sources import band_noise, each_sample, shaped_noise, train
from openclef.types import CHANNELS, FloatArray

CONFIG = SimulationConfig(seed=1, duration_s=120)
NO_GAINS = dict.fromkeys(("delta", "theta", "alpha", "beta"), 0.0)


@pytest.fixture(scope="module")
def patient() -> Patient:
    drawn = draw_patient(CONFIG, index=0)
    plain = replace(
        drawn.sessions[0],
        setting="routine",
        findings={},
        gains=NO_GAINS,
        slowing_hz=0.0,
        bad_channels={},
    )
    return replace(drawn, sessions=(plain,))


def record(
    patient: Patient,
    findings: Mapping[str, Sign] | None = None,
    *,
    gains: Mapping[str, float] | None = None,
    config: SimulationConfig = CONFIG,
) -> FloatArray:
    session = replace(
        patient.sessions[0], findings=findings or {}, gains=NO_GAINS | dict(gains or {})
    )
    return simulate_signal(patient, session, config=config)


def power(signal_CS: FloatArray, channel: str, low_hz: float, high_hz: float) -> float:
    freqs_hz, psd_F = welch(signal_CS[CHANNELS.index(channel)], CONFIG.sfreq_hz, nperseg=400)
    band_F = (freqs_hz >= low_hz) & (freqs_hz <= high_hz)
    return float(psd_F[band_F].mean())


def test_signal_is_float32_microvolts_of_plausible_size(patient: Patient) -> None:
    signal_CS = record(patient)
    assert signal_CS.shape == (19, 120 * 200)
    assert signal_CS.dtype == np.float32
    rms_C = signal_CS.std(axis=1)
    assert np.all((rms_C > 5) & (rms_C < 60))


def test_alpha_is_posterior_and_blocks_with_open_eyes(patient: Patient) -> None:
    signal_CS = record(patient)
    low, high = patient.traits.alpha_hz - 1, patient.traits.alpha_hz + 1
    assert power(signal_CS, "O1", low, high) > 3 * power(signal_CS, "Fp1", low, high)
    rng = CONFIG.generator("signal", patient=0)
    scene = Scene.draw(rng, patient, patient.sessions[0], CONFIG)
    awake = scene.drowsy[:-1] < 0.1
    closed = np.repeat(awake & (scene.eyes_closed[:-1] > 0.9), 200)
    opened = np.repeat(awake & (scene.eyes_closed[:-1] < 0.1), 200)
    assert opened.any()
    closed_power = power(signal_CS[:, closed], "O1", low, high)
    assert closed_power > 2 * power(signal_CS[:, opened], "O1", low, high)


@pytest.mark.parametrize(("side", "near", "far"), [("left", "T3", "T4"), ("right", "T4", "T3")])
def test_focal_slowing_raises_delta_on_its_side(
    patient: Patient, side: str, near: str, far: str
) -> None:
    sign = Sign(1.0, "left" if side == "left" else "right", "temporal")
    plain_CS, slow_CS = record(patient), record(patient, {"focal_slowing": sign})
    assert power(slow_CS, near, 1, 3) > 2 * power(plain_CS, near, 1, 3)
    assert power(slow_CS, far, 1, 3) < 1.5 * power(plain_CS, far, 1, 3)


def test_benzodiazepine_gain_raises_beta_and_leaves_delta(patient: Patient) -> None:
    plain_CS, drug_CS = record(patient), record(patient, gains={"beta": 0.6})
    assert power(drug_CS, "Fz", 17, 23) > 1.5 * power(plain_CS, "Fz", 17, 23)
    assert power(drug_CS, "Fz", 1, 3) == pytest.approx(power(plain_CS, "Fz", 1, 3), rel=0.01)


def test_absent_posterior_rhythm_lowers_occipital_alpha(patient: Patient) -> None:
    plain_CS, absent_CS = record(patient), record(patient, {"absent_pdr": Sign(1.0)})
    low, high = patient.traits.alpha_hz - 1, patient.traits.alpha_hz + 1
    assert power(absent_CS, "O2", low, high) < 0.5 * power(plain_CS, "O2", low, high)


def test_spike_wave_runs_at_three_per_second(patient: Patient) -> None:
    config = CONFIG.model_copy(update={"duration_s": 300})
    plain_CS = record(patient, config=config)
    burst_CS = record(patient, {"spike_wave": Sign(2.0)}, config=config)
    assert power(burst_CS, "Fz", 2.5, 3.5) > 3 * power(plain_CS, "Fz", 2.5, 3.5)


def test_burst_suppression_has_stretches_of_near_silence(patient: Patient) -> None:
    signal_CS = record(patient, {"burst_suppression": Sign(1.0)})
    seconds = signal_CS[CHANNELS.index("Pz")].reshape(120, 200).std(axis=1)
    assert np.percentile(seconds, 20) < 4
    assert np.percentile(seconds, 95) > 8


def test_no_effect_leaves_no_trace(patient: Patient) -> None:
    config = CONFIG.model_copy(update={"effect_size": 0.0})
    plain_CS = record(patient, config=config)
    for name in ("generalized_slowing", "diffuse_beta", "low_voltage", "burst_suppression"):
        marked_CS = record(patient, {name: Sign(1.0)}, config=config)
        ratio = power(marked_CS, "Cz", 1, 30) / power(plain_CS, "Cz", 1, 30)
        assert ratio == pytest.approx(1, abs=0.25), name


def test_bad_channels_are_flat_or_noisy(patient: Patient) -> None:
    session = replace(patient.sessions[0], bad_channels={"T3": "flat", "F8": "noisy"})
    rms_C = simulate_signal(patient, session, config=CONFIG).std(axis=1)
    assert rms_C[CHANNELS.index("T3")] < 1
    assert rms_C[CHANNELS.index("F8")] > 20


def test_noise_has_the_asked_density_and_unit_rms() -> None:
    rng = np.random.default_rng(0)
    flat = shaped_noise(rng, psd_F=np.full(6001, 0.25), n_times=12000, sfreq_hz=200)
    _, psd_F = welch(flat, 200, nperseg=200)
    assert psd_F[2:-2].mean() == pytest.approx(0.25, rel=0.05)
    rhythm = band_noise(rng, center_hz=10, width_hz=1, n_times=200_000, sfreq_hz=200)
    assert rhythm.std() == pytest.approx(1, rel=0.05)


def test_train_puts_templates_at_their_onsets_and_drops_the_late() -> None:
    track = train(np.array([1, 2, 5]), template_S=np.array([1.0, 2.0]), n_times=6, amplitudes_N=2.0)
    np.testing.assert_array_equal(track, [0, 2, 6, 4, 0, 0])


def test_curves_are_interpolated_to_samples() -> None:
    samples = each_sample(np.array([0.0, 1.0, 0.0]), n_times=8, sfreq_hz=4)
    np.testing.assert_allclose(samples, [0, 0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25])
