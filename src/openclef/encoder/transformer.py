"""The encoder-decoder Transformer: `forward` reads as the method does.

Axis letters: B batch, L token, K kept token, D width, V vocabulary, P width of a token's
continuous companion.

A batch is a mapping of tensors. Always: `ids [B, L]` int64 and `hidden [B, L]`; by configuration:
`latents` and `patches` `[B, L, P]`, `channel_mask [B, 19]` and `hour [B]` (`windows.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, cast

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from openclef.encoder.attention import Block, GridRotation
from openclef.encoder.code_space import CodeSpace
from openclef.encoder.masking import Masking, keep
from openclef.encoder.rows import of_own_row, row_means
from openclef.training.batches import START, torch_seed
from openclef.types import CHANNELS

FARTHEST_PATCH = 4.0  # SD
# Of `MaskedTransformer`, what only reconstruction reads: no vector of a window comes from it.
UNREAD = (
    "to_decoder", "decoder_positions", "decoder", "decoder_norm", "decoder_mask", "head",
    "code_bias", "code_space",
)  # fmt: skip
Inputs = Literal["codes", "codes+latents", "codes+patches", "patches"]


class EncoderConfig(BaseModel):
    """Shape of the Transformer. The paper's: 12 + 8 layers at width 256, 512 or 768 [I].

    grid: of the tokens, (regions, frequency rows, time columns). fill: of the decoder's dropped
    and masked positions, the class token's output (paper.md, Encoder) or a learned mask token.
    inputs: what a token shows of itself: its code, its latent before quantisation (latent_dim
    numbers), its whitened patch of the spectrogram (patch_dim numbers); see tokenizer/features.py.
    patches: how they are shown, and told where they are predicted. "centred" ones are clipped at 4
    SD (loose electrodes lie far beyond) and are deviations from the mean of what is shown of their
    row, which each token is told beside; a target is such a deviation too, so that nobody has to
    learn to copy what a row is like on average (ours). Of a row of which nothing is shown that mean
    is 0, the mean over patients.
    codes: what they are. "names" have embeddings that start at random, and the output is tied to
    them (paper.md, Encoder). Of "vectors" the tokenizer's latent space is known: embeddings start
    as their projection, and the output is a density in it; see `code_space.py`.
    positions: how a token's place is told. "learned" vectors are added to it (paper.md, Encoder
    [S]). With "rotary", attention also knows how far apart two tokens are in time and frequency and
    whether they are of one region, and starts by preferring near ones; no vector then tells the
    time (`GridRotation`; ours).
    use_channel_mask: tell which channels are missing. use_clock: tell the hour of the day.
    checkpoint_activations: work each layer out twice in training, for less memory.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    n_codes: int = 8192
    grid: tuple[int, int, int] = (1, 8, 256)
    width: int = 256
    n_heads: int = 4
    n_encoder_layers: int = Field(12, ge=1)
    n_decoder_layers: int = Field(8, ge=1)
    dropout: float = Field(0.1, ge=0, lt=1)
    fill: Literal["class", "mask"] = "class"
    inputs: Inputs = "codes"
    latent_dim: int = Field(32, gt=0)
    patch_dim: int = Field(32, gt=0)
    patches: Literal["plain", "centred"] = "plain"
    codes: Literal["names", "vectors"] = "names"
    positions: Literal["learned", "rotary"] = "learned"
    use_channel_mask: bool = False
    use_clock: bool = False
    checkpoint_activations: bool = False

    @model_validator(mode="after")
    def _heads_divide(self) -> EncoderConfig:
        if self.width % self.n_heads:
            raise ValueError(f"n_heads {self.n_heads} does not divide width {self.width}")
        if self.positions == "rotary" and self.head_width % 16:
            raise ValueError(
                f"rotary positions want heads as wide as a multiple of 16, not {self.head_width}"
            )
        if self.patches == "centred" and "patches" not in self.feature_dims:
            raise ValueError(
                f"patches='centred' is of encoders that read them, this one reads {self.inputs}"
            )
        return self

    @property
    def head_width(self) -> int:
        return self.width // self.n_heads

    @property
    def n_rows(self) -> int:
        """Frequency rows of all regions."""
        return self.grid[0] * self.grid[1]

    @property
    def n_tokens(self) -> int:
        return math.prod(self.grid)

    @property
    def reads_codes(self) -> bool:
        return self.inputs.startswith("codes")

    @property
    def feature_dims(self) -> dict[str, int]:
        """Widths of the continuous companions that are read, by their names in a batch."""
        dims = {"latents": self.latent_dim, "patches": self.patch_dim}
        return {name: dim for name, dim in dims.items() if name in self.inputs.split("+")}

    @property
    def companions(self) -> frozenset[str]:
        """What is read of a batch besides `ids` and `hidden`."""
        flags = {"channel_mask": self.use_channel_mask, "hour": self.use_clock}
        return frozenset(self.feature_dims) | {name for name, is_read in flags.items() if is_read}


