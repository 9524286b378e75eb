"""Saving and loading a model, from a folder and from a hub."""

import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from openclef.errors import ArtefactError, OpenclefError
from openclef.model import CLEF, WEIGHTS
from openclef.training import checkpoint
from tiny_clef import make_clef, noise_uv, recording_of


@pytest.fixture(scope="module")
def clef():
    return make_clef(inputs="codes+patches")


@pytest.fixture
def folder(clef, tmp_path):
    clef.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def edited(folder, change):
    tensors, _ = checkpoint.load_tensors(folder / WEIGHTS)
    change(tensors)
    checkpoint.save_tensors(folder / WEIGHTS, tensors)


def test_a_saved_model_embeds_as_before_and_keeps_its_hash(clef, folder, tmp_path):
    loaded = CLEF.from_pretrained(folder)
    recording = recording_of(noise_uv(19, 3000))
    np.testing.assert_array_equal(loaded.embed(recording).vector, clef.embed(recording).vector)
    loaded.save_pretrained(tmp_path / "again")
    assert CLEF.from_pretrained(tmp_path / "again").hash == loaded.hash
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors", ".md"}


def test_changed_weights_have_another_hash(folder, tmp_path):
    loaded = CLEF.from_pretrained(folder)
    with torch.no_grad():
        loaded.encoder.class_token += 1
    loaded.save_pretrained(tmp_path / "changed")
    assert CLEF.from_pretrained(tmp_path / "changed").hash != loaded.hash


def test_a_complete_model_is_not_overwritten(clef, folder):
    with pytest.raises(ArtefactError, match="holds a complete model"):
        clef.save_pretrained(folder)


def test_tensors_that_do_not_match_are_named(folder):
    def change(tensors):
        del tensors["encoder.class_token"]
        tensors["encoder.input_norm.weight"] = torch.zeros(3)
        tensors["stranger.weight"] = torch.zeros(1)

    edited(folder, change)
    told = (
        "missing: encoder.class_token; unknown: stranger.weight; "
        "of another shape: encoder.input_norm.weight"
    )
    with pytest.raises(ArtefactError, match=told):
        CLEF.from_pretrained(folder)


@pytest.mark.parametrize("part", ["tokenizer", "encoder", "whitener"])
def test_every_tensor_of_every_part_is_needed(folder, part):
    dropped = []

    def change(tensors):
        dropped.extend(name for name in tensors if name.startswith(f"{part}."))
        for name in dropped:
            del tensors[name]

    edited(folder, change)
    with pytest.raises(ArtefactError, match=f"missing: {', '.join(sorted(dropped))}$"):
        CLEF.from_pretrained(folder)
    assert dropped


@pytest.mark.parametrize("part", ["tokenizer", "encoder", "whitener"])
def test_weights_changed_behind_the_manifest_are_refused(folder, part):
    def change(tensors):
        name = next(name for name in tensors if name.startswith(f"{part}."))
        tensors[name] += 1

    edited(folder, change)
    told = f"^{re.escape(str(folder / WEIGHTS))}: not what manifest.json beside it"
    with pytest.raises(ArtefactError, match=told):
        CLEF.from_pretrained(folder)


def test_a_configuration_changed_behind_the_manifest_is_refused(folder):
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"layer": -1', '"layer": 0'))
    with pytest.raises(ArtefactError, match=r"config\.json: not what manifest\.json beside it"):
        CLEF.from_pretrained(folder)


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (('"layer": -1', '"layer": "top"'), "config.layer: Input should be a valid integer"),
        (('"layer": -1', '"layer": -1, "later": 1'), "config.later: Extra inputs are not"),
    ],
)
def test_a_configuration_that_cannot_be_or_is_of_a_newer_openclef_is_told(folder, edit, told):
    path = folder / "config.json"
    path.write_text(path.read_text().replace(*edit))
    with pytest.raises(ArtefactError, match=f"^{re.escape(f'{path}: {told}')}"):
        CLEF.from_pretrained(folder)


def test_a_name_that_is_no_folder_is_fetched_from_the_hub_at_its_revision(folder, monkeypatch):
    asked = []

    def snapshot_download(name, *, revision, allow_patterns):
        asked.append((name, revision))
        assert not [pattern for pattern in allow_patterns if "*" in pattern]
        return str(folder)

    hub = SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    assert CLEF.from_pretrained("someone/clef", revision="v1").hash
    assert asked == [("someone/clef", "v1")]


def test_a_hub_that_does_not_answer_is_told(monkeypatch):
    def snapshot_download(*_, **__):
        raise FileNotFoundError

    hub = SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    with pytest.raises(OpenclefError, match="someone/clef: no such folder, and the Hugging Face"):
        CLEF.from_pretrained("someone/clef")


def test_without_the_hub_client_it_is_told_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(OpenclefError, match=r"openclef\[hub\]"):
        CLEF.from_pretrained("someone/clef")


def test_paths_are_never_asked_of_the_hub(folder, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for path in (tmp_path / "nothing", "runs/mine/model", "./model", "model"):
        with pytest.raises(ArtefactError, match="no model artefact here"):
            CLEF.from_pretrained(path)
    with pytest.raises(OpenclefError, match="revision 'v1' of a folder"):
        CLEF.from_pretrained(folder, revision="v1")
