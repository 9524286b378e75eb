"""Tokenizers by name: three sizes, and the ablations of `small`.

Command: `openclef train tokenizer COHORT OUT --recipe NAME`; all of them at once, with a table:
`openclef reproduce tokenizer COHORT OUT`. Measured results: results/.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from openclef.errors import choose
from openclef.recipes import demo, tiny
from openclef.recipes.recipe import changed
from openclef.tokenizer.objective import TokenizerLossConfig
from openclef.tokenizer.quantisers import EmaConfig, FsqConfig, ProductConfig, ResidualConfig
from openclef.tokenizer.train import TokenizerStage
from openclef.tokenizer.vqgan import TokenizerConfig
from openclef.training.loop import TrainConfig
from openclef.training.optim import OptimConfig


def small() -> TokenizerStage:
    """The paper's codebook at a width that two CPU cores train in five minutes.

    Half of the tokens are of the differences between left and right, which the paper's grid loses
    at this size (`small-grid-8x256`). Its rows are narrow where rhythms are: six of 2 Hz, two of 10
    (`small-grid-2x8x128` has eight of 4). Its weights begin as principal components, and its codes
    are nearest by distance, not by direction (`small-random-start`, `small-cosine`): all chosen on
    patients that are not held out (results/).
    """
    return TokenizerStage(
        model=TokenizerConfig(
            regions="mid_side",
            bands=((48, 1), (80, 5)),
            strides=((4, 5), (2, 2)),
            widths=(64, 128),
            n_blocks=1,
            attention=False,
            quantiser=EmaConfig(metric="euclidean"),
            norm_decay=0.95,
        ),
        # Without the adversary (`small-adversary`), which makes a step slower.
        loss=TokenizerLossConfig(adversarial_weight=0.0),
        train=TrainConfig(
            n_steps=100,
            batch_size=8,
            validate_every=50,
            checkpoint_every=50,
            precision="auto",
            optim=OptimConfig(lr=3e-4, weight_decay=1e-4),
        ),
        n_start=200,
    )


def base() -> TokenizerStage:
    """The sibling paper's widths and blocks [S], about 200k steps [C], for a GPU or several."""
    return TokenizerStage(
        model=TokenizerConfig(),
        train=TrainConfig(
            n_steps=200_000,
            batch_size=64,
            validate_every=2000,
            checkpoint_every=1000,
            precision="auto",
            patience=20,
            optim=OptimConfig(lr=3e-4, weight_decay=1e-4),
        ),
        n_validation=512,
    )


def _loss(**changes: Any) -> Callable[[], TokenizerStage]:
    return lambda: changed(small(), loss=changed(small().loss, **changes))


def _model(**changes: Any) -> Callable[[], TokenizerStage]:
    return lambda: changed(small(), model=changed(small().model, **changes))


def _random_start() -> TokenizerStage:
    """The same time on random weights: what the start takes is worth 100 steps."""
    stage = changed(small(), n_start=0, train=changed(small().train, n_steps=200))
    return changed(stage, loss=changed(stage.loss, continuous_share=0.4))


ABLATIONS: dict[str, Callable[[], TokenizerStage]] = {
    "plain-l1": _loss(residual_weight=None, correlation_weight=0.0),
    "residual-1": _loss(residual_weight=1.0, correlation_weight=0.0),
    "residual-2": _loss(residual_weight=2.0, correlation_weight=0.0),
    "residual-4": _loss(residual_weight=4.0, correlation_weight=0.0),
    "residual-8": _loss(residual_weight=8.0, correlation_weight=0.0),
    "moments": _loss(moments_weight=1.0),
    # A discriminator of the paper's width would take most of a step on a CPU.
    "adversary": _loss(adversarial_weight=0.1, adversary_width=16),
    "random-start": _random_start,
    "cosine": _model(quantiser=EmaConfig()),
    "carry": _model(quantiser=EmaConfig(metric="euclidean", carry=0.5)),
    "codes-512": _model(quantiser=EmaConfig(n_codes=512, metric="euclidean")),
    "codes-2048": _model(quantiser=EmaConfig(n_codes=2048, metric="euclidean")),
    "grid-8x256": _model(regions="all", bands=(), strides=((8, 5), (2, 1))),
    "grid-16x128": _model(regions="all", bands=(), strides=((4, 5), (2, 2))),
    "grid-2x8x128": _model(bands=(), strides=((8, 5), (2, 2))),
    "grid-2x16x64": _model(bands=(), strides=((4, 10), (2, 2))),
    "rows-1hz": _model(strides=((4, 10), (1, 2))),
    "hemispheres": _model(regions="hemispheres"),
    "quadrants": _model(regions="quadrants", strides=((4, 10), (2, 2))),
    "fsq": _model(quantiser=FsqConfig()),
    "residual-codes": _model(quantiser=ResidualConfig(kind="residual")),
    "product-codes": _model(quantiser=ProductConfig(kind="product")),
}
TOKENIZERS: dict[str, Callable[[], TokenizerStage]] = {
    "tiny": lambda: tiny.recipe().tokenizer,
    "demo": lambda: demo.recipe().tokenizer,
    "small": small,
    "base": base,
    **{f"small-{name}": ablation for name, ablation in ABLATIONS.items()},
}


def get_tokenizer(name: str) -> TokenizerStage:
    """The tokenizer of that name; raises OpenclefError naming the nearest one."""
    return TOKENIZERS[choose(name, TOKENIZERS, "tokenizer")]()
