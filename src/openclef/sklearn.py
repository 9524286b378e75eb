"""CLEF as a scikit-learn transformer: recordings or windows in, one vector each out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from openclef.errors import OpenclefError
from openclef.model import CLEF
from openclef.types import FloatArray, Recording
from openclef.window_model import ClefWindowModel


class ClefEmbedder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Embeds windows or whole recordings with a trained CLEF; nothing is learned in `fit`.

    Parameters
    ----------
    model : str, Path or CLEF
        A folder or hub id, see `CLEF.from_pretrained`.
    revision : str, optional
        On the hub.
    sfreq : float, optional
        Of arrays, in Hz; recordings know theirs.
    ch_names : sequence of str, optional
        Of arrays, in the order of their channels; any of the 19, as hospitals write them.
    unit : str, optional
        Of arrays and files: "uV", "V", ... By default microvolts in arrays, and in files what
        they say.
    batch_size : int
        Windows of an array at a time.
    device : str, optional
        Where to compute, "cpu", "cuda", ..; the best there is by default. A CLEF given is moved
        there and stays.
    """

    def __init__(
        self,
        model: str | Path | CLEF,
        *,
        revision: str | None = None,
        sfreq: float | None = None,
        ch_names: Sequence[str] | None = None,
        unit: str | None = None,
        batch_size: int = 32,
        device: str | None = None,
    ) -> None:
        self.model = model
        self.revision = revision
        self.sfreq = sfreq
        self.ch_names = ch_names
        self.unit = unit
        self.batch_size = batch_size
        self.device = device

    def fit(
        self, X: ArrayLike | Sequence[Recording | str | Path], y: object = None
    ) -> ClefEmbedder:
        """Load the model and check that X can be embedded; its values are not looked at.

        Raises as `transform`, and as `CLEF.from_pretrained` and `CLEF.to`.
        """
        if self.batch_size < 1:
            raise OpenclefError(f"batch_size {self.batch_size}: at least 1")
        model = (
            self.model
            if isinstance(self.model, CLEF)
            else CLEF.from_pretrained(self.model, revision=self.revision)
        )
        self.model_ = model.to(self.device)
        if _recordings(X) is None:
            self._window_model(_windows(X))
        self._n_features_out = self.model_.config.n_features
        return self

    def transform(self, X: ArrayLike | Sequence[Recording | str | Path]) -> FloatArray:
        """Embed each item.

        Parameters
        ----------
        X : array, shape (n, n_chans, n_times), or sequence of Recording, str or Path
            Windows of 1 to 1,280 s, see `ClefWindowModel`; or recordings of 4 s or more, of any
            length, see `CLEF.embed`.

        Returns
        -------
        array, shape (n, D)

        Raises
        ------
        OpenclefError
            Another shape, or windows without `sfreq` and `ch_names`.
        RecordingError
            As the readers and `ClefWindowModel` do.
        """
        check_is_fitted(self)
        recordings = _recordings(X)
        if recordings is not None:
            return np.stack([self.model_.embed(one, unit=self.unit).vector for one in recordings])
        windows = _windows(X)
        model = self._window_model(windows)
        parts = np.array_split(windows, max(1, -(-len(windows) // self.batch_size)))
        with torch.no_grad():
            encoded = [model(torch.tensor(part), return_features=True) for part in parts]
        return np.concatenate([part["features"].cpu().numpy() for part in encoded])

    def _window_model(self, windows: FloatArray) -> ClefWindowModel:
        if self.sfreq is None or self.ch_names is None:
            raise OpenclefError("windows in an array need sfreq (Hz) and ch_names")
        model = ClefWindowModel(
            self.model_,
            n_outputs=1,
            n_chans=windows.shape[1],
            n_times=windows.shape[2],
            sfreq=self.sfreq,
            chs_info=[{"ch_name": name} for name in self.ch_names],
            unit=self.unit,
        )
        return model.eval()


def _recordings(X: Any) -> list[Recording | str | Path] | None:
    """X if it is a list of recordings or paths."""
    if not isinstance(X, (list, tuple)) or not X:
        return None
    return list(X) if all(isinstance(item, (Recording, str, Path)) for item in X) else None


def _windows(X: Any) -> FloatArray:
    """X as float32 `[n, n_chans, n_times]`; raises OpenclefError if it is no such array."""
    allowed = "give an array (n, n_chans, n_times), or a list of Recordings or paths"
    try:
        windows: FloatArray = np.asarray(X, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise OpenclefError(f"X of {type(X).__name__} cannot be embedded: {allowed}") from error
    if windows.ndim != 3 or not len(windows):
        raise OpenclefError(f"X of shape {windows.shape}: {allowed}")
    return windows
