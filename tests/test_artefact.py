import json
import os
from typing import Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from openclef import artefact
from openclef.errors import ArtefactError

# A configuration is an object.
_LIST = '{"kind": "thing", "config": [1], "inputs": {}}'


class Shape(BaseModel):
    model_config = ConfigDict(extra="forbid")

    width: int = Field(gt=0)
    inputs: Literal["codes", "patches"] = "codes"


class Thing(BaseModel):
    model_config = ConfigDict(extra="forbid")

    shape: Shape


def make(folder, **config):
    return artefact.begin(folder, kind="thing", config=config, inputs={"from": "abc"})


def test_manifest_comes_last_and_means_complete(tmp_path):
    stage = make(tmp_path / "a", size=3)
    assert (stage.folder / "config.json").exists()
    assert not stage.is_complete
    with pytest.raises(ArtefactError, match="not complete"):
        artefact.load(stage.folder, kind="thing")
    (stage.folder / "data.txt").write_text("x")
    stage.finish(["data.txt"])
    assert artefact.load(stage.folder, kind="thing").hash == stage.hash


def test_another_configuration_is_refused_and_named(tmp_path):
    make(tmp_path / "a", model={"width": 3})
    with pytest.raises(ArtefactError, match=r"config.model.width: 3 there, 4 asked"):
        make(tmp_path / "a", model={"width": 4})


def test_another_kind_is_refused(tmp_path):
    stage = make(tmp_path / "a")
    stage.finish([])
    with pytest.raises(ArtefactError, match="holds another artefact, thing, not model"):
        artefact.load(stage.folder, kind="model")


def test_a_foreign_folder_is_never_written_to(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ArtefactError, match="not empty"):
        make(tmp_path)


def test_a_file_or_anothers_config_in_the_place_of_an_artefact_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ArtefactError, match="is a file; give a folder"):
        make(tmp_path / "file")
    for i, text in enumerate(('{"learning_rate": 1}', "half a fi", "[]", "", _LIST)):
        (tmp_path / str(i)).mkdir()
        (tmp_path / str(i) / "config.json").write_text(text)
        with pytest.raises(ArtefactError, match="not of an openclef artefact"):
            make(tmp_path / str(i))
        with pytest.raises(ArtefactError, match="not of an openclef artefact"):
            artefact.load(tmp_path / str(i), kind="thing")


def test_what_a_kill_left_is_no_content_and_is_removed(tmp_path):
    (tmp_path / ".config.json.123.tmp").write_text("half")
    stage = make(tmp_path)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / ".x.json.7.tmp").touch()
    (tmp_path / "deep" / "0.abc.partial").touch()
    (tmp_path / "deep" / "results.tmp").touch()  # not ours
    artefact.remove_stale(stage.folder)
    names = {path.name for path in tmp_path.rglob("*")}
    assert names == {"config.json", "deep", "results.tmp"}


def test_a_users_own_tmp_file_is_content(tmp_path):
    (tmp_path / "results.tmp").touch()
    with pytest.raises(ArtefactError, match="not empty"):
        make(tmp_path)


def test_hash_depends_on_data_config_and_inputs(tmp_path):
    hashes = set()
    for name, config, text in (("a", 1, "x"), ("b", 2, "x"), ("c", 1, "y"), ("d", 1, "x")):
        stage = make(tmp_path / name, n=config)
        (stage.folder / "data").write_text(text)
        stage.finish(["data"])
        hashes.add(stage.hash)
    assert len(hashes) == 3


def test_atomic_leaves_nothing_after_a_failure(tmp_path):
    def fail():
        with artefact.atomic(tmp_path / "f.txt") as temporary:
            temporary.write_text("half")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_two_machines_where_process_numbers_coincide_do_not_share_a_temporary_file(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(os, "getpid", lambda: 1)  # as in two containers
    path = tmp_path / "f.txt"
    with artefact.atomic(path) as one, artefact.atomic(path) as other:
        one.write_text("one")
        other.write_text("other")
        assert {one.read_text(), other.read_text()} == {"one", "other"}
        assert not artefact.has_content(tmp_path)
    assert [found.name for found in tmp_path.iterdir()] == ["f.txt"]


def test_what_a_killed_atomic_left_is_removed(tmp_path):
    with artefact.atomic(tmp_path / "f.txt") as temporary:
        temporary.write_text("half")
        left = temporary.with_name(temporary.name.replace("f.txt", "g.txt"))
        left.write_text("half")
    artefact.remove_stale(tmp_path)
    assert [found.name for found in tmp_path.iterdir()] == ["f.txt"]


def test_a_configuration_is_read_whole_or_in_part(tmp_path):
    stage = make(tmp_path, shape={"width": 3})
    assert artefact.read_config(stage, Thing) == Thing(shape=Shape(width=3))
    assert artefact.read_config(stage, Shape, "shape") == Shape(width=3)


@pytest.mark.parametrize(
    ("shape", "told"),
    [
        ({"width": -2}, "shape.width: Input should be greater than 0, given -2"),
        (
            {"width": 3, "inputs": "code"},
            "inputs: Input should be 'codes' or 'patches', given 'code'",
        ),
        ({"width": 3, "later": 5}, "shape.later: Extra inputs are not permitted, given 5"),
        ({}, "shape.width: Field required"),
        (
            {"width": 0, "later": 5},
            "shape.width: Input should be greater than 0, given 0 (and 1 more)",
        ),
    ],
)
def test_a_field_that_cannot_be_is_named_with_its_file(tmp_path, shape, told):
    stage = make(tmp_path, shape=shape)
    for config_class, part in ((Thing, None), (Shape, "shape")):
        with pytest.raises(ArtefactError) as caught:
            artefact.read_config(stage, config_class, part)
        assert str(caught.value).startswith(f"{tmp_path / 'config.json'}: config.shape.")
        assert told in str(caught.value)


def test_a_part_that_is_missing_is_named(tmp_path):
    with pytest.raises(ArtefactError, match=r"config\.json: config\.shape: .*, given None"):
        artefact.read_config(make(tmp_path), Shape, "shape")


def test_metrics_survive_a_row_cut_short(tmp_path):
    stage = make(tmp_path / "a")
    stage.log(step=1, loss=0.5)
    with (stage.folder / "metrics.jsonl").open("a") as handle:
        handle.write('{"step": 2, "lo')
    assert stage.metrics() == [{"step": 1, "loss": 0.5}]


def test_too_little_disk_is_told_before_the_start(tmp_path):
    with pytest.raises(ArtefactError, match="GiB free"):
        artefact.check_free_disk(tmp_path / "not" / "yet", 2**60)


def test_manifest_is_json_with_versions(tmp_path):
    stage = make(tmp_path / "a")
    stage.finish([])
    manifest = json.loads((stage.folder / "manifest.json").read_text())
    assert manifest["inputs"] == {"from": "abc"}
    assert "openclef" in manifest["versions"]
