"""Traits: what is individual in an EEG, and what diseases and medications shift.

A trait of a session is `mean + sd * z`, with z standard normal in health (a part that stays with
the patient and a part of the day) plus the shifts of all causes, in units of `sd`. Means and
spreads are plausible choices, set against recordings of healthy adults (results/), not estimates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Trait:
    """A number that describes an EEG.

    Attributes
    ----------
    mean, sd : float
        In health at age 40; of the logarithm if `is_log`.
    per_decade : float
        Change of the mean for each decade above 40, in units of `sd`.
    low, high : float
        The value is kept within.
    is_log : bool
        Log-normal rather than normal.
    steady : bool
        Whether it shapes the average spectrum; the others shape when and how often something
        happens.
    description : str
        What it is, with its unit.
    """

    mean: float
    sd: float
    low: float
    high: float
    description: str
    per_decade: float = 0.0
    is_log: bool = False
    steady: bool = False

    def value(self, z: float, *, age: float) -> float:
        """Value of the trait for a standard score, at an age in years."""
        x = self.mean + self.sd * (z + self.per_decade * (age - 40) / 10)
        return min(self.high, max(self.low, math.exp(x) if self.is_log else x))


def _log(
    median: float, sd: float, low: float, high: float, description: str, **more: float | bool
) -> Trait:
    return Trait(
        math.log(median), sd, low, high, description, is_log=True,
        per_decade=float(more.get("per_decade", 0.0)), steady=bool(more.get("steady", False)),
    )  # fmt: skip


TRAITS = {
    # The average spectrum.
    "exponent": Trait(1.49, 0.2, 0.8, 2.8, "aperiodic exponent", per_decade=-0.15, steady=True),
    "background_uv": _log(4.2, 0.25, 2, 30, "RMS of the aperiodic background, uV", steady=True),
    "pdr_hz": Trait(
        10.2, 0.75, 4.0, 12.5, "posterior dominant rhythm, Hz", per_decade=-0.15, steady=True
    ),
    "alpha_uv": _log(
        6.5,
        0.4,
        0.5,
        60,
        "RMS of the posterior rhythm, eyes closed, uV",
        per_decade=-0.12,
        steady=True,
    ),
    "theta_uv": _log(2.0, 0.4, 0.3, 30, "RMS of diffuse theta in wakefulness, uV", steady=True),
    "delta_uv": _log(1.5, 0.5, 0.3, 60, "RMS of diffuse delta in wakefulness, uV", steady=True),
    "beta_uv": _log(1.65, 0.3, 0.3, 25, "RMS of diffuse beta, uV", steady=True),
    "mu_uv": _log(2.5, 0.5, 0.2, 25, "RMS of the central mu rhythm, uV", steady=True),
    "gradient": Trait(
        0.0, 1.0, -4, 4, "how posterior alpha is (negative: spread to the front)", steady=True
    ),
    # How rhythms behave.
    "reactivity": Trait(
        0.75, 0.12, 0.0, 0.95, "share of alpha amplitude that opening the eyes takes away"
    ),
    "alpha_spindle_s": _log(2.5, 0.4, 0.5, 20, "time constant of alpha's waxing, s"),
    "slow_bout_s": _log(6.0, 0.4, 1.0, 90, "length of a bout of pathological slowing, s"),
    "fluctuation_s": _log(120, 0.4, 20, 600, "period of slow swings of vigilance, s"),
    "fluctuation": _log(0.25, 0.4, 0.02, 1.5, "depth of slow swings of vigilance"),
    # Sleep.
    "sleep_drive": Trait(0.0, 1.0, -5, 5, "tendency to fall asleep during the session"),
    "sleep_inertia_s": _log(150, 0.4, 60, 3000, "time from drowsiness to stage 2, s"),
    "deep_sleep": Trait(0.0, 1.0, -5, 5, "share of stage 3 in sleep", per_decade=-0.25),
    "rem_drive": Trait(-1.0, 1.0, -5, 5, "tendency to REM sleep within the session"),
    "arousals_h": _log(30, 0.5, 2, 120, "arousals an hour of sleep", per_decade=0.1),
    "arousal_regularity": Trait(
        0.0, 1.0, -4, 4, "how periodic arousals are (high: every 30-60 s, as in apnoea)"
    ),
    "stage_shifts_h": _log(24, 0.4, 2, 200, "changes of sleep stage an hour"),
    "spindles_min": _log(4.5, 0.4, 0.1, 20, "spindles a minute of stage 2", per_decade=-0.12),
    "spindle_hz": Trait(13.2, 0.6, 11, 15.5, "spindle frequency, Hz", per_decade=0.1),
    "spindle_s": _log(0.9, 0.2, 0.4, 2.5, "spindle length, s"),
    "k_complexes_min": _log(1.5, 0.4, 0.05, 8, "K-complexes a minute of stage 2"),
    "vertex_min": _log(3.0, 0.4, 0.1, 20, "vertex waves a minute of light sleep"),
    # Provocation.
    "hv_buildup": _log(1.0, 0.5, 0.0, 6, "slowing that hyperventilation brings, relative"),
    "hv_recovery_s": _log(40, 0.4, 5, 300, "time that it takes to fade, s"),
    "photic_drive": _log(1.0, 0.5, 0.0, 8, "response to flashes, relative"),
    # The body.
    "heart_bpm": Trait(72, 10, 40, 150, "heart rate, beats a minute"),
    "heart_irregularity": _log(0.03, 0.4, 0.005, 0.35, "SD over mean of the beat interval"),
    "blinks_min": _log(12, 0.4, 0.5, 60, "blinks a minute of open eyes", per_decade=-0.05),
    "muscle_min": _log(1.2, 0.5, 0.02, 20, "bouts of muscle activity a minute of wakefulness"),
    "tremor_min": _log(0.15, 0.9, 0.005, 8, "bouts of rhythmic 4-6 Hz tremor artefact a minute"),
    "jerks_min": _log(0.15, 0.9, 0.005, 12, "myoclonic jerks (muscle and movement) a minute"),
    "roving_min": _log(2.0, 0.4, 0.1, 15, "slow roving eye movements a minute of drowsiness"),
}
