"""EEG findings: the 15 feature tasks, and HEEDB's 39 flags that they are taken from.

The first four are the paper's known ones [C]; the other 11 are our choice [U] among HEEDB's 39
finding flags (paper.md, Benchmark protocol): those that a routine report states often enough
to ask for, and those that change treatment in intensive care.
"""

from __future__ import annotations

from dataclasses import dataclass

from openclef.errors import choose


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

# What a record is free of if its reader calls it normal. Sleep, spindles, a posterior rhythm,
# beta and low voltage occur in normal records.
DENIED_BY_NORMAL = frozenset(
    {
        "abnormal", "generalized_slowing", "focal_slowing", "spikes", "seizure", "lpd", "gpd",
        "lrda", "grda", "burst_suppression",
    }
)  # fmt: skip

# Columns of HEEDB's report findings, as its tables spell them (paper.md, Benchmark protocol).
HEEDB_FLAGS = (
    "normal", "abnormal", "spikes", "seizure", "status", "lpd", "gpd", "bipd", "lrda", "grda",
    "bs", "gen slowing", "foc slowing", "pdr", "low voltage", "diffuse Beta", "breach", "wicket",
    "bets", "ppr", "eses", "cjd", "uninterpretable", "spindles", "vertex wave", "k_complexes",
    "posts", "awake", "n1", "n2", "dravet", "jeavons", "sunflower", "wham", "angelman", "fold",
    "jae", "jme", "bects",
)  # fmt: skip


def flag_name(flag: str) -> str:
    """Our name of a HEEDB flag: that of its finding, else the flag in small letters, `_` for ` `.

    Raises
    ------
    OpenclefError
        If HEEDB has no such flag.
    """
    choose(flag, HEEDB_FLAGS, "HEEDB flag")
    ours = {finding.heedb_flag: finding.name for finding in FINDINGS}
    return ours.get(flag, flag.lower().replace(" ", "_"))
