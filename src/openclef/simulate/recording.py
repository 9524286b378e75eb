"""One session as BIDS files: the EDF with its channel table and metadata."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from edfio import Edf, EdfSignal
from edfio import Patient as EdfPatient
from edfio import Recording as EdfRecording

from openclef.artefact import atomic, write_json
from openclef.simulate.eeg import simulate_signal
from openclef.simulate.patients import Patient, Session, SimulationConfig
from openclef.types import CHANNELS

LINE_HZ = 60


def make_edf(patient: Patient, session: Session, *, config: SimulationConfig) -> Edf:
    """Make the EDF of a session: 19 channels in uV, 16 bits, a header that names nobody."""
    site = patient.site
    signal_CS = simulate_signal(patient, session, config=config)
    signal_CS /= np.float32(site.resolution_uv)
    np.rint(signal_CS, out=signal_CS)
    digital_CS = np.clip(signal_CS, -32768, 32767, out=signal_CS).astype(np.int16)
    # One digital step is exactly the resolution, and zero is zero.
    limits_uv = (round(-32768 * site.resolution_uv, 2), round(32767 * site.resolution_uv, 2))
    signals = [
        EdfSignal.from_digital(
            digital_S,
            config.sfreq_hz,
            label=site.label.format(name),
            physical_dimension="uV",
            physical_range=limits_uv,
            prefiltering="HP:0.1Hz LP:70Hz",
        )
        for name, digital_S in zip(CHANNELS, digital_CS, strict=True)
    ]
    return Edf(
        signals,
        patient=EdfPatient(),
        recording=EdfRecording(startdate=session.start.date()),
        starttime=session.start.time(),
        data_record_duration=1,
    )


def write_sidecars(
    edf_path: Path, *, patient: Patient, session: Session, config: SimulationConfig
) -> None:
    """Write `_channels.tsv` and `_eeg.json` beside the session's EDF."""
    stem = edf_path.name.removesuffix("_eeg.edf")
    channels = pl.DataFrame(
        {
            "name": [patient.site.label.format(name) for name in CHANNELS],
            "type": "EEG",
            "units": "uV",
            "status": ["bad" if name in session.bad_channels else "good" for name in CHANNELS],
        }
    )
    write_tsv(edf_path.with_name(f"{stem}_channels.tsv"), channels)
    write_json(
        edf_path.with_name(f"{stem}_eeg.json"),
        {
            "TaskName": "clinical",
            "InstitutionName": patient.site.name,
            "EEGReference": "linked ears",
            "SamplingFrequency": config.sfreq_hz,
            "PowerLineFrequency": LINE_HZ,
            "SoftwareFilters": "n/a",
            "EEGChannelCount": len(CHANNELS),
            "RecordingDuration": config.duration_s,
            "RecordingType": "continuous",
        },
    )


def write_tsv(path: Path, table: pl.DataFrame) -> None:
    """Write a table as BIDS has it: tab-separated, null as `n/a`."""
    with atomic(path) as temporary:
        table.write_csv(temporary, separator="\t", null_value="n/a")
