"""One session as EDF+: 16 bits, microvolts, the site's names, a header that names nobody."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from edfio import Edf, EdfSignal
from edfio import Patient as EdfPatient
from edfio import Recording as EdfRecording
from numpy.typing import NDArray

from openclef.artefact import atomic
from openclef.errors import choose
from openclef.simulate.config import SimulationConfig
from openclef.simulate.eeg.amplifier import N_STEPS, bad_names, lowpass_hz, range_uv, record
from openclef.simulate.eeg.artefact_waveforms import heart_trace
from openclef.simulate.eeg.head import ELECTRODES
from openclef.simulate.eeg.session import draw_truth, make_signal
from openclef.simulate.parameters import Site
from openclef.simulate.patients import Patient, Session
from openclef.types import CHANNELS, FloatArray

_MODERN = {"T3": "T7", "T4": "T8", "T5": "P7", "T6": "P8"}
# Channels beside the 19: ears as electrodes, and the heart under either name.
_EXTRA_TYPES = {"A1": "EEG", "A2": "EEG", "EKG": "ECG", "ECG": "ECG"}
_BAD_MISSED, _GOOD_NOTED_BAD = 0.4, 0.01


def write_recording(
    path: Path, config: SimulationConfig, patient: Patient, session: Session
) -> None:
    """Make a session's signal and write its EDF; a file with its final name is complete.

    Raises
    ------
    OpenclefError
        If the site has an extra channel that cannot be simulated.
    """
    truth = draw_truth(config, patient, session)
    signal_ES = make_signal(config, patient, session, truth)
    extra_names = _extra_names(config, patient.site)
    ears = tuple(name for name in extra_names if _EXTRA_TYPES[name] == "EEG")
    rng = config.generator("amplifier", patient=patient.index, session=session.index)
    recorded_CS = record(signal_ES, session, patient.site, rng, names=(*CHANNELS, *ears))
    extra = dict(zip(ears, recorded_CS[len(CHANNELS) :], strict=True))
    for name in extra_names:
        if name not in ears:
            extra[name] = heart_trace(
                truth.events, n_times=signal_ES.shape[1], sfreq_hz=session.sfreq_hz,
                irregularity=session.levels["heart_irregularity"],
            )  # fmt: skip
    ordered = {name: extra[name] for name in extra_names}
    edf = make_edf(patient, session, recorded_CS[: len(CHANNELS)], ordered)
    with atomic(path) as temporary:
        edf.write(temporary)


def make_edf(
    patient: Patient,
    session: Session,
    signal_CS: FloatArray,
    extra: Mapping[str, FloatArray],
) -> Edf:
    """Make the EDF+C of a session from what the amplifier recorded.

    Parameters
    ----------
    patient, session : Patient, Session
        Site, start and sampling frequency.
    signal_CS : array, shape=(19, n_times)
        `CHANNELS` in uV.
    extra : mapping of str to array, shape=(n_times,)
        What `write_recording` has beside them, in uV.

    Returns
    -------
    Edf
        Records of one second; one digital step is the site's resolution, and zero is zero.
    """
    site = patient.site
    limit_uv = range_uv(site)
    lowpass = lowpass_hz(site, sfreq_hz=session.sfreq_hz)
    band = f"HP:{site.highpass_hz:g}Hz LP:{lowpass:g}Hz"
    names = (*CHANNELS, *extra)
    signals = [
        EdfSignal.from_digital(
            _to_digital(trace, site.resolution_uv),
            session.sfreq_hz,
            label=_label(name, site),
            physical_dimension="uV",
            physical_range=(-limit_uv, limit_uv),
            digital_range=(-N_STEPS, N_STEPS),
            prefiltering=band,
        )
        for name, trace in zip(names, (*signal_CS, *extra.values()), strict=True)
    ]
    return Edf(
        signals,
        patient=EdfPatient(),
        recording=EdfRecording(startdate=session.start.date()),
        starttime=session.start.time(),
        data_record_duration=1,
        annotations=(),
    )


def edf_size_bytes(config: SimulationConfig, patient: Patient, session: Session) -> int:
    """Return the exact size of a session's EDF, without making it."""
    n_channels = len(CHANNELS) + len(_extra_names(config, patient.site))
    # EDF+ keeps the time of each record in a signal of its own, `+1279 \x14 \x14 \x00`.
    timekeeping = len(f"+{session.duration_s - 1}") + 3
    record_bytes = 2 * n_channels * session.sfreq_hz + timekeeping + timekeeping % 2
    return 256 * (n_channels + 2) + session.duration_s * record_bytes


def channel_rows(
    config: SimulationConfig, patient: Patient, session: Session
) -> list[dict[str, Any]]:
    """Rows of the BIDS table of channels, in the order of the file.

    The status is what a technician noted, who misses bad channels and doubts good ones.
    """
    site, bad = patient.site, bad_names(session)
    noted_bad = _draw_noted(config, patient, session, bad)
    rows = []
    for name in (*CHANNELS, *_extra_names(config, site)):
        kind = _EXTRA_TYPES.get(name, "EEG")
        rows.append(
            {
                "name": _label(name, site),
                "type": kind,
                "units": "uV",
                "sampling_frequency": session.sfreq_hz,
                "low_cutoff": site.highpass_hz,
                "high_cutoff": lowpass_hz(site, sfreq_hz=session.sfreq_hz),
                "reference": site.reference if kind == "EEG" else "n/a",
                "status": "bad" if name in noted_bad else "good",
            }
        )
    return rows


def _draw_noted(
    config: SimulationConfig, patient: Patient, session: Session, bad: frozenset[str]
) -> set[str]:
    """Draw which electrodes are noted as bad, whatever the file has of them."""
    rng = config.generator("amplifier", patient=patient.index, session=session.index)
    luck_E = rng.spawn(1)[0].random(len(ELECTRODES))  # the amplifier's own draws are another stream
    return {
        name
        for name, luck in zip(ELECTRODES, luck_E.tolist(), strict=True)
        if luck < (1 - _BAD_MISSED if name in bad else _GOOD_NOTED_BAD)
    }


def _extra_names(config: SimulationConfig, site: Site) -> tuple[str, ...]:
    """Extra channels of the file: a cohort of one rate for all has none."""
    if config.sfreq != "native":
        return ()
    return tuple(choose(name, _EXTRA_TYPES, "extra channel") for name in site.extra_channels)


def _label(name: str, site: Site) -> str:
    if _EXTRA_TYPES.get(name) == "ECG":
        return name
    name = _MODERN.get(name, name) if site.modern_names else name
    return site.label.format(name, upper=name.upper())


def _to_digital(trace: FloatArray, resolution_uv: float) -> NDArray[np.int16]:
    steps = trace / np.float32(resolution_uv)
    np.rint(steps, out=steps)
    return np.clip(steps, -N_STEPS, N_STEPS, out=steps).astype(np.int16)
