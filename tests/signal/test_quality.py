from __future__ import annotations

import json
from dataclasses import replace

import mne
import numpy as np
import pytest
import scipy.signal

from openclef.errors import RecordingError
from openclef.signal.quality import STATES, Quality, assess_window, summarise
from openclef.types import CHANNELS, Recording

SFREQ_HZ = 200.0


def eeg(duration_s: float = 80, sfreq_hz: float = SFREQ_HZ, seed: int = 0) -> np.ndarray:
    """Clean EEG `[19, S]` in uV: 1/f, a common source, alpha, as a 16-bit recorder stores it."""
    rng = np.random.default_rng(seed)
    n = round(duration_s * sfreq_hz)
    freqs_hz = np.maximum(np.fft.rfftfreq(n, 1 / sfreq_hz), 0.5)
    waves = np.fft.irfft(np.fft.rfft(rng.standard_normal((20, n))) / freqs_hz, n)
    own, common = waves[:19], waves[19]
    alpha = np.sin(2 * np.pi * 10 * np.arange(n) / sfreq_hz + rng.uniform(0, 6, (19, 1)))
    signal_uv = 12 * own / own.std() + 6 * common / common.std() + 6 * alpha
    return np.round(signal_uv + 0.7 * rng.standard_normal((19, n)), 1).astype(np.float32)


def recording(signal_uv: np.ndarray, sfreq_hz: float = SFREQ_HZ, **changes) -> Recording:
    whole = Recording(signal_uv, sfreq_hz, CHANNELS, np.zeros(len(CHANNELS), bool))
    return replace(whole, **changes)


def quality(*windows: Recording) -> Quality:
    return summarise(
        [assess_window(window) for window in windows],
        montage={"reference": "LE"},
        unit_verdict="as stated",
        notes={"truncated": "9 of 10 records present"},
    )


def row(name: str) -> int:
    return CHANNELS.index(name)


def faulty(found: Quality) -> dict[str, str]:
    return {name: state for name, state in found.states.items() if state != "kept"}


@pytest.mark.parametrize("sfreq_hz", [64.0, 100.0, 128.0, 199.8, 256.0, 500.0, 1000.0])
def test_clean_eeg_raises_no_alarm_at_any_rate(sfreq_hz):
    found = quality(recording(eeg(sfreq_hz=sfreq_hz), sfreq_hz))
    assert faulty(found) == {}
    assert found.artefact == 0
    assert found.usable_s == found.visible_s == pytest.approx(80, abs=1)
    assert found.line_hz is None
    assert (found.line_ratio is None) == (sfreq_hz <= 100)


def test_amplitude_is_the_median_standard_deviation_of_a_second():
    signal_uv = eeg()
    oracle = np.median(signal_uv.reshape(19, 80, 200).astype(float).std(axis=2), axis=1)
    # The line's bins hold a little of the EEG.
    np.testing.assert_allclose(
        list(quality(recording(signal_uv)).amplitude_uv.values()), oracle, rtol=0.01
    )


@pytest.mark.parametrize("offset_uv", [-4000, 250_000])
def test_offset_and_drift_change_nothing(offset_uv):
    signal_uv = eeg()
    drift_uv = (
        offset_uv + np.linspace(0, 1, signal_uv.shape[1]) * np.linspace(-500, 500, 19)[:, None]
    )
    clean, drifting = (
        quality(recording(signal_uv)),
        quality(recording(np.float32(signal_uv + drift_uv))),
    )
    assert faulty(drifting) == {}
    assert drifting.artefact == 0
    for name in CHANNELS:
        assert drifting.amplitude_uv[name] == pytest.approx(clean.amplitude_uv[name], rel=0.1)


@pytest.mark.parametrize("line_hz", [50.0, 60.0])
def test_line_noise_is_named_and_is_no_other_fault(line_hz):
    signal_uv = eeg()
    line = 400 * np.sin(2 * np.pi * line_hz * np.arange(signal_uv.shape[1]) / SFREQ_HZ)
    found, clean = quality(recording(signal_uv + line)), quality(recording(signal_uv))
    assert found.line_hz == line_hz
    assert found.line_ratio > 1000
    assert faulty(found) == {}
    assert found.artefact == 0
    for name in CHANNELS:
        assert found.amplitude_uv[name] == pytest.approx(clean.amplitude_uv[name], rel=0.05)


def test_line_ratio_is_that_of_welch():
    signal_uv = eeg() + 3 * np.sin(2 * np.pi * 60 * np.arange(16000) / SFREQ_HZ)
    freqs_hz, power = scipy.signal.welch(signal_uv, SFREQ_HZ, nperseg=400, noverlap=0)
    away = np.abs(freqs_hz - 60)
    at = power[:, away <= 0.5].mean(axis=1)
    oracle = np.median(at / power[:, (away >= 2) & (away <= 5)].mean(axis=1))
    assert quality(recording(signal_uv)).line_ratio == pytest.approx(oracle, rel=1e-3)


