"""The encoder-decoder Transformer: `forward` reads as the method does.

Axis letters: B batch, L token, K kept token, D width, V vocabulary, H head.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from openclef.encoder.masking import Masking


class EncoderConfig(BaseModel):
    """Shape of the Transformer. The paper's: 12 + 8 layers at width 256, 512 or 768 [I].

    grid: of the tokens, (regions, frequency rows, time columns).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_codes: int = 8192
    grid: tuple[int, int, int] = (1, 8, 256)
    width: int = 256
    n_heads: int = 4
    n_encoder_layers: int = Field(12, ge=1)
    n_decoder_layers: int = Field(8, ge=1)
    dropout: float = Field(0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _heads_divide(self) -> EncoderConfig:
        if self.width % self.n_heads:
            raise ValueError(f"n_heads {self.n_heads} does not divide width {self.width}")
        return self

    @property
    def n_tokens(self) -> int:
        return math.prod(self.grid)


class Block(nn.Module):
    """Pre-norm self-attention and a 4x GELU layer."""

    def __init__(self, width: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.n_heads, self.dropout = n_heads, dropout
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(dropout)
        )

    def forward(self, x_BLD: Tensor, attend: Tensor | None) -> Tensor:
        """attend `[B, 1, 1, L]`: True where a key may be seen; None if all may."""
        q, k, v = self.qkv(self.norm1(x_BLD)).chunk(3, dim=-1)
        q, k, v = (t.unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for t in (q, k, v))
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=attend)
        h = self.out(h.transpose(1, 2).flatten(2))
        x_BLD = x_BLD + F.dropout(h, self.dropout, self.training)
        mixed: Tensor = x_BLD + self.mlp(self.norm2(x_BLD))
        return mixed


class GridPositions(nn.Module):
    """Learned positions, factorised: region + frequency + time (paper.md, Encoder [S])."""

    def __init__(self, grid: tuple[int, int, int], width: int) -> None:
        super().__init__()
        self.axes = nn.ParameterList(
            nn.init.trunc_normal_(torch.empty(size, width), std=width**-0.5) for size in grid
        )

    def forward(self) -> Tensor:
        """Positions in row-major token order, `[L, D]`."""
        regions, rows, columns = self.axes
        return (regions[:, None, None] + rows[:, None] + columns).flatten(0, 2)


class MaskedTransformer(nn.Module):
    """Embeds tokens, encodes what is kept, and decodes the masked ones from a class token."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.mask_id = config.n_codes
        self.tokens = nn.Embedding(config.n_codes + 1, width)
        self.positions = GridPositions(config.grid, width)
        self.class_token = nn.Parameter(torch.zeros(width))
        self.input_norm = nn.LayerNorm(width)
        self.encoder = nn.ModuleList(
            Block(width, config.n_heads, config.dropout) for _ in range(config.n_encoder_layers)
        )
        self.encoder_norm = nn.LayerNorm(width)
        self.to_decoder = nn.Linear(width, width)
        self.decoder_positions = GridPositions(config.grid, width)
        self.decoder = nn.ModuleList(
            Block(width, config.n_heads, 0.0) for _ in range(config.n_decoder_layers)
        )
        self.decoder_norm = nn.LayerNorm(width)
        self.head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        self.code_bias = nn.Parameter(torch.zeros(config.n_codes))
        self.apply(_init)
        nn.init.trunc_normal_(self.class_token, std=width**-0.5)

    @torch.no_grad()
    def start_from_frequencies(self, counts_V: Tensor) -> None:
        """Start the output bias at the codes' log frequencies (add-one), `counts_V` `[n_codes]`.

        Training then starts at the unigram's cross-entropy instead of learning it [U].
        """
        shares = (counts_V + 1).double() / (counts_V + 1).sum()
        self.code_bias.copy_(torch.log(shares))

    def encode(self, ids_BL: Tensor, kept_BK: Tensor, kept_hidden: Tensor) -> Tensor:
        """Encode the kept tokens: (class token first) `[B, 1 + K, D]`.

        ids: codes, or `mask_id` where masked. kept: their positions. kept_hidden: rows' padding.
        """
        # An embedding look-up, not indexing: its gradient sums in a fixed order on every CPU.
        x = self.tokens(ids_BL.gather(1, kept_BK)) + F.embedding(kept_BK, self.positions())
        x = torch.cat([self.class_token.expand(len(x), 1, -1), x], 1)
        x = F.dropout(self.input_norm(x), self.config.dropout, self.training)
        attend = _attend(kept_hidden)
        for block in self.encoder:
            x = block(x, attend)
        encoded: Tensor = self.encoder_norm(x)
        return encoded

    def decode(self, encoded: Tensor, masking: Masking, hidden_BL: Tensor) -> Tensor:
        """Decoder output at the masked positions only: `[n_masked, D]`, in row-major order.

        Dropped and masked positions are filled with the class token's output rather than a
        learned mask token, which forces a global summary (paper.md, Encoder).
        """
        h = self.to_decoder(encoded)
        summary, seen = h[:, :1], h[:, 1:]
        x = summary.expand(-1, hidden_BL.shape[1], -1).contiguous()
        show = ~masking.kept_hidden & ~masking.masked.gather(1, masking.kept)
        batch = torch.arange(len(x), device=x.device)[:, None].expand_as(masking.kept)
        x = x.index_put((batch[show], masking.kept[show]), seen[show])
        x = x + self.decoder_positions()
        x = torch.cat([summary, x], 1)
        attend = _attend(hidden_BL)
        for block in self.decoder:
            x = block(x, attend)
        decoded: Tensor = self.decoder_norm(x[:, 1:][masking.masked])
        return decoded

    def logits(self, decoded: Tensor) -> Tensor:
        """Scores over codes `[n, V]`; the table is the input embedding, detached (paper.md [D])."""
        table = self.tokens.weight[: self.config.n_codes].detach()
        scores: Tensor = self.head(decoded) @ table.T + self.code_bias
        return scores

    def forward(self, ids_BL: Tensor, hidden_BL: Tensor, masking: Masking) -> Tensor:
        """Scores over the codes at the masked positions, `[n_masked, V]`."""
        ids = ids_BL.masked_fill(masking.masked, self.mask_id)
        encoded = self.encode(ids, masking.kept, masking.kept_hidden)
        return self.logits(self.decode(encoded, masking, hidden_BL))


def _attend(hidden: Tensor) -> Tensor | None:
    """Keys that may be seen, a class token before them; None lets SDPA take its fast path."""
    if not bool(hidden.any()):
        return None
    seen = torch.cat([torch.ones_like(hidden[:, :1]), ~hidden], 1)
    return seen[:, None, None, :]


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    if isinstance(module, nn.Embedding):
        # Rows of unit norm. The output table is detached and so cannot grow: at MAGE's .02 and a
        # small width the logits would start, and long remain, too flat to fit anything [U].
        nn.init.trunc_normal_(module.weight, std=module.embedding_dim**-0.5)
