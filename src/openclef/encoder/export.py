"""The embed path, tokens -> vector, as a PyTorch program that runs without this package."""

from __future__ import annotations

import copy
import io
import json
from pathlib import Path

import torch
from torch import Tensor, nn

from openclef.artefact import atomic
from openclef.encoder.pooling import Pooling, check_layer, pool_encoded
from openclef.encoder.transformer import UNREAD, MaskedTransformer
from openclef.errors import OpenclefError
from openclef.types import CHANNELS

NOTES = "openclef.json"


class EmbedPath(nn.Module):
    """`encode_and_pool` with shapes that do not depend on the data.

    A copy, without what only reconstruction needs. All tokens stay in and the hidden ones are not
    attended to, where eagerly they are left out: the same numbers, to rounding, for more work where
    much is hidden.
    """

    def __init__(self, encoder: MaskedTransformer, pooling: Pooling, layer: int) -> None:
        super().__init__()
        self.pooling, self.layer = pooling, layer
        self.encoder = copy.deepcopy(encoder)
        for name in UNREAD:  # else the exporter keeps their weights
            setattr(self.encoder, name, None)
        if layer >= 0:
            self.encoder.encoder = self.encoder.encoder[: layer + 1]

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Batch as `encoder.transformer` says -> `[B, D]`, of "rows" `[B, rows * D]`, of
        "moments" twice that; NaN of a window without a visible token."""
        encoder, hidden = self.encoder, batch["hidden"]
        everything = torch.arange(hidden.shape[1], device=hidden.device).expand_as(hidden)
        tokens = encoder._embed(batch, everything, hidden, None)
        # shape[0], not len(): that would fix the batch size.
        x = torch.cat([encoder._summary(batch, tokens.shape[0]), tokens], 1)
        x = encoder.input_norm(x)
        seen = torch.cat([torch.ones_like(hidden[:, :1]), ~hidden], 1)[:, None, None]
        turns = None if encoder.rotation is None else encoder.rotation(everything)
        for block in encoder.encoder:
            x = block(x, seen, turns)
        if self.layer == -1:
            x = encoder.encoder_norm(x)
        grid = encoder.config.grid
        return pool_encoded(x.float(), everything, hidden, grid=grid, how=self.pooling)


def export_embed(
    encoder: MaskedTransformer, path: Path, *, pooling: Pooling, layer: int = -1
) -> None:
    """Write tokens -> embedding as a `torch.export` program of any batch size.

    `torch.export.load(path).module()(batch)` runs it. batch: `ids [B, L]` int64 and `hidden [B, L]`
    bool, and of `latents`, `patches` `[B, L, P]` float32, `channel_mask [B, 19]` bool and
    `hour [B]` float32 what this encoder reads, in that order; the file's `openclef.json` says.

    Parameters
    ----------
    encoder : MaskedTransformer
        On the CPU.
    path : Path
        Ends in `.pt2`.
    pooling, layer : see `encode_and_pool`.

    Raises
    ------
    OpenclefError
        Another suffix, or no such layer.
    """
    if path.suffix != ".pt2":
        raise OpenclefError(f"{path}: the file must end in .pt2, such as {path.stem}.pt2")
    check_layer(encoder, layer)
    batch = _example(encoder)
    n_rows = torch.export.Dim("batch", min=1)
    program = torch.export.export(
        EmbedPath(encoder, pooling, layer).eval(),
        (batch,),
        dynamic_shapes=({name: {0: n_rows} for name in batch},),
    )
    notes = {
        "encoder": encoder.config.model_dump(mode="json"),
        "pooling": pooling,
        "layer": layer,
        "batch": list(batch),
    }
    program.example_inputs = None  # they would be pickled
    # By way of memory: the exporter wants its own suffix, which a temporary file has not.
    content = io.BytesIO()
    torch.export.save(program, content, extra_files={NOTES: json.dumps(notes)})
    with atomic(path) as temporary:
        temporary.write_bytes(content.getvalue())


def _example(encoder: MaskedTransformer) -> dict[str, Tensor]:
    """Two windows of what the encoder reads, something hidden."""
    config = encoder.config
    shape = (2, config.n_tokens)
    hidden = torch.zeros(shape, dtype=torch.bool)
    hidden[:, -1] = True
    batch = {"ids": torch.zeros(shape, dtype=torch.int64), "hidden": hidden}
    batch |= {name: torch.zeros(*shape, dim) for name, dim in config.feature_dims.items()}
    if config.use_channel_mask:
        batch["channel_mask"] = torch.zeros(2, len(CHANNELS), dtype=torch.bool)
    if config.use_clock:
        batch["hour"] = torch.full((2,), float("nan"))
    return batch
