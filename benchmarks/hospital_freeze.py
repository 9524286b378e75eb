"""Freeze the simulated cohorts: writes `src/openclef/recipes/cohorts.json` anew.

    python benchmarks/hospital_freeze.py

Run it when a new version is meant, after its difficulty was measured (`hospital_difficulty.py`),
and run every row of every table again, baselines included.
"""

from __future__ import annotations

import json
from pathlib import Path

import openclef
from openclef.recipes.cohorts import FrozenCohort, digest
from openclef.simulate import SimulationConfig, generator_hash

COHORTS = {
    "v1": (
        "The research cohort: what is chosen is chosen on it, and what is published is compared "
        "on it.",
        SimulationConfig(n_patients=3000, seed=2026, n_sites=4),
    ),
    "v1_shifted": (
        "A second draw of the effects at other hospitals, for final tables only.",
        SimulationConfig(n_patients=1500, seed=2027, n_sites=3, hospital="v1_shifted"),
    ),
}


def main() -> None:
    frozen = {
        name: FrozenCohort(
            about=about, config=config, generator=generator_hash(), digest=digest(config)
        ).model_dump(mode="json")
        for name, (about, config) in COHORTS.items()
    }
    path = Path(openclef.__file__).parent / "recipes" / "cohorts.json"
    path.write_text(json.dumps(frozen, indent=1) + "\n")
    print(path.read_text())


if __name__ == "__main__":
    main()
