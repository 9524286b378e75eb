"""PatchGAN: does a stretch of spectrogram look recorded, or reconstructed? (paper.md [C]+[D])"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from openclef.tokenizer.norms import PositionNorm
from openclef.types import CHANNELS


class Discriminator(nn.Module):
    """Three 4 x 4 convolutions of stride 2, as in VQGAN, and one 3 x 3; a score a patch.

    Norms are over the width of a position, where VQGAN has batch norms: a score does not depend
    on other sessions, on padding, or on how many processes train. EEG channels are input channels,
    so it sees which side is which.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.first = nn.Conv2d(len(CHANNELS), width, 4, stride=2, padding=1)
        self.inner = nn.ModuleList(
            nn.Conv2d(i, o, 4, stride=stride, padding=1, bias=False)
            for i, o, stride in ((width, 2 * width, 2), (2 * width, 4 * width, 2))
        )
        self.norms = nn.ModuleList(PositionNorm(w * width) for w in (2, 4))
        self.score = nn.Conv2d(4 * width, 1, 3, padding=1)

    def forward(self, x_BCFT: Tensor) -> Tensor:
        """Scores `[B, f, t]` (1/8 of each axis) of standardised spectrograms; high = recorded."""
        x = F.leaky_relu(self.first(x_BCFT), 0.2)
        for convolution, norm in zip(self.inner, self.norms, strict=True):
            x = F.leaky_relu(norm(convolution(x)), 0.2)
        return self.score(x).squeeze(1).float()

    def frozen(self, x_BCFT: Tensor) -> Tensor:
        """`forward` with weights that take no gradient: the generator's side of the game."""
        weights = {name: value.detach() for name, value in self.named_parameters()}
        scores: Tensor = functional_call(self, weights, (x_BCFT,))
        return scores


def hinge_terms(recorded: Tensor, reconstructed: Tensor) -> Tensor:
    """Discriminator's hinge loss of each patch; 0 once both sides are told apart by 1."""
    return 0.5 * (F.relu(1 - recorded) + F.relu(1 + reconstructed))


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor) -> Tensor:
    """Ratio of two gradients' norms at the decoder's last layer (VQGAN, eq. 7), at most 10^4."""
    ratio = torch.linalg.vector_norm(reconstruction) / (
        torch.linalg.vector_norm(adversarial) + 1e-4
    )
    return ratio.clamp(max=1e4).detach()
