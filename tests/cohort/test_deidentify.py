import stat

import pytest

from openclef.cohort.deidentify import date_shift, pooled_age, site_key
from openclef.errors import OpenclefError


def test_a_patients_shift_is_whole_days_and_always_the_same():
    shift = date_shift("sub-0001", key=b"k" * 32)
    assert shift == date_shift("sub-0001", key=b"k" * 32)
    assert shift.seconds == 0
    assert -3650 <= shift.days <= -1


def test_shifts_differ_by_patient_and_site():
    shifts = {date_shift(f"sub-{i}", key=key).days for i in range(50) for key in (b"a", b"b")}
    assert len(shifts) > 90


def test_ages_above_89_are_pooled():
    assert [pooled_age(a) for a in (None, -1.0, 42.5, 89.0, 93.0, 104.0)] == [
        None, None, 42.5, 89.0, 90.0, 90.0,
    ]  # fmt: skip


def test_the_sites_key_is_made_once_and_is_private(tmp_path, monkeypatch):
    monkeypatch.delenv("OPENCLEF_SITE_KEY", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    key = site_key()
    assert len(key) == 32
    assert site_key() == key
    assert stat.S_IMODE((tmp_path / "openclef" / "site.key").stat().st_mode) == 0o600


def test_a_key_that_is_not_hexadecimal_is_refused(monkeypatch):
    monkeypatch.setenv("OPENCLEF_SITE_KEY", "secret")
    with pytest.raises(OpenclefError, match="hexadecimal"):
        site_key()
