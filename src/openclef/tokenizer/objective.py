"""What the tokenizer minimises: Eq. 2 of the paper, and what keeps it company.

Every term is a mean over what is visible in the batches of all processes: local sums are divided
by counts over all of them and multiplied by their number, because gradients are averaged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from openclef.tokenizer.codebook import draw, perplexity
from openclef.tokenizer.discriminator import Discriminator, adaptive_weight, hinge_terms
from openclef.tokenizer.quantisers import Quantised
from openclef.tokenizer.vqgan import (
    Encoded,
    TokenizerConfig,
    Vqgan,
    hidden_frames,
    scale,
)
from openclef.training.distributed import all_sum, rank, world_size


class TokenizerLossConfig(BaseModel):
    """Weights of the terms, relative to the l1 error of the across-channel mean.

    residual_weight: Eq. 2's factor of the channels' residuals [U]; None: plain l1 instead.
    correlation_weight: .1 in preliminary code [C]; of what is unknown, here 1 - correlation over
    channels at each frequency and frame. moments_weight: error of the mean and of the deviation
    over time, which are what later stages average (ours). commitment_weight: .25 [C].
    adversarial_weight: of the adaptive weight [U], from the share `adversary_from` of the
    training on. continuous_share: how long latents pass unquantised, until k-means of the latest
    starts the codebook [U].
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    residual_weight: float | None = Field(2.0, ge=0)
    correlation_weight: float = Field(0.1, ge=0)
    moments_weight: float = Field(0.0, ge=0)
    commitment_weight: float = Field(0.25, ge=0)
    adversarial_weight: float = Field(0.1, ge=0)
    adversary_from: float = Field(0.5, ge=0, le=1)
    adversary_width: int = Field(64, gt=0)
    continuous_share: float = Field(0.1, ge=0, lt=1)


def global_mean(values: Tensor, weights: Tensor, *, is_masked: bool = False) -> Tensor:
    """Mean of `values` weighted by `weights` (broadcast) over all processes; 0 if none counts.

    is_masked: `values` are 0 already where `weights` are, which saves a pass over large ones.
    """
    weights = weights.to(values.dtype)
    total = values.sum() if is_masked else (values * weights).sum()
    count = weights.sum() * (values.numel() / weights.numel())
    return world_size() * total / all_sum(count).clamp(min=1)


class Parts(NamedTuple):
    """A spectrogram's across-channel mean `[B, 1, F, T]` and each channel's residual from it."""

    mean: Tensor
    residual: Tensor


def split_channels(x_BCFT: Tensor, shown_BC11: Tensor) -> Parts:
    """Split into mean and residuals (zero where hidden) over the visible channels."""
    n_shown = shown_BC11.sum(1, keepdim=True).clamp(min=1)
    mean = (x_BCFT * shown_BC11).sum(1, keepdim=True) / n_shown
    return Parts(mean, (x_BCFT - mean) * shown_BC11)


def reconstruction_terms(
    x_BCFT: Tensor, y_BCFT: Tensor, channel_mask: Tensor, time_mask: Tensor
) -> dict[str, Tensor]:
    """Errors of y against x `[B, C, F, T]` over visible channels `[B, C]` and frames `[B, T]`.

    mean_l1, residual_l1: Eq. 2's two parts; l1: undivided; decorrelation: 1 - correlation of the
    residuals over channels at each frequency and frame; moments: l1 error of the mean over time
    and of the deviation over time of each channel and frequency.
    """
    shown_C = (~channel_mask)[:, :, None, None].to(x_BCFT.dtype)
    shown_T = (~time_mask)[:, None, None, :].to(x_BCFT.dtype)
    shown = shown_C * shown_T
    # Zero where hidden, and so are all that follows from them: one mask a side is enough.
    x, y = torch.where(shown > 0, x_BCFT, 0.0), torch.where(shown > 0, y_BCFT, 0.0)
    parts_x, parts_y = split_channels(x, shown_C), split_channels(y, shown_C)
    n_shown = shown_C.sum(1, keepdim=True)
    any_C, several_C = (n_shown > 0).to(x.dtype), (n_shown > 1).to(x.dtype)
    n_frames = shown_T.sum(-1, keepdim=True)
    moments_x, moments_y = _moments(x, n_frames), _moments(y, n_frames)
    moments = (moments_x[0] - moments_y[0]).abs() + (moments_x[1] - moments_y[1]).abs()
    return {
        "l1": global_mean((x - y).abs(), shown, is_masked=True),
        "mean_l1": global_mean((parts_x.mean - parts_y.mean).abs(), shown_T * any_C),
        "residual_l1": global_mean(
            (parts_x.residual - parts_y.residual).abs(), shown * several_C, is_masked=True
        ),
        "decorrelation": global_mean(
            1 - _correlation(parts_x.residual, parts_y.residual), shown_T * several_C
        ),
        "moments": global_mean(moments, shown_C * (n_frames > 1)),
    }