class GridPositions(nn.Module):
    """Learned positions, factorised: region + frequency + time (paper.md, Encoder [S]); without
    the last where attention knows of time.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.grid, width = config.grid, config.width
        # All are drawn, so that what is drawn after them is the same with either kind.
        axes = [
            nn.init.trunc_normal_(torch.empty(size, width), std=width**-0.5) for size in self.grid
        ]
        self.axes = nn.ParameterList(axes if config.positions == "learned" else axes[:2])

    def forward(self) -> Tensor:
        """Positions in row-major token order, `[L, D]`."""
        regions, rows, *columns = self.axes
        lines = regions[:, None, None] + rows[:, None]
        places = lines + columns[0] if columns else lines.expand(-1, -1, self.grid[2], -1)
        return places.flatten(0, 2)


class Clock(nn.Module):
    """The hour of the day on a circle, or that it is unknown."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.known = nn.Linear(2, width)
        self.unknown = nn.Parameter(torch.zeros(width))

    def forward(self, hour_B: Tensor) -> Tensor:
        """Hours in [0, 24), NaN where unknown -> `[B, D]`."""
        angle = hour_B.nan_to_num() * (2 * math.pi / 24)
        known = self.known(torch.stack([angle.sin(), angle.cos()], -1))
        return torch.where(hour_B.isnan()[:, None], self.unknown, known)


