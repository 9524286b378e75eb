"""Weights that begin as principal components, so that training starts from the best linear codes.

From random weights a tokenizer of a few hundred steps stays behind principal components and k-means
of the same number of bits (results/2026-11-24-tokenizer.md). Blocks begin as the identity and
attention adds nothing, so the network is linear then: each level is given the components of its
own input, and the decoder their transposes. Ours: how the paper's weights begin is unknown.

Axis letters: N patches, D dimensions of a patch, W width, Z dimensions of a code; B, F, T as in
`vqgan`.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import scipy.fft
import torch
from torch import Tensor, nn

from openclef.errors import OpenclefError
from openclef.tokenizer.vqgan import Vqgan, hidden_frames, scale
from openclef.training.batches import Batch
from openclef.training.distributed import alone


@torch.no_grad()
@alone()
def start_from_components(model: Vqgan, batches: Iterable[Batch], rng: torch.Generator) -> None:
    """Set weights and moving statistics of a new tokenizer by windows of train patients.

    One process calls it; the others take its weights when `fit` begins. What a level keeps of its
    input is what most of the variance is in; dimensions beyond those of its input do nothing at
    first. The codebook starts with k-means on the windows' latents.

    Parameters
    ----------
    model : Vqgan
        On the CPU, not trained yet, in evaluation.
    batches : iterable of Batch
        `power_db [B, 19, F, T]`, dB, `channel_mask [B, 19]`, `time_mask [B, T]`; all are kept in
        memory, 20 MB a window with what is worked out.
    rng : torch.Generator
        Of the CPU: draws where k-means begins.

    Raises
    ------
    OpenclefError
        If no token of the windows is visible, or there are no windows.
    """
    windows = [(scale(b["power_db"]), b["channel_mask"], b["time_mask"]) for b in batches]
    if all(bool(model.hidden(*masks).all()) for _, *masks in windows):
        n_windows = sum(len(x) for x, _, _ in windows)
        raise OpenclefError(
            f"a tokenizer cannot start from {n_windows} windows of train patients in which nothing "
            "is visible; give at least one with a visible channel and frames, or n_start 0"
        )
    for window in windows:
        model.spectrum.update(*model.planes(*window))
    for i, (_, channel_mask, time_mask) in enumerate(windows):  # in place: they are large
        windows[i] = (model.standardise(*windows[i]), channel_mask, time_mask)
    features = [x for x, _, _ in windows]
    hidden = [time_mask for _, _, time_mask in windows]
    for level, (down, up) in enumerate(zip(model.down, model.up, strict=True)):
        assert isinstance(down, nn.Conv2d)
        assert isinstance(up, nn.ConvTranspose2d)
        squares_DD = torch.zeros(1)
        for x, mask in zip(features, hidden, strict=True):
            patches_ND = _visible_patches(x, mask, model.config.strides[level])
            squares_DD = squares_DD + patches_ND.T @ patches_ND
        if level == 0:
            # Of each region's planes alone; what lies in two regions is decoded half from each.
            size = down.kernel_size[0] * down.kernel_size[1]
            within = model.membership.repeat_interleave(size, 1)
            weight = torch.cat(
                [_components(squares_DD, model.config.widths[0], dims=dims) for dims in within]
            ).view_as(down.weight)
            _set(down, weight)
            _set(up, weight / model.membership.sum(0)[:, None, None])
            features = [model.enter(x, channel_mask) for x, channel_mask, _ in windows]
            hidden = [_hidden_by_region(model, *masks) for _, *masks in windows]
            windows.clear()
        else:
            weight = _components(squares_DD, model.config.widths[level]).view_as(down.weight)
            _set(down, weight)
            _set(up, weight)
            features = [down(x) for x in features]
    _start_codes(
        model,
        torch.cat(
            [_visible_patches(x, mask, (1, 1)) for x, mask in zip(features, hidden, strict=True)]
        ),
        rng,
    )


def _start_codes(model: Vqgan, features_NW: Tensor, rng: torch.Generator) -> None:
    """Set the layers to and from the latent by the encoder's last features."""
    components_ZW = _components(features_NW.T @ features_NW, model.config.quantiser.code_dim)
    # Each dimension of the latent is standardised. Mixed evenly, all have nearly the same variance
    # before that, so that distances between latents remain those between spectrograms.
    mix = torch.from_numpy(scipy.fft.dct(np.eye(len(components_ZW)), norm="ortho").astype("f4"))
    weight_ZW = mix @ components_ZW
    model.to_code.weight.copy_(weight_ZW[:, :, None, None])
    z = features_NW @ weight_ZW.T
    model.latent_norm.set(z)
    # Whatever the quantiser makes of a latent, direction or level, the decoder begins as the
    # linear map that is nearest to undoing it.
    z = model.latent_norm(z, torch.ones(len(z), dtype=torch.bool))
    latent = model.quantiser.continuous(z)
    inputs = torch.cat([latent, torch.ones_like(latent[:, :1])], 1).double()
    gram = inputs.T @ inputs
    ridge = 1e-6 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    solution = torch.linalg.solve(gram + ridge, inputs.T @ features_NW.double()).float()
    model.from_code.weight.copy_(solution[:-1].T[:, :, None, None])
    assert model.from_code.bias is not None
    model.from_code.bias.copy_(solution[-1])
    model.quantiser.start(z, rng)


def _hidden_by_region(model: Vqgan, channel_mask: Tensor, time_mask: Tensor) -> Tensor:
    """Frames hidden from each region, all of them if it has no visible channel: `[B R, T]`."""
    unseen_BR1 = model.hidden(channel_mask, torch.zeros_like(time_mask))[:, :, :1]
    return (unseen_BR1 | time_mask[:, None]).flatten(0, 1)


def _visible_patches(x_BDFT: Tensor, time_mask: Tensor, stride: tuple[int, int]) -> Tensor:
    """Patches as a convolution of that stride sees them, hidden ones left out: `[N, D f t]`.

    time_mask `[B, T0]` may be of a finer resolution than x.
    """
    f, t = stride
    x = x_BDFT.unflatten(3, (-1, t)).unflatten(2, (-1, f))  # type: ignore[no-untyped-call]
    rows = x.permute(0, 2, 4, 1, 3, 5).flatten(3)
    seen = ~hidden_frames(time_mask, rows.shape[2])
    visible: Tensor = rows[seen[:, None, :].expand(rows.shape[:3])]
    return visible


def _components(squares_DD: Tensor, width: int, *, dims: Tensor | None = None) -> Tensor:
    """The first principal components `[W, D]`, of the dimensions `dims` `[D]` alone if given.

    Zero in the other dimensions, and in rows beyond the number of dimensions.
    """
    n_dims = len(squares_DD)
    used = torch.arange(n_dims) if dims is None else torch.nonzero(dims).squeeze(-1)
    _, vectors = torch.linalg.eigh(squares_DD[used][:, used].double())
    first = vectors.flip(1)[:, :width].T.float()
    weight = torch.zeros(width, n_dims)
    weight[: len(first), used] = first
    return weight


def _set(layer: nn.Conv2d | nn.ConvTranspose2d, weight: Tensor) -> None:
    layer.weight.copy_(weight)
    assert layer.bias is not None
    layer.bias.zero_()
