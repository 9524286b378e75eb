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
    """The paper's codebook at a width that two CPU cores train in ten minutes.

    Half of the tokens are of the differences between left and right, which the paper's grid loses
    at this size (`small-grid-8x256`), and two fifths of the steps pass before the codebook starts:
    both chosen on tuning patients (results/2026-11-24-tokenizer.md).
    """
    return TokenizerStage(
        model=TokenizerConfig(
            regions="mid_side",
            strides=((8, 5), (2, 2)),
            widths=(96, 192),
            n_blocks=1,
            attention=False,
            quantiser=EmaConfig(decay=0.97),
            norm_decay=0.95,
        ),
        # A discriminator of the paper's width would take most of a step on a CPU.
        loss=TokenizerLossConfig(adversary_width=16, continuous_share=0.4, adversary_from=0.6),
        train=TrainConfig(
            n_steps=400,
            batch_size=8,
            validate_every=80,
            checkpoint_every=80,
            precision="bf16",
            optim=OptimConfig(lr=1e-3, weight_decay=1e-4),
        ),
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


ABLATIONS: dict[str, Callable[[], TokenizerStage]] = {
    "plain-l1": _loss(residual_weight=None, correlation_weight=0.0),
    "residual-1": _loss(residual_weight=1.0, correlation_weight=0.0),
    "residual-2": _loss(residual_weight=2.0, correlation_weight=0.0),
    "residual-4": _loss(residual_weight=4.0, correlation_weight=0.0),
    "residual-8": _loss(residual_weight=8.0, correlation_weight=0.0),
    "moments": _loss(moments_weight=1.0),
    "no-adversary": _loss(adversarial_weight=0.0),
    "codes-512": _model(quantiser=EmaConfig(n_codes=512, decay=0.97)),
    "codes-2048": _model(quantiser=EmaConfig(n_codes=2048, decay=0.97)),
    "grid-8x256": _model(regions="all", strides=((8, 5), (2, 1))),
    "grid-16x128": _model(regions="all", strides=((8, 5), (1, 2))),
    "hemispheres": _model(regions="hemispheres"),
    "quadrants": _model(regions="quadrants", strides=((8, 10), (2, 2))),
    "fsq": _model(quantiser=FsqConfig()),
    "residual-codes": _model(quantiser=ResidualConfig(kind="residual", decay=0.97)),
    "product-codes": _model(quantiser=ProductConfig(kind="product", decay=0.97)),
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
