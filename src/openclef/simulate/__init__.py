"""A simulated hospital with known truth: EEG, reports and health records on disk."""

from openclef.simulate.config import SimulationConfig
from openclef.simulate.parameters import generator_hash
from openclef.simulate.writer import expected_recordings, make_recording, simulate

__all__ = [
    "SimulationConfig",
    "expected_recordings",
    "generator_hash",
    "make_recording",
    "simulate",
]
