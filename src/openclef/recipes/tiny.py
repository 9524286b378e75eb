"""The whole chain in seconds, for tests and for looking at what each stage writes.

Command: `openclef run SRC --recipe tiny --out RUN`. Derived from the demo: fewer codes, narrower,
a handful of steps. Its numbers mean nothing.
"""

from __future__ import annotations

from openclef.recipes import demo
from openclef.recipes.recipe import Recipe, changed
from openclef.tokenizer.quantisers import EmaConfig


def recipe() -> Recipe:
    """The tiny recipe's whole configuration."""
    full = demo.recipe()
    tokenizer = changed(
        full.tokenizer.model, widths=(8, 16, 16), quantiser=EmaConfig(n_codes=64, decay=0.9)
    )
    encoder = changed(
        full.encoder.model, n_codes=64, width=32, n_heads=1, n_encoder_layers=1, n_decoder_layers=1
    )
    text = changed(full.alignment.model.text, width=32, n_heads=2, n_layers=1, max_tokens=32)
    ehr = changed(full.alignment.model.ehr, width=32, n_heads=2, n_layers=1)
    short = {"n_steps": 4, "batch_size": 4, "validate_every": 2, "checkpoint_every": 1}
    return changed(
        full,
        name="tiny",
        tokenizer=changed(
            full.tokenizer,
            model=tokenizer,
            train=changed(full.tokenizer.train, **short),
            n_validation=2,
        ),
        encoder=changed(
            full.encoder, model=encoder, train=changed(full.encoder.train, **short), n_validation=2
        ),
        alignment=changed(
            full.alignment,
            model=changed(full.alignment.model, n_keep=64, text=text, ehr=ehr),
            train=changed(full.alignment.train, **short),
        ),
        benchmark=changed(full.benchmark, n_resamples=100),
    )
