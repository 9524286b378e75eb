"""Whose folder it is, and which tables may take the place of others."""

import polars as pl
import pytest
from test_encoder_ablation import make_data
from typer.testing import CliRunner

from openclef import artefact
from openclef.cli import app
from openclef.cli.reproduce import _end
from openclef.errors import OpenclefError

KEYS = ("size", "train_share", "seed")


def runs(*rows):
    """A reference without a seed, and runs, with a number that changes."""
    schema = {"size": pl.String, "train_share": pl.Float64, "seed": pl.Int64, "finding": pl.Float64}
    return pl.DataFrame([("spectrum", None, None, 0.5), *rows], schema=schema, orient="row")


A, B = ("a", 1 / 3, 0, 0.61), ("b", 0.125, 1, 0.62)


def end(out, *rows, law=None):
    table = runs(*rows)
    tables = {
        "runs": table,
        "summary": table.tail(1),
        "law": pl.DataFrame() if law is None else law,
    }
    return _end(out, tables, KEYS, table)


def sizes(folder):
    return pl.read_csv(folder / "runs.csv")["size"].to_list()


def test_tables_give_way_to_those_of_the_same_runs_and_more(tmp_path):
    assert end(tmp_path, A) == tmp_path
    # A third is not exact in the table, and is the same run.
    assert end(tmp_path, ("a", 1 / 3, 0, 0.99)) == tmp_path
    assert pl.read_csv(tmp_path / "runs.csv")["finding"].to_list() == [0.5, 0.99]
    assert end(tmp_path, B, A) == tmp_path
    assert sizes(tmp_path) == ["spectrum", "b", "a"]


@pytest.mark.parametrize(
    "fewer", [[A], [("a", 1 / 3, 1, 0.0), B], [("a", 0.25, 0, 0.0), B], [("c", 1 / 3, 0, 0.0), B]]
)
def test_tables_without_an_earlier_run_go_to_a_folder_of_their_own(tmp_path, capsys, fewer):
    end(tmp_path, A, B)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    aside = end(tmp_path, *fewer)
    assert aside.parent == tmp_path
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.csv")} == before
    assert sizes(aside) == ["spectrum", *(row[0] for row in fewer)]
    told = capsys.readouterr().out
    assert "keeps its tables, which have 1 rows of other runs" in told
    assert f"tables: {aside / 'runs.csv'}, {aside / 'summary.csv'}" in told
    assert end(tmp_path, *fewer) == aside
    assert end(tmp_path, ("d", 1.0, 0, 0.0)) not in (aside, tmp_path)


def test_an_earlier_reference_does_not_drop_out_either(tmp_path):
    end(tmp_path, A)
    table = runs(A).tail(1)
    aside = _end(tmp_path, {"runs": table}, KEYS)
    assert aside != tmp_path
    assert (sizes(tmp_path), sizes(aside)) == (["spectrum", "a"], ["a"])


def test_a_table_without_rows_does_not_stay_from_an_earlier_call(tmp_path):
    end(tmp_path, A, law=pl.DataFrame({"e": [1.0]}))
    assert (tmp_path / "law.csv").exists()
    end(tmp_path, A)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs.csv", "summary.csv"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("reproduce"))


@pytest.mark.parametrize("verb", ["encoder", "scaling"])
def test_the_folder_of_another_verb_or_of_no_verb_is_refused(data, tmp_path, verb):
    inputs = {"cohort": data.cohort.hash, "tokens": data.tokens.artefact.hash}
    claimed = {
        "mine": None,
        "tokenizer": ({"verb": "tokenizer"}, inputs),
        "cohort": ({"verb": verb}, inputs | {"cohort": "0123"}),
    }
    messages = {
        "mine": "not empty and not an openclef artefact",
        "tokenizer": f"config.verb: 'tokenizer' there, '{verb}' asked",
        "cohort": "inputs.cohort: '0123' there",
    }
    for name, identity in claimed.items():
        out = tmp_path / name
        out.mkdir()
        if identity is None:
            (out / "summary.csv").write_text("precious")
        else:
            artefact.begin(out, kind="reproduction", config=identity[0], inputs=identity[1])
        before = {path.name: path.read_bytes() for path in out.iterdir()}
        command = ["reproduce", verb, str(data.cohort.folder), str(data.root / "tokens"), str(out)]
        done = CliRunner().invoke(app, command)
        assert isinstance(done.exception, OpenclefError)
        assert messages[name] in str(done.exception)
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before
