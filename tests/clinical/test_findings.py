import pytest

from openclef.clinical.findings import DENIED_BY_NORMAL, FINDINGS, HEEDB_FLAGS, flag_name
from openclef.errors import OpenclefError


def test_heedb_has_39_flags_and_each_finding_is_one_of_them():
    assert len(set(HEEDB_FLAGS)) == 39
    assert {finding.heedb_flag for finding in FINDINGS} < set(HEEDB_FLAGS)
    assert {finding.name for finding in FINDINGS} > DENIED_BY_NORMAL


def test_a_flag_has_our_name_or_its_own_in_plain_letters():
    names = {flag: flag_name(flag) for flag in HEEDB_FLAGS}
    assert len(set(names.values())) == 39
    assert all(name.replace("_", "").isalnum() and name.islower() for name in names.values())
    assert names["gen slowing"] == "generalized_slowing"
    assert names["n2"] == "sleep"
    assert names["vertex wave"] == "vertex_wave"


def test_another_flag_is_refused():
    with pytest.raises(OpenclefError, match=r"unknown HEEDB flag 'spike'.*'spikes'"):
        flag_name("spike")