@pytest.mark.parametrize("noise_uv", [0.0, 0.2])
def test_flat_channel(noise_uv):
    signal_uv = eeg()
    signal_uv[row("Pz")] = 150 + noise_uv * np.random.default_rng(1).standard_normal(16000)
    found = quality(recording(signal_uv))
    assert faulty(found) == {"Pz": "flat"}
    assert found.artefact == 0  # told once, not again in every minute


def test_masked_or_absent_channels_are_missing():
    signal_uv, mask = eeg(), np.zeros(19, bool)
    mask[[2, 5]] = True
    signal_uv[mask] = 0
    masked = quality(recording(signal_uv, channel_mask=mask))
    names = tuple(name for name, hidden in zip(CHANNELS, mask, strict=True) if not hidden)
    absent = quality(Recording(signal_uv[~mask], SFREQ_HZ, names, np.zeros(17, bool)))
    assert faulty(masked) == faulty(absent) == {CHANNELS[2]: "missing", CHANNELS[5]: "missing"}
    assert masked.columns() == absent.columns()
    assert masked.columns()["q_amplitude_uv"][2] is None


@pytest.mark.parametrize(("low", "high"), [(-1e9, 30), (-30, 1e9), (-30, 30)])
def test_clipping_is_found_whatever_the_rail(low, high):
    signal_uv = eeg()
    signal_uv[row("F7")] = np.clip(signal_uv[row("F7")], low, high) - 2000
    assert faulty(quality(recording(signal_uv))) == {"F7": "clipped"}


def test_large_amplitude_is_not_clipping():
    signal_uv = eeg()
    signal_uv[row("F7")] *= 1.8
    signal_uv[:, 3000:3003] = 5000
    assert faulty(quality(recording(signal_uv))) == {}


def test_coarse_digits_are_not_clipping():
    """A slow peak on few levels rests on the highest for many samples, and on those below."""
    signal_uv = 10 * np.round(eeg() / 10)
    assert quality(recording(signal_uv)).channels("clipped") == []


def test_bridged_pair_is_found_as_mne_finds_it():
    signal_uv = eeg()
    noise_uv = 0.3 * np.random.default_rng(1).standard_normal(16000)
    signal_uv[row("C3")] = signal_uv[row("Cz")] + noise_uv
    found = quality(recording(signal_uv + 4000))
    info = mne.create_info(list(CHANNELS), SFREQ_HZ, "eeg")
    raw = mne.io.RawArray(signal_uv * 1e-6, info, verbose="ERROR")
    pairs, _ = mne.preprocessing.compute_bridged_electrodes(raw, verbose="ERROR")
    assert {CHANNELS[i] for pair in pairs for i in pair} == {"C3", "Cz"}
    assert faulty(found) == {"C3": "bridged", "Cz": "bridged"}


def test_quiet_eeg_is_not_bridged():
    """Everything is within MNE's 16 uV^2 here, but no pair is closer than the others."""
    assert faulty(quality(recording(eeg() * 0.15))) == {}


def test_noisy_channels_by_amplitude_and_by_spectrum():
    signal_uv = eeg()
    signal_uv[row("T3")] *= 6
    signal_uv[row("O2")] = 15 * np.random.default_rng(1).standard_normal(16000)
    assert faulty(quality(recording(signal_uv))) == {"T3": "noisy", "O2": "noisy"}


def test_many_noisy_channels_do_not_hide_each_other():
    signal_uv = eeg()
    signal_uv[:12] = 15 * np.random.default_rng(1).standard_normal((12, 16000))
    assert quality(recording(signal_uv)).channels("noisy") == list(CHANNELS[:12])


@pytest.mark.parametrize("kind", ["movement", "muscle", "dropout"])
def test_artefacts_are_told_by_the_minute(kind):
    signal_uv = eeg(duration_s=180)
    burst = slice(round(70 * SFREQ_HZ), round(82 * SFREQ_HZ))
    n_channels = 10
    noise = np.random.default_rng(1).standard_normal((n_channels, 2400))
    ramp_uv = 3000 * np.sin(2 * np.pi * np.arange(2400) / SFREQ_HZ)
    planted = {"movement": ramp_uv, "muscle": 50 * noise, "dropout": 0}[kind]
    if kind == "dropout":
        signal_uv[:n_channels, burst] = 0
    else:
        signal_uv[:n_channels, burst] += planted
    found = quality(recording(signal_uv))
    assert found.artefact_per_minute == (0, pytest.approx(12 / 60 * 10 / 19, abs=1e-4), 0)
    assert found.artefact == pytest.approx(12 / 180 * 10 / 19, abs=1e-4)
    assert found.visible_s == 180
    assert found.usable_s == 168
    assert faulty(found) == {}


def test_gaps_are_ignored_and_counted():
    signal_uv = eeg(duration_s=240)
    gaps = ((30.5, 31.2), (55.0, 181.0))
    for start_s, stop_s in gaps:
        signal_uv[:, round(start_s * SFREQ_HZ) : round(stop_s * SFREQ_HZ)] = np.nan
    found = quality(recording(signal_uv, gaps=gaps))
    assert faulty(found) == {}
    assert found.gaps == gaps
    assert found.columns()["q_n_gaps"] == 2
    assert found.columns()["q_gap_s"] == pytest.approx(126.7)
    assert found.visible_s == found.usable_s == 240 - 2 - 126
    assert found.artefact_per_minute == (0, None, None, 0)


