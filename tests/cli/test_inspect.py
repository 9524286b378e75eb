"""`openclef inspect tokenizer`: what it is called with, and how it refuses."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from openclef.cli import app
from openclef.errors import ArtefactError


def run(*arguments: object):
    return CliRunner().invoke(app, ["inspect", *map(str, arguments)])


def test_help_names_the_verb_and_its_options():
    assert "tokenizer" in run("--help").output
    shown = run("tokenizer", "--help").output
    assert all(option in shown for option in ("--split", "--windows", "--examples", "--seed"))


def test_a_folder_without_an_artefact_is_named(tmp_path):
    result = run("tokenizer", tmp_path, tmp_path, tmp_path / "page.html")
    assert isinstance(result.exception, ArtefactError)
    assert str(tmp_path) in str(result.exception)
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("option", ["--windows", "--examples", "--seed"])
def test_counts_below_the_least_are_refused(option, tmp_path):
    result = run("tokenizer", tmp_path, tmp_path, tmp_path / "page.html", option, "-1")
    assert result.exit_code == 2
    assert option in result.output


def test_options_reach_the_page(monkeypatch, tmp_path):
    asked = {}

    def inspect_tokenizer(folder, cohort, out, **options):
        asked.update(options, folder=folder, out=out)
        return out.with_suffix(".parquet")

    monkeypatch.setattr("openclef.cohort.store.Cohort", lambda folder: folder)
    monkeypatch.setattr("openclef.recipes.inspect_tokenizer.inspect_tokenizer", inspect_tokenizer)
    out = tmp_path / "page.html"
    result = run("tokenizer", "T", "C", out, "--split", "tuning", "--windows", 7, "--seed", 3)
    assert result.exit_code == 0, result.output
    assert (asked["split"], asked["n_windows"], asked["n_examples"], asked["seed"]) == (
        "tuning", 7, 3, 3,
    )  # fmt: skip
    assert str(tmp_path / "page.parquet") in result.output.replace("\n", "")
