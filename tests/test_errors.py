import pytest

from openclef.errors import OpenclefError, choose


def test_choose_returns_what_is_allowed():
    assert choose("demo", ["demo", "tiny"], "recipe") == "demo"


def test_choose_names_given_allowed_and_nearest():
    with pytest.raises(
        OpenclefError, match=r"unknown recipe 'dmo'; allowed: demo, tiny; did you mean 'demo'\?"
    ):
        choose("dmo", ["tiny", "demo"], "recipe")
