import pytest

from openclef.cohort.splits import SplitConfig, assign_splits
from openclef.errors import OpenclefError
from openclef.types import SPLITS


def test_shares_are_those_asked_for():
    splits = list(assign_splits(range(1000), SplitConfig()).values())
    assert [splits.count(name) for name in SPLITS] == [500, 200, 100, 200]


def test_depends_on_the_patients_not_on_their_order_or_sessions():
    one = assign_splits([1, 2, 3, 4, 5, 6], SplitConfig(seed=3))
    other = assign_splits([6, 5, 5, 5, 4, 3, 2, 1, 1], SplitConfig(seed=3))
    assert one == other
    assert one != assign_splits(range(1, 7), SplitConfig(seed=4))


@pytest.mark.parametrize("n", [4, 5, 7, 11])
def test_every_split_has_a_patient(n):
    assert set(assign_splits(range(n), SplitConfig()).values()) == set(SPLITS)


def test_fewer_patients_than_splits_is_refused():
    with pytest.raises(OpenclefError, match="3 patients cannot be split"):
        assign_splits([1, 2, 3, 3, 3], SplitConfig())


def test_shares_must_add_up():
    with pytest.raises(ValueError, match="add to 1"):
        SplitConfig(train=0.9)
