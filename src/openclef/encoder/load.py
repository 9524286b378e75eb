"""Loading an encoder from `encoder/` or, after alignment, from `aligned/`."""

from __future__ import annotations

from pathlib import Path

from openclef import artefact
from openclef.encoder.masking import MaskingConfig
from openclef.encoder.train import WEIGHTS, EncoderStage
from openclef.encoder.transformer import EncoderConfig, MaskedTransformer
from openclef.errors import ArtefactError
from openclef.tokenizer.features import WHITENER, FeatureTable
from openclef.training import checkpoint


def _kind(folder: Path) -> str:
    path = folder / "config.json"
    is_aligned = path.exists() and artefact.read_identity(path)["kind"] == "aligned"
    return "aligned" if is_aligned else "encoder"


def encoder_artefact(folder: Path) -> artefact.Artefact:
    """The complete `encoder/` or `aligned/` artefact in `folder`."""
    return artefact.load(folder, kind=_kind(folder))


def encoder_config(folder: Path) -> EncoderConfig:
    """Shape of the Transformer in `folder`."""
    stage = encoder_artefact(folder)
    if stage.kind == "aligned":
        return artefact.read_config(stage, EncoderConfig, "encoder")
    return artefact.read_config(stage, EncoderStage).model


def drop_ratio_of(folder: Path) -> float:
    """Of the visible tokens, how many its training left out of the encoder; of an aligned encoder,
    which does not tell, as many as MAGE does."""
    stage = encoder_artefact(folder)
    if stage.kind == "aligned":
        return MaskingConfig().drop_ratio
    return artefact.read_config(stage, EncoderStage).loss.masking.drop_ratio


def load_encoder(folder: Path) -> MaskedTransformer:
    """Load the Transformer for use; every tensor must match."""
    model = MaskedTransformer(encoder_config(folder))
    weights, _ = checkpoint.load_tensors(folder / WEIGHTS)
    checkpoint.load_weights(model, weights, source=str(folder / WEIGHTS))
    return model.eval()


def check_whitener(folder: Path, config: EncoderConfig, features: FeatureTable) -> None:
    """Raise ArtefactError if an encoder reads patches, and learned others than these."""
    if "patches" not in config.feature_dims:
        return
    own, given = map(artefact.hash_file, (folder / WHITENER, features.whitener_path))
    if own != given:
        raise ArtefactError(
            f"{features.artefact.folder}: patches of another whitener than that of {folder} "
            f"({given[:12]} and {own[:12]}), whose numbers mean other things; make features with "
            "the encoder's (train features, --whitener)"
        )
