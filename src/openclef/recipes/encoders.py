"""Encoders by name: four sizes, the ablations of `demo`, and the widths of the scaling study.

Command: `openclef train encoder COHORT TOKENS OUT --recipe NAME`. Sizes are of the paper, Tables 3
and 4 (17 M to 148 M [I]); every one reads any grid and any number of codes, see `for_tokens`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from openclef.encoder.masking import MaskingConfig
from openclef.encoder.objective import EncoderLossConfig
from openclef.encoder.train import EncoderStage
from openclef.encoder.transformer import EncoderConfig
from openclef.errors import choose
from openclef.recipes import tiny
from openclef.recipes.recipe import changed
from openclef.tokenizer.features import FeatureTable
from openclef.tokenizer.token_table import TokenTable
from openclef.training.loop import TrainConfig
from openclef.training.optim import OptimConfig


def demo() -> EncoderStage:
    """2.2 M parameters, the shape of `openclef demo`: trained longer than there, within an hour or
    two of two CPU cores.

    Few windows a step: many small steps leave the first plateau sooner than few large ones
    (results/2026-11-30-encoder.md).
    """
    return EncoderStage(
        model=EncoderConfig(width=128, n_heads=2, n_encoder_layers=4, n_decoder_layers=1),
        train=TrainConfig(
            n_steps=8000,
            batch_size=4,
            validate_every=400,
            checkpoint_every=400,
            patience=5,
            precision="auto",
            optim=OptimConfig(lr=1e-3),
        ),
    )


def _paper(*, width: int, checkpoint_activations: bool = False) -> EncoderStage:
    """12 + 8 layers [I], heads of 64, and MAGE's schedule [D]: 1.5e-4 at batches of 256."""
    return EncoderStage(
        model=EncoderConfig(
            width=width, n_heads=width // 64, checkpoint_activations=checkpoint_activations
        ),
        train=TrainConfig(
            n_steps=200_000,
            batch_size=256,
            validate_every=2000,
            checkpoint_every=1000,
            patience=20,
            precision="auto",
            optim=OptimConfig(lr=1.5e-4),
        ),
        n_validation=1024,
    )


def small() -> EncoderStage:
    """18.2 M parameters; the paper's smallest."""
    return _paper(width=256)


def medium() -> EncoderStage:
    """68.1 M parameters."""
    return _paper(width=512)


def base() -> EncoderStage:
    """149.7 M parameters; the paper's."""
    return _paper(width=768, checkpoint_activations=True)


def _model(**changes: Any) -> Callable[[], EncoderStage]:
    return lambda: changed(demo(), model=changed(demo().model, **changes))


def _loss(**changes: Any) -> Callable[[], EncoderStage]:
    return lambda: changed(demo(), loss=EncoderLossConfig(**changes))


def _masking(**changes: Any) -> Callable[[], EncoderStage]:
    return _loss(masking=MaskingConfig(**changes))


def _both(model: dict[str, Any], loss: dict[str, Any]) -> Callable[[], EncoderStage]:
    return lambda: changed(_loss(**loss)(), model=changed(demo().model, **model))


# The paper's masking, changed in one thing.
_MASKINGS: dict[str, dict[str, float]] = {
    "no-dropping": {"drop_ratio": 0.0},
    "ratio-25-75": {"mean": 0.5, "low": 0.25, "high": 0.75, "drop_ratio": 0.25},
    "ratio-75": {"low": 0.75, "high": 0.75},
}
# Three quarters of the tokens never enter the encoder: two thirds of the time a step takes.
_SPARSE = MaskingConfig(mean=0.8, std=0.1, low=0.75, high=0.95, drop_ratio=0.75)
_PATCHES_ALONE = {"code_weight": 0.0, "patch_weight": 1.0}
# Of a patch's directions the first dozen last longer than a token; the rest is noise.
_LEADING = {
    **_PATCHES_ALONE, "n_directions": 12, "masking": changed(_SPARSE, target_share=0.25),
}  # fmt: skip
# What is near is at hand, and the mean of a row is given: without that, 600 to 1,200 steps were
# spent on copying it (docs/decisions/0014-near.md).
_ROTARY_CENTRED = {"positions": "rotary", "patches": "centred"}
_WITH_CODES = {**_LEADING, "code_weight": 1.0, "patch_weight": 30.0, "label_smoothing": 0.0}


def _near_codes(**loss: Any) -> Callable[[], EncoderStage]:
    reads = {"inputs": "codes+patches", "codes": "vectors", **_ROTARY_CENTRED}
    return _both(reads, {**_WITH_CODES, **loss})


