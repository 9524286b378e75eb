"""EEG findings: the 15 feature tasks.

The first four are the paper's known ones [C]; the other 11 are our choice [U] among HEEDB's 39
finding flags (paper.md, Benchmark protocol): those that a routine report states often enough
to ask for, and those that change treatment in intensive care.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """An electrographic finding.

    Attributes
    ----------
    name : str
        Name of the task and of its column in `findings.parquet`.
    heedb_flag : str
        Column of HEEDB's report findings that asserts it when not empty.
    description : str
        What a reader looks for.
    """

    name: str
    heedb_flag: str
    description: str


FINDINGS = (
    # N1 alone is drowsiness, which readers do not call sleep.
    Finding("sleep", "n2", "Stage II sleep or deeper is reached"),
    Finding("generalized_slowing", "gen slowing", "Diffuse theta or delta beyond state and age"),
    Finding("posterior_dominant_rhythm", "pdr", "Occipital alpha that attenuates to eye opening"),
    Finding("diffuse_beta", "diffuse Beta", "Excess beta over most of the scalp"),
    Finding("abnormal", "abnormal", "The reader's verdict on the whole record"),
    Finding("focal_slowing", "foc slowing", "Theta or delta over one region or hemisphere"),
    Finding("spikes", "spikes", "Interictal epileptiform discharges, focal or generalized"),
    Finding("seizure", "seizure", "An electrographic seizure"),
    Finding("lpd", "lpd", "Lateralized periodic discharges"),
    Finding("gpd", "gpd", "Generalized periodic discharges, triphasic ones included"),
    Finding("lrda", "lrda", "Lateralized rhythmic delta activity"),
    Finding("grda", "grda", "Generalized rhythmic delta activity"),
    Finding("burst_suppression", "bs", "Bursts alternating with suppression"),
    Finding("low_voltage", "low voltage", "Amplitudes below about 20 uV throughout"),
    Finding("spindles", "spindles", "Sleep spindles"),
)
