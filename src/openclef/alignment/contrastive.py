"""Symmetric InfoNCE between sessions and their reports and records; it updates the encoder."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from openclef.alignment.ehr import EhrTower, EhrTowerConfig
from openclef.alignment.text import TextTower, TextTowerConfig
from openclef.encoder.pooling import encode_and_pool
from openclef.encoder.transformer import EncoderConfig, MaskedTransformer


class AlignmentConfig(BaseModel):
    """Temperature .07, 512-d space, text and EHR weighted 1:1 [C]. n_keep: random tokens of each
    window that are encoded in training (None: all, the paper's).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dim: int = 512
    temperature: float = Field(0.07, gt=0)
    text_weight: float = Field(1.0, ge=0)
    ehr_weight: float = Field(1.0, ge=0)
    n_keep: int | None = Field(None, ge=1)
    text: TextTowerConfig = TextTowerConfig()
    ehr: EhrTowerConfig = EhrTowerConfig()


def info_nce(
    x_BD: Tensor, y_BD: Tensor, subject_B: Tensor, *, temperature: float
) -> tuple[Tensor, Tensor]:
    """Symmetric InfoNCE of paired rows, and the share of x whose nearest y is its own.

    Other sessions of the same patient are no negatives: they share a record. Fewer than two rows
    give 0 loss: there is nothing to tell apart.
    """
    if len(x_BD) < 2:
        return x_BD.sum() * 0.0, x_BD.new_zeros(())
    scores = F.normalize(x_BD, dim=-1) @ F.normalize(y_BD, dim=-1).T / temperature
    same = subject_B[:, None] == subject_B[None, :]
    same.fill_diagonal_(False)
    scores = scores.masked_fill(same, float("-inf"))
    pairs = torch.arange(len(scores), device=scores.device)
    loss = (F.cross_entropy(scores, pairs) + F.cross_entropy(scores.T, pairs)) / 2
    return loss, (scores.argmax(1) == pairs).float().mean()


class AlignmentObjective(nn.Module):
    """Batch: `ids`, `hidden` `[B, L]`; `text` `[B, N, width]`, `text_hidden` `[B, N]`; `codes`
    `[B, M]`; `has_text`, `has_codes`, `subject` `[B]`. A session without a report (or without
    codes) leaves that term and its negatives.
    """

    def __init__(
        self, encoder: EncoderConfig, config: AlignmentConfig, text_features_width: int
    ) -> None:
        super().__init__()
        self.config = config
        self.encoder = MaskedTransformer(encoder)
        self.text_tower = TextTower(config.text, text_features_width)
        self.ehr_tower = EhrTower(config.ehr)
        # EEG embedding: mean over all tokens -> linear without bias (paper.md [C]).
        self.project_eeg = nn.Linear(encoder.width, config.dim, bias=False)
        self.project_text = nn.Linear(config.text.width, config.dim, bias=False)
        self.project_ehr = nn.Linear(config.ehr.width, config.dim, bias=False)

    def losses(self, batch: Mapping[str, Tensor], rng: torch.Generator) -> dict[str, Tensor]:
        pooled = encode_and_pool(
            self.encoder,
            batch["ids"],
            batch["hidden"],
            how="mean",
            n_keep=self.config.n_keep if self.training else None,
            rng=rng,
        )
        # A window without a visible token: zeros, near to no report or record. Not `nan_to_num`:
        # an encoder that diverges must not look as if it did not.
        pooled = pooled.masked_fill(batch["hidden"].all(1, keepdim=True), 0.0)
        eeg, subject = self.project_eeg(pooled).float(), batch["subject"]
        text_loss, text_top1 = self._contrast(
            eeg, self._embed_text(batch), batch["has_text"], subject
        )
        ehr_loss, ehr_top1 = self._contrast(
            eeg, self._embed_ehr(batch), batch["has_codes"], subject
        )
        loss = self.config.text_weight * text_loss + self.config.ehr_weight * ehr_loss
        return {
            "loss": loss,
            "text": text_loss,
            "ehr": ehr_loss,
            "text_top1": text_top1,
            "ehr_top1": ehr_top1,
        }

    def _embed_text(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Reports of the sessions that have one, `[n, dim]`."""
        present = batch["has_text"]
        if not present.any():
            return self.project_text.weight.new_zeros(0, self.config.dim)
        embedded: Tensor = self.project_text(
            self.text_tower(batch["text"][present], batch["text_hidden"][present])
        )
        return embedded

    def _embed_ehr(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Records of the sessions whose patient has one, `[n, dim]`."""
        present = batch["has_codes"]
        if not present.any():
            return self.project_ehr.weight.new_zeros(0, self.config.dim)
        embedded: Tensor = self.project_ehr(self.ehr_tower(batch["codes"][present]))
        return embedded

    def _contrast(
        self, eeg: Tensor, other: Tensor, present: Tensor, subject: Tensor
    ) -> tuple[Tensor, Tensor]:
        """InfoNCE of the sessions that have the other side; `other` holds only those rows."""
        temperature = self.config.temperature
        return info_nce(eeg[present], other.float(), subject[present], temperature=temperature)