def test_a_recording_that_is_all_gap_has_nothing_usable():
    found = quality(recording(np.zeros((19, 16000), np.float32), gaps=((0, 80),)))
    assert (found.visible_s, found.usable_s, found.artefact, found.line_ratio) == (0, 0, None, None)
    assert found.artefact_per_minute == (None, None)
    assert found.channels("flat") == list(CHANNELS)


def test_windows_together_tell_what_one_window_tells():
    signal_uv = eeg(duration_s=240)
    signal_uv[row("Fz")] = signal_uv[row("F4")]
    signal_uv[row("O1")] = np.clip(signal_uv[row("O1")], -20, 20)
    signal_uv[2:, 20000:21000] *= 80
    whole = recording(signal_uv, gaps=((110.0, 130.0),))
    half = signal_uv.shape[1] // 2
    parts = (
        recording(signal_uv[:, :half], gaps=((110.0, 120.0),)),
        recording(signal_uv[:, half:], gaps=((0.0, 10.0),), start_s=120.0),
    )
    one, two = quality(whole), quality(*parts)
    assert one.channels("clipped") == ["O1"]
    assert one.channels("bridged") == ["F4", "Fz"]
    assert two.gaps == ((110.0, 130.0),)
    told, expected = two.columns(), one.columns()
    # Stretches are spread over each window, so others are looked at.
    assert told.pop("q_line_ratio") == pytest.approx(expected.pop("q_line_ratio"), rel=0.1)
    assert told == expected


def test_a_skipped_window_leaves_minutes_without_value():
    signal_uv = eeg(duration_s=120)
    found = quality(recording(signal_uv[:, :12000]), recording(signal_uv[:, 12000:], start_s=240.0))
    assert found.artefact_per_minute == (0, None, None, None, 0)


@pytest.mark.parametrize("duration_s", [0.5, 1.0, 2.5, 4.0])
def test_any_length_will_do(duration_s):
    found = quality(recording(eeg(duration_s=80)[:, : round(duration_s * SFREQ_HZ)]))
    assert found.visible_s == int(duration_s)
    json.dumps(found.to_json())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_not_finite_are_refused(value):
    signal_uv = eeg()
    signal_uv[row("Cz"), 777] = value
    with pytest.raises(RecordingError, match="not finite numbers in Cz"):
        assess_window(recording(signal_uv))


def test_windows_of_other_channels_are_refused():
    first = assess_window(recording(eeg()))
    with pytest.raises(ValueError, match="same channels"):
        summarise([first, replace(first, sfreq_hz=100.0)], montage={}, unit_verdict="", notes={})


def test_columns_are_plain_and_hold_no_texts():
    found = quality(recording(eeg()))
    columns = found.columns()
    assert all(name.startswith("q_") for name in columns)
    assert json.loads(json.dumps(columns)) == columns
    assert columns["q_notes"] == ["truncated"]
    assert columns["q_reference"] == "LE"
    assert columns["q_unit"] == "as stated"
    assert sum(len(columns[f"q_{state}"]) for state in STATES) == len(CHANNELS)
    assert json.loads(json.dumps(found.to_json()))["notes"] == {
        "truncated": "9 of 10 records present"
    }


@pytest.mark.real_data
def test_a_bridge_in_both_recordings_of_one_subject(real_data):
    from openclef.signal import read_recording

    for run in (1, 2):
        path = real_data / "eegmat" / "edf_200hz" / f"Subject00_{run}.edf"
        assert faulty(quality(read_recording(path))) == {"F4": "bridged", "Fz": "bridged"}


@pytest.mark.real_data
def test_seizures_are_not_artefacts_and_line_harmonics_are_noise(real_data):
    from openclef.signal import read_recording

    folder = real_data / "iiic_sparcnet" / "edf"
    seizure = quality(read_recording(folder / "SZ_sample3.edf"))
    assert faulty(seizure) == {}
    assert seizure.artefact == 0
    assert seizure.line_hz is None
    # 3.5 mV of line noise, whose third harmonic is aliased to 20 Hz.
    hum = quality(read_recording(folder / "Other_sample1.edf"))
    assert hum.line_hz == 60
    assert hum.channels("noisy") == list(CHANNELS)


def test_gaps_between_windows_count_although_no_window_lies_in_them():
    windows = [recording(eeg()), recording(eeg(seed=1), start_s=7680.0)]
    found = summarise(
        [assess_window(window) for window in windows],
        montage={}, unit_verdict="uV", notes={}, segments=[(0, 80), (7680, 7760)],
    )  # fmt: skip
    columns = found.columns()
    assert (columns["q_n_gaps"], columns["q_gap_s"]) == (1, 7600.0)
    assert columns["q_assessed_s"] == columns["q_visible_s"] == 160.0
