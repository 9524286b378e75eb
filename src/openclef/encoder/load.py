"""Loading an encoder from `encoder/` or, after alignment, from `aligned/`."""

from __future__ import annotations

import json
from pathlib import Path

from openclef import artefact
from openclef.encoder.train import WEIGHTS, EncoderStage
from openclef.encoder.transformer import EncoderConfig, MaskedTransformer
from openclef.training import checkpoint


def _kind(folder: Path) -> str:
    path = folder / "config.json"
    is_aligned = path.exists() and json.loads(path.read_text()).get("kind") == "aligned"
    return "aligned" if is_aligned else "encoder"


def encoder_artefact(folder: Path) -> artefact.Artefact:
    """The complete `encoder/` or `aligned/` artefact in `folder`."""
    return artefact.load(folder, kind=_kind(folder))


def encoder_config(folder: Path) -> EncoderConfig:
    """Shape of the Transformer in `folder`."""
    stage = encoder_artefact(folder)
    if stage.kind == "aligned":
        return EncoderConfig.model_validate(stage.config["encoder"])
    return EncoderStage.model_validate(stage.config).model


def load_encoder(folder: Path) -> MaskedTransformer:
    """Load the Transformer for use; every tensor must match."""
    model = MaskedTransformer(encoder_config(folder))
    weights, _ = checkpoint.load_tensors(folder / WEIGHTS)
    checkpoint.load_weights(model, weights, source=str(folder / WEIGHTS))
    return model.eval()
