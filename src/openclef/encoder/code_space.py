"""Codes by where they lie in the tokenizer's latent space, instead of by learned names (ours).

The paper scores codes by a table that starts at random and is detached from the output [D]: codes
that look alike share nothing, and a masked token that may be any of a hundred of them has no short
description until their embeddings have met by way of the input. But the tokenizer knows where its
codes lie.

Axis letters: V code, P dimension of a code vector, G line of the grid (a row of a region), D width,
n token.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Precision of the Gaussian that the start cancels, in units of the codes' own; of codes filled in
# by interpolation .2 to .3 was best (docs/decisions/0013-codes-as-vectors.md).
_PRECISION = 0.25
# Standard deviations; a few codes, of loose electrodes, lie much farther out.
_FARTHEST = 5.0


class CodeSpace(nn.Module):
    """Scores of codes: the log-density of a Gaussian that each token's state decides.

    score(v) = prior(line, v) + volume(v) + sum_p a_p c_vp + b_p c_vp^2, with code vectors c
    whitened over their use, and a, b linear in the state. prior: log frequency of the code in the
    token's line, fixed. volume: learned, a number a code: how much of the space is nearest to it,
    relative to its frequency. All of it starts so that a score is the prior.
    """

    terms: Tensor
    prior: Tensor

    def __init__(self, width: int, *, n_codes: int, code_dim: int, n_lines: int) -> None:
        super().__init__()
        self.to_terms = nn.Linear(width, 2 * code_dim)
        self.volume = nn.Parameter(torch.zeros(n_codes))
        self.register_buffer("terms", torch.zeros(n_codes, 2 * code_dim))
        self.register_buffer("prior", torch.zeros(n_lines, n_codes))

    @torch.no_grad()
    def start(self, vectors_VP: Tensor, counts_GV: Tensor) -> None:
        """From the tokenizer's code vectors, and how often each line has each code."""
        at = whitened(vectors_VP, counts_GV.sum(0))
        squares = at.square()
        self.terms.copy_(torch.cat([at, squares], 1))
        self.volume.copy_(_PRECISION / 2 * squares.sum(1))
        self.prior.copy_(torch.log((counts_GV + 1) / (counts_GV + 1).sum(1, keepdim=True)))
        nn.init.zeros_(self.to_terms.weight)
        linear, quadratic = self.to_terms.bias.chunk(2)
        linear.zero_()
        quadratic.fill_(-_PRECISION / 2)

    def forward(self, state_nD: Tensor, line_n: Tensor) -> Tensor:
        """Scores `[n, V]`, float32: terms of some tens cancel, which bfloat16 would round."""
        with torch.autocast(state_nD.device.type, enabled=False):
            of_terms = self.to_terms(state_nD.float()) @ self.terms.T
            scores: Tensor = of_terms + self.volume + self.prior[line_n]
        return scores


def whitened(vectors_VP: Tensor, counts_V: Tensor) -> Tensor:
    """Code vectors with the identity as covariance over their use (add-one), within 5 SD; float32.

    Directions that no code uses come out as 0.
    """
    shares_V1 = ((counts_V + 1).double() / (counts_V + 1).sum())[:, None]
    centred = vectors_VP.double()
    centred = centred - (shares_V1 * centred).sum(0)
    variances, directions = torch.linalg.eigh((shares_V1 * centred).T @ centred)
    is_used = variances > 1e-9 * variances.max()
    scales = torch.where(is_used, variances.clamp(min=1e-30).rsqrt(), 0.0)
    return (centred @ directions * scales).clamp(-_FARTHEST, _FARTHEST).float()
