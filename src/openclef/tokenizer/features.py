"""Stage: cohort + tokenizer + tokens -> `features/`, what tokens were before they were integers.

Two arrays of half precision beside the token table, row for row: `latents.npy`, before
quantisation, and `patches.npy`, whitened (`whitener.py`); 0 where hidden. They are filled in order
of the table, and `progress.json` says how far: a run cut short goes on from there.

Axis letters: W window, L token, P numbers of a token.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from rich.progress import track

from openclef import artefact
from openclef.artefact import Artefact, atomic
from openclef.cohort.store import Cohort
from openclef.errors import ArtefactError
from openclef.tokenizer.token_table import TokenTable
from openclef.tokenizer.tokens import BATCH_SIZE
from openclef.tokenizer.train import load_tokenizer, read_finite, stack
from openclef.tokenizer.vqgan import Vqgan, scale
from openclef.tokenizer.whitener import Whitener, fit_whitener, load_whitener, save_whitener
from openclef.training.batches import load_ahead
from openclef.training.checkpoint import load_tensors
from openclef.training.loop import Batch, best_device

ARRAYS = ("latents", "patches")
WHITENER = "whitener.safetensors"
_PROGRESS = "progress.json"
_FLUSH_BATCHES = 64


class FeaturesConfig(BaseModel):
    """patch_dim: directions kept of each patch. n_windows: of train patients, drawn at random, that
    the whitener is fitted on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    patch_dim: int = Field(32, gt=0)
    n_windows: int = Field(500, gt=0)
    seed: int = Field(0, ge=0)


class FeatureTable:
    """A complete `features/`, mapped.

    Attributes
    ----------
    latents, patches : array, shape (W, L, P)
        float16, read-only; rows as in the token table they were made with.

    Raises
    ------
    ArtefactError
        If the features are not complete.
    """

    def __init__(self, folder: Path) -> None:
        self.artefact = artefact.load(folder, kind="features")
        self.latents, self.patches = (
            np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS
        )

    @property
    def whitener_path(self) -> Path:
        return self.artefact.folder / WHITENER

    def check(self, tokens: TokenTable) -> None:
        """Raise ArtefactError if these are the features of other tokens."""
        if self.artefact.inputs["tokens"] != tokens.artefact.hash:
            raise ArtefactError(
                f"{self.artefact.folder}: features of other tokens than "
                f"{tokens.artefact.folder}; make them anew in another folder"
            )


def extract_features(
    cohort: Cohort,
    tokenizer_folder: Path,
    tokens: TokenTable,
    out: Path,
    *,
    config: FeaturesConfig | None = None,
    whitener_folder: Path | None = None,
) -> Artefact:
    """Write the continuous companions of all tokens, or finish what was interrupted.

    Parameters
    ----------
    cohort : Cohort
        That of the tokens.
    tokenizer_folder : Path
        The complete `tokenizer/` that made them.
    tokens : TokenTable
        Whose windows to work on, in their order.
    out : Path
        Gets `latents.npy` `[W, L, code_dim]`, `patches.npy` `[W, L, patch_dim]`, both float16, and
        `whitener.safetensors`.
    config : FeaturesConfig, optional
    whitener_folder : Path, optional
        An encoder or features, of this tokenizer, whose whitener to use instead of fitting one:
        what an encoder that reads patches needs of another cohort than its own.

    Returns
    -------
    Artefact
        Of kind "features", complete.

    Raises
    ------
    ArtefactError
        If the tokens are of another cohort or tokenizer, `out` holds something else, the disk
        is too full, or the given whitener is of another tokenizer or number of directions.
    OpenclefError
        If a patch has fewer numbers than directions are asked for.
    """
    config = config or FeaturesConfig()
    source = artefact.load(tokenizer_folder, kind="tokenizer")
    made_of = {"cohort": cohort.hash, "tokenizer": source.hash}
    for name, value in made_of.items():
        if tokens.artefact.inputs[name] != value:
            raise ArtefactError(f"{tokens.artefact.folder}: tokens of another {name}")
    stage = artefact.begin(
        out,
        kind="features",
        config=config.model_dump(mode="json"),
        inputs={
            "tokens": tokens.artefact.hash,
            **made_of,
            **(_given_whitener(whitener_folder, source.hash, config) if whitener_folder else {}),
        },
    )
    if stage.is_complete:
        return stage
    tokenizer = load_tokenizer(tokenizer_folder).to(best_device())
    rows = _cohort_rows(cohort, tokens)
    if whitener_folder and not (out / WHITENER).exists():
        with atomic(out / WHITENER) as temporary:
            shutil.copyfile(whitener_folder / WHITENER, temporary)
    whitener = _whitener(stage, cohort, rows[tokens.rows("train")], tokenizer, config)
    n_tokens, n_windows = math.prod(tokens.grid), len(tokens)
    dims = tokenizer.config.quantiser.code_dim, config.patch_dim
    arrays = _arrays(stage, [(n_windows, n_tokens, dim) for dim in dims])
    first = _n_done(out)
    artefact.check_free_disk(out, 2 * n_tokens * sum(dims) * (n_windows - first))
    parts = [slice(i, min(i + BATCH_SIZE, n_windows)) for i in range(first, n_windows, BATCH_SIZE)]
    loads = (partial(_read, cohort, rows[part]) for part in parts)
    loaded = load_ahead(loads, n_ahead=1)
    for number, part in enumerate(track(parts, "latents and patches"), 1):
        for array, values in zip(arrays, _features(tokenizer, whitener, next(loaded)), strict=True):
            array[part] = values
        if number % _FLUSH_BATCHES == 0:
            for array in arrays:
                array.flush()
            artefact.write_json(out / _PROGRESS, {"n_windows": part.stop})
    for array in arrays:
        array.flush()
    stage.finish([*(f"{name}.npy" for name in ARRAYS), WHITENER])
    (out / _PROGRESS).unlink(missing_ok=True)
    return stage


