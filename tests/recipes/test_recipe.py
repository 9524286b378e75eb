"""Fields of a recipe changed by text."""

import pytest
from pydantic import ValidationError

from openclef.errors import OpenclefError
from openclef.recipes import get_recipe
from openclef.recipes.encoders import get_encoder
from openclef.recipes.recipe import changed, with_settings


def test_settings_change_what_they_name_and_nothing_else():
    demo = get_encoder("demo")
    settings = [
        "train.precision=bf16", "train.n_steps=600", "train.patience=null", "model.fill=mask",
        "train.optim.lr=5e-4", "model.grid=[1, 8, 256]", "train.compile=true", "n_validation=8",
    ]  # fmt: skip
    config = with_settings(demo, settings)
    assert (config.train.precision, config.train.n_steps) == ("bf16", 600)
    assert (config.train.patience, config.train.compile) == (None, True)
    assert (config.train.optim.lr, config.model.grid) == (5e-4, (1, 8, 256))
    assert (config.model.fill, config.n_validation) == ("mask", 8)
    as_before = [
        "train.precision=auto", f"train.n_steps={demo.train.n_steps}",
        f"train.patience={demo.train.patience}", "model.fill=class", "train.compile=false",
        f"train.optim.lr={demo.train.optim.lr}", f"model.grid={[*demo.model.grid]}",
        f"n_validation={demo.n_validation}",
    ]  # fmt: skip
    assert with_settings(config, as_before) == demo
    assert with_settings(demo, []) == demo


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("train.n_step=6", "unknown field of TrainConfig.*'n_step'.*did you mean 'n_steps'"),
        ("trian.n_steps=6", "unknown field of EncoderStage.*'trian'.*did you mean 'train'"),
        ("train.n_steps", "give field=value, such as"),
        ("train.n_steps=many", "train.n_steps: Input should be a valid integer"),
        ("train.n_steps=true", "train.n_steps is no switch; it is 8000"),
        ("train.precision=fp8", "'fp32', 'bf16' or 'auto'"),
        ("train.n_steps.more=6", "n_steps is 8000 and has no fields"),
        ("loss.masking.mean=NaN", "nan is no number"),
        ("train.optim.lr=inf", "inf is no number"),
        ('train.optim={"lr": 0.1}', r"give one of its fields, such as train\.optim\.\w+="),
    ],
)
def test_what_cannot_be_set_is_told(setting, said):
    with pytest.raises(OpenclefError, match=said):
        with_settings(get_encoder("demo"), [setting])


def test_fields_that_belong_together_are_checked_together():
    demo = get_encoder("demo")
    lower = ["loss.masking.high=0.2", "loss.masking.low=0.1", "loss.masking.mean=0.15"]
    assert with_settings(demo, lower) == with_settings(demo, lower[::-1])
    with pytest.raises(OpenclefError, match=r"loss.masking: .*low must not be above"):
        with_settings(demo, ["loss.masking.high=0.8", "loss.masking.low=0.9"])


@pytest.mark.parametrize(("layer", "said"), [(4, "0 to 3; nearest 3"), (-2, "equal to -1")])
def test_a_recipe_reads_a_layer_that_its_encoder_has(layer, said):
    assert changed(get_recipe("demo"), layer=3).layer == 3
    with pytest.raises(ValidationError, match=said):
        changed(get_recipe("demo"), layer=layer)
