"""Eq. 2 of the paper: the error of the channels' mean and of each channel's residual from it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from openclef.tokenizer.codebook import perplexity
from openclef.tokenizer.vqgan import TokenizerConfig, Vqgan, hidden_tokens, scale


class TokenizerLossConfig(BaseModel):
    """residual_weight is Eq. 2's factor [U]; commitment .25 [C]; channel_dropout [U] hides whole
    channels from the input (not from the loss), so that reduced montages work.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    residual_weight: float = Field(2.0, ge=0)
    commitment_weight: float = Field(0.25, ge=0)
    channel_dropout: float = Field(0.1, ge=0, lt=1)


def mean_and_residual_error(
    x_BCFT: Tensor, y_BCFT: Tensor, channel_mask: Tensor, time_mask: Tensor
) -> tuple[Tensor, Tensor]:
    """l1 error of the across-channel mean, and of the channels' residuals from it.

    x, y `[B, C, F, T]`; only visible channels (`channel_mask [B, C]`) and frames
    (`time_mask [B, T]`) count. Both are means over what is visible (0 if nothing is).
    """
    shown_C = (~channel_mask)[:, :, None, None].to(x_BCFT.dtype)
    shown_T = (~time_mask)[:, None, None, :].to(x_BCFT.dtype)
    n_shown = shown_C.sum(1, keepdim=True).clamp(min=1)
    error = x_BCFT - y_BCFT
    mean_error = (error * shown_C).sum(1, keepdim=True) / n_shown
    residual_error = (error - mean_error) * shown_C * shown_T
    n_frames = (shown_T * (shown_C.sum(1, keepdim=True) > 0)).sum() * x_BCFT.shape[2]
    n_cells = (shown_C * shown_T).sum() * x_BCFT.shape[2]
    mean_term = (mean_error * shown_T).abs().sum() / n_frames.clamp(min=1)
    return mean_term, residual_error.abs().sum() / n_cells.clamp(min=1)


class TokenizerObjective(nn.Module):
    """Batch: `power_db [B, 19, F, T]` in dB, `channel_mask [B, 19]`, `time_mask [B, T]`."""

    def __init__(self, config: TokenizerConfig, loss: TokenizerLossConfig) -> None:
        super().__init__()
        self.model = Vqgan(config)
        self.loss_config = loss

    def losses(self, batch: Mapping[str, Tensor], rng: torch.Generator) -> dict[str, Tensor]:
        channel_mask, time_mask = batch["channel_mask"], batch["time_mask"]
        x = scale(batch["power_db"])
        dropped = channel_mask
        if self.training:
            drop = torch.rand(channel_mask.shape, generator=rng) < self.loss_config.channel_dropout
            drop = drop.to(channel_mask.device)
            # Never hide the last visible channel.
            keeps_one = (~(channel_mask | drop)).any(1, keepdim=True)
            dropped = channel_mask | (drop & keeps_one)
        y, ids, commitment = self.model(x, dropped, time_mask, rng)
        mean, residual = mean_and_residual_error(x, y, channel_mask, time_mask)
        loss = (
            mean
            + self.loss_config.residual_weight * residual
            + self.loss_config.commitment_weight * commitment
        )
        seen = ~hidden_tokens(time_mask, self.model.config.frames_per_token)
        used = ids[seen[:, None, :].expand_as(ids)]
        return {
            "loss": loss,
            "mean_l1": mean,
            "residual_l1": residual,
            "commitment": commitment,
            "perplexity": perplexity(used, self.model.config.n_codes),
        }
