"""Masked reconstruction: cross-entropy on the codes of masked tokens, with label smoothing."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from openclef.encoder.masking import MaskingConfig, draw_masking
from openclef.encoder.transformer import EncoderConfig, MaskedTransformer


class EncoderLossConfig(BaseModel):
    """Masking and label smoothing (.1 [D])."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    masking: MaskingConfig = MaskingConfig()
    label_smoothing: float = Field(0.1, ge=0, lt=1)


class MaskedReconstruction(nn.Module):
    """Batch: `ids [B, L]` int64 and `hidden [B, L]` bool."""

    def __init__(self, config: EncoderConfig, loss: EncoderLossConfig) -> None:
        super().__init__()
        self.model = MaskedTransformer(config)
        self.loss_config = loss

    def losses(self, batch: Mapping[str, Tensor], rng: torch.Generator) -> dict[str, Tensor]:
        ids, hidden = batch["ids"], batch["hidden"]
        masking = draw_masking(hidden, self.loss_config.masking, rng)
        logits = self.model(ids, hidden, masking).float()
        targets = ids[masking.masked]
        loss = F.cross_entropy(logits, targets, label_smoothing=self.loss_config.label_smoothing)
        with torch.no_grad():
            plain = F.cross_entropy(logits, targets)
            hit = (logits.argmax(-1) == targets).float().mean()
        return {"loss": loss, "cross_entropy": plain, "accuracy": hit}
