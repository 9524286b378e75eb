import numpy as np
import polars as pl
import pytest

from openclef.benchmark.laterality import check_sides, probe_sides
from openclef.errors import OpenclefError
from openclef.types import CHANNELS

C3, C4 = CHANNELS.index("C3"), CHANNELS.index("C4")


@pytest.fixture
def sided(make_sessions, make_cohort):
    """(cohort, sides): half of the sessions have a side, that of their patient."""
    sessions = make_sessions(300)
    cohort = make_cohort(sessions)
    half = sessions.filter(pl.col("subject_id") % 2 == 0)
    is_left = pl.col("subject_id") % 4 == 0
    return cohort, half.select("session_id", is_left=is_left)


def vectors(cohort, sides, *, effect, seed):
    """Mean and deviation `[N, 2 * 19 * 4]`: noise, more power at C3 or C4 by the side."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1, (cohort.sessions.height, 2, 19, 4))
    x += rng.normal(0, 10, (cohort.sessions.height, 2, 1, 4))  # all channels alike: no side
    side = cohort.sessions.join(sides, on="session_id", how="left", maintain_order="left")
    is_left = side["is_left"].to_numpy()
    for channel, has in ((C3, is_left == True), (C4, is_left == False)):  # noqa: E712
        x[has, 0, channel] += effect
    return x.reshape(len(x), -1)


def test_a_side_that_was_planted_is_found_and_its_loss_shown(sided, make_embeddings):
    cohort, sides = sided
    clear = vectors(cohort, sides, effect=2.5, seed=0)
    folders = [
        make_embeddings(cohort, "original", clear),
        make_embeddings(cohort, "same/0", clear, folder="same"),
        make_embeddings(cohort, "blind/0", vectors(cohort, sides, effect=0, seed=0), folder="b"),
    ]
    names, found = probe_sides(cohort, folders, sides)
    assert names == ["original", "same/0", "blind/0"]
    assert found.value[0] > 0.9
    low, high = found.interval(2)
    assert low < 0.5 < high
    assert found.difference(1, 0)[:3] == (0, 0, 0)  # the same resamples of patients
    delta, low, high, _ = found.difference(2, 0)
    assert low < delta < high < -0.2


def test_what_all_channels_share_tells_no_side(sided, make_embeddings):
    cohort, sides = sided
    x = vectors(cohort, sides, effect=0, seed=1).reshape(-1, 2, 19, 4)
    side = cohort.sessions.join(sides, on="session_id", how="left", maintain_order="left")
    x[side["is_left"].fill_null(False).to_numpy()] += 50
    _, found = probe_sides(cohort, [make_embeddings(cohort, "m", x.reshape(len(x), -1))], sides)
    low, high = found.interval(0)
    assert low < 0.5 < high


def test_too_few_patients_of_a_side_are_told_before_anything_is_probed(sided):
    cohort, sides = sided
    check_sides(cohort, sides, min_patients=5)
    with pytest.raises(OpenclefError, match=r"split probe has \d+ patients with slowing"):
        check_sides(cohort, sides, min_patients=60)
    tuning = cohort.sessions.filter(pl.col("split") == "tuning")["session_id"]
    without = sides.filter(~(pl.col("session_id").is_in(tuning.to_list()) & pl.col("is_left")))
    with pytest.raises(OpenclefError, match="split tuning has 0 patients"):
        check_sides(cohort, without, min_patients=5)
