"""Masked reconstruction: what masked tokens are, from those that are shown.

Every term is a mean over the targets of all processes: local sums are divided by the count
over all of them and multiplied by their number, because gradients are averaged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from openclef.encoder.masking import MaskingConfig, draw_masking
from openclef.encoder.transformer import EncoderConfig, MaskedTransformer, init_weights
from openclef.errors import OpenclefError
from openclef.training.distributed import all_sum, world_size


class EncoderLossConfig(BaseModel):
    """Masking, label smoothing (.1 [D]), and the weights of what is predicted of a target.

    code_weight: cross-entropy of its code (paper.md, Encoder). latent_weight, patch_weight: smooth
    l1 error of its latent before quantisation and of its whitened patch (ours; feasibility: patches
    by signal-to-noise were the only targets with which training beat no training). n_directions:
    how many of a whitened patch's numbers are predicted, the first having most signal; all of them
    if None.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    masking: MaskingConfig = MaskingConfig()
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    code_weight: float = Field(1.0, ge=0)
    latent_weight: float = Field(0.0, ge=0)
    patch_weight: float = Field(0.0, ge=0)
    n_directions: int | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _has_a_target(self) -> EncoderLossConfig:
        if self.code_weight + self.latent_weight + self.patch_weight == 0:
            raise ValueError("nothing to predict: give one of the weights more than 0")
        return self

    @property
    def regressions(self) -> dict[str, float]:
        """Weights of the continuous targets that count, by their names in a batch."""
        weights = {"latents": self.latent_weight, "patches": self.patch_weight}
        return {name: weight for name, weight in weights.items() if weight > 0}


class MaskedReconstruction(nn.Module):
    """Batch: see `transformer.py`, and the continuous targets `latents`, `patches` `[B, L, P]`.

    The heads of continuous targets are of training only, and not part of the encoder.
    """

    def __init__(self, config: EncoderConfig, loss: EncoderLossConfig) -> None:
        super().__init__()
        self.model = MaskedTransformer(config)
        self.loss_config = loss
        n_directions = loss.n_directions or config.patch_dim
        if n_directions > config.patch_dim:
            raise OpenclefError(
                f"{n_directions} directions of patches of {config.patch_dim} numbers are to be "
                f"predicted; give n_directions {config.patch_dim} at most"
            )
        dims = {"latents": config.latent_dim, "patches": n_directions}
        self.heads = nn.ModuleDict(
            {name: nn.Linear(config.width, dims[name]) for name in loss.regressions}
        )
        self.heads.apply(init_weights)

    @property
    def companions(self) -> frozenset[str]:
        """What a batch must hold besides `ids` and `hidden`."""
        return self.model.config.companions | self.loss_config.regressions.keys()

    @property
    def tokens_per_item(self) -> int:
        """Tokens of a window, hidden and dropped ones too."""
        return self.model.config.n_tokens

    @property
    def flops_per_item(self) -> float:
        """Of a training step on one window of full length, at the mean mask ratio; what
        checkpointing works out twice counts once. Norms and activations are left out.
        """
        config, masking = self.model.config, self.loss_config.masking
        width, length = config.width, config.n_tokens
        n_kept = length * (1 - min(masking.drop_ratio, masking.mean_ratio)) + 1
        n_targets = length * masking.mean_ratio * masking.target_share
        n_decoded = length * (1 - masking.mean_ratio) + n_targets + 1
        # A layer: 12 D^2 weights, two operations each a token, and two products of attention.
        layers = sum(
            n_layers * (24 * n * width**2 + 4 * n**2 * width)
            for n_layers, n in (
                (config.n_encoder_layers, n_kept),
                (config.n_decoder_layers, n_decoded),
            )
        )
        weights = sum(p.numel() for p in self.heads.parameters())
        fixed = 0
        if self.loss_config.code_weight > 0:
            has_vectors = config.codes == "vectors"
            n_terms = 2 * config.latent_dim if has_vectors else width
            weights += width**2 + n_terms * config.n_codes + has_vectors * width * n_terms
            # A table that is also read is detached, vectors are given: no gradient of these.
            fixed = n_terms * config.n_codes * (has_vectors or config.reads_codes)
        out = 2 * n_targets * weights
        detached = 2 * n_targets * fixed
        return 3 * (layers + 2 * n_kept * width**2 + out) - detached

    def shard_units(self) -> Sequence[nn.Module]:
        """Parts whose weights are gathered together when they are spread over processes."""
        return [*self.model.encoder, *self.model.decoder]

    def compile_units(self) -> Sequence[nn.Module]:
        """Parts that are compiled, each by itself; blocks of one shape share a compilation."""
        return self.shard_units()

    def losses(self, batch: Mapping[str, Tensor], rng: torch.Generator) -> dict[str, Tensor]:
        """Terms of a batch; "loss" is their weighted sum."""
        config, model = self.loss_config, self.model
        masking = draw_masking(batch["hidden"], config.masking, rng)
        encoded = model.encode(batch, masking.kept, masking.kept_hidden, masked_BL=masking.masked)
        decoded = model.decode(encoded, masking, batch["hidden"])
        share = world_size() / all_sum(masking.targets.sum().float()).clamp(min=1)
        terms: dict[str, Tensor] = {}
        loss = decoded.new_zeros((), dtype=torch.float32)
        if config.code_weight > 0:
            logits = model.logits(decoded, masking.targets).float()
            smooth, plain, hit = _code_terms(
                logits, batch["ids"][masking.targets], config.label_smoothing
            )
            loss = loss + config.code_weight * smooth * share
            terms = {"cross_entropy": plain * share, "accuracy": hit * share}
        for name, weight in config.regressions.items():
            predicted = self.heads[name](decoded).float()
            if name == "patches":
                truth = model.patch_targets(batch, masking)[:, : predicted.shape[1]].float()
            else:
                truth = batch[name][masking.targets].float()
            error = F.smooth_l1_loss(predicted, truth, reduction="none")
            terms[name] = error.mean(-1).sum() * share
            loss = loss + weight * terms[name]
        return {"loss": loss, **terms}


def _code_terms(
    logits: Tensor, targets: Tensor, label_smoothing: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over tokens of smoothed and plain cross-entropy, and of hits; logits `[n, V]`."""
    log_p = F.log_softmax(logits, -1)  # once: 8,192 scores a token are most of what a step touches
    told = log_p.gather(1, targets[:, None])[:, 0]
    smooth = -(1 - label_smoothing) * told.sum() - label_smoothing * log_p.mean(-1).sum()
    hits = (told.detach() >= log_p.detach().amax(-1)).float().sum()
    return smooth, -told.detach().sum(), hits
