"""`openclef inspect`: what it is called with, and how it refuses."""

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


def test_sources_and_options_reach_the_page_of_an_encoder(monkeypatch, tmp_path):
    asked = []

    def inspect_encoder(*sources, **options):
        asked.append((sources, options))
        return sources[-1].with_suffix(".parquet")

    monkeypatch.setattr("openclef.cohort.store.Cohort", lambda folder: f"cohort {folder}")
    monkeypatch.setattr(
        "openclef.tokenizer.token_table.TokenTable", lambda folder, cohort: f"{folder} of {cohort}"
    )
    monkeypatch.setattr("openclef.tokenizer.features.FeatureTable", lambda folder: f"read {folder}")
    monkeypatch.setattr("openclef.recipes.inspect_encoder.inspect_encoder", inspect_encoder)
    out = tmp_path / "page.html"
    plain = run("encoder", "E", "T", "C", "K", out)
    assert plain.exit_code == 0, plain.output
    assert str(tmp_path / "page.parquet") in plain.output.replace("\n", "")
    more = ("--features", "F", "--split", "tuning", "--ratio", 0.5, "--examples", 1)
    assert (
        run("encoder", "E", "T", "C", "K", out, *more, "--windows", 7, "--seed", 3).exit_code == 0
    )
    (sources, defaults), (_, options) = asked
    assert [str(source) for source in sources] == [
        "E", "T", "cohort C", "K of cohort C", str(out),
    ]  # fmt: skip
    assert defaults == {
        "features": None, "split": "held_out", "ratio": 0.75, "n_examples": 3, "n_windows": 100,
        "seed": 0,
    }  # fmt: skip
    assert options == {
        "features": "read F", "split": "tuning", "ratio": 0.5, "n_examples": 1, "n_windows": 7,
        "seed": 3,
    }  # fmt: skip
