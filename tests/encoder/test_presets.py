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


@pytest.mark.parametrize(
    ("name", "masked_as"),
    [
        ("near-codes-mage", "demo"),
        ("near-codes-only-sparse", "demo-near-codes"),
        ("near-codes-only-no-dropping", "demo-no-dropping"),
        ("near-codes-only-ratio-25-75", "demo-ratio-25-75"),
        ("near-codes-only-ratio-75", "demo-ratio-75"),
    ],
)
def test_a_masking_ablation_differs_in_its_masking_and_in_nothing_else(name, masked_as):
    ablation = get_encoder(f"demo-{name}")
    other = get_encoder(masked_as).loss.masking
    assert ablation.loss.masking == changed(other, target_share=0.25)
    base = get_encoder("demo-near-codes" if name == "near-codes-mage" else "demo-near-codes-only")
    assert ablation.loss.masking != base.loss.masking
    masked_alike = changed(ablation.loss, masking=base.loss.masking)
    assert changed(ablation, loss=masked_alike) == base


def test_an_unknown_name_is_told_the_nearest():
    with pytest.raises(OpenclefError, match="smal"):
        get_encoder("smal")
