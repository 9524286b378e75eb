import pytest

from openclef.cohort.splits import SplitConfig, assign_splits, official_parts
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


def test_an_official_eval_part_is_held_out_and_the_rest_is_shared_in_proportion():
    official = {i: "eval" if i % 4 == 0 else "train" for i in range(0, 1000)}
    splits = assign_splits(range(1000), SplitConfig(), official=official)
    assert [i for i in splits if splits[i] == "held_out"] == list(range(0, 1000, 4))
    counts = [list(splits.values()).count(name) for name in ("train", "probe", "tuning")]
    assert counts == pytest.approx([750 * share for share in (5 / 8, 2 / 8, 1 / 8)], abs=1)
    reverse = assign_splits(range(999, -1, -1), SplitConfig(), official=official)
    assert splits == reverse
    assert splits != assign_splits(range(1000), SplitConfig(seed=1), official=official)


def test_a_patient_in_both_official_parts_is_in_eval():
    told = [(1, "train"), (1, "eval"), (2, "eval"), (2, "train"), (3, "train"), (4, None)]
    assert official_parts(told) == {1: "eval", 2: "eval", 3: "train"}
    assert official_parts(reversed(told)) == {1: "eval", 2: "eval", 3: "train"}


def test_patients_outside_the_official_split_are_never_held_out():
    splits = assign_splits([1, 2, 3, 4], SplitConfig(), official={1: "eval", 2: "train"})
    assert splits[1] == "held_out"
    assert {splits[i] for i in (2, 3, 4)} == {"train", "probe", "tuning"}


@pytest.mark.parametrize(
    ("official", "message"),
    [
        ({1: "train", 2: "train"}, "none of 6 patients is in the official eval part"),
        (dict.fromkeys(range(1, 5), "eval"), "2 patients cannot be split into train, probe, tun"),
    ],
)
def test_an_official_split_that_leaves_a_split_empty_is_refused(official, message):
    with pytest.raises(OpenclefError, match=message):
        assign_splits(range(1, 7), SplitConfig(), official=official)


def test_shares_must_add_up():
    with pytest.raises(ValueError, match="add to 1"):
        SplitConfig(train=0.9)
