"""Fields of a recipe changed by text."""

import pytest

from openclef.errors import OpenclefError
from openclef.recipes.encoders import get_encoder
from openclef.recipes.recipe import with_settings


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
    as_before = ["train.precision=auto", f"train.n_steps={demo.train.n_steps}",
                 f"train.patience={demo.train.patience}", "model.fill=class", "train.compile=false",
                 f"train.optim.lr={demo.train.optim.lr}", f"model.grid={[*demo.model.grid]}",
                 f"n_validation={demo.n_validation}"]  # fmt: skip
    assert with_settings(config, as_before) == demo
    assert with_settings(demo, []) is demo


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("train.n_step=6", "unknown field of TrainConfig 'n_step'.*did you mean 'n_steps'"),
        ("trian.n_steps=6", "unknown field of EncoderStage 'trian'.*did you mean 'train'"),
        ("train.n_steps", "give field=value, such as"),
        ("train.n_steps=many", "train.n_steps=many: Input should be a valid integer"),
        ("train.precision=fp8", "'fp32', 'bf16' or 'auto'"),
        ("train.n_steps.more=6", "has no fields"),
    ],
)
def test_what_cannot_be_set_is_told(setting, said):
    with pytest.raises(OpenclefError, match=said):
        with_settings(get_encoder("demo"), [setting])


def test_fields_that_do_not_go_together_are_told():
    settings = ["loss.masking.high=0.8", "loss.masking.low=0.9"]
    with pytest.raises(OpenclefError, match=r"masking\.low=0\.9: .*low must not be above"):
        with_settings(get_encoder("demo"), settings)
