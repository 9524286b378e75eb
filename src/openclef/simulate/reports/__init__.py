"""Reports: what neurologists write about a simulated session, and what their text says."""

from openclef.simulate.reports.reading import Reading, read_session

__all__ = ["Reading", "read_session"]