class MaskedTransformer(nn.Module):
    """Embeds tokens, encodes what is kept, and decodes the masked ones from a class token."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.mask_id = config.n_codes
        self.tokens = nn.Embedding(config.n_codes + 1, width)
        self.positions = GridPositions(config)
        self.class_token = nn.Parameter(torch.zeros(width))
        self.input_norm = nn.LayerNorm(width)
        self.encoder = nn.ModuleList(
            Block(width, config.n_heads, config.dropout) for _ in range(config.n_encoder_layers)
        )
        self.encoder_norm = nn.LayerNorm(width)
        self.to_decoder = nn.Linear(width, width)
        self.decoder_positions = GridPositions(config)
        self.decoder = nn.ModuleList(
            Block(width, config.n_heads, 0.0) for _ in range(config.n_decoder_layers)
        )
        self.decoder_norm = nn.LayerNorm(width)
        self.head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        has_names = config.codes == "names"
        self.code_bias = nn.Parameter(torch.zeros(config.n_codes)) if has_names else None
        self.apply(init_weights)
        nn.init.trunc_normal_(self.class_token, std=width**-0.5)
        # What is optional draws last: the rest starts at the same weights without an option or
        # with one.
        self.features = nn.ModuleDict()
        for name, dim in config.feature_dims.items():
            self.features[name] = project = nn.Linear(dim, width)
            # Numbers of unit variance become as large as an embedded code.
            nn.init.trunc_normal_(project.weight, std=(dim * width) ** -0.5)
            nn.init.zeros_(project.bias)
        self.channels = nn.Linear(len(CHANNELS), width) if config.use_channel_mask else None
        self.clock = Clock(width) if config.use_clock else None
        for module in (self.channels, self.clock):
            if module is not None:
                module.apply(init_weights)
        self.rotation: GridRotation | None = None
        if config.positions == "rotary":
            self.rotation = GridRotation(config.grid, config.head_width)
            for block in [*self.encoder, *self.decoder]:
                block.start_near(self.rotation.pairs)
            cast(Block, self.decoder[0]).start_copying()
        self.decoder_mask: nn.Parameter | None = None
        if config.fill == "mask":
            self.decoder_mask = nn.Parameter(torch.empty(width))
            nn.init.trunc_normal_(self.decoder_mask, std=width**-0.5)
        self.code_space: CodeSpace | None = None
        if config.codes == "vectors":
            self.code_space = CodeSpace(
                width, n_codes=config.n_codes, code_dim=config.latent_dim, n_lines=config.n_rows
            )
        self.row_levels: nn.Linear | None = None
        if config.patches == "centred":
            self.row_levels = nn.Linear(config.patch_dim, width, bias=False)
            nn.init.trunc_normal_(self.row_levels.weight, std=(config.patch_dim * width) ** -0.5)

    @torch.no_grad()
    def start_codes(
        self, counts_GV: Tensor, vectors_VP: Tensor | None = None, *, seed: int = 0
    ) -> None:
        """Start the scores at the codes' log frequencies (add-one) instead of learning them [U].

        counts: of each code in each line of the grid, `[regions * rows, n_codes]`; of "names" the
        sum over lines counts. vectors: the tokenizer's, for `codes="vectors"`; embeddings are as
        long as random ones on average, their projection drawn by `seed` whatever else was drawn.
        """
        counts_V = counts_GV.sum(0)
        if self.code_bias is not None:
            shares_V = (counts_V + 1).double() / (counts_V + 1).sum()
            self.code_bias.copy_(torch.log(shares_V))
            return
        if vectors_VP is None or self.code_space is None:
            raise ValueError("codes are vectors: give those of the tokenizer")
        self.code_space.start(vectors_VP, counts_GV)
        terms = self.code_space.terms
        length = (counts_V / counts_V.sum() * terms.square().sum(1)).sum().sqrt()
        rng = torch.Generator().manual_seed(torch_seed(seed, START))
        projection = torch.randn(terms.shape[1], self.config.width, generator=rng)
        projection *= self.config.width**-0.5
        self.tokens.weight[: self.config.n_codes] = terms @ projection / length

    def encode(
        self,
        batch: Mapping[str, Tensor],
        kept_BK: Tensor,
        kept_hidden: Tensor,
        *,
        masked_BL: Tensor | None = None,
        layer: int = -1,
    ) -> Tensor:
        """Encode the kept tokens: (class token first) `[B, 1 + K, D]`.

        kept: their positions. kept_hidden: rows' padding. masked: of those kept nothing is read.
        layer: whose output, from 0; -1 is the last one's after the final norm.
        """
        tokens = self._embed(batch, kept_BK, kept_hidden, masked_BL)
        x = torch.cat([self._summary(batch, len(tokens)), tokens], 1)
        x = F.dropout(self.input_norm(x), self.config.dropout, self.training)
        attend = _attend(kept_hidden)
        turns = None if self.rotation is None else self.rotation(kept_BK)
        for number, block in enumerate(self.encoder):
            x = self._run(block, x, attend, turns)
            if number == layer:
                return x
        encoded: Tensor = self.encoder_norm(x)
        return encoded

    def decode(self, encoded: Tensor, masking: Masking, hidden_BL: Tensor) -> Tensor:
        """Decoder output at the targets only: `[n_targets, D]`, in row-major order.

        Dropped and masked positions are filled with the class token's output rather than a
        learned mask token, which forces a global summary (paper.md, Encoder); see `fill`. Hidden
        ones, and masked ones that are no targets, do not enter.
        """
        h = self.to_decoder(encoded)
        summary, seen = h[:, :1], h[:, 1:]
        fill = summary if self.decoder_mask is None else self.decoder_mask.to(h.dtype)
        x = fill.expand(len(h), hidden_BL.shape[1], -1).contiguous()
        show = ~masking.kept_hidden & ~masking.masked.gather(1, masking.kept)
        row = torch.arange(len(x), device=x.device)[:, None].expand_as(masking.kept)
        x = x.index_put((row[show], masking.kept[show]), seen[show])
        x = x + self.decoder_positions()
        entering, padding = keep(hidden_BL | (masking.masked & ~masking.targets))
        x = x.gather(1, entering[..., None].expand(-1, -1, x.shape[-1]))
        x = torch.cat([summary, x], 1)
        attend = _attend(padding)
        turns = None if self.rotation is None else self.rotation(entering)
        for block in self.decoder:
            x = self._run(block, x, attend, turns)
        is_target = masking.targets.gather(1, entering) & ~padding
        decoded: Tensor = self.decoder_norm(x[:, 1:][is_target])
        return decoded

    def logits(self, decoded: Tensor, targets: Tensor) -> Tensor:
        """Scores over codes `[n, V]` at the targets, `[B, L]`, of which there are n.

        Of names, the table is the input embedding, detached (paper.md [D]).
        """
        if self.code_space is not None:
            line = targets.nonzero()[:, 1] // self.config.grid[2]
            of_vectors: Tensor = self.code_space(self.head(decoded), line)
            return of_vectors
        table = self.tokens.weight[: self.config.n_codes]
        if self.config.reads_codes:
            table = table.detach()  # else it is the output's alone, and has no other teacher
        scores: Tensor = self.head(decoded) @ table.T + self.code_bias
        return scores

    def forward(self, batch: Mapping[str, Tensor], masking: Masking) -> Tensor:
        """Scores over the codes at the targets, `[n_targets, V]`."""
        encoded = self.encode(batch, masking.kept, masking.kept_hidden, masked_BL=masking.masked)
        return self.logits(self.decode(encoded, masking, batch["hidden"]), masking.targets)

    def _embed(
        self,
        batch: Mapping[str, Tensor],
        kept_BK: Tensor,
        kept_hidden: Tensor,
        masked_BL: Tensor | None,
    ) -> Tensor:
        """Kept tokens `[B, K, D]`: what they show, or that they are masked, and where they are."""
        ids_BK = batch["ids"].gather(1, kept_BK)
        masked = torch.zeros_like(kept_BK, dtype=torch.bool)
        if masked_BL is not None:
            masked = masked_BL.gather(1, kept_BK)
        if self.config.reads_codes:
            x = self.tokens(ids_BK.masked_fill(masked, self.mask_id))
        else:
            x = self.tokens.weight[self.mask_id] * masked[..., None]
        for name, project in self.features.items():
            values = of_tokens(batch[name], kept_BK)
            if name == "patches" and self.row_levels is not None:
                values, levels = self._centred(values, kept_BK, kept_hidden | masked)
                x = x + self.row_levels(levels)
            x = x + project(values) * ~masked[..., None]
        # An embedding look-up, not indexing: its gradient sums in a fixed order on every CPU.
        return x + F.embedding(kept_BK, self.positions())

    def patch_targets(self, batch: Mapping[str, Tensor], masking: Masking) -> Tensor:
        """What is to be said of the patches of the targets: `[n_targets, P]`."""
        patches_BLP = batch["patches"]
        if self.config.patches == "centred":
            shown = ~masking.masked & ~batch["hidden"]
            every = torch.arange(shown.shape[1], device=shown.device).expand_as(shown)
            patches_BLP, _ = self._centred(patches_BLP, every, ~shown)
        return patches_BLP[masking.targets]

    def _centred(
        self, patches_BKP: Tensor, kept_BK: Tensor, unseen: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Deviations from the mean of what is seen of the same row, and these means."""
        n_columns = self.config.grid[2]
        near = patches_BKP.float().clamp(-FARTHEST_PATCH, FARTHEST_PATCH)
        # Data are not rounded: a sum of products would be in autocast.
        with torch.autocast(near.device.type, enabled=False):
            means, _ = row_means(
                near, kept_BK, unseen, n_rows=self.config.n_rows, n_columns=n_columns
            )
        levels = of_own_row(means, kept_BK, n_columns=n_columns)
        return near - levels, levels

    def _summary(self, batch: Mapping[str, Tensor], n_rows: int) -> Tensor:
        """The class token, told what holds for the whole window: `[B, 1, D]`."""
        summary = self.class_token.expand(n_rows, -1)
        if self.channels is not None:
            summary = summary + self.channels(batch["channel_mask"].to(summary.dtype))
        if self.clock is not None:
            summary = summary + self.clock(batch["hour"])
        return summary[:, None]

    def _run(
        self, block: nn.Module, x: Tensor, attend: Tensor | None, turns: Tensor | None
    ) -> Tensor:
        if self.config.checkpoint_activations and self.training and torch.is_grad_enabled():
            again: Tensor = checkpoint(block, x, attend, turns, use_reentrant=False)
            return again
        out: Tensor = block(x, attend, turns)
        return out


def of_tokens(values_BLP: Tensor, kept_BK: Tensor) -> Tensor:
    """Those of the kept tokens, `[B, K, P]`."""
    return values_BLP.gather(1, kept_BK[..., None].expand(-1, -1, values_BLP.shape[-1]))


def _attend(hidden: Tensor) -> Tensor | None:
    """Keys that may be seen, a class token before them; None lets SDPA take its fast path."""
    if not bool(hidden.any()):
        return None
    seen = torch.cat([torch.ones_like(hidden[:, :1]), ~hidden], 1)
    return seen[:, None, None, :]


def init_weights(module: nn.Module) -> None:
    """Truncated normals of .02; MAGE has Xavier's, which left no plateau sooner here [U]."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    if isinstance(module, nn.Embedding):
        # Rows of unit norm. The output table is detached and so cannot grow: at MAGE's .02 and a
        # small width the logits would start, and long remain, too flat to fit anything [U].
        nn.init.trunc_normal_(module.weight, std=module.embedding_dim**-0.5)
