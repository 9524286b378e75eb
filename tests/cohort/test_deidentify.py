import math
import stat

import pytest

from openclef.cohort.deidentify import date_shift, key_mark, pooled_age, site_key
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
    assert [pooled_age(a) for a in (None, -1.0, math.nan, 999.0, math.inf, 42.5, 89.0, 93.0)] == [
        None, None, None, None, None, 42.5, 89.0, 90.0,
    ]  # fmt: skip


def test_the_sites_key_is_made_once_and_is_private(tmp_path, monkeypatch):
    monkeypatch.delenv("OPENCLEF_SITE_KEY", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    key = site_key()
    assert len(key) == 32
    assert site_key() == key
    assert stat.S_IMODE((tmp_path / "openclef" / "site.key").stat().st_mode) == 0o600


def test_a_key_half_written_or_too_short_is_refused(tmp_path, monkeypatch):
    """Every date would be shifted by what anyone can find out."""
    monkeypatch.setenv("OPENCLEF_SITE_KEY", "ab" * 15)
    with pytest.raises(OpenclefError, match="a key of 15 bytes; at least 16"):
        site_key()
    monkeypatch.delenv("OPENCLEF_SITE_KEY")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "openclef").mkdir()
    (tmp_path / "openclef" / "site.key").touch()
    with pytest.raises(OpenclefError, match=r"site\.key: a key of 0 bytes"):
        site_key()


def test_of_two_processes_that_make_the_key_one_wins(tmp_path, monkeypatch):
    monkeypatch.delenv("OPENCLEF_SITE_KEY", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    path = tmp_path / "openclef" / "site.key"

    def other_first(n):
        path.write_bytes(b"o" * n)
        return b"m" * n

    monkeypatch.setattr("secrets.token_bytes", other_first)
    assert site_key() == b"o" * 32
    assert [found.name for found in path.parent.iterdir()] == ["site.key"]


def test_the_mark_of_a_key_tells_keys_apart():
    assert key_mark(b"a" * 32) == key_mark(b"a" * 32) != key_mark(b"b" * 32)


def test_a_key_that_is_not_hexadecimal_is_refused(monkeypatch):
    monkeypatch.setenv("OPENCLEF_SITE_KEY", "secret")
    with pytest.raises(OpenclefError, match="hexadecimal"):
        site_key()
