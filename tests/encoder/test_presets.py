"""Sizes of the named encoders, and that each of them can be built and read."""

import pytest
import torch

from openclef.encoder.objective import MaskedReconstruction
from openclef.encoder.transformer import MaskedTransformer
from openclef.errors import OpenclefError
from openclef.recipes.encoders import ENCODERS, get_encoder
from openclef.recipes.recipe import changed

N_PARAMETERS = {"demo": 2_150_272, "small": 18_170_368, "medium": 68_051_968, "base": 149_652_992}


@pytest.mark.parametrize("name", N_PARAMETERS)
def test_presets_have_the_sizes_they_are_known_by(name):
    with torch.device("meta"):
        model = MaskedTransformer(get_encoder(name).model)
    assert sum(p.numel() for p in model.parameters()) == N_PARAMETERS[name]


def test_sizes_are_those_of_the_paper():
    """17 M to 148 M (paper.md, Encoder [I]), within 8%."""
    for name, millions in (("small", 17), ("medium", 66), ("base", 148)):
        assert N_PARAMETERS[name] / 1e6 == pytest.approx(millions, rel=0.08)
    assert N_PARAMETERS["demo"] <= 3e6


@pytest.mark.parametrize("name", ["demo", "small", "medium", "base"])
def test_heads_are_64_wide(name):
    model = get_encoder(name).model
    assert model.width == 64 * model.n_heads


@pytest.mark.parametrize("name", ENCODERS)
def test_every_named_encoder_can_be_built(name):
    config = get_encoder(name)
    with torch.device("meta"):
        objective = MaskedReconstruction(config.model, config.loss)
    assert objective.companions == config.companions
    assert type(config).model_validate_json(config.model_dump_json()) == config


def test_an_ablation_differs_from_demo_in_what_its_name_says():
    demo = get_encoder("demo")
    changes = {
        name: {
            key
            for part in ("model", "loss")
            for key, value in dict(getattr(get_encoder(name), part)).items()
            if value != getattr(getattr(demo, part), key)
        }
        for name in ENCODERS
        if name.startswith("demo-")
    }
    assert changes["demo-mask-token"] == {"fill"}
    assert changes["demo-no-dropping"] == {"masking"}
    assert changes["demo-patches"] == {"inputs", "patch_weight"}
    assert all(changes.values())


def test_the_masking_ablation_of_near_codes_is_that_of_demo_and_nothing_else():
    near_codes = get_encoder("demo-near-codes")
    for name in ("mage", "no-dropping", "ratio-25-75", "ratio-75"):
        ablation = get_encoder(f"demo-near-codes-{name}")
        of_demo = get_encoder("demo" if name == "mage" else f"demo-{name}").loss.masking
        assert ablation.loss.masking == changed(of_demo, target_share=0.25)
        masked_alike = changed(ablation.loss, masking=near_codes.loss.masking)
        assert changed(ablation, loss=masked_alike) == near_codes


def test_an_unknown_name_is_told_the_nearest():
    with pytest.raises(OpenclefError, match="smal"):
        get_encoder("smal")
