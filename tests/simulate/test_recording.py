"""The EDF of a session: exact steps, names, sizes, and what the package's reader makes of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime
from pathlib import Path

import edfio
import mne
import numpy as np
import pytest

from openclef.errors import OpenclefError
from openclef.signal import open_recording
from openclef.simulate.config import SimulationConfig
from openclef.simulate.eeg.amplifier import bad_names
from openclef.simulate.eeg.session import draw_truth
from openclef.simulate.parameters import Site, load_hospital
from openclef.simulate.patients import Patient, Session
from openclef.simulate.recording import (
    channel_rows,
    edf_size_bytes,
    make_edf,
    write_recording,
)
from openclef.simulate.traits import TRAITS
from openclef.types import CHANNELS, FloatArray

NATIVE = SimulationConfig(n_patients=1, sfreq="native", shortest_s=10, longest_s=10)
COHORT = SimulationConfig(n_patients=1, shortest_s=10, longest_s=10)
STYLES = {
    "EEG {}-REF": False, "{}": True, "EEG {upper}-LE": False, "{upper}": True, "{}-A1": False,
    "EEG {}": True,
}  # fmt: skip


def person(site: Site, *, duration_s: int = 10, sfreq_hz: int = 200) -> tuple[Patient, Session]:
    session = Session(
        index=0, start=datetime(2014, 5, 6, 9, 41), age=50, setting="routine",
        duration_s=duration_s, sfreq_hz=sfreq_hz, drugs={}, findings={},
        levels={name: trait.value(0, age=50) for name, trait in TRAITS.items()},
        effects=(), bad_channels={"F4": "noisy"}, has_report=True,
    )  # fmt: skip
    patient = Patient(
        index=0, name="sub-00001", subject_id=7_000_001, birth=date(1964, 1, 2), sex="F",
        race="white", site_name="S0001", site=site, domains={}, diseases={}, side="left",
        region="temporal",
        has_record=True, sessions=(session,),
    )  # fmt: skip
    return patient, session


def signal_of(session: Session) -> FloatArray:
    rng = np.random.default_rng(1)
    shape = (len(CHANNELS), session.duration_s * session.sfreq_hz)
    return (40 * rng.standard_normal(shape)).astype(np.float32)


@pytest.mark.parametrize("resolution_uv", [0.1, 0.05, 0.049, 0.0305, 0.25, 1.0])
def test_one_digital_step_is_the_resolution(tmp_path: Path, resolution_uv: float) -> None:
    patient, session = person(Site(share=1, resolution_uv=resolution_uv))
    signal_CS = signal_of(session)
    signal_CS[:, 0] = 0
    signal_CS[0, 1] = 9e9
    path = tmp_path / "x.edf"
    make_edf(patient, session, signal_CS, {}).write(path)
    edf = edfio.read_edf(path)
    assert edf.reserved == "EDF+C"
    for row, channel in enumerate(edf.signals):
        digital = channel.digital.astype(np.float64)
        np.testing.assert_allclose(channel.data, digital * resolution_uv, rtol=1e-9, atol=1e-9)
        assert channel.data[0] == pytest.approx(0, abs=1e-9)
        error_uv = np.abs(channel.data - signal_CS[row])[2:]
        assert error_uv.max() <= 0.501 * resolution_uv
    assert edf.signals[0].digital[1] == edf.signals[0].digital_max


def test_header_names_nobody_and_tells_the_start(tmp_path: Path) -> None:
    patient, session = person(Site(share=1, highpass_hz=0.5, lowpass_hz=35))
    edf = make_edf(patient, session, signal_of(session), {})
    assert edf.local_patient_identification == "X X X X"
    assert edf.startdatetime == session.start
    assert edf.signals[0].prefiltering == "HP:0.5Hz LP:35Hz"
    assert {signal.physical_dimension for signal in edf.signals} == {"uV"}
    edf.write(tmp_path / "x.edf")
    raw = mne.io.read_raw_edf(tmp_path / "x.edf", preload=True, verbose="error")
    np.testing.assert_allclose(
        raw.get_data() * 1e6, [s.data for s in edf.signals], rtol=0, atol=1e-3
    )


@pytest.mark.parametrize("style", STYLES)
def test_the_packages_reader_finds_all_electrodes_of_every_style(
    tmp_path: Path, style: str
) -> None:
    site = Site(
        share=1, label=style, modern_names=STYLES[style], extra_channels=("A1", "A2", "EKG")
    )
    patient, session = person(site)
    signal_CS = signal_of(session)
    extra = dict.fromkeys(site.extra_channels, signal_CS[0])
    path = tmp_path / "x.edf"
    make_edf(patient, session, signal_CS, extra).write(path)
    opened = open_recording(path)
    assert opened.montage.names == CHANNELS
    (window,) = opened.iter_windows()
    assert window.ch_names == CHANNELS
    np.testing.assert_allclose(window.signal_uv, signal_CS, atol=0.051)


@pytest.mark.parametrize("name", load_hospital("v1").sites)
def test_every_site_of_the_hospital_can_be_written_and_read(tmp_path: Path, name: str) -> None:
    site = load_hospital("v1").sites[name]
    patient, session = person(site, sfreq_hz=int(site.sfreq_hz))
    path = tmp_path / "x.edf"
    write_recording(path, NATIVE, patient, session)
    assert path.stat().st_size == edf_size_bytes(NATIVE, patient, session)
    opened = open_recording(path)
    assert opened.montage.names == CHANNELS
    assert opened.sfreq_hz == site.sfreq_hz


@pytest.mark.parametrize("duration_s", [10, 11, 64, 100, 101, 1001])
@pytest.mark.parametrize("config", [NATIVE, COHORT])
def test_size_is_told_exactly_beforehand(
    tmp_path: Path, config: SimulationConfig, duration_s: int
) -> None:
    extra = ("A1", "A2", "EKG")
    patient, session = person(Site(share=1, extra_channels=extra), duration_s=duration_s)
    signal_CS = signal_of(session)
    recorded = extra if config.sfreq == "native" else ()
    path = tmp_path / "x.edf"
    make_edf(patient, session, signal_CS, dict.fromkeys(recorded, signal_CS[0])).write(path)
    assert path.stat().st_size == edf_size_bytes(config, patient, session)


@pytest.mark.parametrize("config", [NATIVE, COHORT])
def test_recording_is_written_whole_and_alike_again(
    tmp_path: Path, config: SimulationConfig
) -> None:
    site = Site(share=1, label="{upper}", extra_channels=("A1", "A2", "EKG"), reference="average")
    patient, session = person(site, duration_s=20, sfreq_hz=256)
    first, again = tmp_path / "a" / "x.edf", tmp_path / "b" / "x.edf"
    for path in (first, again):
        write_recording(path, config, patient, session)
        assert [p.name for p in path.parent.iterdir()] == ["x.edf"]
    assert first.read_bytes() == again.read_bytes()
    assert first.stat().st_size == edf_size_bytes(config, patient, session)
    edf = edfio.read_edf(first)
    names = (*CHANNELS, "A1", "A2", "EKG") if config is NATIVE else CHANNELS
    assert edf.labels == tuple(name.upper() for name in names)
    assert all(signal.data.std() > 0.1 for signal in edf.signals)
    if config is NATIVE:
        (beats,) = draw_truth(config, patient, session).of("heartbeat")
        heart = edf.get_signal("EKG").data
        r_waves = np.rint((beats.onset_s[2:-2] + 0.05) * 256).astype(int)
        assert np.median(heart[r_waves]) > 800


def test_table_of_channels_matches_the_file() -> None:
    site = Site(
        share=1, label="{}-REF", modern_names=True, extra_channels=("A1", "EKG"), reference="Cz"
    )
    patient, session = person(site)
    rows = channel_rows(NATIVE, patient, session)
    extra = dict.fromkeys(("A1", "EKG"), signal_of(session)[0])
    labels = make_edf(patient, session, signal_of(session), extra).labels
    assert [row["name"] for row in rows] == list(labels)
    assert [row["type"] for row in rows] == ["EEG"] * 20 + ["ECG"]
    assert {row["units"] for row in rows} == {"uV"}
    assert {row["reference"] for row in rows} == {"Cz", "n/a"}


def test_a_technician_misses_bad_channels_and_doubts_good_ones() -> None:
    patient, session = person(Site(share=1, label="{}"))
    session = replace(session, bad_channels={"F4": "noisy", "O1": "bridged"})
    assert bad_names(session) > {"F4", "O1"}
    noted = dict.fromkeys(CHANNELS, 0)
    n = 400
    for index in range(n):
        rows = channel_rows(NATIVE, patient, replace(session, index=index))
        assert rows == channel_rows(NATIVE, patient, replace(session, index=index))
        for row in rows:
            noted[row["name"]] += row["status"] == "bad"
    bad = bad_names(session)
    for name, count in noted.items():
        assert count / n == pytest.approx(0.6, abs=0.08) if name in bad else count / n < 0.04


def test_the_filter_is_never_told_above_half_the_sampling_frequency() -> None:
    patient, session = person(Site(share=1, lowpass_hz=120))
    for sfreq_hz, told in ((200, 100), (512, 120)):
        session = replace(session, sfreq_hz=sfreq_hz)
        edf = make_edf(patient, session, signal_of(session), {})
        assert edf.signals[0].prefiltering == f"HP:{patient.site.highpass_hz:g}Hz LP:{told}Hz"
        assert channel_rows(NATIVE, patient, session)[0]["high_cutoff"] == told


def test_unknown_extra_channel_is_refused_with_the_nearest() -> None:
    patient, session = person(Site(share=1, extra_channels=("EKG1",)))
    with pytest.raises(OpenclefError, match="did you mean 'EKG'"):
        edf_size_bytes(NATIVE, patient, replace(session, index=0))