@torch.no_grad()
def _features(tokenizer: Vqgan, whitener: Whitener, batch: Batch) -> Iterator[NDArray[np.float16]]:
    """latents and patches `[B, L, P]`."""
    device = next(tokenizer.parameters()).device
    x, *masks = (
        value.to(device)
        for value in (scale(batch["power_db"]), batch["channel_mask"], batch["time_mask"])
    )
    encoded = tokenizer.encode(x, *masks)
    limit = torch.finfo(torch.float16).max
    for values in (encoded.latent.clamp(-limit, limit), whitener(x, *masks)):
        shown = torch.where(encoded.visible[..., None], values, 0.0)
        yield shown.flatten(1, 3).half().cpu().numpy()


def features_of(tokenizer: Vqgan, whitener: Whitener, batch: Batch) -> dict[str, torch.Tensor]:
    """`latents` and `patches` `[B, L, P]` float32 of windows (see `stack`), rounded as stored."""
    values = (torch.from_numpy(v).float() for v in _features(tokenizer, whitener, batch))
    return dict(zip(ARRAYS, values, strict=True))


def _given_whitener(folder: Path, tokenizer_hash: str, config: FeaturesConfig) -> dict[str, str]:
    """Its hash, by what it is among the inputs."""
    path = folder / WHITENER
    if not path.exists():
        raise ArtefactError(
            f"{path}: not there; features have a whitener, and so have encoders that read latents "
            "or patches"
        )
    made_of = artefact.read_identity(folder / "config.json")["inputs"]
    if made_of.get("tokenizer") != tokenizer_hash:
        raise ArtefactError(f"{folder}: its whitener is of another tokenizer")
    n_directions = load_tensors(path)[0]["snr"].shape[-1]
    if n_directions != config.patch_dim:
        raise ArtefactError(
            f"{path}: a whitener of {n_directions} directions; {config.patch_dim} were asked for"
        )
    return {"whitener": artefact.hash_file(path)}


def _whitener(
    stage: Artefact, cohort: Cohort, train_rows: NDArray[np.int64], tokenizer: Vqgan,
    config: FeaturesConfig,
) -> Whitener:  # fmt: skip
    """The one of an earlier start or given, or a new one, fitted on train patients only."""
    path = stage.folder / WHITENER
    if not path.exists():
        n = min(config.n_windows, len(train_rows))
        chosen = np.sort(np.random.default_rng(config.seed).choice(train_rows, n, replace=False))

        def windows() -> Iterator[Batch]:
            for start in track(range(0, n, BATCH_SIZE), "fitting the whitener"):
                yield _read(cohort, chosen[start : start + BATCH_SIZE])

        fitted = fit_whitener(tokenizer.config, windows, patch_dim=config.patch_dim)
        save_whitener(fitted, path)
    return load_whitener(path, tokenizer.config).to(best_device())


def _read(cohort: Cohort, rows: NDArray[np.int64]) -> Batch:
    return stack([read_finite(cohort, row) for row in rows])


def _cohort_rows(cohort: Cohort, tokens: TokenTable) -> NDArray[np.int64]:
    """Row in the cohort of each window of the tokens."""
    wanted = pl.DataFrame({"session_id": tokens.session_id, "window": tokens.window})
    found = wanted.join(
        cohort.windows.select("session_id", "window", "row"),
        on=["session_id", "window"], how="left", maintain_order="left",
    )  # fmt: skip
    return found["row"].to_numpy().astype(np.int64)


def _arrays(stage: Artefact, shapes: list[tuple[int, int, int]]) -> list[np.memmap]:
    """Arrays to fill: those of an earlier start, or new ones of zeros that take no room yet."""
    arrays = []
    for name, shape in zip(ARRAYS, shapes, strict=True):
        path = stage.folder / f"{name}.npy"
        mode = "r+" if _n_done(stage.folder) and path.exists() else "w+"
        arrays.append(np.lib.format.open_memmap(path, mode, np.dtype(np.float16), shape))
    return arrays


def _n_done(folder: Path) -> int:
    path = folder / _PROGRESS
    return int(json.loads(path.read_text())["n_windows"]) if path.exists() else 0
