"""Cohorts: from data sets on disk to sessions, spectrograms, labels, reports and records."""