# Tokens alone: codes are learned from the first steps where what is near is at hand. With three
# quarters dropped too little is near, and some runs never left the first plateau.
_ROTARY_VECTORS = {"codes": "vectors", "positions": "rotary"}
_CODES_ALONE = {"label_smoothing": 0.0, "masking": MaskingConfig(target_share=0.25)}


def _masked_codes(masking: MaskingConfig) -> Callable[[], EncoderStage]:
    return _both(_ROTARY_VECTORS, {**_CODES_ALONE, "masking": masking})


# Those with latents or patches need `--features`.
ABLATIONS: dict[str, Callable[[], EncoderStage]] = {
    "mask-token": _model(fill="mask"),
    **{name: _masking(**masking) for name, masking in _MASKINGS.items()},
    # A quarter of the masked tokens is decoded, at less than half of the cost of a step.
    "quarter": _masking(target_share=0.25),
    "code-vectors": _model(codes="vectors"),
    "no-smoothing": _loss(label_smoothing=0.0),
    "channel-mask": _model(use_channel_mask=True),
    "clock": _model(use_clock=True),
    "rotary": _model(positions="rotary"),
    "reads-latents": _model(inputs="codes+latents"),
    "reads-patches": _model(inputs="codes+patches"),
    "reads-patches-only": _model(inputs="patches"),
    "predicts-latents": _loss(latent_weight=1.0),
    "predicts-patches": _loss(patch_weight=1.0),
    "predicts-latents-only": _loss(code_weight=0.0, latent_weight=1.0),
    "predicts-patches-only": _loss(**_PATCHES_ALONE),
    "patches": _both({"inputs": "codes+patches"}, {"patch_weight": 1.0}),
    "patches-only": _both({"inputs": "patches"}, _PATCHES_ALONE),
    "patches-only-75": _both({"inputs": "patches"}, {**_PATCHES_ALONE, "masking": _SPARSE}),
    "leading": _both({"inputs": "patches"}, _LEADING),
    "leading-rotary": _both({"inputs": "patches", "positions": "rotary"}, _LEADING),
    "leading-centred": _both({"inputs": "patches", "patches": "centred"}, _LEADING),
    "near": _both({"inputs": "patches", **_ROTARY_CENTRED}, _LEADING),
    # As much weight as lets attention be learned from patches, on which that of codes builds.
    "leading-codes": _both({"inputs": "codes+patches", "codes": "vectors"}, _WITH_CODES),
    "near-codes": _near_codes(),
    "near-codes-mage": _near_codes(masking=MaskingConfig(target_share=0.25)),  # the paper's
    "near-codes-only": _both(_ROTARY_VECTORS, _CODES_ALONE),
    # Its masking ablation.
    "near-codes-only-sparse": _masked_codes(changed(_SPARSE, target_share=0.25)),
    **{
        f"near-codes-only-{name}": _masked_codes(MaskingConfig(target_share=0.25, **masking))
        for name, masking in _MASKINGS.items()
    },
}
# As `demo-near-codes-only`, of equal depth, heads of 32 but two at least: with 8,192 codes .3, .8,
# 1.4, 2.1 and 3.9 M parameters.
WIDTHS: dict[str, Callable[[], EncoderStage]] = {
    f"demo-w{width}": _both(
        {"width": width, "n_heads": max(2, width // 32), **_ROTARY_VECTORS}, _CODES_ALONE
    )
    for width in (32, 64, 96, 128, 192)
}
ENCODERS: dict[str, Callable[[], EncoderStage]] = {
    "tiny": lambda: tiny.recipe().encoder,
    "demo": demo,
    "small": small,
    "medium": medium,
    "base": base,
    **{f"demo-{name}": ablation for name, ablation in ABLATIONS.items()},
    **WIDTHS,
}


def get_encoder(name: str) -> EncoderStage:
    """The encoder of that name; raises OpenclefError naming the nearest one."""
    return ENCODERS[choose(name, ENCODERS, "encoder")]()


def for_tokens(
    config: EncoderStage, tokens: TokenTable, features: FeatureTable | None = None
) -> EncoderStage:
    """The same encoder for tokens on another grid, of another codebook, or of other features.

    Raises ArtefactError if codes are to start as vectors and the tokens have none.
    """
    shape: dict[str, Any] = {"grid": tokens.grid, "n_codes": tokens.n_codes}
    if features is not None and config.needs_features:
        shape["latent_dim"], shape["patch_dim"] = (
            array.shape[-1] for array in (features.latents, features.patches)
        )
    elif config.model.codes == "vectors":
        shape["latent_dim"] = tokens.code_vectors().shape[1]
    return changed(config, model=changed(config.model, **shape))
