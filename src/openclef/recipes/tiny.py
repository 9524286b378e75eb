"""The whole chain in seconds, for tests and for looking at what each stage writes.

Command: `openclef run SRC --recipe tiny --out RUN`. Derived from the demo: fewer codes, narrower,
a handful of steps. Its numbers mean nothing.
"""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel

from openclef.recipes import demo
from openclef.recipes.recipe import Recipe

Config = TypeVar("Config", bound=BaseModel)


def recipe() -> Recipe:
    """The tiny recipe's whole configuration."""
    full = demo.recipe()
    tokenizer = _with(full.tokenizer.model, widths=(8, 16, 16), n_codes=64)
    encoder = _with(
        full.encoder.model, n_codes=64, width=32, n_heads=1, n_encoder_layers=1, n_decoder_layers=1
    )
    text = _with(full.alignment.model.text, width=32, n_heads=2, n_layers=1, max_tokens=32)
    ehr = _with(full.alignment.model.ehr, width=32, n_heads=2, n_layers=1)
    short = {"n_steps": 4, "batch_size": 4, "validate_every": 2, "checkpoint_every": 1}
    return _with(
        full,
        name="tiny",
        tokenizer=_with(
            full.tokenizer,
            model=tokenizer,
            train=_with(full.tokenizer.train, **short),
            n_validation=2,
        ),
        encoder=_with(
            full.encoder, model=encoder, train=_with(full.encoder.train, **short), n_validation=2
        ),
        alignment=_with(
            full.alignment,
            model=_with(full.alignment.model, n_keep=64, text=text, ehr=ehr),
            train=_with(full.alignment.train, **short),
        ),
        benchmark=_with(full.benchmark, n_resamples=100),
    )


def _with(config: Config, **changes: Any) -> Config:
    """A copy with some fields changed, validated again."""
    return type(config).model_validate({**dict(config), **changes})
