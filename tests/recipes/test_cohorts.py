"""Frozen cohorts are what they were when they were frozen."""

from __future__ import annotations

import pytest

from openclef.errors import OpenclefError
from openclef.recipes import cohorts
from openclef.recipes.cohorts import digest, get_cohort, read_cohorts
from openclef.simulate import generator_hash


@pytest.mark.parametrize("name", sorted(read_cohorts()))
def test_a_frozen_cohort_is_still_made_by_this_generator(name: str) -> None:
    """If this fails, the simulator has changed: freeze a v2, or show that the digest is the same.

    See the module's docstring and docs/hospital.md.
    """
    frozen = read_cohorts()[name]
    assert digest(frozen.config) == frozen.digest
    assert generator_hash() == frozen.generator
    assert get_cohort(name) == frozen.config


def test_the_digest_sees_another_seed_and_another_table() -> None:
    config = read_cohorts()["v1"].config
    assert digest(config.model_copy(update={"seed": 1})) != digest(config)
    assert digest(config.model_copy(update={"hospital": "v1_shifted"})) != digest(config)


def test_another_generator_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cohorts, "generator_hash", lambda: "0" * 64)
    with pytest.raises(OpenclefError, match="frozen with generator"):
        get_cohort("v1")


def test_an_unknown_cohort_is_told_with_the_nearest() -> None:
    with pytest.raises(OpenclefError, match="'v1'"):
        get_cohort("v2")
