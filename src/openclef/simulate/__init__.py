"""A simulated hospital: clinical EEG, reports and health records with known ground truth."""

from openclef.simulate.patients import SimulationConfig
from openclef.simulate.writer import simulate

__all__ = ["SimulationConfig", "simulate"]
