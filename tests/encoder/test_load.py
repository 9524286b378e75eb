"""Configurations of encoders and pools that were edited, damaged or made by a newer openclef."""

import re

import pytest
import test_stages

from openclef import artefact
from openclef.encoder.attention_pool import PoolConfig, load_pool
from openclef.encoder.load import drop_ratio_of, encoder_artefact, encoder_config
from openclef.errors import ArtefactError

STAGE = test_stages.stage_of().model_dump(mode="json")
ENCODER = STAGE["model"]
POOL = PoolConfig().model_dump(mode="json")


def make(folder, kind, config):
    artefact.begin(folder, kind=kind, config=config, inputs={}).finish([])
    return folder


@pytest.mark.parametrize(
    ("read", "kind", "config", "told"),
    [
        (
            encoder_config, "encoder", {**STAGE, "model": {**ENCODER, "width": "wide"}},
            "model.width: Input should be a valid integer",
        ),
        (
            encoder_config, "aligned", {"encoder": {**ENCODER, "later": 1}},
            "encoder.later: Extra inputs are not permitted",
        ),
        (encoder_config, "aligned", {}, "encoder: Input should be a valid dictionary"),
        (drop_ratio_of, "encoder", {**STAGE, "later": 1}, "later: Extra inputs are not permitted"),
        (load_pool, "pool", {"model": {**POOL, "over": "patients"}}, "model.over: Input should be"),
        (load_pool, "pool", {"model": {**POOL, "over": "windows"}}, "model: over 'windows' with"),
    ],
)  # fmt: skip
def test_a_field_that_cannot_be_is_named_with_its_file(tmp_path, read, kind, config, told):
    make(tmp_path, kind, config)
    told = f"{tmp_path / 'config.json'}: config.{told}"
    with pytest.raises(ArtefactError, match=f"^{re.escape(told)}"):
        read(tmp_path)


@pytest.mark.parametrize("text", ["half a fi", "[]", '{"kind": "aligned"}'])
def test_a_damaged_configuration_is_told(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ArtefactError, match=r"config\.json: not of an openclef artefact"):
        encoder_artefact(tmp_path)