def _correlation(x_BCFT: Tensor, y_BCFT: Tensor) -> Tensor:
    """Of residuals over channels, `[B, 1, F, T]`; 0 where one has none."""
    squares = x_BCFT.square().sum(1, keepdim=True) * y_BCFT.square().sum(1, keepdim=True)
    return (x_BCFT * y_BCFT).sum(1, keepdim=True) * torch.rsqrt(squares + 1e-8)


def _moments(x_BCFT: Tensor, n_frames: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation over visible frames, `[B, C, F, 1]` each, of what is 0 in the others."""
    n = n_frames.clamp(min=1)
    mean = x_BCFT.sum(-1, keepdim=True) / n
    variance = x_BCFT.square().sum(-1, keepdim=True) / n - mean.square()
    return mean, (variance.clamp(min=0) + 1e-6).sqrt()


class TokenizerObjective(nn.Module):
    """Batch: `power_db [B, 19, F, T]` in dB, `channel_mask [B, 19]`, `time_mask [B, T]`, and in
    training `dropped [B, 19]`: channels hidden from the encoder that the decoder must guess.

    One backward pass serves tokenizer and adversary: neither loss reaches the other's weights.
    accumulate: parts of a step, each a call of `losses`; all parts of a step are of one phase.
    """

    reservoir: Tensor
    n_drawn: Tensor
    n_steps: Tensor  # calls in training, which are parts of steps

    def __init__(
        self, config: TokenizerConfig, loss: TokenizerLossConfig, *, n_steps: int,
        accumulate: int = 1,
    ) -> None:  # fmt: skip
        super().__init__()
        self.model = Vqgan(config)
        self.loss_config = loss
        self._first_quantised = accumulate * round(loss.continuous_share * n_steps)
        self._first_adversarial = accumulate * round(loss.adversary_from * n_steps)
        self._n_calls = accumulate * n_steps
        self.adversary = (
            Discriminator(loss.adversary_width) if loss.adversarial_weight > 0 else None
        )
        # Latents of the last continuous steps, all processes': what k-means starts from.
        n_kept = 0 if self.model.quantiser.is_started else 4 * config.quantiser.n_codes
        self.register_buffer("reservoir", torch.zeros(n_kept, config.quantiser.code_dim))
        self.register_buffer("n_drawn", torch.tensor(0))
        self.register_buffer("n_steps", torch.tensor(0))

    def parameter_groups(self) -> list[list[nn.Parameter]]:
        """Parameters whose gradients are clipped together."""
        groups = [list(self.model.parameters())]
        return groups if self.adversary is None else [*groups, list(self.adversary.parameters())]

    @property
    def phase(self) -> int:
        """Losses of different phases are not comparable: continuous, quantised, with adversary."""
        plays = self.adversary is not None and int(self.n_steps) > self._first_adversarial
        return int(self.model.quantiser.is_started) + int(plays)

    @property
    def last_phase(self) -> int:
        """The one that training ends in."""
        return 1 + int(self.adversary is not None and self._first_adversarial < self._n_calls)

    def losses(self, batch: Mapping[str, Tensor], rng: torch.Generator) -> dict[str, Tensor]:
        """Terms of a batch; "loss" is their weighted sum, in evaluation without the adversary."""
        channel_mask, time_mask = batch["channel_mask"], batch["time_mask"]
        dropped = batch.get("dropped", channel_mask)
        x = scale(batch["power_db"])
        encoded = self.model.encode(x, dropped, time_mask)
        quantised = self._quantise(encoded, rng)
        power = self.model.decode(quantised.codes, encoded.hidden)
        terms = reconstruction_terms(x, power, channel_mask, time_mask)
        config = self.loss_config
        if config.residual_weight is None:
            reconstruction = terms["l1"]
        else:
            reconstruction = terms["mean_l1"] + config.residual_weight * terms["residual_l1"]
        reconstruction = (
            reconstruction
            + config.correlation_weight * terms["decorrelation"]
            + config.moments_weight * terms["moments"]
        )
        commitment = global_mean(quantised.commitment, encoded.visible)
        loss = reconstruction + config.commitment_weight * commitment
        if self.training and self.adversary and self.n_steps >= self._first_adversarial:
            game = self._play(self.adversary, x, power, channel_mask, time_mask, reconstruction)
            loss, terms = loss + game.pop("total"), {**terms, **game}
        if self.training:
            self.n_steps += 1
        return {
            "loss": loss,
            **terms,
            "commitment": commitment,
            "perplexity": perplexity(
                quantised.ids[..., 0][encoded.visible], self.model.config.quantiser.n_codes
            ),
        }

    def _quantise(self, encoded: Encoded, rng: torch.Generator) -> Quantised:
        quantiser = self.model.quantiser
        if not quantiser.is_started and self.training:
            self._keep(encoded, rng)
            if self.n_steps >= self._first_quantised:
                n_kept = min(int(self.n_drawn), len(self.reservoir))
                part = slice(n_kept * rank() // world_size(), n_kept * (rank() + 1) // world_size())
                quantiser.start(self.reservoir[part], rng)
        if quantiser.is_started:
            quantised: Quantised = quantiser(encoded.latent, encoded.visible, rng)
            return quantised
        latent = encoded.latent
        ids = torch.zeros(*latent.shape[:-1], 1, dtype=torch.int64, device=latent.device)
        return Quantised(quantiser.continuous(latent), ids, latent.new_zeros(latent.shape[:-1]))

    @torch.no_grad()
    def _keep(self, encoded: Encoded, rng: torch.Generator) -> None:
        """Add a draw of this step's visible latents to the reservoir, the oldest first out."""
        new = draw(encoded.latent[encoded.visible], len(self.reservoir) // 16, rng)
        where = (int(self.n_drawn) + torch.arange(len(new))) % len(self.reservoir)
        self.reservoir[where] = new
        self.n_drawn += len(new)

    def _play(
        self, adversary: Discriminator, x: Tensor, y: Tensor, channel_mask: Tensor,
        time_mask: Tensor, reconstruction: Tensor,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Both sides' losses; "total" is what to add to the loss."""
        recorded, made = (self.model.standardise(z, channel_mask, time_mask) for z in (x, y))
        fooling = -adversary.frozen(made)
        unseen = channel_mask.all(-1)[:, None, None]
        counts = ~(unseen | hidden_frames(time_mask, fooling.shape[-1])[:, None, :])
        adversarial = global_mean(fooling, counts)
        hinge = global_mean(hinge_terms(adversary(recorded), adversary(made.detach())), counts)
        last = self.model.last_layer
        gradients = (
            all_sum(torch.autograd.grad(loss, last, retain_graph=True)[0]) / world_size()
            for loss in (reconstruction, adversarial)
        )
        weight = adaptive_weight(*gradients)
        total = self.loss_config.adversarial_weight * weight * adversarial + hinge
        return {
            "total": total, "adversarial": adversarial, "hinge": hinge, "adaptive_weight": weight,
        }  # fmt: skip
