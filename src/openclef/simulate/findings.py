"""Findings: the patterns that a reader looks for, and how often they come without a cause."""

from __future__ import annotations

from dataclasses import dataclass

from openclef.simulate.parameters import Setting


@dataclass(frozen=True)
class Pattern:
    """A pattern of the EEG that is there or not in a session.

    Attributes
    ----------
    flag : str or None
        Column of HEEDB's report findings that a reader would set (paper.md, Benchmark protocol).
    lateral : bool
        Whether it lies on one side: an abnormal one on the patient's, a variant on that of the day.
    abnormal : bool
        Whether a reader calls a record with it abnormal.
    description : str
        What it looks like.
    settings : tuple of str
        The only ones in which it is seen; none named: in all.
    """

    flag: str | None
    lateral: bool
    abnormal: bool
    description: str
    settings: tuple[Setting, ...] = ()


_MONITORED: tuple[Setting, ...] = ("icu", "ltm")

PATTERNS = {
    "focal_slowing": Pattern("foc slowing", True, True, "bouts of polymorphic delta and theta"),
    "generalized_slowing": Pattern("gen slowing", False, True, "bouts of diffuse theta, delta"),
    "absent_pdr": Pattern(None, False, True, "no posterior rhythm with eyes closed"),
    "spikes": Pattern("spikes", True, True, "focal spikes with a slow wave, more in sleep"),
    "sharp_waves": Pattern("spikes", True, True, "focal sharp waves of 70-200 ms"),
    "spike_wave": Pattern("spikes", False, True, "3-Hz spike-and-wave runs, provoked by HV"),
    "polyspikes": Pattern("spikes", False, True, "generalized polyspike-and-wave, by flashes"),
    "seizure": Pattern("seizure", True, True, "a rhythm that evolves in frequency, size, field"),
    "lpd": Pattern("lpd", True, True, "lateralized periodic discharges near 1 Hz, in runs"),
    "gpd": Pattern("gpd", False, True, "generalized periodic discharges of 1-2 Hz, in runs"),
    "bipd": Pattern("bipd", False, True, "periodic discharges of both sides, each at its own"),
    "triphasic": Pattern("gpd", False, True, "triphasic waves of 1.5-2 Hz with a lag to the back"),
    "lrda": Pattern("lrda", True, True, "runs of rhythmic 1-3 Hz delta over one side"),
    "grda": Pattern("grda", False, True, "runs of rhythmic 1.5-3 Hz delta, frontal"),
    "burst_suppression": Pattern(
        "bs", False, True, "bursts between stretches below 10 uV", settings=_MONITORED
    ),
    "breach": Pattern("breach", True, True, "sharp, large alpha, beta and mu over a skull defect"),
    "low_voltage": Pattern("low voltage", False, False, "amplitudes below 20 uV throughout"),
    "diffuse_beta": Pattern("diffuse Beta", False, False, "beta above 25 uV over most channels"),
    "photoparoxysmal": Pattern("ppr", False, True, "generalized discharges to flashes"),
    "wicket": Pattern("wicket", True, False, "temporal trains of arciform 6-11 Hz waves, drowsy"),
    "bets": Pattern("bets", True, False, "small sharp spikes of sleep"),
    "posts": Pattern("posts", False, False, "positive occipital sharp transients of sleep"),
    "status": Pattern(
        "status", True, True, "seizures that recur or do not end", settings=_MONITORED
    ),
}
