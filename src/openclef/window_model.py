"""CLEF over short windows, as braindecode's models: a batch of signals in, scores out.

For benchmarks of 1- to 30-second windows and for fine-tuning (braindecode, skorch, OpenEEGBench).
Axis letters: B batch, C channel as given, S sample, R region, L token, D width; a prime (Fp, Tp)
is the token grid.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openclef.encoder.masking import keep
from openclef.encoder.pooling import pool_encoded
from openclef.encoder.transformer import UNREAD
from openclef.errors import OpenclefError, RecordingError
from openclef.model import CLEF
from openclef.signal import UNITS, match_channels, typical_amplitude_uv, window_spectrogram
from openclef.signal.filters import MIN_SFREQ_HZ
from openclef.signal.units import ASSUMED_UV, checked_unit
from openclef.tokenizer.features import features_of
from openclef.tokenizer.tokens import tokenize_batch
from openclef.tokenizer.train import stack
from openclef.training.batches import Batch
from openclef.types import CHANNELS, MIN_RECORDING_S, WINDOW_S, FloatArray, Recording

MIN_WINDOW_S = 1.0  # a frame's step
# SD within seconds that a window of seconds may have. It is not a recording: a quiet one has 1 uV,
# and an artefact fills an amplifier's range. Below 0.1 uV is less than the noise of amplifiers and
# electrodes; above 10 mV, more than clinical amplifiers pass. EEG in V taken for uV always lies
# outside; in mV up to 100 uV, in nV from 10 uV on.
POSSIBLE_UV = (0.1, 10_000.0)
# Such a wrong unit puts every signal out of that range, so nearly every one must be: a few broken
# channels or windows refuse nothing, whoever shares their batch.
_SHARE_OUT = 0.9
# Less is what filters leave of a flat line: EEG in V taken for uV has more.
_FLAT_UV = POSSIBLE_UV[0] / UNITS["V"]


class ClefWindowModel(nn.Module):
    """A CLEF whose encoder is trained further, behind `final_layer`; the front end stays as it is.

    Each window goes through the package's spectrogram and tokenizer (no gradient), then the
    encoder, pooled as the model is. It is one padded session window to them: what follows it is
    hidden, and so are frames that reach past its end. **Padding of short windows**: one too short
    for a token column to be visible (4 s; more where columns are wide) is continued by its mirror
    images up to that length. The model given is copied, not changed.

    Parameters
    ----------
    model : CLEF, str or Path
        A model, or its folder or hub id, see `CLEF.from_pretrained`.
    n_outputs : int
        Width of `final_layer`.
    sfreq : float
        Of the signals given, in Hz, at least 64.
    chs_info : sequence of mapping
        `info["chs"]` of MNE: of each channel, in the order of the signals, its `ch_name`, as
        hospitals write it. Channels that are not of the 19 are not read (`montage.dropped` says
        why), those of the 19 that are missing are hidden.
    n_chans : int, optional
        By default as many as `chs_info` has.
    n_times : int, optional
        Samples of a window, 1 to 1,280 s.
    input_window_seconds : float, optional
        The same in seconds: one of the two is needed.
    unit : str, optional
        Of the signals: "uV", "V", ... By default microvolts.
    revision : str, optional
        Of a model on the hub.

    Attributes
    ----------
    final_layer : nn.Module
        Reads the features `[B, n_features]`. Any module may be put in its place.
    n_outputs : int
        As given, or as `reset_head` was told; a module put in place of `final_layer` may differ.
    n_features : int
    montage : Montage
        What was made of the channel names.

    Raises
    ------
    RecordingError
        None of the channels is one of the 19.
    OpenclefError
        Any other argument that cannot be used.
    ArtefactError
        No complete model where `model` says, see `CLEF.from_pretrained`.
    """

    def __init__(
        self,
        model: CLEF | str | Path,
        *,
        n_outputs: int,
        sfreq: float,
        chs_info: Sequence[Mapping[str, Any]],
        n_chans: int | None = None,
        n_times: int | None = None,
        input_window_seconds: float | None = None,
        unit: str | None = None,
        revision: str | None = None,
    ) -> None:
        super().__init__()
        names = _channel_names(chs_info, n_chans)
        self.n_chans, self.sfreq = len(names), float(sfreq)
        self.n_times = _samples(n_times, input_window_seconds, sfreq)
        self.input_window_seconds = self.n_times / self.sfreq
        self.chs_info, self.unit = chs_info, checked_unit(unit)
        self.n_outputs = _checked_n_outputs(n_outputs)
        self.montage = match_channels(names)
        if not self.montage.names:
            raise RecordingError(self.montage.explain_empty())
        model = _loaded(model, revision)
        self.n_features = model.config.n_features
        self.pooling, self.layer = model.config.pooling, model.config.layer
        self.tokenizer = copy.deepcopy(model.tokenizer).requires_grad_(False)
        self.whitener = copy.deepcopy(model.whitener)
        self.encoder = copy.deepcopy(model.encoder)
        self._freeze_unread()
        # Where the model given is, which need not be the CPU.
        self.final_layer: nn.Module = nn.Linear(
            self.n_features, self.n_outputs, device=self._device
        )
        self.train()

    @classmethod
    def from_pretrained(
        cls, name_or_folder: str | Path, *, revision: str | None = None, **signal: Any
    ) -> ClefWindowModel:
        """Window model of a folder or hub id, see `CLEF.from_pretrained`; `signal` as above."""
        return cls(name_or_folder, revision=revision, **signal)

    def reset_head(self, n_outputs: int) -> None:
        """Put a new linear `final_layer` of that width in place of what is there."""
        self.n_outputs = _checked_n_outputs(n_outputs)
        like = self.encoder.class_token
        self.final_layer = nn.Linear(
            self.n_features, self.n_outputs, device=like.device, dtype=like.dtype
        )

    def train(self, mode: bool = True) -> ClefWindowModel:
        """As ever, but for the tokenizer, whose statistics stay those of its training."""
        super().train(mode)
        self.tokenizer.eval()
        return self

    def forward(self, x: Tensor, return_features: bool = False) -> Tensor | dict[str, Tensor]:
        """Scores of a batch of windows.

        Parameters
        ----------
        x : Tensor, shape (B, n_chans, n_times)
            Unfiltered or broadly filtered, in `unit`.
        return_features : bool
            Give what `final_layer` reads instead.

        Returns
        -------
        Tensor, shape (B, n_outputs), or dict of Tensor
            What `final_layer` makes of the features; or `features`, pooled as the model is, and
            `cls_token` `[B, D]`.

        Raises
        ------
        OpenclefError
            Another shape.
        RecordingError
            Amplitudes that no EEG has in this unit, or samples that are not finite.
        """
        if x.ndim != 3 or x.shape[1:] != (self.n_chans, self.n_times):
            raise OpenclefError(
                f"x of shape {tuple(x.shape)}: must be (batch, {self.n_chans} channels, "
                f"{self.n_times} samples)"
            )
        batch = {name: value.to(self._device) for name, value in self._tokens(x).items()}
        kept, kept_hidden = keep(batch["hidden"])
        encoded = self.encoder.encode(batch, kept, kept_hidden, layer=self.layer).float()
        grid = self.encoder.config.grid
        features = pool_encoded(encoded, kept, kept_hidden, grid=grid, how=self.pooling)
        if return_features:
            return {"features": features, "cls_token": encoded[:, 0]}
        # A head may have no parameters, as `nn.Flatten`.
        dtype = next((p.dtype for p in self.final_layer.parameters()), features.dtype)
        scores: Tensor = self.final_layer(features.to(dtype))
        return scores

    @property
    def _device(self) -> torch.device:
        return self.encoder.class_token.device

    @torch.no_grad()
    def _tokens(self, x: Tensor) -> dict[str, Tensor]:
        """What the encoder reads of windows, on its own grid: see `encoder.transformer`."""
        given: FloatArray = x.detach().float().cpu().numpy()
        signal_uv = self._electrodes(given * np.float32(UNITS[self.unit or "uV"]))
        frames = self._frames(signal_uv)
        ids, hidden = tokenize_batch(self.tokenizer, frames)
        n_regions, n_rows, n_columns = self.encoder.config.grid
        n_given, n_after = ids.shape[3], n_columns - ids.shape[3]
        hidden = F.pad(hidden, (0, n_after), value=True)[:, :, None].expand(-1, -1, n_rows, -1)
        tokens = {
            "ids": F.pad(ids[..., 0], (0, n_after)).flatten(1),
            "hidden": hidden.flatten(1),
            "channel_mask": frames["channel_mask"],
            "hour": torch.full((len(x),), float("nan")),
        }
        if self.whitener is not None:
            on_grid = (n_regions, n_rows, n_given)
            for name, values in features_of(self.tokenizer, self.whitener, frames).items():
                padded = F.pad(values.unflatten(1, on_grid), (0, 0, 0, n_after))  # type: ignore[no-untyped-call]
                tokens[name] = padded.flatten(1, 3)
        return tokens

    def _electrodes(self, signal_BCS: FloatArray) -> FloatArray:
        """Microvolts of the electrodes found, in the order of `montage.names`."""
        found = signal_BCS[:, list(self.montage.picks)]
        if self.montage.mixing is not None:
            found = self.montage.mixing @ found
        if np.isfinite(found).all():
            _check_amplitude(found, sfreq=self.sfreq, unit=self.unit)
        return found

    def _frames(self, signal_BCS: FloatArray) -> Batch:
        """Spectrograms of windows, `stack`ed, as many frames as the tokens that show them need."""
        per_token = self.tokenizer.config.frames_per_token
        # Of n seconds n - 1 frames are shown; half of a column must be.
        least_s = max(MIN_RECORDING_S, math.ceil(per_token / 2) + 1)
        n_more = max(0, math.ceil(least_s * self.sfreq) - self.n_times)
        padded = np.pad(signal_BCS, ((0, 0), (0, 0), (0, n_more)), mode="symmetric")
        n_columns = math.ceil(padded.shape[-1] / self.sfreq / per_token)
        n_frames = n_columns * per_token
        frames = stack([window_spectrogram(self._recording(window)) for window in padded])
        return {
            **frames,
            "power_db": frames["power_db"][..., :n_frames],
            "time_mask": frames["time_mask"][..., :n_frames],
        }

    def _recording(self, signal_CS: FloatArray) -> Recording:
        """The electrodes found, among the 19."""
        rows = [CHANNELS.index(name) for name in self.montage.names]
        signal_uv = np.zeros((len(CHANNELS), signal_CS.shape[1]), np.float32)
        signal_uv[rows] = signal_CS
        missing = ~np.isin(np.arange(len(CHANNELS)), rows)
        return Recording(signal_uv, self.sfreq, CHANNELS, missing)

    def _freeze_unread(self) -> None:
        """No gradient for what the embedding does not come from."""
        n_layers = self.encoder.config.n_encoder_layers
        unread: tuple[str, ...] = UNREAD
        if self.layer >= 0:
            later = (f"encoder.{number}." for number in range(self.layer + 1, n_layers))
            unread = (*UNREAD, "encoder_norm", *later)
        for name, parameter in self.encoder.named_parameters():
            parameter.requires_grad_(not name.startswith(unread))


def _channel_names(chs_info: Sequence[Mapping[str, Any]], n_chans: int | None) -> tuple[str, ...]:
    if not chs_info or any("ch_name" not in channel for channel in chs_info):
        raise OpenclefError(
            "chs_info must name every channel: give info['chs'] of MNE, or "
            "[{'ch_name': 'Fp1'}, ...]"
        )
    if n_chans not in {None, len(chs_info)}:
        raise OpenclefError(f"n_chans {n_chans}, but chs_info has {len(chs_info)} channels")
    return tuple(str(channel["ch_name"]) for channel in chs_info)


def _loaded(model: CLEF | str | Path, revision: str | None) -> CLEF:
    if not isinstance(model, CLEF):
        return CLEF.from_pretrained(model, revision=revision)
    if revision is not None:
        raise OpenclefError(f"revision {revision!r} is of a hub id, but a loaded model was given")
    return model


def _samples(n_times: int | None, input_window_seconds: float | None, sfreq: float) -> int:
    """Samples of a window, from whichever way its length was given."""
    if sfreq < MIN_SFREQ_HZ:
        raise OpenclefError(f"sfreq {sfreq:g} Hz: 0-32 Hz needs at least {MIN_SFREQ_HZ:g} Hz")
    if input_window_seconds is not None:
        told = round(input_window_seconds * sfreq)
        if n_times not in {None, told}:
            raise OpenclefError(
                f"n_times {n_times}, but input_window_seconds {input_window_seconds:g} at "
                f"{sfreq:g} Hz is {told} samples: give one of the two"
            )
        n_times = told
    if n_times is None:
        raise OpenclefError("a window's length is missing: give n_times or input_window_seconds")
    least, most = math.ceil(MIN_WINDOW_S * sfreq), math.floor(WINDOW_S * sfreq)
    if not least <= n_times <= most:
        raise OpenclefError(
            f"n_times {n_times} at {sfreq:g} Hz is {n_times / sfreq:g} s: allowed are "
            f"{MIN_WINDOW_S:g} to {WINDOW_S} s, {least} to {most} samples; nearest "
            f"{min(max(n_times, least), most)}"
        )
    return n_times


def _checked_n_outputs(n_outputs: int) -> int:
    if n_outputs < 1:
        raise OpenclefError(f"n_outputs {n_outputs}: at least 1")
    return n_outputs


def _check_amplitude(signal_BCS: FloatArray, *, sfreq: float, unit: str | None) -> None:
    """Raise RecordingError if these microvolts can be no EEG: their unit is another."""
    n_times = signal_BCS.shape[-1]
    amplitude_uv = typical_amplitude_uv(signal_BCS.reshape(-1, n_times), sfreq_hz=sfreq)
    live_uv = amplitude_uv[amplitude_uv > _FLAT_UV]
    if not len(live_uv):
        return
    low, high = POSSIBLE_UV
    # Values that occur, not between two of them: these may be orders of magnitude apart.
    quietest_uv = np.quantile(live_uv, 1 - _SHARE_OUT, method="lower")
    loudest_uv = np.quantile(live_uv, _SHARE_OUT, method="higher")
    if loudest_uv >= low and quietest_uv <= high:
        return
    typical_uv = float(np.median(live_uv))
    number = typical_uv / UNITS[unit or "uV"]
    meant = ""
    for name, factor in UNITS.items():
        if ASSUMED_UV[0] <= number * factor <= ASSUMED_UV[1]:
            meant = f"; it would be {number * factor:.3g} uV if the numbers were {name}"
    raise RecordingError(
        f"x: typical amplitude {typical_uv:.3g} uV (unit {unit or 'assumed to be uV'}) is that of "
        f"no EEG ({low:g} to {high:g} uV){meant}: say what they are (unit=, one of "
        f"{', '.join(UNITS)})"
    )
